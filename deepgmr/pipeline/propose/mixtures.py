"""One motion from two whole clouds: the DeepGMR network's mixtures, and the closed-form solver between them."""

from __future__ import annotations

import torch

from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks.deepgmr import DeepGMR
from deepgmr.pipeline.scan import Level


@torch.inference_mode()
def mixture_motion(network: DeepGMR, source: Level, target: Level) -> RigidTransform:
    """The motion (1,) of Yuan et al. (ECCV 2020): right for two samplings of one whole shape."""
    found = network(source.means[None], target.means[None]).motion
    return RigidTransform(found.rotation.double(), found.translation.double())
