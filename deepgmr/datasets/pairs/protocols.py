"""Pairs from clouds: each protocol is a short list of steps, every draw comes from one generator.

A step takes a `PairBatch` and a generator and returns a `PairBatch`; `make_pairs` starts from "both clouds are the
shape itself" and applies them in order. All steps work on the whole batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform, random_rotations, so3_exp

Range = float | tuple[float, float]  # one value for all, or a uniform draw for each pair


class Step(Protocol):
    """One thing that happens to a batch of pairs."""

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch: ...


def make_pairs(
    clouds: Tensor,
    steps: str | Sequence[Step],
    *,
    generator: torch.Generator,
    normals: Tensor | None = None,
) -> PairBatch:
    """Turn clouds (B, K, 3) into pairs by a protocol's name (a key of `PROTOCOLS`) or by a list of steps."""
    if isinstance(steps, str):
        if steps not in PROTOCOLS:
            raise InvalidConfig(f"unknown protocol `{steps}`; the protocols are {', '.join(PROTOCOLS)}")
        steps = PROTOCOLS[steps]
    batch, count, _ = clouds.shape
    index = torch.arange(count, device=clouds.device).expand(batch, count)
    still = RigidTransform.identity((batch,), dtype=clouds.dtype, device=clouds.device)
    pair = PairBatch(clouds, clouds, still, clouds.new_ones(batch), index, index, normals, normals, still)
    for step in steps:
        pair = step(pair, generator)
    return pair


# -- steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Same:
    """Both clouds are the same `points`, drawn at random from the parent and in a different order each."""

    points: int

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        _need(pair, self.points)
        chosen = _ranks(pair.source, generator)[:, : self.points]
        order = chosen.gather(1, _ranks(chosen, generator))
        return _taken(pair, chosen, order)


@dataclass(frozen=True)
class Disjoint:
    """Two disjoint random samples of `points` each: no point of one is in the other, the surface is the same."""

    points: int

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        _need(pair, 2 * self.points)
        order = _ranks(pair.source, generator)
        return _taken(pair, order[:, : self.points], order[:, self.points : 2 * self.points])


@dataclass(frozen=True)
class Crop:
    """Each cloud keeps the share `keep` of its points on one side of a random plane, then `points` of those.

    The plane of the target is drawn again while fewer than `shared` of the kept source points lie on its side too
    (after 32 draws the source's own plane is taken). With `near`, what counts is the share of kept points that have a
    kept point of the other cloud within that distance, of the cloud where it is smaller. `overlap` becomes that share.
    Where `points` exceeds what is kept, everything kept is used, so `keep` must then be one number.
    """

    keep: Range
    points: int | None = None
    shared: float = 0.0
    near: float | None = None

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        keep = _drawn(self.keep, pair, generator)  # (B,)
        least = self.keep if isinstance(self.keep, float | int) else self.keep[0]
        sizes = [round(least * cloud.shape[1]) for cloud in (pair.source, pair.target)]
        source_count, target_count = (min(self.points or size, size) for size in sizes)
        if min(source_count, target_count) < 1:
            raise InvalidConfig(f"a crop to {least:g} of {pair.source.shape[1]} points keeps nothing")
        facing = _directions(pair, generator)
        inside, height = _half_space(pair.source, facing, keep)  # (B, N), (B,)
        other, other_height = facing.clone(), height.clone()
        overlap = torch.zeros_like(keep)
        todo = torch.arange(len(pair), device=keep.device)
        for _ in range(32):
            drawn = _directions(pair, generator)[todo]
            _, limit = _half_space(pair.target[todo], drawn, keep[todo])
            also = (_along(pair.source[todo], drawn) >= limit.unsqueeze(-1)) & inside[todo]
            share = also.sum(-1) / inside[todo].sum(-1)
            if self.near is not None:
                seen = _along(pair.target[todo], drawn) >= limit.unsqueeze(-1)
                share = _close(pair.source[todo], inside[todo], pair.target[todo], seen, self.near)
            good = share >= self.shared
            done = todo[good]
            other[done], other_height[done], overlap[done] = drawn[good], limit[good], share[good]
            todo = todo[~good]
            if not len(todo):
                break
        overlap[todo] = 1.0
        seen = _along(pair.target, other) >= other_height.unsqueeze(-1)
        source_rows = _ranks(inside, generator, first=inside)[:, :source_count]
        target_rows = _ranks(seen, generator, first=seen)[:, :target_count]
        return replace(_taken(pair, source_rows, target_rows), overlap=overlap * pair.overlap)


@dataclass(frozen=True)
class Thin:
    """Uneven density: `points` are kept, those on one side of the cloud `ratio` times as likely as on the other."""

    points: int
    ratio: Range = 4.0

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        _need(pair, self.points)
        rows = []
        for cloud in (pair.source, pair.target):
            along = _along(cloud, _directions(pair, generator))
            low, high = along.amin(-1, keepdim=True), along.amax(-1, keepdim=True)
            exponent = (along - low) / (high - low).clamp_min(1e-12)
            weight = _drawn(self.ratio, pair, generator).unsqueeze(-1) ** exponent
            # Keys -log(u) / w are exponential races: the smallest win in proportion to w, without replacement.
            uniform = torch.rand(along.shape, generator=generator, dtype=along.dtype, device=along.device)
            race = -uniform.clamp_min(1e-12).log() / weight
            rows.append(race.topk(self.points, dim=-1, largest=False).indices)
        return _taken(pair, rows[0], rows[1])


@dataclass(frozen=True)
class Move:
    """Put the source in a random pose and the target where the motion takes it.

    `rotation` says how the motion's rotation is drawn: "axis-angle" (uniform axis, angle uniform up to `degrees`;
    the paper's), "uniform" (Haar on SO(3)) or "euler" (angles uniform in [0, `degrees`] about x, y and z).
    `translation` is uniform in length up to `distance` in a uniform direction ("ball", the paper's) or uniform in a
    box of that half-width ("box"). `pose` False leaves the source where its parent is.
    """

    rotation: str = "uniform"
    degrees: float = 180.0
    translation: str = "ball"
    distance: float = 0.5
    pose: bool = True

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        batch, like = len(pair), pair.source
        motion = RigidTransform(
            _rotations(self.rotation, self.degrees, batch, like, generator),
            _translations(self.translation, self.distance, batch, like, generator),
        )
        pose = RigidTransform.identity((batch,), dtype=like.dtype, device=like.device)
        if self.pose:
            pose = RigidTransform(
                _rotations("uniform", 180.0, batch, like, generator),
                _translations("ball", self.distance, batch, like, generator),
            )
        before = pair.target_from_source
        # Source and target were in frames related by `before`; both frames are renamed, not the relation lost.
        target_pose = motion @ pose @ before.inverse()
        return replace(
            pair,
            source=pose.apply(pair.source),
            target=target_pose.apply(pair.target),
            target_from_source=motion,
            source_from_parent=None if pair.source_from_parent is None else pose @ pair.source_from_parent,
            source_normals=None if pair.source_normals is None else pose.rotate(pair.source_normals),
            target_normals=None if pair.target_normals is None else target_pose.rotate(pair.target_normals),
        )


@dataclass(frozen=True)
class Jitter:
    """Independent Gaussian noise on every coordinate of both clouds, cut off at `clip`."""

    sigma: Range = 0.01
    clip: float | None = 0.05

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        sigma = _drawn(self.sigma, pair, generator)[:, None, None]
        limit = math.inf if self.clip is None else self.clip

        def noisy(cloud: Tensor) -> Tensor:
            noise = torch.randn(cloud.shape, generator=generator, dtype=cloud.dtype, device=cloud.device)
            return cloud + (sigma * noise).clamp(-limit, limit)

        return replace(pair, source=noisy(pair.source), target=noisy(pair.target))


@dataclass(frozen=True)
class Outliers:
    """Replace a share of each cloud's points by points uniform in its bounding sphere; their index becomes -1."""

    share: Range

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        share = _drawn(self.share, pair, generator).unsqueeze(-1)  # (B, 1)
        changed: dict[str, Any] = {}
        for name in ("source", "target"):
            cloud: Tensor = getattr(pair, name)
            out = torch.rand(cloud.shape[:2], generator=generator, dtype=cloud.dtype, device=cloud.device) < share
            centre = cloud.mean(1, keepdim=True)
            radius = torch.linalg.vector_norm(cloud - centre, dim=-1).amax(-1)[:, None, None]
            length = torch.rand(*cloud.shape[:2], 1, generator=generator, dtype=cloud.dtype, device=cloud.device)
            stray = centre + radius * length ** (1 / 3) * _unit(cloud.shape, cloud, generator)
            changed[name] = torch.where(out.unsqueeze(-1), stray, cloud)
            index: Tensor | None = getattr(pair, f"{name}_index")
            if index is not None:
                changed[f"{name}_index"] = index.masked_fill(out, -1)
            normals: Tensor | None = getattr(pair, f"{name}_normals")
            if normals is not None:
                changed[f"{name}_normals"] = torch.where(
                    out.unsqueeze(-1), _unit(cloud.shape, cloud, generator), normals
                )
        return replace(pair, **changed)


_PAPER = Move("axis-angle", 180.0, "ball", 0.25)
_ANY = Move("uniform", 180.0, "box", 0.5)

PROTOCOLS: dict[str, tuple[Step, ...]] = {
    "clean": (Same(1024), _PAPER),
    "noisy": (Same(1024), _PAPER, Jitter()),
    "resampled": (Disjoint(512), Move("uniform", 180.0, "ball", 0.5), Jitter()),
    "crop70_45": (Same(1024), Crop(0.7, 512), Move("euler", 45.0, "box", 0.5, pose=False), Jitter()),
    "crop70_180": (Same(1024), Crop(0.7, 512, shared=0.45), _ANY, Jitter()),
    "crop50_180": (Same(1024), Crop(0.5, 384, shared=0.3), _ANY, Jitter()),
}
# As crop70_180 and crop50_180, but no point of one cloud is in the other.
PROTOCOLS["recrop70"] = (Disjoint(512), Crop(0.7, shared=0.45, near=0.1), _ANY, Jitter())
PROTOCOLS["recrop50"] = (Disjoint(512), Crop(0.5, shared=0.3, near=0.1), _ANY, Jitter())
PROTOCOLS["unseen"] = PROTOCOLS["noisy"]  # the categories differ, not the pairs


# -- draws -----------------------------------------------------------------------------------------------------


def _drawn(value: Range, pair: PairBatch, generator: torch.Generator) -> Tensor:
    """(B,): the one value, or a uniform draw from the range for each pair."""
    batch, like = len(pair), pair.source
    if not isinstance(value, tuple):
        return like.new_full((batch,), float(value))
    uniform = torch.rand(batch, generator=generator, dtype=like.dtype, device=like.device)
    return value[0] + (value[1] - value[0]) * uniform


def _unit(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    vector = torch.randn(*shape, generator=generator, dtype=like.dtype, device=like.device)
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp_min(1e-12)


def _directions(pair: PairBatch, generator: torch.Generator) -> Tensor:
    return _unit((len(pair), 3), pair.source, generator)


def _rotations(kind: str, degrees: float, batch: int, like: Tensor, generator: torch.Generator) -> Tensor:
    limit = math.radians(degrees)
    if kind == "uniform":
        return random_rotations((batch,), generator=generator, dtype=like.dtype)
    if kind == "axis-angle":
        axis = _unit((batch, 3), like, generator)
        return so3_exp(axis * limit * torch.rand(batch, 1, generator=generator, dtype=like.dtype, device=like.device))
    if kind == "euler":
        angles = limit * torch.rand(batch, 3, generator=generator, dtype=like.dtype, device=like.device)
        x, y, z = (so3_exp(angles * row) for row in torch.eye(3, dtype=like.dtype, device=like.device))
        return x @ y @ z
    raise InvalidConfig(f"unknown rotation `{kind}`; use axis-angle, uniform or euler")


def _translations(kind: str, distance: float, batch: int, like: Tensor, generator: torch.Generator) -> Tensor:
    if kind == "ball":
        length = torch.rand(batch, 1, generator=generator, dtype=like.dtype, device=like.device)
        return distance * length * _unit((batch, 3), like, generator)
    if kind == "box":
        uniform = torch.rand(batch, 3, generator=generator, dtype=like.dtype, device=like.device)
        return distance * (2 * uniform - 1)
    raise InvalidConfig(f"unknown translation `{kind}`; use ball or box")


def _ranks(like: Tensor, generator: torch.Generator, *, first: Tensor | None = None) -> Tensor:
    """(B, N): a random order of the N columns of `like` (B, N, ...); those marked in `first` (B, N) come first."""
    key = torch.rand(like.shape[:2], generator=generator, device=like.device)
    return (key if first is None else key + (~first).to(key.dtype)).argsort(dim=1)


def _along(cloud: Tensor, direction: Tensor) -> Tensor:
    """(B, N): the coordinate of points (B, N, 3) along a direction (B, 3) each."""
    return (cloud @ direction.unsqueeze(-1)).squeeze(-1)


def _half_space(cloud: Tensor, direction: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Which points (B, N) are among the share `keep` (B,) furthest along the direction, and the height (B,) there."""
    along = _along(cloud, direction)
    count = (keep * along.shape[1]).round().long().clamp(1, along.shape[1])
    ordered = along.sort(dim=1, descending=True).values
    height = ordered.gather(1, count.unsqueeze(1) - 1)  # (B, 1)
    return along >= height, height.squeeze(1)


def _close(source: Tensor, inside: Tensor, target: Tensor, seen: Tensor, near: float) -> Tensor:
    """(B,): the share of source points (B, N, 3) `inside` (B, N) within `near` of a target point (B, M, 3) `seen`
    (B, M), or of those of the target, whichever is smaller."""
    close = (torch.cdist(source, target) <= near) & inside.unsqueeze(-1) & seen.unsqueeze(1)
    shares = close.any(2).sum(-1) / inside.sum(-1), close.any(1).sum(-1) / seen.sum(-1)
    return torch.minimum(*shares)


def _need(pair: PairBatch, points: int) -> None:
    available = min(pair.source.shape[1], pair.target.shape[1])
    if points > available:
        raise InvalidConfig(f"this step needs {points} points a cloud, the clouds have {available}")


def _taken(pair: PairBatch, source_rows: Tensor, target_rows: Tensor) -> PairBatch:
    """The pair with these points (B, n) of the source and (B, m) of the target."""

    def points(cloud: Tensor, rows: Tensor) -> Tensor:
        return cloud.gather(1, rows.unsqueeze(-1).expand(*rows.shape, 3))

    changed: dict[str, Any] = {}
    for name, rows in (("source", source_rows), ("target", target_rows)):
        index, normals = getattr(pair, f"{name}_index"), getattr(pair, f"{name}_normals")
        changed[name] = points(getattr(pair, name), rows)
        changed[f"{name}_index"] = None if index is None else index.gather(1, rows)
        changed[f"{name}_normals"] = None if normals is None else points(normals, rows)
    return replace(pair, **changed)
