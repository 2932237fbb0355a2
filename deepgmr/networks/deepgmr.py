"""DeepGMR: two clouds -> features -> responsibilities -> mixtures -> the closed-form motion.

Yuan, Eckart, Kim, Jampani, Fox, Kautz: DeepGMR, ECCV 2020; repaired where the docstrings say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepgmr.errors import InvalidCloud, InvalidConfig
from deepgmr.geometry.frames import unit_frame
from deepgmr.geometry.neighbours import gather_points
from deepgmr.geometry.transform import RigidTransform
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import Solution, solve_rigid
from deepgmr.networks.moments import SCALES, local_moments, moments_width
from deepgmr.networks.pointnet import PointNet, PoseTransformer
from deepgmr.networks.rri import ORDERS, rri

FEATURES = ("moments", "rri", "xyz", "tnet")
_FLOOR = 1e-5  # of the cloud's variance: float32 rounds the scatter of a flat cloud by up to a twentieth of this
_OUTLIER = 6.0  # standardised features beyond this say no more than that they are extreme
_Rows = tuple[Tensor | None, Tensor | None]  # of the source and of the target; None for all points


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a `DeepGMR`."""

    components: int = 32
    features: str = "moments"  # one of FEATURES
    neighbours: int = 20  # of "rri"
    order: str = "value"  # of "rri"
    scales: tuple[float, ...] = SCALES  # of "moments", in root-mean-square radii of the cloud
    encoder: tuple[int, ...] = (128, 128)
    decoder: tuple[int, ...] = (256, 128)
    pooled: int = 256  # 0: pool the encoder's output
    pooling: str = "max+mean"
    landmarks: int = 8

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise InvalidConfig(f"unknown features `{self.features}`; the features are {', '.join(FEATURES)}")
        if self.order not in ORDERS:
            raise InvalidConfig(f"unknown order `{self.order}`; the orders are {', '.join(ORDERS)}")
        if self.components < 3:
            raise InvalidConfig(f"three components or more determine a rotation, got {self.components}")
        if max(len(self.encoder), len(self.decoder), len(self.scales), self.landmarks) > 1024:
            raise InvalidConfig("a network of more than 1024 layers, scales or landmarks is not built")
        if self.neighbours < 1:
            raise InvalidConfig(f"features need at least one neighbour, got {self.neighbours}")

    @property
    def feature_width(self) -> int:
        widths = {"moments": moments_width(self.scales), "rri": 4 * self.neighbours, "xyz": 3, "tnet": 3}
        return widths[self.features]


PRESETS: dict[str, NetworkConfig] = {
    "lean": NetworkConfig(),
    # The published sizes: 1.53 million parameters, 16 components.
    "paper": NetworkConfig(
        components=16,
        features="rri",
        order="distance",
        encoder=(64, 128, 256, 1024),
        decoder=(512, 256, 128),
        pooled=0,
        pooling="max",
        landmarks=0,
    ),
}


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one forward pass found, in the units, origin and dtype of the clouds."""

    motion: RigidTransform  # (B)
    source_mixture: GaussianMixture  # (B, J)
    target_mixture: GaussianMixture  # (B, J), component j the same part of the shape as the source's j
    source_responsibilities: Tensor  # (B, N, J)
    target_responsibilities: Tensor  # (B, M, J)
    solution: Solution  # solved with each cloud about its centroid, at one scale: `determinacy` has no units

    @property
    def target_from_source(self) -> Tensor:
        """The motion as matrices (B, 4, 4)."""
        return self.motion.matrix


@dataclass(frozen=True, eq=False)
class Framed:
    """A batch of clouds in their unit frames, as `unit_frame` gives them."""

    points: Tensor  # (B, N, 3)
    centre: Tensor  # (B, 3) float64
    scale: Tensor  # (B) float64
    dtype: torch.dtype  # of the clouds as they came

    @classmethod
    def of(cls, cloud: Tensor, precision: torch.dtype) -> Framed:
        return cls(*unit_frame(cloud, dtype=precision), cloud.dtype)


class DeepGMR(nn.Module):
    """Maps each of two clouds to a mixture whose components correspond, and solves for the motion between them."""

    feature_mean: Tensor
    feature_deviation: Tensor

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        width = self.config.feature_width
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_deviation", torch.ones(width))
        self.pose = PoseTransformer() if self.config.features == "tnet" else None
        self.pointnet = PointNet(
            width,
            self.config.components,
            encoder=self.config.encoder,
            decoder=self.config.decoder,
            pooled=self.config.pooled,
            pooling=self.config.pooling,
            landmarks=self.config.landmarks,
        )

    @property
    def precision(self) -> torch.dtype:
        """What geometry is computed in: the dtype of the weights, but float32 for weights in half precision."""
        return torch.promote_types(self.feature_mean.dtype, torch.float32)

    def forward(self, source: Tensor, target: Tensor, *, queries: tuple[Tensor, Tensor] | None = None) -> Prediction:
        """The motion that takes each source cloud (B, N, 3) onto its target cloud (B, M, 3).

        queries   (B, Q) and (B, R) indices: build the mixtures from these points of the two clouds only, described
                  by their whole cloud; training uses it to see more pairs

        Raises `InvalidCloud` for clouds that are not (B, N, 3) and (B, M, 3) of finite floating-point numbers, too
        small for the features, or without extent.
        """
        minimum = self.config.neighbours + 1 if self.config.features == "rri" else 3
        check_clouds(source, target, minimum=minimum)
        frames = Framed.of(source, self.precision), Framed.of(target, self.precision)
        rows: _Rows = queries or (None, None)
        shares = self._responsibilities(frames[0].points, frames[1].points, *rows)
        return self.solved(*frames, shares, rows)

    def solved(
        self, source: Framed, target: Framed, shares: tuple[Tensor, Tensor], rows: _Rows = (None, None)
    ) -> Prediction:
        """What follows from responsibilities (B, Q, J) and (B, R, J); tensor operations alone, so a graph may hold it."""
        with torch.autocast(source.points.device.type, enabled=False):
            # One scale for the pair, since a rigid motion has none; each cloud about its own centroid.
            ratio = (source.scale / target.scale).to(source.points.dtype)[:, None, None]
            source_points = _taken(source.points, rows[0]) * ratio
            source_mixture = GaussianMixture.from_responsibilities(source_points, shares[0], floor=_FLOOR)
            target_points = _taken(target.points, rows[1])
            target_mixture = GaussianMixture.from_responsibilities(target_points, shares[1], floor=_FLOOR)
            solution = solve_rigid(source_mixture, target_mixture)

            rotation = solution.target_from_source.rotation.double()
            shift = solution.target_from_source.translation.double() * target.scale.unsqueeze(-1)
            translation = target.centre + shift - (rotation @ source.centre.unsqueeze(-1)).squeeze(-1)
            dtype = torch.promote_types(source.dtype, target.dtype)
            return Prediction(
                motion=RigidTransform(rotation, translation).to(dtype),
                source_mixture=_placed(source_mixture, source.centre, target.scale, dtype),
                target_mixture=_placed(target_mixture, target.centre, target.scale, dtype),
                source_responsibilities=shares[0],
                target_responsibilities=shares[1],
                solution=solution,
            )

    def _responsibilities(
        self, source: Tensor, target: Tensor, source_rows: Tensor | None, target_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if _taken(source, source_rows).shape == _taken(target, target_rows).shape and source.shape == target.shape:
            rows = None if source_rows is None or target_rows is None else torch.cat([source_rows, target_rows])
            first, second = self.logits(torch.cat([source, target]), rows).chunk(2)
        else:
            first, second = self.logits(source, source_rows), self.logits(target, target_rows)
        return first.to(source.dtype).softmax(-1), second.to(target.dtype).softmax(-1)

    def logits(self, points: Tensor, queries: Tensor | None = None, *, chunked: bool = True) -> Tensor:
        """Logits (B, Q, J) of the points (or of the queried ones) of clouds (B, N, 3) in their unit frames."""
        features = self.describe(points, queries, chunked=chunked).to(self.feature_mean.dtype)
        return self.pointnet(features, _taken(points, queries))

    def describe(self, points: Tensor, queries: Tensor | None = None, *, chunked: bool = True) -> Tensor:
        """Standardised features (B, Q, F) of clouds (B, N, 3) in their unit frames; `chunked` as `local_moments` has it."""
        kind = self.config.features
        if kind == "moments":
            features = local_moments(points, scales=self.config.scales, queries=queries, chunked=chunked)
        elif kind == "rri":
            features = self._rri(points, queries)
        else:
            chosen = _taken(points, queries)
            if self.pose is None:
                return chosen
            turned = self.pose(points).mT
            with torch.autocast(points.device.type, enabled=False):
                return chosen @ turned
        standard = (features - self.feature_mean) / self.feature_deviation
        return standard.clamp(-_OUTLIER, _OUTLIER)

    def _rri(self, points: Tensor, queries: Tensor | None = None) -> Tensor:
        return rri(points, neighbours=self.config.neighbours, order=self.config.order, queries=queries)

    @torch.no_grad()
    def calibrate(self, clouds: Tensor) -> None:
        """Set the standardisation of the features from sample clouds (B, N, 3); once, before training."""
        if self.config.features not in ("moments", "rri"):
            return
        self.feature_mean.zero_()
        self.feature_deviation.fill_(1.0)
        points = unit_frame(clouds, dtype=self.precision)[0]
        kind = self.config.features
        raw = local_moments(points, scales=self.config.scales) if kind == "moments" else self._rri(points)
        flat = raw.flatten(0, -2)
        self.feature_mean.copy_(flat.mean(0))
        self.feature_deviation.copy_(flat.std(0) + 1e-6)


def check_clouds(source: Tensor, target: Tensor, *, minimum: int = 3) -> None:
    """Raise `InvalidCloud` unless (B, N, 3) and (B, M, 3) are batches of clouds a network can take."""
    for name, cloud in (("source", source), ("target", target)):
        if cloud.ndim != 3 or cloud.shape[-1] != 3 or not cloud.dtype.is_floating_point:
            raise InvalidCloud(
                f"{name}: a network takes floating-point clouds (B, N, 3), got {tuple(cloud.shape)} of {cloud.dtype}; "
                "add a leading dimension to a single cloud"
            )
        if cloud.shape[1] < minimum:
            raise InvalidCloud(f"{name}: {cloud.shape[1]} points a cloud, this network needs at least {minimum}")
        if not torch.isfinite(cloud).all():
            raise InvalidCloud(f"{name}: the cloud holds NaN or infinite coordinates; drop those points first")
        if (cloud == cloud[:, :1]).flatten(1).all(1).any():
            raise InvalidCloud(f"{name}: all points of a cloud are equal; there is no shape to register")
    if source.shape[0] != target.shape[0]:
        raise InvalidCloud(f"as many sources as targets are needed, got {source.shape[0]} and {target.shape[0]}")


def _taken(points: Tensor, rows: Tensor | None) -> Tensor:
    return points if rows is None else gather_points(points, rows)


def _placed(mixture: GaussianMixture, centre: Tensor, scale: Tensor, dtype: torch.dtype) -> GaussianMixture:
    """A mixture of the unit frame, carried back to input units in float64 before it takes the input's dtype."""
    means = mixture.means.double() * scale[:, None, None] + centre.unsqueeze(-2)
    covariances = mixture.covariances.double() * scale.square()[:, None, None, None]
    return GaussianMixture(mixture.weights.to(dtype), means.to(dtype), covariances.to(dtype))
