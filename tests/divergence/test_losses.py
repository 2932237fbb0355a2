"""Losses are compositions: equal to their parts, zero and stationary at the truth, differentiable in the motion."""

from __future__ import annotations

import pytest
import torch
from problems_mixtures import mixture, pair, perturbed

from deepgmr import divergence
from deepgmr.geometry.transform import RigidTransform
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid

F64 = torch.float64
PARTS = {
    divergence.same_index_loss: (divergence.kl_same_index, False),
    divergence.symmetric_same_index_loss: (divergence.kl_same_index, True),
    divergence.variational_loss: (divergence.kl_variational, False),
    divergence.symmetric_variational_loss: (divergence.kl_variational, True),
}


@pytest.mark.parametrize("loss", PARTS)
def test_equal_to_their_parts(loss, generator):
    p, q = perturbed(0, (5,), 4)
    motion = RigidTransform.random((5,), generator=generator, max_translation=1.0, dtype=F64)
    part, symmetric = PARTS[loss]
    moved = p.transformed(motion)
    expected = 0.5 * (part(moved, q) + part(q, moved)) if symmetric else part(moved, q)
    torch.testing.assert_close(loss(p, q, motion), expected)


@pytest.mark.parametrize("loss", PARTS)
def test_zero_and_stationary_at_the_truth(loss, generator):
    p = mixture(pair(1, (5,), 6)[0])
    truth = RigidTransform.random((5,), generator=generator, max_translation=1.0, dtype=F64)
    q = p.transformed(truth)
    twist = torch.zeros(5, 6, dtype=F64, requires_grad=True)
    value = loss(p, q, RigidTransform.exp(twist) @ truth)
    assert value.abs().max() < 1e-12
    value.sum().backward()
    if loss is divergence.variational_loss:  # as its docstring says: no bound, so its least value need not be here
        assert twist.grad.abs().max() > 1e-3
    else:
        assert twist.grad.abs().max() < 1e-9
    off = RigidTransform.exp(0.1 * torch.randn(5, 6, dtype=F64, generator=generator)) @ truth
    assert (loss(p, q, off) > 1e-3).all()


@pytest.mark.parametrize("loss", PARTS)
def test_gradients_in_the_motion(loss):
    p, q = perturbed(2, (2,), 3)
    twist = 0.3 * torch.randn(2, 6, dtype=F64, generator=torch.Generator().manual_seed(0))

    def value(twist, means):
        return loss(GaussianMixture(p.weights, means, p.covariances), q, RigidTransform.exp(twist))

    assert torch.autograd.gradcheck(value, (twist.requires_grad_(), p.means.clone().requires_grad_()))


def test_the_solver_minimises_the_same_index_bound():
    """Round components: at the closed-form answer the bound is stationary in the motion, and anything near is worse."""
    p, q = (m.isotropic() for m in perturbed(3, (8,), 6))
    answer = solve_rigid(p, q).target_from_source
    twist = torch.zeros(8, 6, dtype=F64, requires_grad=True)
    best = divergence.same_index_loss(p, q, RigidTransform.exp(twist) @ answer)
    best.sum().backward()
    assert twist.grad.abs().max() < 1e-9
    for seed in range(5):
        step = 0.05 * torch.randn(8, 6, dtype=F64, generator=torch.Generator().manual_seed(seed))
        assert (divergence.same_index_loss(p, q, RigidTransform.exp(step) @ answer) > best).all()
