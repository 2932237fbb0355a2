"""The pairs are what they claim, the numbers those of another computation, and the figures are drawn from the JSON."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepgmr.datasets.pairs.protocols import make_pairs
from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.errors import InvalidConfig, InvalidInput
from deepgmr.evaluation import read_result, robustness, write_result
from deepgmr.evaluation.results import Result, Watch
from deepgmr.pipeline.registrar import register

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs deepgmr[plots]")


def aligned(suite: PairSuite, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Source moved by the truth, and target."""
    motion = suite.transforms[i]
    return suite.sources[i] @ motion[:3, :3].T + motion[:3, 3], suite.targets[i]


# -- the pairs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 1.0])
def test_pairs_overlap_as_much_as_they_claim(share: float) -> None:
    suite = robustness.make_suite(robustness.Setting(overlap=share, noise=0.0, points=8192), 8, 0)
    found = []
    for i in range(len(suite)):
        source, target = aligned(suite, i)
        assert source.shape == target.shape == (8192, 3)
        # A point is shared when the other cloud has one within what is usual between two full samplings.
        for a, b in ((source, target), (target, source)):
            spacing = cKDTree(b).query(b, k=2)[0][:, 1]
            distance = cKDTree(b).query(a)[0]
            assert distance.min() > 0  # no point is in both samples
            found.append((distance < np.quantile(spacing, 0.99)).mean())
    assert np.mean(found) == pytest.approx(share, abs=0.03)
    assert np.std(found) < 0.06


def test_the_cut_is_exact_on_the_parent(generator: torch.Generator) -> None:
    # A parent along a line: what is kept can be read off the coordinates, whatever the direction.
    parent = torch.zeros(1, 4000, 3)
    parent[0, :, 0] = torch.linspace(-1, 1, 4000)[torch.randperm(4000, generator=generator)]
    pair = make_pairs(parent, [robustness.Facing(0.25, 900, 700)], generator=generator)
    source, target = (np.sort(cloud[0, :, 0].numpy()) for cloud in (pair.source, pair.target))
    if source.mean() < target.mean():
        source, target = -source[::-1], -target[::-1]
    keep = 1 / (2 - 0.25)
    assert (len(source), len(target)) == (900, 700) and not np.intersect1d(source, target).size
    assert source[0] == pytest.approx(1 - 2 * keep, abs=0.02) and source[-1] == pytest.approx(1, abs=0.02)
    assert target[0] == pytest.approx(-1, abs=0.02) and target[-1] == pytest.approx(2 * keep - 1, abs=0.02)
    assert float(pair.overlap) == 0.25
    with pytest.raises(InvalidConfig, match="too few"):
        make_pairs(parent, [robustness.Facing(0.25, 2000, 700)], generator=generator)


@pytest.mark.parametrize("sigma", [0.005, 0.05])
def test_noise_has_the_sigma_it_claims_and_whole_tails(sigma: float) -> None:
    clean, noisy = (robustness.make_suite(robustness.Setting(noise=s), 4, 0) for s in (0.0, sigma))
    for name in ("sources", "targets"):
        noise = np.concatenate(getattr(noisy, name)) - np.concatenate(getattr(clean, name))
        assert noise.std() == pytest.approx(sigma, rel=0.03) and abs(noise.mean()) < 0.05 * sigma
        assert np.abs(noise).max() > 3.3 * sigma


def test_outliers_replace_the_share_they_claim() -> None:
    clean, dirty = (robustness.make_suite(robustness.Setting(outliers=s), 4, 0) for s in (0.0, 0.4))
    for name in ("sources", "targets"):
        for before, after in zip(getattr(clean, name), getattr(dirty, name), strict=True):
            moved = (before != after).any(axis=1)
            assert moved.mean() == pytest.approx(0.4, abs=0.06)  # four standard deviations of 1,024 coins
            reach = np.linalg.norm(before - before.mean(0), axis=1).max()
            length = np.linalg.norm(after[moved] - before.mean(0), axis=1) / reach
            assert length.max() < 1.001 and np.mean(length**3) == pytest.approx(0.5, abs=0.1)  # uniform in a ball


@pytest.mark.parametrize("ratio", [1, 2, 16])
def test_density_and_points(ratio: float) -> None:
    suite = robustness.make_suite(robustness.Setting(density=ratio, points=512), 2, 0)
    n, m = len(suite.sources[0]), len(suite.targets[0])
    assert m / n == pytest.approx(ratio, rel=0.01) and n * m == pytest.approx(512**2, rel=0.01)


def test_the_same_shapes_all_along_the_curves_in_any_pose() -> None:
    one, other = (robustness.make_suite(robustness.Setting(points=points), 24, 0) for points in (256, 1024))
    assert one.shapes is not None and other.shapes is not None
    for a, b in zip(one.shapes, other.shapes, strict=True):
        assert len(a) == len(b) == robustness.SHAPE_POINTS
        widths = [np.linalg.svd(c - c.mean(0), compute_uv=False) / len(c) ** 0.5 for c in (a, b)]
        assert np.allclose(*widths, atol=0.05)  # the same up to its sampling and pose
        assert np.linalg.norm(a - a.mean(0), axis=1).max() == pytest.approx(1, abs=0.1)
    turned = np.degrees(Rotation.from_matrix(other.transforms[:, :3, :3]).magnitude())
    assert turned.max() > 140 and np.mean(turned > 90) > 0.6  # .82 of all rotations turn by more than 90 degrees
    fresh = robustness.make_suite(robustness.Setting(), 1, 1)
    assert not np.array_equal(fresh.sources[0], other.sources[0])


def test_the_axes_are_those_that_were_asked_for() -> None:
    ends = {name: (axis.values[0], axis.values[-1]) for name, axis in robustness.AXES.items()}
    assert ends == {
        "overlap": (0.2, 1.0),
        "noise": (0, 0.05),
        "outliers": (0, 0.6),
        "density": (1, 16),
        "points": (128, 100_000),
    }
    usual = robustness.Setting()
    assert all(getattr(usual, name) in axis.values for name, axis in robustness.AXES.items())


# -- a run -----------------------------------------------------------------------------------------------------

SHORT = {
    "noise": robustness.Axis("noise", (0.0, 0.01), "g"),
    "points": robustness.Axis("points", (128, 1024), ",", "log"),
}


def test_a_short_run_gives_the_numbers_of_another_computation(tmp_path: Path) -> None:
    kept: list[int] = []
    watch = Watch(keep=lambda found: kept.append(sum(map(len, found["axes"].values()))))
    measured = robustness.measure(pairs=2, seed=3, axes=SHORT, methods=["register"], watch=watch)
    assert kept == [1, 2, 3, 4]  # after every point
    write_result(tmp_path / "out.json", measured)
    result = read_result(tmp_path / "out.json", "robustness")
    assert result == measured
    assert (result["pairs"], result["seed"], list(result["axes"])) == (2, 3, ["noise", "points"])
    (_, usual), (sparse, again) = result["axes"]["noise"], result["axes"]["points"]
    assert usual["methods"] == again["methods"] and sparse["setting"]["points"] == 128  # measured once
    suite = robustness.make_suite(robustness.Setting(points=128), 2, 3)
    assert suite.shapes is not None
    for i, distance in enumerate(sparse["methods"]["register"]["distances"]):
        answer = register(suite.sources[i], suite.targets[i], seed=3).target_from_source
        under = [suite.shapes[i] @ m[:3, :3].T + m[:3, 3] for m in (answer, suite.transforms[i])]
        assert distance == pytest.approx(cKDTree(under[1]).query(under[0])[0].mean(), abs=1e-5)
    for point in (sparse, usual):
        row = point["methods"]["register"]
        assert row["recall"] == np.mean(np.array(row["distances"]) < 0.05) and row["failed"] == {}
        assert row["milliseconds"] > 0 and 0 <= row["wrong and sure"] <= 1
    text = robustness.markdown(result)
    assert f"| register | {sparse['methods']['register']['recall']:.3f} |" in text
    assert text.count("### ") == 3 and "median milliseconds" in text and "wrong and sure" in text


def test_what_cannot_be_measured_is_refused_at_once() -> None:
    for options, told in (
        ({"axes": ["colour"]}, "colour"),
        ({"pairs": 0}, "1 or more"),
        ({"methods": ["magic"]}, "magic"),
    ):
        with pytest.raises(InvalidConfig, match=told):
            robustness.measure(**options)  # type: ignore[arg-type]


def curves(method: str, recalls: tuple[float, ...], **other: Any) -> Result:
    """A made-up result on the noise axis; half right means two failures."""
    points = [
        {
            "value": value,
            "setting": {},
            "pairs": 4,
            "notes": [f"{method} note"],
            "methods": {
                method: {
                    "recall": recall,
                    "milliseconds": 10.0,
                    "wrong and sure": 1 - recall if method == "register" else None,
                    "failed": {"Lost": 2} if recall == 0.5 else {},
                    "distances": [],
                }
            },
        }
        for value, recall in zip(robustness.AXES["noise"].values, recalls, strict=False)
    ]
    return {"study": "robustness", "pairs": 4, "seed": 0, "axes": {"noise": points}, **other}


def test_runs_over_the_same_pairs_are_put_together() -> None:
    result = robustness.merged([curves("register", (1.0, 0.75, 0.5)), curves("kiss", (0.25,))])
    text = robustness.markdown(result)
    assert "| register | 1.000 | 0.750 | 0.500 | 0.250 | 2 Lost |" in text
    assert "| kiss | 0.250 | - | - | - | 0 |" in text
    with pytest.raises(InvalidInput, match="different"):
        robustness.merged([curves("register", (1.0,), seed=seed) for seed in (0, 1)])


@needs_matplotlib
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_numbers_give_the_same_picture(tmp_path: Path, suffix: str) -> None:
    result = robustness.merged([curves("register", (1.0, 0.75, 0.5)), curves("kiss", (0.25,))])
    pictures = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for picture in pictures:
        robustness.draw(result, picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert pictures[0].read_bytes()[:8] in (b"\x89PNG\r\n\x1a\n", b"<?xml ve")
