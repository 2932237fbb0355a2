"""How far an estimated motion is from the true one, and whether a confidence deserves its name.

Everything takes tensors with any leading batch dimensions and returns one number per batch element, on the
device and in the dtype it was given. Rotations are measured in radians, lengths in the units of the points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.errors import InvalidInput
from deepgmr.geometry.transform import RigidTransform, rotation_angle, so3_log

SURE = 0.9  # confidence above which a wrong answer misleads


def rotation_error(estimate: RigidTransform, truth: RigidTransform) -> Tensor:
    """The angle (*B) in radians between two rotations: the geodesic distance on SO(3)."""
    return rotation_angle(estimate.rotation.mT @ truth.rotation)


def translation_error(estimate: RigidTransform, truth: RigidTransform) -> Tensor:
    """|t - t*| (*B). It depends on where the origin is; `displacement` of a centroid does not."""
    return torch.linalg.vector_norm(estimate.translation - truth.translation, dim=-1)


def displacement(point: Tensor, estimate: RigidTransform, truth: RigidTransform) -> Tensor:
    """How far (*B) one point (*B, 3), a centroid for instance, lands from where it belongs."""
    return mean_point_distance(point.unsqueeze(-2), estimate, truth)


def mean_point_distance(points: Tensor, estimate: RigidTransform, truth: RigidTransform) -> Tensor:
    """The mean distance (*B) between points (*B, N, 3) under the two motions.

    The DeepGMR paper (Yuan et al., ECCV 2020) calls this number RMSE; it is a mean of norms, not the root of a
    mean square.
    """
    _check_points(points)
    return torch.linalg.vector_norm(estimate.apply(points) - truth.apply(points), dim=-1).mean(-1)


def symmetric_distance(shape: Tensor, estimate: RigidTransform, truth: RigidTransform) -> Tensor:
    """ADD-S (Hinterstoisser et al. 2012; Xiang et al. 2018), (*B): right up to the symmetry of the shape.

    The mean, over the points (*B, N, 3) of the whole shape under the estimate, of the distance to the nearest
    point of the shape under the truth.
    """
    _check_points(shape)
    return nearest_distance(estimate.apply(shape), truth.apply(shape)).mean(-1)


def information_distance(estimate: RigidTransform, truth: RigidTransform, information: Tensor) -> Tensor:
    """3DMatch's error (*B): about the root mean square distance of what corresponds, in the units of the points.

    The information (*B, 6, 6) sums G^T G over the correspondences, G = [I | 2 [p]x], so its first entry is their number
    (Choi et al., CVPR 2015, eq. 9); the error is (t, vector part of the quaternion) of inv(truth) estimate.
    """
    apart = truth.inverse() @ estimate
    turn = so3_log(apart.rotation)  # (*B, 3)
    half = torch.linalg.vector_norm(turn, dim=-1, keepdim=True) / 2
    twist = torch.cat([apart.translation, turn / 2 * torch.sinc(half / torch.pi)], dim=-1)  # sin(half) along the axis
    square = (twist.unsqueeze(-2) @ information @ twist.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return (square / information[..., 0, 0]).clamp_min(0).sqrt()


def overlap(source: Tensor, target: Tensor, truth: RigidTransform, *, radius: float | Tensor) -> Tensor:
    """The share (*B) of source points (*B, N, 3) with a target point (*B, M, 3) within `radius` ((*B) or one)."""
    _check_points(source)
    _check_points(target)
    distance = nearest_distance(truth.apply(source), target)  # (*B, N)
    limit = torch.as_tensor(radius, dtype=distance.dtype, device=distance.device).unsqueeze(-1)
    return (distance <= limit).to(distance.dtype).mean(-1)


def nearest_distance(points: Tensor, others: Tensor) -> Tensor:
    """The distance (*B, N) from each point (*B, N, 3) to the nearest of `others` (*B, M, 3)."""
    exact = "donot_use_mm_for_euclid_dist"  # the matrix product loses half the digits of small distances
    return torch.cdist(points, others, compute_mode=exact).amin(-1)


def recall(values: Tensor, threshold: float, *, dim: int = -1) -> Tensor:
    """The share of `values` below `threshold` along `dim`. NaN, a missing answer, counts as a miss."""
    return (values < threshold).double().mean(dim)


def roc_auc(confidence: Tensor, success: Tensor) -> Tensor:
    """The area under the ROC curve of confidences (n,) against successes (n,) bool.

    The probability that a right answer is rated above a wrong one, ties counting half (Mann-Whitney). NaN when
    all answers are right or all are wrong: then there is nothing to tell apart.
    """
    _check_pairs(confidence, success)
    right, wrong = confidence[success].double(), confidence[~success].double()
    ordered = wrong.sort().values
    below = torch.searchsorted(ordered, right, right=False).double()
    not_above = torch.searchsorted(ordered, right, right=True).double()
    return ((below + not_above) / 2).sum() / (len(right) * len(wrong))  # 0 / 0 is NaN


def calibration_error(confidence: Tensor, success: Tensor, *, bins: int = 10) -> Tensor:
    """Expected calibration error (Naeini et al. 2015) of confidences (n,) in [0, 1] against successes (n,) bool.

    The mean over equal-width bins, weighted by their counts, of |mean confidence - share of successes|.
    """
    _check_pairs(confidence, success)
    confidence = confidence.double()
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise InvalidInput("confidences must lie in [0, 1] to be calibrated probabilities")
    index = (confidence * bins).long().clamp_max(bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap.index_add_(0, index, confidence - success.double())
    return gap.abs().sum() / len(confidence)


def wrong_and_sure(confidence: Tensor, success: Tensor, *, sure: float = SURE) -> Tensor:
    """The share of all answers that are wrong at a confidence (n,) above `sure`: what misleads its user."""
    _check_pairs(confidence, success)
    return ((confidence > sure) & ~success).double().mean()


def _check_points(points: Tensor) -> None:
    if points.ndim < 2 or points.shape[-1] != 3 or points.shape[-2] == 0:
        raise InvalidInput(f"points must be (*B, N, 3) with N at least 1, got {tuple(points.shape)}")


def _check_pairs(confidence: Tensor, success: Tensor) -> None:
    if confidence.ndim != 1 or success.shape != confidence.shape or success.dtype != torch.bool:
        raise InvalidInput(
            f"need confidences (n,) and successes (n,) bool, got {tuple(confidence.shape)} and "
            f"{tuple(success.shape)} {success.dtype}"
        )
