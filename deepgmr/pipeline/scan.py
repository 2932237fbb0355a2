"""One prepared cloud: its frame, and its pyramid of mixtures, each level built once, whoever asks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from deepgmr.geometry.neighbours import Tree
from deepgmr.geometry.normals import balanced, estimate_normals, towards_hollow
from deepgmr.geometry.transform import RigidTransform, scale_of
from deepgmr.geometry.voxels import RUNGS, Heaps, rung, size_of
from deepgmr.mixture import GaussianMixture
from deepgmr.networks.patches import FEATURES, MEMBERS, REACH, SCALES
from deepgmr.pipeline.clouds import coarse_step
from deepgmr.pipeline.frame import Frame
from deepgmr.pipeline.settings import ScanSettings

ENOUGH = 1.3  # times as many components as are asked for, up to which all are taken
_KEPT = 8  # levels that a prepared scan holds on to (a pair takes up to six), and things made of a level that it does
_PROBES = 3000  # components whose nearest say how far apart all of them are
MANY = 1 << 17  # heaps beyond which coarse levels are made of less coarse ones
FRONT_END = 1  # to be raised where the components or patches of the same cloud become other ones

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Level:
    """A cloud at one resolution: J disks, each round in the tangent plane and thin along the normal.

    These are the covariances of generalised ICP (Segal et al. 2009). Every component weighs the same, whatever the
    number of points in it: it stands for a piece of the surface, and not for how often a sensor looked there.
    """

    points: np.ndarray  # (J, 3) float64, in the frame
    tree: Tree
    settings: ScanSettings
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    _patches: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def of(cls, points: np.ndarray, settings: ScanSettings) -> Level:
        """The level whose components lie at points (J, 3) float64, J >= 3."""
        return cls(points, Tree(points), settings)

    def made(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` makes of this level and nothing else, once for a key. Of several threads the first decides."""
        found = self._made.get(key)
        if found is None:
            found = self._made.setdefault(key, make())
            _forget(self._made)
        return found

    def seen_closer(self, neighbours: int) -> Level:
        """The same components, with normals from so many neighbours."""
        settings = replace(self.settings, for_normals=neighbours)
        return self.made(("closer", neighbours), lambda: Level(self.points, self.tree.with_another_cloud(), settings))

    def thinned(self, step: int, *, fewest: int) -> Level:
        """Every so many of the components, with normals from about as wide a patch: of as much fewer, if `fewest`."""
        if step == 1:
            return self
        settings = replace(self.settings, for_normals=max(fewest, self.settings.for_normals // step))
        return self.made(("thinned", step, fewest), lambda: Level.of(self.points[::step], settings))

    @cached_property
    def extent(self) -> float:
        """The longest side of the box around the components."""
        return float(np.ptp(self.points, axis=0).max())

    def balanced(self, most: int) -> Level:
        """About `most` of the components, rare directions before common ones, with the directions they have here.

        Normal-space sampling (Rusinkiewicz and Levoy, 3DIM 2001): of floors and walls a part says as much as the whole.
        """
        if len(self) <= ENOUGH * most:
            return self
        return self.made(("balanced", most), lambda: self._balanced(most))

    def _balanced(self, most: int) -> Level:
        chosen = balanced(self.axes, most)
        thin = Level.of(self.points[chosen], self.settings)
        for name in ("directions", "heights", "gaps"):
            vars(thin)[name] = getattr(self, name)[chosen]
        return thin

    @cached_property
    def means(self) -> Tensor:
        """(J, 3) float32."""
        return torch.from_numpy(self.points).float()

    @cached_property
    def spacing(self) -> float:
        """The median distance to the nearest other component."""
        step = max(1, len(self) // _PROBES)
        some = self.points[::step]
        if self._patches is not None:
            return float(np.median(np.linalg.norm(self.points[self._patches[::step, 1].numpy()] - some, axis=1)))
        return float(np.median(self.tree.nearest(some, 2)[0][:, 1]))

    @cached_property
    def neighbours(self) -> Tensor:
        """(J, K) int64: the nearest other components, nearest first, as many as the widest patch has."""
        return self._nearest(self.points, self.settings.neighbours)

    def around(self, chosen: Tensor) -> Tensor:
        """(C, K) int64: the rows `chosen` (C,) of `neighbours`; the others are not looked for."""
        return self._nearest(self.points[chosen.numpy()], self.settings.neighbours)

    @cached_property
    def _close(self) -> Tensor:
        """(J, K) int64: as many of `neighbours` as say which side of a component is hollow."""
        return self._nearest(self.points, max(self.settings.for_side, self.settings.for_height))

    def _nearest(self, points: np.ndarray, count: int) -> Tensor:
        return torch.from_numpy(self.tree.nearest(points, min(count + 1, len(self)))[1][:, 1:])

    @cached_property
    def cloud(self) -> Any:
        """small_gicp's cloud of the components, with normals and covariances."""
        return self.tree.with_covariances(min(self.settings.for_normals, len(self)))

    @cached_property
    def axes(self) -> np.ndarray:
        """(J, 3) float64, unit: the direction in which the surroundings of a component spread least, of either sign."""
        if self.tree.cloud is not None:
            return np.array(self.cloud.normals()[:, :3])
        return estimate_normals(
            self.points, self.tree.nearest(self.points, min(self.settings.for_normals, len(self)))[1]
        )

    def sampled_axes(self, most: int) -> np.ndarray:
        """`axes` (J', 3) of every n-th component, about so many; the others are not looked at."""
        some, near = self.points[:: max(1, len(self) // most)], min(self.settings.for_normals, len(self))
        return self.made(
            ("sampled axes", most), lambda: estimate_normals(self.points, self.tree.nearest(some, near)[1])
        )

    @cached_property
    def normals(self) -> Tensor:
        """(J, 3) float32, unit, towards the hollow side of their neighbourhood."""
        index = self._close[:, : self.settings.for_side]
        return towards_hollow(self.means, torch.from_numpy(self.axes).float(), index)

    @cached_property
    def directions(self) -> Tensor:
        """(J, 3) float32, unit: `axes`, normals of either sign."""
        return torch.from_numpy(self.axes).float()

    @cached_property
    def heights(self) -> Tensor:
        """(J,) the mean squared height of the nearest components over the tangent plane."""
        close = self.patches(self.settings.for_height + 1)[:, 1:]
        offset = self.means[close] - self.means.unsqueeze(1)  # (J, K, 3)
        return (offset @ self.directions.unsqueeze(-1)).squeeze(-1).square().mean(-1)

    @cached_property
    def gaps(self) -> Tensor:
        """(J,) the mean distance to the four nearest others, in proportion: where that is typical, the spacing."""
        four = self.means[self.patches(5)[:, 1:]] - self.means.unsqueeze(1)
        mean = four.square().sum(-1).sqrt().mean(-1)
        return mean * (self.spacing / float(mean.median().clamp_min(1e-30)))

    def patches(self, size: int) -> Tensor:
        """(J, size) int64: every component and the nearest others, nearest first."""
        found = self._patches
        if found is None or found.shape[1] < min(size, len(self)):
            found = torch.from_numpy(self.tree.nearest(self.points, min(size, len(self)))[1])
            object.__setattr__(self, "_patches", found)
        return found[:, :size]

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The level as a Gaussian mixture, float64; half-way to its neighbours a component is one deviation away."""
        normals = torch.from_numpy(self.axes)
        flat = torch.eye(3, dtype=normals.dtype) - (1 - self.settings.thickness) * normals.unsqueeze(
            -1
        ) * normals.unsqueeze(-2)
        count = len(self)
        return GaussianMixture(
            weights=torch.full((count,), 1 / count, dtype=normals.dtype),
            means=torch.from_numpy(self.points),
            covariances=(self.settings.sigma * self.spacing) ** 2 * flat,
        )


@dataclass(frozen=True, eq=False)
class Scan:
    """One cloud, checked, about its own origin: computed in float64 before anything is rounded.

    Nothing here depends on the order of the points, to the last bit, and points far outside count for nothing.
    """

    origin: np.ndarray  # (3,) float64: the mean of the points, in the units of the input
    size: float  # twice the root-mean-square radius, input units
    radius: float  # the median distance from the median point, input units
    heaps: Heaps  # the data's own resolution, or the finest that the settings keep, about the origin, input units
    total: int  # points that count
    far: int  # points left out because they lie far outside
    coarse: float | None  # the step of coordinates that float32 has rounded coarsely, input units
    settings: ScanSettings
    factor: float = 1.0  # how many times as large as the input all of this is
    _levels: dict[tuple[int | None, float], Level] = field(default_factory=dict, repr=False)
    _counts: dict[int, int] = field(default_factory=dict, repr=False)
    _octaves: dict[int, Heaps] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, points: np.ndarray, settings: ScanSettings | None = None) -> Scan:
        """Prepare checked points (N, 3) float32 or float64; see `deepgmr.pipeline.clouds.as_points`."""
        settings = settings or ScanSettings()
        frame = Frame.of(points, settings)
        return cls(
            origin=frame.origin,
            size=frame.size,
            radius=frame.radius,
            heaps=frame.heaps,
            total=frame.total,
            far=frame.far,
            coarse=coarse_step(points, frame.radius, frame.reach),
            settings=settings,
        )

    def save(self, path: Any) -> None:
        """Write a file that `load` reads back to the last bit: safetensors, whole or not at all, with the settings.

        What is derived from it while it is registered is not written. Raises `InvalidFile`.
        """
        from deepgmr.pipeline.saved import write_scan

        write_scan(path, self)

    @staticmethod
    def load(path: Any) -> Scan:
        """A saved scan. Raises `InvalidCheckpoint` for a file that is damaged, or not made by this version's front-end."""
        from deepgmr.pipeline.saved import read_scan

        return read_scan(path)

    def scaled(self, factor: float) -> Scan:
        """The same cloud so many times as large."""
        return replace(
            self,
            **{name: factor * getattr(self, name) for name in ("origin", "size", "radius", "factor")},
            heaps=replace(self.heaps, step=factor * self.heaps.step),
            coarse=None if self.coarse is None else factor * self.coarse,
            _levels={},
            _counts={},
            _octaves={},
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or sent to another process: all but what is derived, whose trees cannot be."""
        return vars(self) | {"_levels": {}, "_octaves": {}}

    def level(self, step: int | None, scale: float) -> Level:
        """The level on a rung of the ladder of voxel sizes, in units of `scale`; None: every heap a component."""
        key = step, scale
        level = self._levels.pop(key, None)
        if level is None:
            heaps = self.heaps if step is None else self._under(step).gathered(size_of(step))
            level = Level.of(heaps.means / scale, self.settings)
        self._levels[key] = level  # the last: a map may meet scans of many sizes, and forgets those not met for long
        _forget(self._levels, components=2 * self.settings.finest)  # one pair takes no more than one and a half
        return level

    def rung_for(self, components: int) -> int | None:
        """The rung that leaves about so many components; None if the cloud has no more than that."""
        if len(self.heaps) <= components:
            return None
        least = rung(self.heaps.finest_size)
        step = max(least, rung(self.size / math.sqrt(components)))
        tried: dict[int, float] = {}
        while step not in tried:
            tried[step] = math.log(self.count(step) / components)
            step = max(least, step + round(RUNGS / 2 * tried[step]))  # four times as many voxels of half the size
        return min(tried, key=lambda each: (abs(tried[each]), each))

    def count(self, step: int) -> int:
        """How many components the level on a rung has."""
        if step not in self._counts:
            self._counts[step] = self._under(step).count(size_of(step))
        return self._counts[step]

    def _under(self, step: int) -> Heaps:
        """The heaps that a level is gathered from: of very many, those of cells a quarter to an eighth as long.

        Cells twice as long hold whole cells, so each octave is made of the one under it and is what the points would give.
        """
        lowest = rung(self.size / math.sqrt(len(self.heaps))) // RUNGS
        octave = step // RUNGS - 2
        if len(self.heaps) <= MANY or octave <= lowest:
            return self.heaps
        if octave not in self._octaves:
            self._octaves[octave] = self._under(step - RUNGS).gathered(size_of(RUNGS * octave))
        return self._octaves[octave]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two scans in one frame: each about its own origin, both in units of the size of the larger."""

    source: Scan
    target: Scan

    @property
    def scale(self) -> float:
        """Input units per frame unit: twice the root-mean-square radius of the larger cloud."""
        return max(self.source.size, self.target.size)

    @property
    def size_ratio(self) -> float:
        """How many times larger the source is than the target, by the median distance from the median point."""
        return self.source.radius / self.target.radius

    def rescaled(self, scale: float) -> Pair:
        """The same pair with the source so many times as large as its input."""
        return replace(self, source=self.source.scaled(scale / self.source.factor))

    def levels(self, components: int | None = None) -> tuple[Level, Level]:
        """Both clouds at one resolution, so that neighbourhoods of equally many components are of equal size.

        The larger has about `components`, by default what the settings say. Small clouds that are about equally dense
        keep all their points.
        """
        settings, scans = self.source.settings, (self.source, self.target)
        if components is None:
            beyond = max(0, max(scan.total for scan in scans) - settings.fewest)
            components = min(settings.most, settings.fewest + int(settings.share * beyond))
        steps = [step for step in (scan.rung_for(components) for scan in scans) if step is not None]
        step = max(steps) if steps else None
        source, target = (self._level(scan, step) for scan in scans)
        sparse, dense = sorted((source.spacing, target.spacing), reverse=True)
        if sparse > settings.uneven * dense:
            even = rung(sparse * self.scale)
            source, target = (self._level(scan, even if step is None else max(step, even)) for scan in scans)
        return source, target

    def fine(self, components: int, neighbours: int) -> tuple[Level, Level]:
        """Each cloud at its own resolution: about so many components or all it has, normals from so many neighbours."""
        source, target = (
            self._level(scan, scan.rung_for(components)).seen_closer(neighbours) for scan in (self.source, self.target)
        )
        return source, target

    def _level(self, scan: Scan, step: int | None) -> Level:
        if step is None:
            return scan.level(step, self.scale)
        too_fine = step < rung(scan.heaps.finest_size)  # for the numbers of cells, of a partner so much smaller
        if too_fine or scan.count(step) < min(scan.settings.vanishing, len(scan.heaps)):
            step = scan.rung_for(scan.settings.most)  # or it all but vanishes in the voxels of one so much larger
        return scan.level(step, self.scale)

    def enter(self, matrix: np.ndarray) -> RigidTransform:
        """A motion (*B, 4, 4) in input units, as a motion in the frame (float64); the inverse of `undo`.

        Of a similarity the turn, and where it takes the origin of the source.
        """
        inside = np.array(matrix, dtype=np.float64)
        moved = np.einsum("...ij,j->...i", inside[..., :3, :3], self.source.origin / self.source.factor)
        inside[..., :3, 3] = (inside[..., :3, 3] + moved - self.target.origin) / self.scale
        if self.source.factor != 1:
            inside[..., :3, :3] /= scale_of(inside)[..., None, None]
        return RigidTransform.from_matrix(torch.from_numpy(inside))

    def undo(self, target_from_source: RigidTransform, stretch: float = 1.0) -> np.ndarray:
        """A motion (*B) found in the frame, as matrices (*B, 4, 4) in the units and origin of the input.

        They scale by as much as the source was scaled, and by `stretch`, which comes before the motion.
        """
        matrix = target_from_source.matrix.detach().double().cpu().numpy()
        out = matrix.copy()
        out[..., :3, :3] *= stretch
        moved = np.einsum("...ij,j->...i", out[..., :3, :3], self.source.origin)
        out[..., :3, 3] = self.scale * matrix[..., :3, 3] + self.target.origin - moved
        out[..., :3, :3] *= self.source.factor
        return out


def _forget(kept: dict[Any, Any], components: float = math.inf) -> None:
    """All but the last few, and of levels all but the last of so many components in all."""
    for number, (old, value) in enumerate(reversed(list(kept.items()))):
        components -= len(value) if isinstance(value, Level) else 0
        if number and (number >= _KEPT or components < 0):
            kept.pop(old, None)


def fingerprint(settings: ScanSettings) -> str:
    """What tells one front-end from another: a network or a model fitted behind one means nothing behind another."""
    content: dict[str, Any] = {
        "front_end": FRONT_END,
        "patches": [SCALES, MEMBERS, FEATURES, REACH],
        "scan": asdict(settings),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
