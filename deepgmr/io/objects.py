"""Clouds as other libraries hold them, told apart by what they offer: none of these libraries is imported for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deepgmr.errors import InvalidCloud, MissingDependency
from deepgmr.io.disk import reason
from deepgmr.io.meshes import drawn
from deepgmr.io.splats import components, is_splat

EXACT = 2**53  # the largest integer up to which a float64 holds them all
FAINT = 0.1  # of the heaviest component, below which one is haze and no surface

# sensor_msgs/PointField: what the numbers of `datatype` stand for
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


def rows_of(cloud: Any, *, seed: int = 0) -> np.ndarray:
    """What `coordinates` finds, as real numbers in one row of x, y, z a point (N, 3): (H, W, 3) and structured arrays, too.

    Raises `InvalidCloud`, which says what was found instead.
    """
    try:
        array = coordinates(cloud, seed=seed)
    except (MissingDependency, MemoryError):
        raise
    except Exception as error:  # whatever an object raises that is asked for its points
        raise InvalidCloud(
            f"cannot read points from {type(cloud).__name__} ({reason(error)[:200]}); give an (N, 3) array, a tensor, "
            "a cloud or mesh of Open3D, trimesh, pyvista or laspy, a PointCloud2, a mixture, or a path"
        ) from error
    if array.dtype.names is not None:
        array = _from_fields(array)
    if array.dtype.kind not in "fiu":
        raise InvalidCloud(f"coordinates must be real numbers, got dtype {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 3:
        array = array.reshape(-1, 3)
    if array.ndim != 2 or array.shape[1] != 3:
        raise InvalidCloud(f"expected an array of shape (N, 3), got {array.shape}; give one row of x, y, z per point")
    if array.dtype.kind in "iu" and (largest := max(map(abs, _ends(array)))) > EXACT:
        raise InvalidCloud(f"integers up to {largest:.3g} lose digits as floats; subtract an offset first")
    return array


def _ends(integers: np.ndarray) -> tuple[int, int]:
    return (int(integers.min()), int(integers.max())) if integers.size else (0, 0)


def _from_fields(array: np.ndarray) -> np.ndarray:
    """The fields x, y, z of a structured array of any shape, as ROS and PCL hand clouds over, one row a point."""
    names = array.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise InvalidCloud(f"a structured array needs the fields x, y, z, got {', '.join(names) or 'none'}")
    columns = [array[axis] for axis in "xyz"]
    for axis, column in zip("xyz", columns, strict=True):
        if column.dtype.kind not in "fiu" or column.shape != array.shape:
            raise InvalidCloud(f"the field {axis} must hold one real number a point, got {array.dtype[axis]}")
    return np.stack([column.ravel() for column in columns], axis=1)


def coordinates(cloud: Any, *, seed: int = 0) -> np.ndarray:
    """The coordinates that an object holds, in the type and the shape they have there; a mesh is sampled by `seed`.

    Knows NumPy arrays, torch tensors, Open3D, trimesh and pyvista clouds and meshes, laspy (and whatever else has `x`,
    `y` and `z`), ROS messages `PointCloud2`, mixtures and splats, and everything with `points` or that NumPy takes for an
    array. Components stand for as many points as their areas ask for. Rows that the object itself declares invalid are
    left out: those masked in a masked array, and those without finite coordinates in a `PointCloud2` that says it is not
    dense. Raises ValueError, or what the object raises when it is asked.
    """
    if isinstance(cloud, np.ma.MaskedArray):
        return _unmasked(cloud)
    if isinstance(cloud, np.ndarray):
        return np.asarray(cloud)
    for features, read in _READERS:
        if all(hasattr(cloud, feature) for feature in features):
            return read(cloud, seed)
    return np.asarray(cloud)


def _unmasked(cloud: np.ma.MaskedArray) -> np.ndarray:
    masked: Any = np.ma.getmaskarray(cloud)
    if cloud.dtype.names is not None:
        masked = np.stack([masked[name] for name in cloud.dtype.names if name in ("x", "y", "z")], axis=-1)
    return cloud.data[~masked.any(axis=-1)] if masked.any() else cloud.data


def _from_message(cloud: Any, seed: int) -> np.ndarray:
    """The points (N, 3) of a sensor_msgs/PointCloud2 of either byte order, whatever lies between its fields and rows."""
    fields = {field.name: field for field in cloud.fields}
    if missing := [axis for axis in "xyz" if axis not in fields]:
        raise ValueError(f"it has no field {', '.join(missing)}, only {', '.join(fields) or 'none'}")
    if wrong := [axis for axis in "xyz" if fields[axis].datatype not in _KINDS or fields[axis].count > 1]:
        raise ValueError(f"its field {wrong[0]} does not hold one number a point")
    order = ">" if cloud.is_bigendian else "<"
    layout: Any = {
        "names": list("xyz"),
        "formats": [order + _KINDS[fields[axis].datatype] for axis in "xyz"],
        "offsets": [int(fields[axis].offset) for axis in "xyz"],
        "itemsize": int(cloud.point_step),
    }
    height, width, step = int(cloud.height), int(cloud.width), int(cloud.point_step)
    between = int(cloud.row_step) if height > 1 else width * step  # some publishers leave it blank for a single row
    data = np.frombuffer(bytes(cloud.data) if isinstance(cloud.data, list | tuple) else cloud.data, np.uint8)
    need = between * (height - 1) + width * step
    if between < width * step or (width and height and need > len(data)):
        raise ValueError(
            f"{height:,} rows of {width:,} points, {step} bytes a point and {between:,} a row, do not fit its "
            f"{len(data):,} bytes of data"
        )
    rows: np.ndarray = np.ndarray((height, width), np.dtype(layout), data, strides=(between, step))
    points = np.stack([rows[axis].ravel() for axis in "xyz"], axis=1)
    return points if cloud.is_dense else points[np.isfinite(points).all(axis=1)]


def _from_tensor(cloud: Any, seed: int) -> np.ndarray:
    """A tensor of torch or Open3D, wherever it lies; types that NumPy does not know are floating-point ones."""
    tensor = (cloud.detach() if hasattr(cloud, "detach") else cloud).cpu()
    if hasattr(tensor, "is_floating_point") and tensor.is_floating_point() and tensor.itemsize < 4:
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def _from_open3d_tensors(cloud: Any, seed: int) -> np.ndarray:
    return _from_tensor(cloud.point["positions"], seed)


def _from_open3d_tensor_mesh(cloud: Any, seed: int) -> np.ndarray:
    return _sampled(_from_tensor(cloud.vertex["positions"], seed), _from_tensor(cloud.triangle["indices"], seed), seed)


def _from_open3d_mesh(cloud: Any, seed: int) -> np.ndarray:
    return _sampled(np.asarray(cloud.vertices), np.asarray(cloud.triangles), seed)


def _from_scene(cloud: Any, seed: int) -> np.ndarray:
    return _from_trimesh(cloud.to_geometry(), seed)


def _from_trimesh(cloud: Any, seed: int) -> np.ndarray:
    return _sampled(np.asarray(cloud.vertices), np.asarray(getattr(cloud, "faces", ())), seed)


def _from_pyvista(cloud: Any, seed: int) -> np.ndarray:
    faces: Any = ()
    if len(getattr(cloud, "faces", ())) or getattr(cloud, "n_strips", 0):
        faces = np.asarray(cloud.triangulate().faces).reshape(-1, 4)[:, 1:]
    return _sampled(np.asarray(cloud.points), faces, seed)


def _sampled(vertices: np.ndarray, faces: Any, seed: int) -> np.ndarray:
    """Points drawn on the triangles; without any, the vertices."""
    return drawn(vertices, np.asarray(faces, np.int64), seed) if len(faces) else vertices


def _from_columns(cloud: Any, seed: int) -> np.ndarray:
    return np.stack([np.asarray(getattr(cloud, axis)) for axis in "xyz"], axis=-1)


def _from_points(cloud: Any, seed: int) -> np.ndarray:
    return coordinates(cloud.points, seed=seed)


def _from_file(cloud: Any, seed: int) -> np.ndarray:
    if not is_splat(cloud.properties):
        return np.asarray(cloud.points)
    opacities, covariances = components(cloud.properties)
    return _from_components(opacities, cloud.points, covariances)


def _from_mixture(cloud: Any, seed: int) -> np.ndarray:
    weights, means, covariances = (
        part.detach().cpu().double().numpy() for part in (cloud.weights, cloud.means, cloud.covariances)
    )
    if means.ndim != 2 or means.shape[1] != 3:
        raise ValueError(f"one mixture in three dimensions is a cloud, got means of shape {means.shape}")
    return _from_components(weights, means, covariances)


def _from_components(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Points of the components that weigh something; one that is not finite is a point that is not."""
    from deepgmr.mixture.spread import enough, spread  # here: torch takes long to import

    finite = np.isfinite(means).all(axis=1) & np.isfinite(covariances).all(axis=(1, 2)) & np.isfinite(weights)
    seen = finite & (weights > 0) & (weights >= FAINT * weights[finite].max(initial=0.0))
    points = spread(means[seen], covariances[seen], enough(int(seen.sum())))
    return np.concatenate([points, np.full((len(means) - int(finite.sum()), 3), np.nan)])


# What an object must offer to be read so; the first that fits.
_READERS: tuple[tuple[tuple[str, ...], Callable[[Any, int], np.ndarray]], ...] = (
    (("fields", "point_step", "is_bigendian", "data"), _from_message),
    (("point", "cpu"), _from_open3d_tensors),
    (("vertex", "triangle", "cpu"), _from_open3d_tensor_mesh),
    (("cpu", "numpy"), _from_tensor),
    (("to_geometry", "geometry"), _from_scene),
    (("vertices", "bounds"), _from_trimesh),
    (("vertices", "triangles"), _from_open3d_mesh),
    (("n_points", "points"), _from_pyvista),
    (("weights", "means", "covariances"), _from_mixture),
    (("x", "y", "z"), _from_columns),
    (("points", "properties"), _from_file),
    (("points",), _from_points),
)
