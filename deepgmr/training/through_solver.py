"""Losses of a matching by way of the motion that it makes: divergences of the nodes' mixtures after the closed-form solver.

Every source node is a round Gaussian, and so is the place where its matches say it lies; the motion between these two
mixtures minimises their same-index KL (`deepgmr.mixture.solve_rigid`), and what it does to the nodes is judged by

- `kl`: the same-index KL of the moved nodes from the places they are known to be (needs the truth);
- `partial`: the partial divergence of either cloud's nodes from the other's, both ways (eq. 1 of
  `deepgmr.divergence.partial`): needs no truth, and what has no counterpart costs its share and no more.

Both are differentiable through the solver down to the logits of the matches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.divergence import kl_same_index, partial_divergence
from deepgmr.divergence.partial import kl_oriented
from deepgmr.geometry.transform import RigidTransform
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid
from deepgmr.networks.overlap import OverlapPrediction
from deepgmr.networks.patches import Nodes

_LEAST = 1e-4  # share of its weight that every node keeps, so that no mixture is empty
_NORMAL = 0.5  # standard deviation of a normal
_KNOWN = 0.3  # how nearly two nodes have to be the same place to be told apart from none


def matched_motion(prediction: OverlapPrediction, source: Nodes, target: Nodes, sigma: Tensor) -> RigidTransform:
    """The motion (B) target from source that the matches of B pairs make; `sigma` (B) is that of every node, in spacings.

    A node counts as much as its best match is one both ways.
    """
    share = prediction.similarity.softmax(-1)
    weights = prediction.log_matching().amax(-1).exp() + _LEAST
    return solve_rigid(
        _round(source.points, weights, sigma), _round(share @ target.points, weights, sigma)
    ).target_from_source


def kl_of_matching(motion: RigidTransform, source: Nodes, target: Nodes, same: Tensor, sigma: Tensor) -> Tensor:
    """(B,): nats by which nodes (B, J), moved, differ from the places in the target where they are by `same` (B, J, K).

    Over those that are anywhere; zero for a pair without any.
    """
    same = same.float()
    total = same.sum(-1)
    places = same @ target.points / total.unsqueeze(-1).clamp_min(1e-6)
    known = (same.amax(-1) > _KNOWN).float()
    moved = _round(motion.apply(source.points), known + 1e-9, sigma)
    return kl_same_index(moved, _round(places, known + 1e-9, sigma)) * (known.sum(-1) > 0)


def partial_of_matching(motion: RigidTransform, source: Nodes, target: Nodes, sigma: Tensor) -> Tensor:
    """(B,): the partial divergence of the moved nodes from the target's and of those from them, nats; at most 2 log 2."""
    moved, turned = motion.apply(source.points), motion.rotate(source.normals)
    square = (moved.unsqueeze(2) - target.points.unsqueeze(1)).square().sum(-1)
    cosine = (turned @ target.normals.mT).clamp(-1, 1)
    kl = kl_oriented(square, cosine, sigma=sigma[:, None, None], sigma_normal=_NORMAL).clamp_min(0)
    return partial_divergence(kl.amin(2)) + partial_divergence(kl.amin(1))


def _round(means: Tensor, weights: Tensor, sigma: Tensor) -> GaussianMixture:
    """Of weights (B, J) up to a factor; every component has the same standard deviation (B,)."""
    covariances = sigma.square()[:, None, None, None] * torch.eye(3).to(means)
    return GaussianMixture(weights / weights.sum(-1, keepdim=True), means, covariances.expand(*means.shape, 3))
