"""What a cloud must be: checked once at the door."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from deepgmr.errors import InvalidCloud, InvalidConfig
from deepgmr.geometry.voxels import blocks, scattered
from deepgmr.io.objects import rows_of
from deepgmr.pipeline.settings import JudgeSettings

ROLES = ("source", "target")
_LARGEST = 1e150  # beyond this a squared coordinate overflows float64
_SMALLEST = 1e-150  # below this a squared distance underflows
_FINE, _COARSE = 1e-5, 1e-3  # steps, in sizes of the cloud, below which rounding is harmless and above which it is not
_PLENTY, _FEW = 1 << 12, 1 << 10  # points that are enough, and too few, to tell how far neighbours are apart ...
_PATCH, _PROBES = 32, 500  # ... in cells of so many steps, and of so many of them
_ABOUT = 1.25  # how far sizes may be from a factor between units that is still named
_UNITS = {  # the unit with the larger numbers first
    "feet against metres": 3.281,
    "millimetres against centimetres": 10.0,
    "inches against feet": 12.0,
    "millimetres against inches": 25.4,
    "inches against metres": 39.37,
    "centimetres against metres": 100.0,
    "millimetres against feet": 304.8,
    "millimetres against metres": 1000.0,
}


def as_points(
    cloud: Any, *, name: str = "cloud", minimum: int = 3, drop_invalid: bool = False, seed: int = 0
) -> np.ndarray:
    """The points of a cloud as an array (N, 3), checked: float32 where it came so, float64 from anything else.

    Takes a NumPy array ((N, 3), (H, W, 3) as depth cameras give, or structured with the fields x, y, z), a torch tensor,
    nested lists, what `deepgmr.read_cloud` returns, clouds and meshes of Open3D (legacy or tensor), trimesh and pyvista
    (meshes are sampled on their surface, by `seed`), `laspy.LasData`, a ROS `PointCloud2`, and a `GaussianMixture` or a
    splat that was read from a file. Of a `PointCloud2`, unless it is dense, and of masked arrays the rows that hold no
    point are left out.

    Raises `InvalidCloud`, naming `name` and, where that is one of `ROLES`, with it as its `role`, for anything but
    numbers of shape (N, 3), for integers that no float64 holds, for fewer than `minimum` points, for coordinates that
    are not finite (unless `drop_invalid`, which removes those points), for coordinates whose square overflows or
    underflows, and for points that are all equal. Nothing as long as the cloud is made, unless it has to be converted.
    """
    try:
        array = rows_of(cloud, seed=seed)
    except InvalidCloud as error:
        raise _refused(name, str(error)) from error.__cause__
    kept = array.dtype in (np.float32, np.float64) and array.dtype.isnative
    with np.errstate(over="ignore", invalid="ignore"):  # what a float64 cannot hold becomes infinite, and is refused
        points = np.ascontiguousarray(array, dtype=array.dtype if kept else np.float64)
    if not math.isfinite(_largest(points)):
        usable = [np.isfinite(points[rows]).all(axis=1) for rows in blocks(len(points))]
        bad = len(points) - sum(int(part.sum()) for part in usable)
        if not drop_invalid:
            raise _refused(
                name,
                f"{bad} of {len(points)} points have NaN or infinite coordinates; "
                "clean the cloud, or pass drop_invalid=True (--drop-invalid) to leave them out",
            )
        points = points[np.concatenate(usable)]
    if len(points) < minimum:
        raise _refused(name, f"{len(points)} usable points; registration needs at least {minimum}")
    if (largest := _largest(points)) > _LARGEST:
        raise _refused(name, f"a coordinate of {largest:.3g} overflows; check the units")
    if not any((points[rows] != points[0]).any() for rows in blocks(len(points))):
        raise _refused(name, f"all {len(points)} points are equal; there is no shape to register")
    if not any((np.abs(block - points[0]) >= _SMALLEST).any() for block in _doubles(points)):
        raise _refused(name, f"the points differ by less than {_SMALLEST:.0e}; check the units")
    return points


def as_point(place: Any, name: str) -> np.ndarray:
    """One point (3,) float64. Raises `InvalidConfig` for anything but three finite numbers that points could have."""
    try:
        point = np.asarray(place, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidConfig(f"{name} must be three numbers, got {type(place).__name__}") from None
    if point.shape != (3,):
        raise InvalidConfig(f"{name} must be three numbers, got an array of shape {point.shape}")
    if not (np.abs(point) <= _LARGEST).all():  # nor NaN
        raise InvalidConfig(f"{name} must be three finite numbers, got {point.tolist()}")
    return point


def check_units(ratio: float, settings: JudgeSettings) -> None:
    """Raise `InvalidCloud` if the clouds differ so much in size, by `Pair.size_ratio`, that their units must differ."""
    if max(ratio, 1 / ratio) > settings.other_units:
        larger, smaller = ("source", "target") if ratio > 1 else ("target", "source")
        raise InvalidCloud(
            f"the {larger} is {max(ratio, 1 / ratio):.0f} times larger than the {smaller}; a rigid motion cannot "
            f"change size. Bring both clouds to one unit{_likely_units(max(ratio, 1 / ratio))}"
        )


def check_reach(sizes: tuple[float, float], settings: JudgeSettings) -> None:
    """Raise `InvalidCloud` if one of two clouds vanishes beside the other, by their `Scan.size`: what lies far off counts."""
    ratio = sizes[0] / sizes[1]
    if max(ratio, 1 / ratio) > settings.vanishing:
        role = ROLES[0] if ratio > 1 else ROLES[1]
        raise InvalidCloud(
            f"{role}: some of its points lie {max(ratio, 1 / ratio):.2g} times as far out as those of the other cloud reach; "
            "leave them out",
            role=role,
        )


def unit_ratios() -> Iterator[float]:
    """What lengths are multiplied by where their unit is taken for another; one first."""
    yield 1.0
    for value in _UNITS.values():
        yield value
        yield 1 / value


def unit_names(factor: float, within: float) -> str | None:
    """The units that differ by a factor, to a ratio `within`: "millimetres against metres"; None if there are none."""
    return next(iter(_near_units(factor, within)), None)


def size_note(ratio: float, settings: JudgeSettings, *, doubtful: bool) -> str | None:
    """A sentence for clouds that differ in size, by `Pair.size_ratio`, more than two views of one thing do; else None."""
    factor = max(ratio, 1 / ratio)
    if factor < (settings.odd_size if doubtful else settings.odd_size_sure):
        return None
    larger, smaller = ("source", "target") if ratio > 1 else ("target", "source")
    return (
        f"the {larger} is about {factor:.3g} times the size of the {smaller}, and a rigid motion cannot change size; "
        f"if both show the same thing, bring them to one unit{_likely_units(factor)}"
    )


def _likely_units(factor: float) -> str:
    """What to ask about a factor: sizes of clouds that share a part say no more than about."""
    near = _near_units(factor, _ABOUT)
    return f" ({' or '.join(near)}?)" if near else ""


def _near_units(factor: float, within: float) -> list[str]:
    """The units that differ by a factor, or by one over it, to a ratio `within`, nearest first."""
    apart = {names: abs(abs(math.log(factor)) - math.log(value)) for names, value in _UNITS.items()}
    return sorted((names for names in apart if apart[names] < math.log(within)), key=apart.__getitem__)


def coarse_step(points: np.ndarray, radius: float, largest: float) -> float | None:
    """The step of the coordinates (N, 3), where they are float32's and too coarse for the cloud; otherwise none.

    `radius` is the median distance of the points from their middle, `largest` the largest coordinate of those that do
    not lie far outside.
    Told from the numbers, since a file or a cast to float64 hides what they were stored in.
    """
    if largest > float(np.finfo(np.float32).max):
        return None
    step = float(np.spacing(np.float32(largest)))
    if step < _FINE * radius:
        return None
    with np.errstate(over="ignore"):  # of points that lie far outside
        if points.dtype != np.float32 and any((block != block.astype(np.float32)).any() for block in _doubles(points)):
            return None
    if not any((np.rint(block) != block).any() for block in (part * (0.5 / step) for part in _doubles(points))):
        return None
    # Coarse beside the whole, or beside the way from a point to the next: then neighbours fall together.
    if step > _COARSE * radius:
        return step
    places = _patches(points, _PATCH * step).astype(np.float64) + 0.0  # minus zero is zero
    places = places[np.unique(scattered(np.ascontiguousarray(places.T)), return_index=True)[1]]
    tree = cKDTree(places, balanced_tree=False, compact_nodes=False)
    return step if step > 0.5 * float(np.median(tree.query(places[:_PROBES], [2])[0])) else None


def _patches(points: np.ndarray, size: float) -> np.ndarray:
    """Points (N, 3), of many only those in some cells of a size, all that lie there: neighbours keep theirs."""
    if len(points) <= _PLENTY:
        return points
    limit = np.uint64(_PLENTY / len(points) * 2**64)
    cells = (np.floor(block / size).astype(np.int64) for block in _doubles(points))
    taken = np.concatenate([scattered(np.ascontiguousarray(cell.T)) < limit for cell in cells])
    return points[taken] if np.count_nonzero(taken) > _FEW else points


def _largest(points: np.ndarray) -> float:
    """The largest coordinate, of either sign; not a finite number if one of them is none."""
    return max(float(points.max()), -float(points.min())) if points.size else 0.0


def _doubles(points: np.ndarray) -> Iterator[np.ndarray]:
    """The points (N, 3) a block at a time, (B, 3) float64."""
    return (points[rows].astype(np.float64, copy=False) for rows in blocks(len(points)))


def _refused(name: str, what: str) -> InvalidCloud:
    return InvalidCloud(f"{name}: {what}", role=name if name in ROLES else None)
