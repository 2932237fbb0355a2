"""What a file of points holds: coordinates in float64, and everything else each point carries.

Coordinates become float64 on reading and nothing is dropped or repaired: NaN passes through untouched (the room
`clouds` decides what a usable cloud is), colours, intensities and labels keep their names and their dtypes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepgmr.errors import InvalidFile, InvalidTransform
from deepgmr.io.splats import mixture_of, turned

if TYPE_CHECKING:
    from deepgmr.mixture.gaussian_mixture import GaussianMixture

# The spellings of a normal vector in PLY, PCD (PCL) and LAS (CloudCompare); a motion rotates whichever is there.
NORMAL_COLUMNS = (
    ("nx", "ny", "nz"),
    ("normal_x", "normal_y", "normal_z"),
    ("NormalX", "NormalY", "NormalZ"),
)
NORMAL_ARRAYS = ("normals", "normal")  # (N, 3) in one array, as an NPZ keeps them
COLOUR_ARRAYS = ("colors", "colours", "rgb", "color")  # (N, 3) in one array

_RIGID = 1e-4  # by how much the scale of a rigid motion may be off: `transform.RIGID_TOLERANCE`, without loading torch
BLOCK = 1 << 16  # points looked at together


@dataclass(frozen=True, eq=False)
class Triangles:
    """The triangles a mesh file held; its cloud is a sample of them."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64
    properties: dict[str, np.ndarray] = field(default_factory=dict)  # per vertex, as in CloudFile
    scene: Any = None  # the trimesh scene it came from, with its textures, where trimesh read it


@dataclass(frozen=True, eq=False)
class CloudFile:
    """The content of one file: `points` and whatever else was stored for each of them.

    `properties` maps a name to an (N,) or (N, k) array in its stored dtype. `coordinate_dtype` is the precision the
    coordinates were stored in, `text` whether as text; writing keeps both where the output format can.
    """

    points: np.ndarray  # (N, 3) float64
    properties: dict[str, np.ndarray] = field(default_factory=dict)
    format: str = "ply"
    comments: tuple[str, ...] = ()
    coordinate_dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float64))
    text: bool = False
    triangles: Triangles | None = None
    viewpoint: tuple[float, ...] | None = None  # PCD: the sensor's position and orientation, tx ty tz qw qx qy qz
    las_header: Any = None  # LAS: scales, coordinate system and user records, carried to the output

    def __len__(self) -> int:
        return len(self.points)

    def mixture(self) -> GaussianMixture:
        """The mixture that a splat is: its components weigh by their opacity. Raises `InvalidMixture` for anything else."""
        return mixture_of(self.points, self.properties)


def transformed(cloud: CloudFile, target_from_source: np.ndarray) -> CloudFile:
    """The cloud moved by a (4, 4) rigid motion or similarity: points, normals, mesh, sensor pose, and the shapes and
    the colours of splats; all else is kept as it is.

    Raises InvalidTransform where the matrix is not (4, 4), InvalidCloud for a splat that cannot be turned.
    """
    matrix = np.asarray(target_from_source, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise InvalidTransform(f"a motion is a (4, 4) matrix, got shape {matrix.shape}")
    rotation, scale = matrix[:3, :3], float(np.cbrt(abs(np.linalg.det(matrix[:3, :3]))))
    if abs(scale - 1) > _RIGID:
        rotation = rotation / scale
    else:
        scale = 1.0
    surface = cloud.triangles
    if surface is not None:
        scene = surface.scene
        if scene is not None:
            scene = scene.copy()
            scene.apply_transform(matrix)
        surface = replace(
            surface,
            vertices=_moved(surface.vertices, matrix),
            properties=_turned(surface.properties, rotation, scale),
            scene=scene,
        )
    return replace(
        cloud,
        points=_moved(cloud.points, matrix),
        properties=_turned(cloud.properties, rotation, scale),
        triangles=surface,
        viewpoint=None if cloud.viewpoint is None else _moved_viewpoint(cloud.viewpoint, matrix, rotation),
    )


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):  # NaN stays NaN
        return points @ matrix[:3, :3].T + matrix[:3, 3]  # (N, 3), float64 throughout


def _turned(properties: dict[str, np.ndarray], rotation: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore", over="ignore"):
        return _with_normals(turned(properties, rotation, scale), properties, rotation)


def _with_normals(
    result: dict[str, np.ndarray], properties: dict[str, np.ndarray], rotation: np.ndarray
) -> dict[str, np.ndarray]:
    for names in NORMAL_COLUMNS:
        if all(name in result and result[name].ndim == 1 for name in names):
            stacked = np.column_stack([result[name] for name in names]).astype(np.float64) @ rotation.T
            for axis, name in enumerate(names):
                result[name] = _stored_as(stacked[:, axis], properties[name].dtype)
    for name in NORMAL_ARRAYS:
        if name in result and result[name].ndim == 2 and result[name].shape[1] == 3:
            result[name] = _stored_as(result[name].astype(np.float64) @ rotation.T, properties[name].dtype)
    return result


def _stored_as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(values).astype(dtype) if dtype.kind in "iu" else values.astype(dtype)


def _moved_viewpoint(viewpoint: tuple[float, ...], matrix: np.ndarray, rotation: np.ndarray) -> tuple[float, ...]:
    from scipy.spatial.transform import Rotation

    largest = max(map(abs, viewpoint[3:]))
    if not np.isfinite(viewpoint).all() or largest == 0.0:
        return viewpoint  # some writers leave the orientation blank: there is no pose to move
    w, x, y, z = (value / largest for value in viewpoint[3:])  # of any length, and squares may be none
    position = matrix[:3, :3] @ np.array(viewpoint[:3]) + matrix[:3, 3]
    x, y, z, w = (Rotation.from_matrix(rotation) * Rotation.from_quat([x, y, z, w])).as_quat()
    return (*map(float, position), float(w), float(x), float(y), float(z))


def stored_coordinates(points: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The coordinates in the precision they should be written in, `stored_dtype`."""
    return points.astype(stored_dtype(points, dtype))


def stored_dtype(points: np.ndarray, dtype: np.dtype) -> np.dtype:
    """The precision that coordinates should be written in: `dtype`, or float64 where float32 would lose detail."""
    return np.dtype(np.float64) if dtype == np.float32 and needs_double(points) else np.dtype(dtype)


def needs_double(points: np.ndarray) -> bool:
    """Whether float32 would lose detail of these coordinates.

    A float32 has 24 bits: at 5e6 metres its steps are half a metre. So float32 is kept only where its step is below
    0.1 mm (in metres; finer than that in any smaller unit) and below a millionth of the cloud's own size.
    """
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK].T.copy()  # (3, B): long rows are searched faster
        finite = np.isfinite(block)
        if not finite.all():
            block = block[:, finite.all(axis=0)]
        low = np.minimum(low, block.min(axis=1, initial=np.inf))
        high = np.maximum(high, block.max(axis=1, initial=-np.inf))
    if (low > high).any():
        return False
    largest = max(np.abs(low).max(), np.abs(high).max())
    if largest >= np.finfo(np.float32).max:
        return True
    extent = float(np.linalg.norm(high - low))
    step = np.spacing(np.float32(largest))
    return bool(step > 1e-4 or step > 1e-6 * extent > 0)


def coordinate_dtype(*dtypes: np.dtype) -> np.dtype:
    """float32 where every coordinate was stored in a type that float32 holds exactly, else float64."""
    small = all(np.can_cast(dtype, np.float32, "safe") for dtype in dtypes)
    return np.dtype(np.float32 if small else np.float64)


def as_points(path: object, columns: list[np.ndarray]) -> np.ndarray:
    """Three stored columns as (N, 3) float64; integers that float64 cannot hold are an error, not a rounding."""
    for name, column in zip("xyz", columns, strict=True):
        if column.dtype.kind not in "fiu":
            raise InvalidFile(f"{path}: the coordinate {name} holds {column.dtype}, not numbers; store it as a float")
        if column.dtype.kind in "iu" and column.dtype.itemsize == 8 and column.size:
            largest = max(abs(int(column.max())), abs(int(column.min())))
            if largest > 2**53:
                raise InvalidFile(
                    f"{path}: the coordinate {name} holds the integer {largest:,}, too large to be exact as a float; "
                    "subtract an offset before storing"
                )
    with np.errstate(invalid="ignore"):  # NaN comes in kinds, some of which warn
        return np.column_stack([column.astype(np.float64) for column in columns])


def count_of(text: str) -> int:
    """The number of rows that a header promises; ValueError for what is no number, or no disk can hold."""
    number = int(text)
    if not 0 <= number < 10**40:
        raise ValueError(f"a count of {text[:40]}")
    return number


def flat_columns(properties: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Properties as plain (N,) columns: an (N, 3) array of normals as nx, ny, nz, of colours as red, green, blue."""
    result: dict[str, np.ndarray] = {}
    for name, values in properties.items():
        if values.ndim == 1:
            result[name] = values
            continue
        width = values.shape[1]
        names = [f"{name}_{i}" for i in range(width)]
        if name in NORMAL_ARRAYS and width == 3:
            names = ["nx", "ny", "nz"]
        elif name in COLOUR_ARRAYS and width in (3, 4):
            names = ["red", "green", "blue", "alpha"][:width]
        result.update((key, values[:, i]) for i, key in enumerate(names))
    return result


def renamed(columns: dict[str, np.ndarray], normals: tuple[str, str, str]) -> dict[str, np.ndarray]:
    """The columns with any known spelling of a normal vector replaced by the one a format expects."""
    spelling = dict(old_new for names in NORMAL_COLUMNS for old_new in zip(names, normals, strict=True))
    return {spelling.get(name, name): values for name, values in columns.items()}


def unpacked_colour(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns with PCL's packed `rgb` (the bits 0x00RRGGBB of a 4-byte number) as red, green and blue."""
    result: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if name in ("rgb", "rgba") and values.dtype.itemsize == 4 and "red" not in columns:
            bits = np.ascontiguousarray(values).view(np.uint32)
            names = ("red", "green", "blue") if name == "rgb" else ("red", "green", "blue", "alpha")
            for channel, shift in zip(names, (16, 8, 0, 24), strict=False):
                result[channel] = (bits >> shift & 255).astype(np.uint8)
        else:
            result[name] = values
    return result


def word(name: str) -> str:
    """A property name as one word, for formats that separate names by blanks."""
    return re.sub(r"\s+", "_", name.strip()) or "_"
