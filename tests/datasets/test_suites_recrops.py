"""Crops of independent samplings: by name, always the same, as they are defined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepgmr.datasets.suites.fixed import PairSuite, write_suite
from deepgmr.datasets.suites.named import read_named
from deepgmr.errors import InvalidFile


def suite(points: int = 1024, shapes: bool = True) -> PairSuite:
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(3, points, 3)).astype(np.float32)
    clouds /= np.linalg.norm(clouds, axis=-1, keepdims=True)
    return PairSuite(
        name="x",
        kind="modelnet",
        sources=list(clouds),
        targets=list(clouds),
        transforms=np.tile(np.eye(4), (3, 1, 1)),
        names=("a", "b", "c"),
        shapes=list(clouds + 0.2) if shapes else None,
        axisymmetric=np.array([True, False, True]),
        unseen=np.array([False, False, True]),
    )


def check(found: PairSuite, keep: float, shared: float) -> None:
    assert found.shapes is not None
    for source, target, motion, shape in zip(found.sources, found.targets, found.transforms, found.shapes, strict=True):
        assert len(source) == len(target) == round(512 * keep)
        moved = source @ motion[:3, :3].T + motion[:3, 3]
        within = min((cKDTree(b).query(a)[0] < 0.15).mean() for a, b in ((moved, target), (target, moved)))
        assert within > shared
        assert np.percentile(cKDTree(shape).query(source)[0], 95) < 0.04  # noise of .01 a coordinate
        nearest, row = cKDTree(shape).query(source)
        _, other = cKDTree(shape @ motion[:3, :3].T + motion[:3, 3]).query(target)
        assert len(np.intersect1d(row[nearest < 0.01], other)) < 0.4 * len(row)  # chance only: none is in both


@pytest.mark.parametrize(("name", "keep", "shared"), [("recrop70", 0.7, 0.45), ("recrop50", 0.5, 0.3)])
def test_pairs_are_cut_from_the_shapes_of_a_suite(tmp_path: Path, name: str, keep: float, shared: float) -> None:
    pytest.importorskip("h5py")
    path = tmp_path / "modelnet_clean.h5"
    write_suite(path, suite())
    found, again = read_named(f"{path}#{name}"), read_named(f"{path}#{name}", points=40)
    assert found.name == name and found.names == ("a", "b", "c") and found.kind == "modelnet"
    assert found.axisymmetric is not None and found.axisymmetric.tolist() == [True, False, True]
    assert np.array_equal(found.sources[2][:40], again.sources[2])
    check(found, keep, shared)


def test_what_cannot_be_cut_is_named(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    for i, bad in enumerate((suite(shapes=False), suite(points=1000))):
        write_suite(tmp_path / f"{i}.h5", bad)
        with pytest.raises(InvalidFile, match="shapes"):
            read_named(f"{tmp_path / f'{i}.h5'}#recrop70")
    with pytest.raises(InvalidFile, match="ply_data"):
        read_named(f"{tmp_path}#recrop70")


def test_the_test_shapes_of_modelnet(shared: Path) -> None:
    folder = shared / "modelnet40"
    if not (folder / "modelnet40_ply_hdf5").is_dir():
        pytest.skip("no ModelNet40")
    found = read_named(f"{folder / 'modelnet40_ply_hdf5'}#recrop50")
    assert len(found) == 1234 and found.labels is not None and found.categories is not None
    check(found.thinned(20), 0.5, 0.3)
