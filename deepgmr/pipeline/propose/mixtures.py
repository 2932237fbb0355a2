"""One motion from two whole clouds: the DeepGMR network's mixtures, and the closed-form solver between them."""

from __future__ import annotations

import torch

from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks.deepgmr import DeepGMR
from deepgmr.pipeline.scan import Level


@torch.inference_mode()
def mixture_motion(network: DeepGMR, source: Level, target: Level) -> RigidTransform:
    """The motion (1,) of Yuan et al. (ECCV 2020): right for two samplings of one whole shape."""
    return RigidTransform.from_matrix(network(source.means[None], target.means[None]).target_from_source.double())
