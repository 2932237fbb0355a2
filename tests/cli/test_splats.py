"""Gaussian splats from end to end: registered as the mixtures they are, and written back moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import deepgmr
from deepgmr import cli
from deepgmr.io import CloudFile, read_cloud, transformed, write_cloud


def splat(seed: int) -> CloudFile:
    """Flat Gaussians on the faces of three boxes, laid anew by each seed, as two trainings of one scene do."""
    rng = np.random.default_rng(seed)
    means, quaternions, scales = [], [], []
    for size, place in (((4, 3, 2), (0, 0, 0)), ((1, 1, 2.5), (1.2, 0.4, 2.0)), ((0.6, 2, 0.8), (-1.3, 0.2, 1.3))):
        for axis in range(3):
            for side in (-0.5, 0.5):
                count = round(25 * np.prod(np.delete(size, axis)))
                on = rng.uniform(-0.5, 0.5, (count, 3))
                on[:, axis] = side
                means.append(on * size + place)
                turn = Rotation.align_vectors([np.eye(3)[axis]], [[0, 0, 1]])[0] * Rotation.from_rotvec([0, 0, seed])
                quaternions.append(np.tile(np.roll(turn.as_quat(), 1), (count, 1)))  # w first
                scales.append(np.log(rng.uniform((0.05, 0.1, 0.001), (0.1, 0.2, 0.002), (count, 3))))
    columns = {"opacity": rng.uniform(0, 4, sum(map(len, means)))}
    columns |= {f"scale_{i}": values for i, values in enumerate(np.concatenate(scales).T)}
    columns |= {f"rot_{i}": values for i, values in enumerate(np.concatenate(quaternions).T)}
    columns |= {f"f_rest_{i}": rng.normal(size=len(columns["opacity"])) for i in range(9)}
    properties = {name: values.astype(np.float32) for name, values in columns.items()}
    return CloudFile(np.concatenate(means), properties, coordinate_dtype=np.dtype(np.float32))


MOTION = np.eye(4)
MOTION[:3, :3] = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()
MOTION[:3, 3] = (5.0, -3.0, 0.5)


def errors(found: np.ndarray) -> tuple[float, float]:
    """Degrees and lengths between a motion and the true one."""
    rest = np.linalg.inv(MOTION) @ found
    return float(np.degrees(Rotation.from_matrix(rest[:3, :3]).magnitude())), float(np.linalg.norm(rest[:3, 3]))


def test_two_splats_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = splat(1), transformed(splat(2), MOTION)
    write_cloud(tmp_path / "a.ply", source)
    write_cloud(tmp_path / "b.ply", target)
    names = ["a.ply", "b.ply", "-o", "moved.ply", "--transform", "T.txt"]
    arguments = [word if word.startswith("-") else str(tmp_path / word) for word in names]
    assert cli.register_main([*arguments, "--trust", "0.8"]) == 0
    assert "# ok" in capsys.readouterr().out
    found = deepgmr.io.read_transform(tmp_path / "T.txt")
    turn, shift = errors(found)
    assert turn < 1.0 and shift < 0.05
    moved, wanted = read_cloud(tmp_path / "moved.ply"), transformed(source, found)
    np.testing.assert_allclose(moved.points, wanted.points, atol=1e-5)
    for name, values in wanted.properties.items():
        np.testing.assert_allclose(moved.properties[name], values, atol=1e-5)
    assert not np.allclose(moved.properties["rot_1"], source.properties["rot_1"])
    assert not np.allclose(moved.properties["f_rest_1"], source.properties["f_rest_1"])


def test_mixtures_are_registered() -> None:
    source, target = splat(1), transformed(splat(2), MOTION)
    for given in ((source.mixture(), target.mixture()), (source.mixture(), target), (source, target.points)):
        answer = deepgmr.register(*given)
        turn, shift = errors(answer.target_from_source)
        assert answer.confidence > 0.8 and turn < 1.0 and shift < 0.1


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        (lambda m: deepgmr.GaussianMixture(m.weights[None], m.means[None], m.covariances[None]), r"shape \(1, 64, 3\)"),
        (lambda m: deepgmr.GaussianMixture(m.weights, m.means[:, :2], m.covariances[:, :2, :2]), r"shape \(64, 2\)"),
        (lambda m: deepgmr.GaussianMixture(m.weights, m.means * torch.nan, m.covariances), "64 of 64 points have NaN"),
    ],
)
def test_mixtures_that_are_no_cloud(mixture, words: str) -> None:
    good = deepgmr.GaussianMixture(torch.full((64,), 1 / 64), torch.randn(64, 3), torch.eye(3).expand(64, 3, 3))
    with pytest.raises(deepgmr.errors.InvalidCloud, match=f"^source: .*{words}"):
        deepgmr.register(mixture(good), torch.randn(50, 3))
