"""Training losses: named compositions of a motion and a divergence, with no logic of their own.

`source` and `target` are the mixtures of the two clouds, `target_from_source` the motion under test. Values are (*B), not
reduced; take the mean yourself.
"""

from __future__ import annotations

from torch import Tensor

from deepgmr.divergence.mixtures import kl_same_index, kl_variational
from deepgmr.geometry.transform import RigidTransform
from deepgmr.mixture import GaussianMixture


def same_index_loss(source: GaussianMixture, target: GaussianMixture, target_from_source: RigidTransform) -> Tensor:
    """`kl_same_index` of the moved source to the target: the solver's own objective. Non-negative."""
    return kl_same_index(source.transformed(target_from_source), target)


def symmetric_same_index_loss(
    source: GaussianMixture, target: GaussianMixture, target_from_source: RigidTransform
) -> Tensor:
    """`same_index_loss` in both directions, averaged. Non-negative."""
    moved = source.transformed(target_from_source)
    return 0.5 * (kl_same_index(moved, target) + kl_same_index(target, moved))


def variational_loss(source: GaussianMixture, target: GaussianMixture, target_from_source: RigidTransform) -> Tensor:
    """`kl_variational` of the moved source to the target: needs no correspondence. May be negative.

    It is no bound, and even for the same mixture in two poses its least value lies near the true motion, not at it; the
    symmetric version is stationary at the truth.
    """
    return kl_variational(source.transformed(target_from_source), target)


def symmetric_variational_loss(
    source: GaussianMixture, target: GaussianMixture, target_from_source: RigidTransform
) -> Tensor:
    """`variational_loss` in both directions, averaged. May be negative. Stationary where the mixtures coincide."""
    moved = source.transformed(target_from_source)
    return 0.5 * (kl_variational(moved, target) + kl_variational(target, moved))
