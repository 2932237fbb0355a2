"""Suites of fixed pairs: what is written is what is read, and every wrong layout has its own error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from deepgmr.datasets.pairs.protocols import make_pairs
from deepgmr.datasets.suites.fixed import PairSuite, read_suite, suite_of, write_suite
from deepgmr.errors import InvalidConfig, InvalidFile


def suite(count: int = 4, points: int = 20) -> PairSuite:
    rng = np.random.default_rng(3)
    transforms = np.tile(np.eye(4), (count, 1, 1))
    transforms[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    transforms[:, :3, 3] = rng.normal(size=(count, 3))
    clouds = rng.normal(size=(2, count, points, 3)).astype(np.float32)
    return PairSuite(
        name="mine",
        kind="modelnet",
        sources=list(clouds[0]),
        targets=list(clouds[1]),
        transforms=transforms,
        names=tuple(f"kitti_{i}" if i else "3dmatch_0" for i in range(count)),
        shapes=list(clouds[0] + 1),
        labels=np.arange(count),
        categories=tuple("abcd"),
        axisymmetric=np.arange(count) % 2 == 0,
        unseen=np.arange(count) > 1,
        tolerance_degrees=np.full(count, 5.0),
        tolerance_translation=np.linspace(0.1, 0.2, count),
    )


def same(a: PairSuite, b: PairSuite, keys: tuple[str, ...]) -> None:
    for key in keys:
        one, two = getattr(a, key), getattr(b, key)
        if isinstance(one, list):
            assert len(one) == len(two)
            assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(one, two, strict=True)), key
        else:
            assert np.array_equal(one, two), key


def test_hdf5_round_trip(tmp_path: Path) -> None:
    write_suite(tmp_path / "mine.h5", suite())
    found = read_suite(tmp_path / "mine.h5")
    keys = ("sources", "targets", "shapes", "transforms", "names", "labels", "categories", "axisymmetric", "unseen")
    same(suite(), found, (*keys, "name", "kind"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.h5"]


def test_scans_round_trip_with_clouds_of_different_sizes(tmp_path: Path) -> None:
    mine = suite()
    mine = replace(mine, sources=[cloud[: 5 + i] for i, cloud in enumerate(mine.sources)])
    write_suite(tmp_path / "scans", mine)
    found = read_suite(tmp_path / "scans")
    same(mine, found, ("sources", "targets", "transforms", "names", "tolerance_degrees", "tolerance_translation"))
    assert found.kind == "scans"
    assert found.groups == ("rooms", "lidar", "lidar", "lidar")


def test_a_folder_without_a_manifest_is_read_by_name(tmp_path: Path) -> None:
    write_suite(tmp_path / "scans", suite())
    (tmp_path / "scans" / "MANIFEST.csv").unlink()
    assert read_suite(tmp_path / "scans").names == ("3dmatch_0", "kitti_1", "kitti_2", "kitti_3")


def test_the_files_of_2020_have_three_keys(tmp_path: Path) -> None:
    mine = suite()
    with h5py.File(tmp_path / "modelnet_clean.h5", "w") as file:
        file["source"], file["target"] = np.stack(mine.sources), np.stack(mine.targets)
        file["transform"] = mine.transforms.astype(np.float32)
    found = read_suite(tmp_path / "modelnet_clean.h5", points=7)
    assert found.shapes is None and found.axisymmetric is None and found.names == ("0000", "0001", "0002", "0003")
    assert found.transforms.dtype == np.float64
    assert [cloud.shape for cloud in found.sources] == [(7, 3)] * 4
    assert np.array_equal(found.sources[1], mine.sources[1][:7])


def test_subset_keeps_rows_together() -> None:
    mine = suite()
    chosen = mine.subset(mine.unseen, name="later")
    assert chosen.name == "later" and len(chosen) == 2 and chosen.names == mine.names[2:]
    assert chosen.labels is not None and chosen.labels.tolist() == [2, 3]
    assert np.array_equal(chosen.targets[0], mine.targets[2])
    assert np.array_equal(mine.subset(np.array([3, 0])).transforms, mine.transforms[[3, 0]])


def broken(path: Path, **changes: object) -> Path:
    mine = suite()
    data: dict[str, object] = {
        "source": np.stack(mine.sources),
        "target": np.stack(mine.targets),
        "transform": mine.transforms,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for key, value in data.items():
            if value is not None:
                file[key] = value
    return path


SHEARED = np.tile(np.diag([2.0, 1, 1, 1]), (4, 1, 1))
MIRRORED = np.tile(np.diag([-1.0, 1, 1, 1]), (4, 1, 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": None}, "no dataset `target`"),
        ({"source": np.zeros((4, 20, 2))}, "`source` must be"),
        ({"source": np.zeros((4, 20, 3), np.int64)}, "`source` must be"),
        ({"source": np.zeros((3, 20, 3))}, "disagree"),
        ({"source": np.full((4, 20, 3), np.nan)}, "NaN"),
        ({"source": np.zeros((4, 0, 3))}, "pair 0000"),
        ({"transform": np.tile(np.eye(3), (4, 1, 1))}, "`transform` must be"),
        ({"transform": np.tile(np.eye(4).astype(bool), (4, 1, 1))}, "`transform` must be"),
        ({"transform": SHEARED}, "not rigid"),
        ({"transform": MIRRORED}, "not rigid"),
        ({"transform": np.full((4, 4, 4), np.nan)}, "not rigid"),
        ({"label": np.arange(3)}, "disagree"),
    ],
)
def test_wrong_layouts_are_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidFile, match=said):
        read_suite(broken(tmp_path / "bad.h5", **changes))


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no such suite"):
        read_suite(tmp_path / "absent.h5")
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(InvalidFile, match="not a readable HDF5"):
        read_suite(text)
    whole = broken(tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidFile, match=r"cut\.h5"):
        read_suite(tmp_path / "cut.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFile, match="holds no scans"):
        read_suite(tmp_path / "empty")


def test_broken_scans_are_named(tmp_path: Path) -> None:
    write_suite(tmp_path / "scans", suite())
    first = tmp_path / "scans" / "kitti_1.npz"
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    with pytest.raises(InvalidFile, match=r"kitti_1\.npz"):
        read_suite(tmp_path / "scans")
    np.savez(first, source=np.zeros((3, 3)), target=np.zeros((3, 3)))
    with pytest.raises(InvalidFile, match="transform"):
        read_suite(tmp_path / "scans")
    first.unlink()
    with pytest.raises(InvalidFile, match="lists 1 pairs that are not there"):
        read_suite(tmp_path / "scans")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    mine = suite()
    uneven = replace(mine, sources=[cloud[: 5 + i] for i, cloud in enumerate(mine.sources)])
    with pytest.raises(InvalidFile, match="differ in their number of points"):
        write_suite(tmp_path / "uneven.h5", uneven)
    with pytest.raises(InvalidFile, match="tolerance"):
        write_suite(tmp_path / "scans", replace(mine, tolerance_degrees=None))
    with pytest.raises(InvalidFile):
        write_suite(tmp_path / "no" / "such" / "folder.h5", mine)
    assert not list(tmp_path.iterdir())


def test_synthetic_pairs_become_a_suite(tmp_path: Path, generator: torch.Generator) -> None:
    clouds = torch.randn(5, 1024, 3, generator=generator)
    pairs = make_pairs(clouds, "crop70_180", generator=generator)
    made = suite_of(pairs, "validation", parents=clouds)
    write_suite(tmp_path / "validation.h5", made)
    found = read_suite(tmp_path / "validation.h5")
    same(made, found, ("sources", "targets", "transforms", "names", "shapes"))
    assert found.shapes is not None
    for shape, source in zip(found.shapes, found.sources, strict=True):  # the source lies on its shape, up to noise
        assert np.linalg.norm(source[:, None] - shape[None], axis=2).min(axis=1).max() < 0.1
    judged = suite_of(pairs, "scans", tolerance_degrees=5.0, tolerance_translation=np.full(5, 0.1))
    assert judged.kind == "scans" and judged.shapes is None
    with pytest.raises(InvalidConfig, match="parents"):
        suite_of(replace(pairs, source_from_parent=None), "none", parents=clouds)


def test_the_shared_suites_are_read(shared: Path) -> None:
    noisy = read_suite(shared / "modelnet40" / "benchmark" / "modelnet_noisy.h5")
    assert len(noisy) == 250 and noisy.shapes is not None and noisy.unseen is not None
    # The truth must carry the source onto the target: the noise is .01 on each.
    rows = [0, 100, 200]
    for i in rows:
        moved = noisy.sources[i] @ noisy.transforms[i, :3, :3].T + noisy.transforms[i, :3, 3]
        nearest = np.linalg.norm(moved[:, None] - noisy.targets[i][None], axis=2).min(axis=1)
        assert np.median(nearest) < 0.03
    scans = read_suite(shared / "scans")
    assert len(scans) == 60
    assert [scans.groups.count(group) for group in ("objects", "rooms", "lidar")] == [48, 10, 2]
