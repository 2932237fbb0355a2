"""Losses of a matching through the solver: lowest at the truth, the nats that NumPy finds, gradients that teach."""

from __future__ import annotations

import numpy as np
import torch

from deepgmr.geometry.transform import RigidTransform, so3_exp
from deepgmr.networks.overlap import OverlapPrediction
from deepgmr.networks.patches import Nodes
from deepgmr.training.through_solver import kl_of_matching, matched_motion, partial_of_matching

SIGMA = torch.tensor([0.5])


def _pair(generator: torch.Generator, count: int = 24) -> tuple[Nodes, Nodes, torch.Tensor, RigidTransform]:
    """Nodes, the same moved and in another order, and which is which."""
    points = 3 * torch.randn(1, count, 3, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(1, count, 3, generator=generator), dim=-1)
    motion = RigidTransform(so3_exp(torch.randn(1, 3, generator=generator)), torch.randn(1, 3, generator=generator))
    order = torch.randperm(count, generator=generator)
    none = torch.zeros(2, 1, count, 1, 9)
    same = torch.zeros(1, count, count)
    same[0, order, torch.arange(count)] = 1.0
    moved = Nodes(motion.apply(points)[:, order], motion.rotate(normals)[:, order], none)
    return Nodes(points, normals, none), moved, same, motion


def _sure(same: torch.Tensor) -> OverlapPrediction:
    return OverlapPrediction(40 * same)


def test_right_matches_make_the_motion_and_cost_nothing(generator: torch.Generator) -> None:
    source, target, same, motion = _pair(generator)
    found = matched_motion(_sure(same), source, target, SIGMA)
    assert torch.allclose(found.rotation, motion.rotation, atol=1e-4)
    assert torch.allclose(found.translation, motion.translation, atol=1e-3)
    assert kl_of_matching(found, source, target, same, SIGMA) < 1e-4
    assert partial_of_matching(found, source, target, SIGMA) < 1e-4


def test_the_nats_are_those_of_the_definitions(generator: torch.Generator) -> None:
    source, target, same, motion = _pair(generator)
    same[0, :6] = 0  # six that have no counterpart
    off = RigidTransform(so3_exp(torch.tensor([[0.1, 0.0, 0.2]])), torch.tensor([[0.3, 0.0, 0.0]])) @ motion
    x, y = off.apply(source.points)[0].double().numpy(), target.points[0].double().numpy()
    index = same[0, 6:].argmax(-1).numpy()
    expected = (((x[6:] - y[index]) ** 2).sum(-1) / (2 * 0.5**2)).mean()
    np.testing.assert_allclose(float(kl_of_matching(off, source, target, same, SIGMA)), expected, rtol=1e-4)
    m, n = off.rotate(source.normals)[0].double().numpy(), target.normals[0].double().numpy()
    kl = ((x[:, None] - y) ** 2).sum(-1) / (2 * 0.5**2) + (1 - np.abs(m @ n.T)) / 0.5**2
    expected = sum(-np.log((np.exp(-kl.min(axis)) + 1) / 2).mean() for axis in (0, 1))
    np.testing.assert_allclose(float(partial_of_matching(off, source, target, SIGMA)), expected, rtol=1e-4)


def test_no_counterpart_at_all_costs_nothing_known_and_all_that_is_partial(generator: torch.Generator) -> None:
    source, target, same, motion = _pair(generator)
    far = RigidTransform(motion.rotation, motion.translation + 1e3)
    assert kl_of_matching(far, source, target, torch.zeros_like(same), SIGMA) == 0
    np.testing.assert_allclose(float(partial_of_matching(far, source, target, SIGMA)), 2 * np.log(2), rtol=1e-6)


def test_descending_either_mends_matches_that_are_half_wrong(generator: torch.Generator) -> None:
    source, target, same, _ = _pair(generator)
    for name in ("kl", "partial"):
        logits = (3 * same + 1.5 * torch.randn(same.shape, generator=generator)).requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=0.1)
        values = []
        for _ in range(60):
            prediction = OverlapPrediction(logits)
            found = matched_motion(prediction, source, target, SIGMA)
            loss = (
                kl_of_matching(found, source, target, same, SIGMA)
                if name == "kl"
                else partial_of_matching(found, source, target, SIGMA)
            ).sum()
            optimiser.zero_grad()
            loss.backward()
            assert torch.isfinite(logits.grad).all()
            optimiser.step()
            values.append(float(loss.detach()))
        assert values[-1] < 0.2 * values[0], name
