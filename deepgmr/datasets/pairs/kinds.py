"""What a pair of clouds can be like: procedural kinds, each with a judge of what answer is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from deepgmr import metrics
from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.pairs.draws import mixed_generator
from deepgmr.datasets.pairs.protocols import (
    PROTOCOLS,
    Crop,
    Disjoint,
    Jitter,
    Move,
    Outliers,
    Step,
    Thin,
    make_pairs,
)
from deepgmr.datasets.worlds.catalogue import WORLDS
from deepgmr.datasets.worlds.planned import Planned
from deepgmr.datasets.worlds.scenes import scene_pairs
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform, random_rotations

Judge = Callable[[np.ndarray], bool]

ANYWHERE = Move("uniform", 180.0, "box", 0.5)
_POINTS = 4096  # drawn on a shape, or in a scene, before it is cut


@dataclass(frozen=True, eq=False)
class Case:
    """One pair, and how to tell whether an answer (4, 4) is right."""

    kind: str
    source: Tensor  # (N, 3)
    target: Tensor  # (M, 3)
    judge: Judge
    max_rotation_degrees: float | None = None  # told to whoever registers
    target_from_source: np.ndarray | None = None  # (4, 4) float64; None if there is none


@dataclass(frozen=True)
class Seen:
    """Each cloud keeps `points` of what a distant scanner sees of it; the directions are up to two radians apart."""

    points: int
    cells: int = 24  # of the picture, a side

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        clouds: dict[str, list[Tensor]] = {"source": [], "target": []}
        for i in range(len(pair)):
            facing = random_rotations((), generator=generator)  # rows: right, up, towards the scanner
            angle = torch.tensor(0.15 + 1.85 * float(torch.rand((), generator=generator)))
            towards = angle.cos() * facing[2] + angle.sin() * facing[1]
            turned = torch.stack([facing[0], torch.linalg.cross(towards, facing[0]), towards])
            for name, axes in (("source", facing), ("target", turned)):
                cloud, normals = getattr(pair, name)[i], getattr(pair, f"{name}_normals")[i]
                visible = torch.nonzero(self._visible(cloud @ axes.T, normals @ axes[2])).squeeze(-1)
                chosen = torch.randperm(len(visible), generator=generator)[torch.arange(self.points) % len(visible)]
                clouds[name].append(cloud[visible[chosen]])
        source, target = (torch.stack(rows) for rows in clouds.values())
        return replace(
            pair, source=source, target=target, source_normals=None, target_normals=None,
            source_index=None, target_index=None,
        )  # fmt: skip

    def _visible(self, cloud: Tensor, slant: Tensor) -> Tensor:
        """Which points (n,) are turned towards the scanner and first in their cell of the picture."""
        pixel = ((cloud[:, :2] + 1) * (self.cells / 2)).long().clamp(0, self.cells - 1)
        cell = pixel[:, 0] * self.cells + pixel[:, 1]
        top = torch.full((self.cells**2,), -10.0).scatter_reduce(0, cell, cloud[:, 2], "amax")
        slope = (1 - slant.square()).clamp_min(0).sqrt() / slant.clamp_min(0.1)
        return (slant > 0.1) & (cloud[:, 2] > top[cell] - 3.0 / self.cells * slope - 0.02)


SHAPES: dict[str, tuple[Step, ...]] = {
    "clean": PROTOCOLS["clean"],
    "noisy": PROTOCOLS["noisy"],
    "resampled": PROTOCOLS["resampled"],
    "crop70": PROTOCOLS["crop70_180"],
    "crop50": PROTOCOLS["crop50_180"],
    "crop70_45": PROTOCOLS["crop70_45"],
    "crop70 resampled": (Disjoint(1024), Crop(0.7, 512, shared=0.45), ANYWHERE, Jitter()),
    "crop50 resampled": (Disjoint(1024), Crop(0.5, 384, shared=0.3), ANYWHERE, Jitter(0.005)),
    "thin": (Disjoint(1024), Crop(0.8, 700, shared=0.5), Thin(400), ANYWHERE, Jitter(0.005)),
    "outliers": (Disjoint(1024), Crop(0.8, 700, shared=0.5), ANYWHERE, Jitter(0.005), Outliers((0.0, 0.3))),
    "seen": (Disjoint(2048), Seen(900), ANYWHERE, Jitter((0.0, 0.01))),
}
SCENES = ("room", "street", "tabletop")
KINDS = (*SHAPES, *SCENES, "unrelated", "twice")
# Beside those, and drawn apart from them: the suites recrop70 and recrop50 on procedural shapes, and the worlds.
RECROPS = ("recrop70", "recrop50")


@dataclass(frozen=True)
class Place:
    """A kind of pair from a world: with which options, and with how many points, drawn evenly on a logarithmic scale."""

    world: str
    points: tuple[int, int]
    options: Mapping[str, float] = field(default_factory=dict)
    drawn: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # options drawn as points are

    def plan(self, rng: np.random.Generator) -> tuple[Planned, int]:
        """A pair, and how many points its clouds should have."""
        low, high = np.log(self.points)
        count = round(float(np.exp(rng.uniform(low, high))))
        options = {name: float(np.exp(rng.uniform(*np.log(ends)))) for name, ends in self.drawn.items()}
        return WORLDS[self.world].plan(rng, **self.options, **options), count


PLACES: dict[str, Place] = {
    "hall": Place("halls", (20_000, 500_000), drawn={"scale": (1.0, 16.0)}),
    "floor": Place("floors", (20_000, 200_000), drawn={"rooms": (3.0, 12.0)}),
    "warehouse": Place("warehouses", (20_000, 200_000), {"ambiguous": 0.0}, drawn={"bays": (8.0, 20.0)}),
    "shelves": Place("warehouses", (20_000, 200_000), {"ambiguous": 1.0}),  # of which nobody can be sure
    "drive": Place("streets", (10_000, 75_000)),
    "drive 32": Place("streets", (10_000, 40_000), {"beams": 32, "far": 30.0}),
    "drive 16": Place("streets", (8_000, 20_000), {"beams": 16, "near": 5.0, "far": 20.0}),
    "fragments": Place("fragments", (10_000, 150_000), {"low": 0.3, "high": 0.8}),
    "fragments low": Place("fragments", (10_000, 150_000), {"low": 0.1, "high": 0.3}),
    "stands": Place("stands", (4_000, 100_000)),
    "rooms apart": Place("stands", (4_000, 100_000), {"apart": 1.0}),  # of which nobody can be sure
    "forest": Place("forests", (20_000, 200_000), drawn={"size": (20.0, 80.0)}),
    "cave": Place("caves", (20_000, 200_000), drawn={"length": (20.0, 100.0)}),
    "part": Place("parts", (4_000, 100_000), drawn={"parts": (4.0, 12.0)}),
    "view": Place("views", (1_000, 50_000)),
    "shot": Place("shots", (4_000, 40_000)),
    "piece": Place("pieces", (4_000, 40_000)),
}
MORE_KINDS = (*RECROPS, *PLACES)
_TOLD = {"crop70_45": 80.0}  # degrees


def cases(count: int, seed: int, *, kinds: Sequence[str] = KINDS) -> Iterator[Case]:
    """`count` pairs of each kind, of `KINDS` or `MORE_KINDS`, the same for the same seed (of "twice" a quarter as many).

    Raises `InvalidConfig` for an unknown kind.
    """
    for kind in kinds:
        if kind in PLACES:
            yield from _places(kind, count, seed)
            continue
        if kind in RECROPS:
            yield from _shapes(kind, count, mixed_generator(seed, *kind.encode()))
            continue
        if kind not in KINDS:
            raise InvalidConfig(f"unknown kind of pair `{kind}`; the kinds are {', '.join((*KINDS, *MORE_KINDS))}")
        generator = torch.Generator().manual_seed(1000 * seed + KINDS.index(kind))
        if kind in SHAPES:
            yield from _shapes(kind, count, generator)
        elif kind in SCENES:
            pairs = scene_pairs(count, _POINTS, kind=kind, generator=generator)
            for i in range(count):
                truth = pairs.target_from_source[i]
                judge = within_tolerance(pairs.source[i], truth)
                yield Case(kind, pairs.source[i], pairs.target[i], judge, target_from_source=_matrix(truth))
        else:
            yield from (_unrelated if kind == "unrelated" else _twice)(count, generator)


def _shapes(kind: str, count: int, generator: torch.Generator) -> Iterator[Case]:
    shapes, normals = sample_shapes(count, _POINTS, generator=generator)
    steps = PROTOCOLS[kind] if kind in RECROPS else SHAPES[kind]
    pairs = make_pairs(shapes, steps, generator=generator, normals=normals)
    assert pairs.source_from_parent is not None
    for i in range(count):
        truth = pairs.target_from_source[i]
        judge = up_to_symmetry(pairs.source_from_parent[i].apply(shapes[i]), truth)
        yield Case(kind, pairs.source[i], pairs.target[i], judge, _TOLD.get(kind), _matrix(truth))


def _places(kind: str, count: int, seed: int) -> Iterator[Case]:
    for i in range(count):
        plan, points = PLACES[kind].plan(np.random.default_rng([seed, i, *kind.encode()]))
        source, target = (torch.from_numpy(cloud) for cloud in plan.clouds(points))
        yield Case(kind, source, target, judge_of(plan, source), target_from_source=plan.target_from_source)


def _unrelated(count: int, generator: torch.Generator) -> Iterator[Case]:
    """Nothing to find: another shape, or a formless cloud."""
    shapes, _ = sample_shapes(2 * count, 700, generator=generator)
    for i in range(count):
        other = shapes[count + i] if i % 4 else 0.5 * torch.randn(700, 3, generator=generator)
        yield Case("unrelated", shapes[i], other, lambda _: False)


def _twice(count: int, generator: torch.Generator) -> Iterator[Case]:
    """Two places are as good as each other: the same thing stands there twice."""
    shapes, _ = sample_shapes(max(count // 4, 1), 1800, generator=generator)
    for shape in shapes:
        turn = random_rotations((), generator=generator)
        again = shape[1200:] @ turn.T + torch.tensor([2.2, 0.0, 0.0])
        target = torch.cat([shape[600:1200], again])
        target = target + 0.005 * torch.randn(target.shape, generator=generator)
        judge = up_to_symmetry(shape, RigidTransform.identity(()))
        yield Case("twice", shape[:600], target, judge, target_from_source=np.eye(4))


# -- what is right -----------------------------------------------------------------------------------------------


def up_to_symmetry(shape: Tensor, truth: RigidTransform) -> Judge:
    """ADD-S below .05 of a shape (N, 3) of radius one that stands where the source does."""
    shape = shape.double()
    tree = cKDTree(truth.to(torch.float64).apply(shape).numpy())
    sample = shape[::6]
    return lambda matrix: bool(tree.query(_motion(matrix).apply(sample).numpy())[0].mean() < 0.05)


def judge_of(plan: Planned, source: Tensor) -> Judge:
    """What the plan of a pair says of an answer, to a source (N, 3) that was drawn from it."""
    truth = _motion(plan.target_from_source)
    if plan.shape is not None:
        return up_to_symmetry(torch.from_numpy(plan.shape), truth)
    return within_tolerance(source, truth, degrees=plan.degrees, metres=plan.metres)


def within_tolerance(
    cloud: Tensor, truth: RigidTransform, *, degrees: float = 5.0, metres: float | None = None
) -> Judge:
    """Within so many degrees, and the centroid of the cloud (N, 3) within so many metres, or a tenth of its size."""
    cloud, truth = cloud.double(), truth.to(torch.float64)
    centre = cloud.mean(0)
    limit = 0.1 * (cloud - centre).square().sum(-1).mean().sqrt() if metres is None else metres

    def judge(matrix: np.ndarray) -> bool:
        found = _motion(matrix)
        turned = metrics.rotation_error(found, truth) < np.radians(degrees)
        return bool(turned & (metrics.displacement(centre, found, truth) < limit))

    return judge


def _motion(matrix: np.ndarray) -> RigidTransform:
    return RigidTransform.from_matrix(torch.from_numpy(matrix))


def _matrix(motion: RigidTransform) -> np.ndarray:
    return motion.matrix.double().numpy()
