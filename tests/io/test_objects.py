"""objects.py: what other libraries hold comes out as it lies there, and none of them is imported for it."""

from __future__ import annotations

import array
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deepgmr.errors import InvalidCloud
from deepgmr.io import CloudFile
from deepgmr.io.meshes import SAMPLES
from deepgmr.pipeline.clouds import as_points

GOOD = np.random.default_rng(0).normal(size=(20, 3))
DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}  # of sensor_msgs/PointField


def message(
    points: np.ndarray,
    *,
    kind: str = "f4",
    big: bool = False,
    height: int = 1,
    before: int = 4,
    after: int = 5,
    row: int = 0,
    dense: bool = True,
) -> Any:
    """A sensor_msgs/PointCloud2: z before y before x, `before` and `after` them bytes of a point, `row` of a row."""
    size = np.dtype(kind).itemsize
    step, width = before + 3 * size + after, len(points) // height
    data = bytearray(b"\xa5" * (height * (width * step + row)))
    for number, point in enumerate(points):
        at = number // width * (width * step + row) + number % width * step + before
        data[at : at + 3 * size] = point[::-1].astype((">" if big else "<") + kind).tobytes()
    fields = [
        SimpleNamespace(name=name, offset=before + i * size, datatype=DATATYPES[kind], count=1)
        for i, name in enumerate("zyx")
    ]
    fields.append(SimpleNamespace(name="ring", offset=0, datatype=2, count=before))
    shape = {"height": height, "width": width, "point_step": step, "row_step": width * step + row}
    return SimpleNamespace(fields=fields, data=bytes(data), is_bigendian=big, is_dense=dense, **shape)


@pytest.mark.parametrize("kind", DATATYPES)
@pytest.mark.parametrize("big", [False, True])
def test_point_cloud_2(kind: str, big: bool) -> None:
    values = (np.arange(36).reshape(12, 3) % 7).astype(kind)
    for given in (
        message(values, kind=kind, big=big),
        message(values, kind=kind, big=big, before=0, after=0),
        message(values, kind=kind, big=big, height=3, row=7),
        message(values, kind=kind, big=big, dense=False),
    ):
        points = as_points(given)
        np.testing.assert_array_equal(points, values.astype(np.float64))
        assert points.dtype == (np.float32 if kind == "f4" else np.float64)


@pytest.mark.parametrize(
    "make", [bytes, bytearray, list, lambda data: array.array("B", data), lambda data: np.frombuffer(data, np.uint8)]
)
def test_point_cloud_2_holds_its_bytes_in_many_ways(make: Any) -> None:
    given = message(GOOD, kind="f8")
    given.data = make(given.data)
    np.testing.assert_array_equal(as_points(given), GOOD)


def test_a_blank_row_step_of_a_single_row() -> None:
    given = message(GOOD, kind="f8")
    given.row_step = 0
    np.testing.assert_array_equal(as_points(given), GOOD)


def test_rows_that_are_no_points_are_left_out_where_the_message_says_it_has_some() -> None:
    values = GOOD.copy()
    values[3, 1], values[7] = np.nan, np.inf
    np.testing.assert_array_equal(as_points(message(values, kind="f8", dense=False)), np.delete(GOOD, [3, 7], axis=0))
    with pytest.raises(InvalidCloud, match="2 of 20 points have NaN"):  # it contradicts itself
        as_points(message(values, kind="f8", dense=True))
    with pytest.raises(InvalidCloud, match="0 usable points"):
        as_points(message(np.full((5, 3), np.nan), dense=False))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fields": []}, "has no field x, y, z, only none"),
        ({"data": b"12345"}, "1 rows of 20 points.*do not fit its 5 bytes"),
        ({"width": 10**12}, "do not fit"),
        ({"point_step": 4}, "cannot read points from SimpleNamespace"),
        ({"height": 2, "width": 10, "row_step": 8}, "do not fit"),
        ({"height": -1}, "cannot read points"),
        ({"width": "many"}, "cannot read points"),
        ({"data": None}, "cannot read points"),
        ({"width": 0}, "0 usable points"),
    ],
)
def test_messages_that_hold_no_cloud(changes: dict[str, Any], words: str) -> None:
    given = message(GOOD, kind="f8")
    vars(given).update(changes)
    with pytest.raises(InvalidCloud, match=f"^source: .*{words}"):
        as_points(given, name="source")


@pytest.mark.parametrize(("change", "value"), [("datatype", 9), ("count", 2)])
def test_fields_that_hold_no_coordinate(change: str, value: int) -> None:
    given = message(GOOD)
    setattr(given.fields[1], change, value)
    with pytest.raises(InvalidCloud, match="its field y does not hold one number a point"):
        as_points(given)


def test_organised_arrays_and_tensors() -> None:
    np.testing.assert_array_equal(as_points(GOOD.reshape(4, 5, 3)), GOOD)
    np.testing.assert_array_equal(
        as_points(GOOD.reshape(4, 5, 3).transpose(1, 0, 2)), GOOD.reshape(4, 5, 3).transpose(1, 0, 2).reshape(-1, 3)
    )
    np.testing.assert_array_equal(as_points(torch.tensor(GOOD).reshape(4, 5, 3)), GOOD)
    hole = GOOD.reshape(4, 5, 3).copy()
    hole[1, 2] = np.nan  # an array declares nothing, so nothing is left out unasked
    with pytest.raises(InvalidCloud, match="1 of 20 points have NaN"):
        as_points(hole)
    np.testing.assert_array_equal(as_points(hole, drop_invalid=True), np.delete(GOOD, 7, axis=0))


def test_masked_rows_are_no_points() -> None:
    masked = np.ma.masked_array(GOOD, mask=False)
    np.testing.assert_array_equal(as_points(masked), GOOD)
    masked[4, 1] = masked[9] = np.ma.masked
    np.testing.assert_array_equal(as_points(masked), np.delete(GOOD, [4, 9], axis=0))
    np.testing.assert_array_equal(as_points(masked.reshape(4, 5, 3)), np.delete(GOOD, [4, 9], axis=0))
    table = np.ma.zeros(6, [("x", "f8"), ("y", "f8"), ("z", "f8"), ("label", "i4")])
    for axis, column in zip("xyz", GOOD[:6].T, strict=True):
        table[axis] = column
    table["label"][0] = np.ma.masked
    table["y"][2] = np.ma.masked
    np.testing.assert_array_equal(as_points(table), np.delete(GOOD[:6], 2, axis=0))


def test_read_only_and_strided_arrays_are_left_as_they_are() -> None:
    wide = np.random.default_rng(1).normal(size=(40, 9))
    wide.flags.writeable = False
    for given in (
        wide[::-2, 1:9:3],
        np.asfortranarray(wide[:, :3]),
        np.broadcast_to(wide[0, :3], (1, 3)).repeat(9, 0) + wide[:9, :3],
    ):
        np.testing.assert_array_equal(as_points(given), np.array(given))


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(5, 3, dtype=torch.complex64), torch.zeros(5, 3).to_sparse(), torch.zeros(5, 3, device="meta")],
)
def test_tensors_that_hold_no_cloud(tensor: torch.Tensor) -> None:
    with pytest.raises(
        InvalidCloud, match=r"^source: (coordinates must be real numbers|cannot read points from Tensor)"
    ):
        as_points(tensor, name="source")


def test_open3d_tensors() -> None:
    o3d = pytest.importorskip("open3d")
    np.testing.assert_array_equal(as_points(o3d.core.Tensor(GOOD)), GOOD)
    mesh = o3d.t.geometry.TriangleMesh.create_sphere(1.0, 40)
    points = as_points(mesh)
    assert points.shape == (SAMPLES, 3) and np.abs(np.linalg.norm(points, axis=1) - 1).max() < 5e-3
    for empty in (o3d.t.geometry.PointCloud(), o3d.geometry.PointCloud(), o3d.geometry.VoxelGrid()):
        with pytest.raises(InvalidCloud, match=r"^cloud: "):
            as_points(empty)


def test_pyvista_clouds_and_meshes() -> None:
    pv = pytest.importorskip("pyvista")
    np.testing.assert_allclose(as_points(pv.PolyData(GOOD)), GOOD)
    box = pv.Box((0, 1, 0, 2, 0, 3), quads=True)  # squares, which have to be cut
    points = as_points(box)
    assert points.shape == (SAMPLES, 3)
    on = [np.isclose(points[:, axis] % size, 0, atol=1e-9) for axis, size in enumerate((1, 2, 3))]
    assert np.logical_or.reduce(on).all()
    np.testing.assert_allclose(as_points(pv.UnstructuredGrid(box)), box.points)


def test_laspy() -> None:
    laspy = pytest.importorskip("laspy")
    data = laspy.LasData(laspy.LasHeader(version="1.4", point_format=6))
    data.header.scales, data.header.offsets = np.full(3, 1e-6), np.array([5e5, 4e6, 100.0])
    places = np.round(GOOD, 6) + data.header.offsets
    data.x, data.y, data.z = places.T
    np.testing.assert_allclose(as_points(data), places, atol=1e-8)


def test_what_was_read_from_a_file() -> None:
    np.testing.assert_array_equal(as_points(CloudFile(GOOD)), GOOD)


def test_columns_by_name() -> None:
    table = SimpleNamespace(x=GOOD[:, 0], y=GOOD[:, 1], z=GOOD[:, 2])
    np.testing.assert_array_equal(as_points(table), GOOD)
    with pytest.raises(InvalidCloud, match="cannot read points"):
        as_points(SimpleNamespace(x=GOOD[:, 0], y=GOOD[:3, 1], z=GOOD[:, 2]))


def test_an_object_that_raises_when_it_is_asked() -> None:
    class Broken:
        @property
        def points(self) -> np.ndarray:
            raise RuntimeError("the device\nwas lost")

    with pytest.raises(InvalidCloud, match=r"target: cannot read points from Broken .the device was lost.") as caught:
        as_points(Broken(), name="target")
    assert caught.value.role == "target" and "\n" not in str(caught.value)


def test_no_library_is_imported() -> None:
    code = (
        "import sys; from deepgmr.io.objects import coordinates; coordinates([[0.0, 1.0, 2.0]]);"
        "print([name for name in ('torch', 'open3d', 'trimesh', 'pyvista', 'vtk', 'laspy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
