"""Gaussian mixtures, and the motion that brings one onto another."""

from deepgmr.mixture.gaussian_mixture import GaussianMixture, MixtureFit

__all__ = ["GaussianMixture", "MixtureFit"]
