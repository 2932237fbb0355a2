"""Networks that map clouds to mixtures, and mixtures to a motion."""

from __future__ import annotations

from deepgmr.networks.deepgmr import PRESETS, DeepGMR, NetworkConfig, Prediction
from deepgmr.networks.overlap import OverlapConfig, OverlapNetwork, OverlapPrediction

__all__ = ["DeepGMR", "NetworkConfig", "OverlapConfig", "OverlapNetwork", "OverlapPrediction", "PRESETS", "Prediction"]
