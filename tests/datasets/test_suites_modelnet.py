"""ModelNet40 and the authors' files, from tiny copies in the official layouts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deepgmr.datasets.suites.folder import read_folder
from deepgmr.datasets.suites.iclnuim import read_clouds, read_test, read_train
from deepgmr.datasets.suites.modelnet import read_modelnet
from deepgmr.errors import InvalidCloud, InvalidConfig, InvalidFile


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training files and one test file; test clouds 1 and 3 are training clouds byte for byte."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    train = rng.normal(size=(2, 5, 16, 3)).astype(np.float32)
    test = rng.normal(size=(4, 16, 3)).astype(np.float32)
    test[1], test[3] = train[0, 2], train[1, 4]
    for i, clouds in enumerate(train):
        store(folder / f"ply_data_train{i}.h5", clouds, np.arange(5))
    store(folder / "ply_data_test0.h5", test, np.array([0, 1, 2, 2]))
    (folder / "shape_names.txt").write_text("airplane\nbathtub\nbed\nbench\nbookshelf\n")
    lines = [f"data/modelnet40_ply_hdf5_2048/ply_data_train{i}.h5" for i in (1, 0)]
    (folder / "train_files.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def store(path: Path, clouds: np.ndarray, labels: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = clouds, labels.astype(np.uint8)[:, None]


def test_the_list_of_files_gives_the_order(root: Path) -> None:
    found = read_modelnet(root, "train")
    with h5py.File(root / "modelnet40_ply_hdf5_2048" / "ply_data_train1.h5") as file:
        assert np.array_equal(found.points[:5], file["data"][...])
    assert found.points.shape == (10, 16, 3) and found.points.dtype == np.float32
    assert found.labels.tolist() == [*range(5)] * 2 and found.categories[0] == "airplane"


def test_without_a_list_files_are_found_by_pattern(root: Path) -> None:
    assert len(read_modelnet(root / "modelnet40_ply_hdf5_2048", "test")) == 4


def test_categories_are_kept_by_count_or_name(root: Path) -> None:
    assert sorted(set(read_modelnet(root, categories=2).labels.tolist())) == [0, 1]
    assert read_modelnet(root, "test", categories=["bed"]).labels.tolist() == [2, 2]


def test_duplicates_of_training_clouds_are_dropped_and_counted(root: Path) -> None:
    found = read_modelnet(root, "test", drop_duplicates=True)
    assert found.duplicates == 2 and found.labels.tolist() == [0, 2]
    assert read_modelnet(root, "test", drop_duplicates=True, categories=["bed"]).duplicates == 1
    assert read_modelnet(root, "test").duplicates is None
    # They are compared over all stored points, however many are kept.
    assert len(read_modelnet(root, "test", drop_duplicates=True, points=1)) == 2


def test_points_are_cut(root: Path) -> None:
    assert np.array_equal(read_modelnet(root, points=7).points, read_modelnet(root).points[:, :7])
    with pytest.raises(InvalidConfig, match="stores 16"):
        read_modelnet(root, points=17)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"split": "validation"}, InvalidConfig),
        ({"categories": 6}, InvalidConfig),
        ({"categories": ["spaceship"]}, InvalidConfig),
        ({"categories": []}, InvalidConfig),
    ],
)
def test_bad_requests_are_named(root: Path, arguments: dict, error: type) -> None:
    with pytest.raises(error):
        read_modelnet(root, **arguments)


def test_broken_layouts_are_named(root: Path) -> None:
    folder = root / "modelnet40_ply_hdf5_2048"
    with pytest.raises(InvalidFile, match="no such folder"):
        read_modelnet(root / "absent")
    store(folder / "ply_data_train0.h5", np.zeros((5, 8, 3), np.float32), np.arange(5))
    with pytest.raises(InvalidFile, match="different numbers of points"):
        read_modelnet(root)
    store(folder / "ply_data_train0.h5", np.zeros((5, 16, 3), np.float32), np.arange(5) + 1)
    with pytest.raises(InvalidFile, match="labels reach 5"):
        read_modelnet(root)
    (folder / "ply_data_train0.h5").write_bytes(b"\x89HDF\r\n\x1a\n truncated")
    with pytest.raises(InvalidFile, match=r"ply_data_train0\.h5"):
        read_modelnet(root)
    (folder / "shape_names.txt").unlink()
    with pytest.raises(InvalidFile, match="shape_names"):
        read_modelnet(root)


def test_the_shared_copy_has_the_official_sizes(shared: Path) -> None:
    test = read_modelnet(shared / "modelnet40", "test", drop_duplicates=True)
    assert len(test.categories) == 40 and test.points.shape[1:] == (1024, 3)
    assert test.duplicates is not None and len(test) + test.duplicates == 1234
    radius = np.linalg.norm(test.points, axis=2).max(axis=1)
    assert np.allclose(radius, 1, atol=1e-3) and np.abs(test.points.mean(axis=1)).max() < 1e-3


# -- the files of the authors ------------------------------------------------------------------------------------


def test_iclnuim_in_the_layout_of_the_authors(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    clouds = rng.normal(size=(3, 12, 3))
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with h5py.File(tmp_path / "train" / "icl_nuim.h5", "w") as file:
        file["points"] = clouds
    with h5py.File(tmp_path / "test" / "icl_nuim.h5", "w") as file:
        file["source"], file["target"], file["transform"] = clouds, clouds, np.tile(np.eye(4), (3, 1, 1))
    found = read_train(tmp_path, points=5)
    assert found.dtype == np.float32 and np.allclose(found, clouds[:, :5])
    pairs = read_test(tmp_path)
    assert len(pairs) == 3 and pairs.shapes is None
    with pytest.raises(InvalidFile, match="no dataset `points`"):
        read_clouds(tmp_path / "test" / "icl_nuim.h5")
    with pytest.raises(InvalidConfig, match="stores 12"):
        read_train(tmp_path, points=13)
    with pytest.raises(InvalidFile, match=r"train.icl_nuim\.h5"):
        read_train(tmp_path / "elsewhere")


# -- folders -----------------------------------------------------------------------------------------------------


def test_a_folder_of_clouds(tmp_path: Path, generator: torch.Generator) -> None:
    rng = np.random.default_rng(2)
    (tmp_path / "deeper").mkdir()
    np.savetxt(tmp_path / "b.xyz", rng.normal(size=(40, 3)) * 3 + 100)
    np.save(tmp_path / "deeper" / "a.npy", rng.normal(size=(30, 3)))
    (tmp_path / "notes.md").write_text("not a cloud")
    found = read_folder(tmp_path, 25, generator=generator)
    assert found.names == ("b.xyz", str(Path("deeper") / "a.npy")) and found.points.shape == (2, 25, 3)
    assert np.allclose(found.points.mean(axis=1), 0, atol=1e-6)
    assert np.allclose(np.linalg.norm(found.points, axis=2).max(axis=1), 1, atol=1e-6)
    raw = read_folder(tmp_path, 40, generator=generator, normalise=False, skip_invalid=True)
    assert raw.names == ("b.xyz",) and len(raw.skipped) == 1 and "30 points" in raw.skipped[0]
    assert raw.points.mean() > 90


def test_a_bad_file_in_a_folder_is_named(tmp_path: Path, generator: torch.Generator) -> None:
    with pytest.raises(InvalidFile, match="no readable"):
        read_folder(tmp_path, 5, generator=generator)
    np.save(tmp_path / "few.npy", np.zeros((3, 3)))
    with pytest.raises(InvalidCloud, match=r"few\.npy has 3 points"):
        read_folder(tmp_path, 5, generator=generator)
    with pytest.raises(InvalidCloud, match="one and the same"):
        read_folder(tmp_path, 3, generator=generator)
    (tmp_path / "few.npy").write_bytes(b"nothing")
    with pytest.raises(InvalidFile, match=r"few\.npy"):
        read_folder(tmp_path, 3, generator=generator)
    with pytest.raises(InvalidFile, match="all 1 files"):
        read_folder(tmp_path, 3, generator=generator, skip_invalid=True)
