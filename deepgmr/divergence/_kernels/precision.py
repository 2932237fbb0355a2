"""Batches of Gaussians read once: validated, factored, ready for any pairing.

Every closed form of this package is written on Cholesky factors. A covariance S = L L^T is factored once, however
many pairs it takes part in, and whitened differences are squared last, so that nothing cancels: the divergence of
a Gaussian from itself is zero to rounding at any condition number the type can hold.

Factors are computed in float64 whatever the input (a 3x3 Cholesky costs nothing next to the pairs it serves; in
float32 a condition number of 1e6 would leave it one digit) and handed on in the type of the input. Up to three
dimensions a triangular matrix is held as rows of planes, one tensor (*B) an entry, and written out by hand: far
faster than batched LAPACK on matrices this small, and pairs then broadcast without a matrix per pair.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deepgmr.divergence._kernels.checks import check_alike, check_shapes, values_visible, wide_type
from deepgmr.divergence._kernels.triangular import (
    Planes,
    cholesky_planes,
    inverse_planes,
    matrix_planes,
    stack_planes,
    vector_planes,
)
from deepgmr.errors import InvalidMixture, NotPositiveDefinite, NumericalWarning

UNROLLED = 3  # the largest dimension whose matrices are written out as planes


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Gaussians N(means, covariances) of one batch shape, with their factors. Made by `read_gaussians`."""

    means: Tensor  # (*B, d)
    covariances: Tensor  # (*B, d, d); variances (*B, d) when `diagonal`
    log_det: Tensor  # (*B) float64
    root: Planes | Tensor  # float64: rows of planes, or (*B, d, d), or standard deviations (*B, d) when `diagonal`
    diagonal: bool
    planes: Planes | None = None  # the covariances in float64 as rows of planes, wherever `root` is

    @property
    def dimension(self) -> int:
        return self.means.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.means.dtype

    @property
    def batch_shape(self) -> torch.Size:
        return torch.broadcast_shapes(self.means.shape[:-1], self.log_det.shape)

    @property
    def lower(self) -> Tensor:
        """The factor L with S = L L^T (*B, d, d), or the standard deviations (*B, d), in the input's type."""
        root = stack_planes(self.root) if isinstance(self.root, list) else self.root
        return root.to(self.dtype)

    @property
    def whitening(self) -> Tensor:
        """L^-1 (*B, d, d), or the inverse standard deviations (*B, d), in the input's type."""
        if isinstance(self.root, list):
            return stack_planes(self.whitening_planes)
        if self.diagonal:
            return self.root.reciprocal().to(self.dtype)
        eye = torch.eye(self.dimension, dtype=self.root.dtype, device=self.root.device).expand_as(self.root)
        return torch.linalg.solve_triangular(self.root, eye, upper=False).to(self.dtype)

    @property
    def lower_planes(self) -> Planes:
        assert isinstance(self.root, list)
        return [[entry.to(self.dtype) for entry in row] for row in self.root]

    @property
    def whitening_planes(self) -> Planes:
        assert isinstance(self.root, list)
        return [[entry.to(self.dtype) for entry in row] for row in inverse_planes(self.root)]

    @property
    def mean_planes(self) -> list[Tensor]:
        return vector_planes(self.means)

    @property
    def half_log_det(self) -> Tensor:
        """log |S|^(1/2) (*B), in the input's type."""
        return (0.5 * self.log_det).to(self.dtype)

    @property
    def entropy(self) -> Tensor:
        """The differential entropy (*B), nats."""
        return self.half_log_det + 0.5 * self.dimension * (1 + math.log(2 * math.pi))

    @property
    def wide(self) -> Tensor:
        """The covariances (*B, d, d), or variances (*B, d), in float64."""
        wide = self.covariances.to(self.log_det.dtype)
        return wide if self.diagonal else (wide + wide.mT) / 2

    @property
    def unrolled(self) -> bool:
        return isinstance(self.root, list)

    def full(self) -> Gaussians:
        """The same Gaussians with their covariances written as matrices."""
        if not self.diagonal:
            return self
        assert isinstance(self.root, Tensor)
        covariances, root = torch.diag_embed(self.covariances), torch.diag_embed(self.root)
        if self.dimension > UNROLLED:
            return replace(self, covariances=covariances, root=root, diagonal=False)
        planes = matrix_planes(root.square())
        return replace(self, covariances=covariances, root=matrix_planes(root), diagonal=False, planes=planes)

    def unsqueeze(self, dim: int) -> Gaussians:
        """Insert a batch dimension, `dim` -1 after the batch or -2 before its last one: for pairs by broadcasting."""
        inner = 1 if self.diagonal else 2
        return self._mapped(
            lambda entry: entry.unsqueeze(dim), lambda x: x.unsqueeze(dim - 1), lambda x: x.unsqueeze(dim - inner)
        )

    def block(self, start: int, stop: int, batch_ndim: int) -> Gaussians:
        """The part [start, stop) of the first of `batch_ndim` broadcast batch dimensions; views, no copies."""

        def cut(x: Tensor, inner: int) -> Tensor:
            first = x.ndim - inner == batch_ndim and x.shape[0] > 1
            return x[start:stop] if first else x

        inner = 1 if self.diagonal else 2
        return self._mapped(lambda x: cut(x, 0), lambda x: cut(x, 1), lambda x: cut(x, inner))

    def _mapped(
        self,
        scalar: Callable[[Tensor], Tensor],
        vector: Callable[[Tensor], Tensor],
        matrix: Callable[[Tensor], Tensor],
    ) -> Gaussians:
        root = [[scalar(x) for x in row] for row in self.root] if isinstance(self.root, list) else matrix(self.root)
        planes = [[scalar(x) for x in row] for row in self.planes] if self.planes else None
        return Gaussians(
            vector(self.means), matrix(self.covariances), scalar(self.log_det), root, self.diagonal, planes
        )


def read_gaussians(*pairs: tuple[Tensor, Tensor]) -> tuple[Gaussians, ...]:
    """Check and factor Gaussians given as (means, covariances), all with one synchronisation.

    means (*B, d); covariances full (*B, d, d), diagonal (*B, d) or isotropic (*B, 1), told apart by their rank.
    Batches broadcast. Shapes are always checked; numbers are checked where they can be looked at (not inside
    `vmap` or `torch.compile`). Raises `InvalidMixture` or `NotPositiveDefinite`; a matrix that is singular to
    rounding gets a jitter, announced as a `NumericalWarning`.
    """
    check_alike(*(means for means, _ in pairs))
    return factored(list(pairs))


def factored(
    pairs: list[tuple[Tensor, Tensor]],
    *,
    flags: list[Tensor] | None = None,
    diagnose: Callable[[], None] | None = None,
) -> tuple[Gaussians, ...]:
    """`read_gaussians` for batches that need not broadcast with each other.

    `flags` are further scalar conditions, looked at in the same synchronisation; `diagnose` is called if anything
    failed, to raise its own error first.
    """
    for means, covariances in pairs:
        check_shapes(means, covariances)
    made = [factor(means, covariances) for means, covariances in pairs]
    if values_visible() and not bool(torch.stack([*(sound for _, sound in made), *(flags or [])]).all()):
        if diagnose is not None:
            diagnose()
        return tuple(_repaired(g, *pair) for (g, _), pair in zip(made, pairs, strict=True))
    return tuple(g for g, _ in made)


def _symmetry_tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float64 else 1e-4


def factor(means: Tensor, covariances: Tensor) -> tuple[Gaussians, Tensor]:
    """Factor, and say in one flag whether all is sound: finite, symmetric, positive definite.

    A pivot is what is left of a variance once the variables before it are known; below the rounding of that
    variance it is noise, and the matrix counts as singular.
    """
    finite = torch.isfinite(means.detach().sum())  # NaN and infinities all survive a sum
    d, wide = means.shape[-1], wide_type(means)
    eps, tolerance = torch.finfo(means.dtype).eps, _symmetry_tolerance(means.dtype)
    if covariances.ndim == means.ndim:
        variances = covariances.to(wide).expand(*covariances.shape[:-1], d)
        sound = ((variances > 0) & (variances < math.inf)).all() & finite
        log_det = variances.log().sum(-1)
        return Gaussians(means, covariances.expand(variances.shape), log_det, variances.sqrt(), True), sound
    if d > UNROLLED:
        matrix = covariances.to(wide)
        lower, failed = torch.linalg.cholesky_ex((matrix + matrix.mT) / 2)
        pivots, scale = lower.diagonal(dim1=-2, dim2=-1).square(), matrix.diagonal(dim1=-2, dim2=-1)
        sound = (pivots > eps * scale).all(-1) & (failed == 0) & (_asymmetry(matrix) <= tolerance * scale.sum(-1))
        return Gaussians(means, covariances, pivots.log().sum(-1), lower, False), sound.all() & finite
    # One copy puts the entries first, (d, d, *B), so that every operation below runs over contiguous planes.
    moved = covariances.movedim((-2, -1), (0, 1)).to(wide, memory_format=torch.contiguous_format)
    entries = [row.unbind(0) for row in moved.unbind(0)]
    planes = [
        [entries[i][i].clone() if i == k else 0.5 * (entries[i][k] + entries[k][i]) for k in range(i + 1)]
        for i in range(d)
    ]  # kept with the Gaussians; `moved` is not
    root, pivot_planes = cholesky_planes(planes)
    sound, product, trace = pivot_planes[0] > 0, pivot_planes[0], planes[0][0]
    asymmetry = torch.zeros_like(trace)
    for i in range(1, d):
        sound = sound & (pivot_planes[i] > eps * planes[i][i])
        product, trace = product * pivot_planes[i], trace + planes[i][i]
        for k in range(i):
            asymmetry = asymmetry + (entries[i][k] - entries[k][i]).abs()
    sound = (sound & (asymmetry <= tolerance * trace)).all() & finite
    return Gaussians(means, covariances, product.log(), root, False, planes), sound


def _asymmetry(matrix: Tensor) -> Tensor:
    """The sum of |S_ik - S_ki| over i > k, (*B)."""
    return 0.5 * (matrix - matrix.mT).abs().sum((-2, -1))


def _repaired(g: Gaussians, means: Tensor, covariances: Tensor) -> Gaussians:
    """The slow path: name what is wrong, or add a jitter that is harmless and say so."""
    for name, tensor in (("means", means), ("covariances", covariances)):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise InvalidMixture(
                f"{name} {tuple(tensor.shape)} hold {bad} NaN or infinite numbers; drop or repair them first"
            )
    if g.diagonal:
        if covariances.numel() and covariances.min() <= 0:
            raise NotPositiveDefinite(
                f"variances {tuple(covariances.shape)} must be positive, the least is "
                f"{covariances.min().item():.3g}; add a floor"
            )
        return g
    d, dtype = means.shape[-1], means.dtype
    flat = covariances.detach().reshape(-1, d, d)
    scale = flat.diagonal(dim1=-2, dim2=-1)
    skew = _asymmetry(flat)
    if bool((skew > _symmetry_tolerance(dtype) * scale.abs().sum(-1)).any()):
        raise InvalidMixture(
            f"covariances {tuple(covariances.shape)} must be symmetric, S - S^T reaches {skew.max().item():.3g}; "
            "pass (S + S^T) / 2 if the difference is rounding"
        )
    weak = torch.stack([~factor(torch.zeros_like(row[0]), row)[1] for row in flat])
    if not bool(weak.any()):
        return g
    share = (7 + d) * torch.finfo(dtype).eps  # of the mean variance: about the rounding of the matrix itself
    jitter = torch.where(weak, share * scale.mean(-1), 0).reshape(covariances.shape[:-2])
    eye = torch.eye(d, dtype=dtype, device=means.device)
    repaired, sound = factor(means, covariances + jitter[..., None, None] * eye)
    if not bool(sound):
        lowest = torch.linalg.eigvalsh(flat[weak].double()).min().item()
        raise NotPositiveDefinite(
            f"{int(weak.sum())} of {weak.numel()} covariances {tuple(covariances.shape)} are not positive definite "
            f"(least eigenvalue {lowest:.3g}); rebuild them with a floor on the variance"
        )
    warnings.warn(
        f"{int(weak.sum())} of {weak.numel()} covariances are singular to rounding; added up to "
        f"{jitter.max().item():.3g} ({share:.2g} of the mean variance) to their diagonals",
        NumericalWarning,
        stacklevel=4,
    )
    return repaired
