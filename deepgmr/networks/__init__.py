"""Networks that map clouds to mixtures, and mixtures to a motion."""

from __future__ import annotations

from deepgmr.networks.model import PRESETS, DeepGMR, NetworkConfig, Prediction

__all__ = ["DeepGMR", "NetworkConfig", "PRESETS", "Prediction"]
