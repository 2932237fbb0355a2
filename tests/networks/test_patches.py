"""Patches: against a transcription with loops, and against the symmetries they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems_pipeline import oriented_normals
from scipy.spatial import cKDTree
from torch import Tensor

from deepgmr.geometry.normals import towards_hollow
from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks.patches import (
    FEATURES,
    MEMBERS,
    SCALES,
    describe_members,
    nodes_of,
)


def cloud(generator: torch.Generator, count: int = 300) -> tuple[Tensor, Tensor]:
    """A bumpy closed surface without symmetry, with the neighbours of every point."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    points = direction * (1 + 0.3 * (3 * direction[:, :1]).sin()) * torch.tensor([1.0, 0.7, 0.5])
    _, index = cKDTree(points.double().numpy()).query(points.double().numpy(), 2 * MEMBERS + 1)
    return points, torch.from_numpy(index[:, 1:])


def test_members_are_described_as_a_loop_would(generator: torch.Generator) -> None:
    points, neighbours = cloud(generator)
    normals = oriented_normals(points, neighbours)
    chosen, spacing = torch.tensor([4, 77]), 0.05
    found = describe_members(points, normals, chosen, neighbours[chosen, :10], spacing)
    x, n = points.double().numpy(), normals.double().numpy()
    for row, i in enumerate(chosen.tolist()):
        lengths = [np.linalg.norm(x[j] - x[i]) for j in neighbours[i, :10].tolist()]
        for column, j in enumerate(neighbours[i, :10].tolist()):
            offset = x[j] - x[i]
            line = offset / lengths[column]
            expected = [
                lengths[column] / (8 * spacing),
                lengths[column] / max(lengths),
                n[i] @ offset / (8 * spacing),
                n[i] @ line,
                n[j] @ line,
                n[i] @ n[j],
                abs(n[j] @ line),
                abs(n[i] @ n[j]),
                np.linalg.det(np.stack([n[i], line, n[j]])),
            ]
            np.testing.assert_allclose(found[row, column].numpy(), expected, atol=1e-5)


def test_no_motion_and_no_unit_changes_the_nodes(generator: torch.Generator) -> None:
    points, neighbours = cloud(generator)
    chosen = torch.arange(0, 300, 10)
    motion = RigidTransform.random(generator=generator, max_translation=3.0, dtype=torch.float32)
    moved = 1000 * motion.apply(points)
    before = nodes_of(points, oriented_normals(points, neighbours), neighbours[chosen], 0.05, chosen)
    after = nodes_of(moved, oriented_normals(moved, neighbours), neighbours[chosen], 50.0, chosen)
    assert before.patches.shape == (len(SCALES), 1, 30, MEMBERS, FEATURES)
    different = (before.patches - after.patches).abs().amax((0, 1, 3, 4)) > 5e-3
    assert different.float().mean() < 0.1  # the side of a normal is a tie here and there
    lengths = [torch.pdist(nodes.points[0].double()) for nodes in (before, after)]
    assert torch.allclose(*lengths, rtol=1e-4, atol=1e-3)


def test_a_mirror_image_is_told_apart(generator: torch.Generator) -> None:
    points, neighbours = cloud(generator)
    chosen = torch.arange(50)
    normals = oriented_normals(points, neighbours)
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    here = nodes_of(points, normals, neighbours[chosen], 0.05, chosen).patches
    there = nodes_of(points * mirror, normals * mirror, neighbours[chosen], 0.05, chosen).patches
    assert torch.allclose(here[..., :-1], there[..., :-1], atol=1e-5)
    assert torch.allclose(here[..., -1], -there[..., -1], atol=1e-5)
    assert here[..., -1].abs().max() > 0.1


def test_tiny_clouds_repeat_their_neighbours() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    neighbours = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    normals = torch.eye(3)[[0, 1, 2, 0]]
    patches = nodes_of(points, normals, neighbours, 1.0, torch.arange(4)).patches
    assert torch.isfinite(patches).all()
    assert torch.equal(patches[0, :, :, :3], patches[0, :, :, 3:6])


def test_normals_are_the_planes_of_least_squares_and_look_at_the_hollow_side(generator: torch.Generator) -> None:
    points, neighbours = cloud(generator)
    normals = oriented_normals(points, neighbours)
    for i in (0, 100, 299):
        patch = points[torch.cat([torch.tensor([i]), neighbours[i, :15]])].double().numpy()
        expected = np.linalg.svd(patch - patch.mean(0))[2][2]
        assert abs(normals[i].double().numpy() @ expected) == pytest.approx(1, abs=1e-5)
        side = (points[neighbours[i, :40]] - points[i]) @ normals[i]
        assert side.sum() > -1e-5
    assert torch.allclose(towards_hollow(points, -normals, neighbours), normals, atol=1e-6)
