"""Shapes, motions and levels that the tests of the pipeline share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.geometry.frames import unit_frame
from deepgmr.geometry.normals import estimate_normals, towards_hollow
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.scan import Level, Pair, Scan
from deepgmr.pipeline.settings import Settings

SETTINGS = Settings()
RANKING = Bundle.load().ranking


def shape(seed: int, count: int = 600) -> np.ndarray:
    """Points (count, 3) of an asymmetric shape of radius one."""
    points, _ = sample_shapes(1, count, generator=torch.Generator().manual_seed(seed), families=["airplane"])
    return points[0].double().numpy()


def motion(seed: int, **options: float) -> RigidTransform:
    generator = torch.Generator().manual_seed(seed)
    return RigidTransform.random(generator=generator, max_translation=1.0, dtype=torch.float64, **options)


def moved(truth: RigidTransform, points: np.ndarray) -> np.ndarray:
    return truth.apply(torch.from_numpy(points)).numpy()


def level(points: np.ndarray) -> Level:
    """Every point a component."""
    return Level.of(points, SETTINGS.scan)


def levels(source: np.ndarray, target: np.ndarray) -> tuple[Level, Level]:
    return Pair(Scan.of(source), Scan.of(target)).levels()


def oriented_normals(points: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """Unit normals (N, 3) of points (N, 3) from their neighbours (N, K), on their hollow side."""
    patches = torch.cat([torch.arange(len(points)).unsqueeze(1), neighbours[:, :15]], dim=1).numpy()
    normals = torch.from_numpy(estimate_normals(points.double().numpy(), patches)).to(points.dtype)
    return towards_hollow(points, normals, neighbours[:, :40])


def bumpy_clouds(generator: torch.Generator, batch: int = 2, points: int = 200) -> Tensor:
    """Bumpy closed surfaces without symmetry, in their unit frames."""
    direction = torch.nn.functional.normalize(torch.randn(batch, points, 3, generator=generator), dim=-1)
    bumps = torch.randn(batch, 1, 3, generator=generator)
    radius = 1 + 0.3 * (direction * bumps).sum(-1, keepdim=True).sin() + 0.2 * direction[..., :1] * direction[..., 1:2]
    return unit_frame(direction * radius * torch.tensor([1.0, 0.8, 0.6]))[0]
