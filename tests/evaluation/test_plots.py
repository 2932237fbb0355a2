"""The two scripts that draw: their pairs are what they claim, their numbers are those of another computation."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.errors import InvalidConfig, InvalidFile, InvalidInput
from deepgmr.evaluation import Answer, evaluate, write_json

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs deepgmr[plots]")


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield


@pytest.fixture
def robustness(scripts: None, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, told to leave the processors of this process alone."""
    module = importlib.import_module("robustness")
    monkeypatch.setattr(module, "limit_threads", lambda threads: None)
    return module


@pytest.fixture
def reliability(scripts: None) -> ModuleType:
    return importlib.import_module("reliability")


def aligned(suite: PairSuite, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Source moved by the truth, and target."""
    motion = suite.transforms[i]
    return suite.sources[i] @ motion[:3, :3].T + motion[:3, 3], suite.targets[i]


# -- the pairs of robustness.py ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 1.0])
def test_pairs_overlap_as_much_as_they_claim(robustness: ModuleType, share: float) -> None:
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


def test_the_cut_is_exact_on_the_parent(robustness: ModuleType, generator: Any) -> None:
    import torch

    from deepgmr.datasets.pairs.protocols import make_pairs

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
def test_noise_has_the_sigma_it_claims_and_whole_tails(robustness: ModuleType, sigma: float) -> None:
    clean, noisy = (robustness.make_suite(robustness.Setting(noise=s), 4, 0) for s in (0.0, sigma))
    for name in ("sources", "targets"):
        noise = np.concatenate(getattr(noisy, name)) - np.concatenate(getattr(clean, name))
        assert noise.std() == pytest.approx(sigma, rel=0.03) and abs(noise.mean()) < 0.05 * sigma
        assert np.abs(noise).max() > 3.3 * sigma


def test_outliers_replace_the_share_they_claim(robustness: ModuleType) -> None:
    clean, dirty = (robustness.make_suite(robustness.Setting(outliers=s), 4, 0) for s in (0.0, 0.4))
    for name in ("sources", "targets"):
        for before, after in zip(getattr(clean, name), getattr(dirty, name), strict=True):
            moved = (before != after).any(axis=1)
            assert moved.mean() == pytest.approx(0.4, abs=0.06)  # four standard deviations of 1,024 coins
            reach = np.linalg.norm(before - before.mean(0), axis=1).max()
            length = np.linalg.norm(after[moved] - before.mean(0), axis=1) / reach
            assert length.max() < 1.001 and np.mean(length**3) == pytest.approx(0.5, abs=0.1)  # uniform in a ball


@pytest.mark.parametrize("ratio", [1, 2, 16])
def test_density_and_points(robustness: ModuleType, ratio: float) -> None:
    suite = robustness.make_suite(robustness.Setting(density=ratio, points=512), 2, 0)
    n, m = len(suite.sources[0]), len(suite.targets[0])
    assert m / n == pytest.approx(ratio, rel=0.01) and n * m == pytest.approx(512**2, rel=0.01)


def test_the_same_shapes_all_along_the_curves_in_any_pose(robustness: ModuleType) -> None:
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


def test_the_axes_are_those_that_were_asked_for(robustness: ModuleType) -> None:
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


# -- the run of robustness.py ------------------------------------------------------------------------------------


def short(robustness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {
        "noise": robustness.Axis("noise", (0.0, 0.01), "g"),
        "points": robustness.Axis("points", (128, 1024), ",", "log"),
    }
    monkeypatch.setattr(robustness, "AXES", axes)


def test_a_short_run_gives_the_numbers_of_another_computation(
    robustness: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deepgmr.pipeline.registrar import register

    short(robustness, monkeypatch)
    written = tmp_path / "out.json"
    options = ["--pairs", "2", "--methods", "register", "--seed", "3", "--json", str(written)]
    made: list[Any] = []
    make = robustness.make_suite
    monkeypatch.setattr(robustness, "make_suite", lambda *args: made.append(args) or make(*args))
    assert robustness.main(options) == 0
    assert len(made) == 3  # the usual pair is on both curves and was measured once
    text = capsys.readouterr().out
    result = json.loads(written.read_text())
    assert (result["pairs"], result["seed"], list(result["axes"])) == (2, 3, ["noise", "points"])
    (_, usual), (sparse, again) = result["axes"]["noise"], result["axes"]["points"]
    assert usual["methods"] == again["methods"] and sparse["setting"]["points"] == 128
    suite = make(robustness.Setting(points=128), 2, 3)
    assert suite.shapes is not None
    for i, distance in enumerate(sparse["methods"]["register"]["distances"]):
        answer = register(suite.sources[i], suite.targets[i], seed=3).target_from_source
        under = [suite.shapes[i] @ m[:3, :3].T + m[:3, 3] for m in (answer, suite.transforms[i])]
        assert distance == pytest.approx(cKDTree(under[1]).query(under[0])[0].mean(), abs=1e-5)
    for point in (sparse, usual):
        row = point["methods"]["register"]
        assert row["recall"] == np.mean(np.array(row["distances"]) < 0.05) and row["failed"] == {}
        assert row["milliseconds"] > 0
    assert f"| register | {sparse['methods']['register']['recall']:.3f} |" in text
    assert text.count("### ") == 3 and "median milliseconds" in text


def curves(robustness: ModuleType, method: str, recalls: tuple[float, ...], **other: Any) -> dict[str, Any]:
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
                    "failed": {"Lost": 2} if recall == 0.5 else {},
                    "distances": [],
                }
            },
        }
        for value, recall in zip(robustness.AXES["noise"].values, recalls, strict=False)
    ]
    return {"pairs": 4, "seed": 0, "axes": {"noise": points}, **other}


@pytest.mark.parametrize("suffix", [pytest.param(s, marks=needs_matplotlib) for s in ("svg", "png")])
def test_redrawing_measures_nothing_and_puts_runs_together(
    robustness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    monkeypatch.setattr(robustness, "measure", None)
    ours, peers = tmp_path / "ours.json", tmp_path / "peers.json"
    ours.write_text(json.dumps(curves(robustness, "register", (1.0, 0.75, 0.5))))
    peers.write_text(json.dumps(curves(robustness, "kiss", (0.25,))))
    pictures = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for picture in pictures:
        assert robustness.main(["--from", str(ours), str(peers), "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "| register | 1.000 | 0.750 | 0.500 | 2 Lost |" in text and "| kiss | 0.250 | - | - | 0 |" in text
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert pictures[0].read_bytes()[:8] in (b"\x89PNG\r\n\x1a\n", b"<?xml ve")


def test_runs_over_other_pairs_are_not_put_together(robustness: ModuleType) -> None:
    results = [curves(robustness, "register", (1.0,), seed=seed) for seed in (0, 1)]
    with pytest.raises(InvalidInput, match="different"):
        robustness.merged(results)


def test_bad_options_are_one_line(
    robustness: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "not.json").write_text("{")
    (tmp_path / "other.json").write_text("[]")
    for options, told in (
        (["--axes", "colour"], "colour"),
        (["--pairs", "0"], "--pairs"),
        (["--methods", "magic"], "unknown method `magic`"),
        (["--json", str(tmp_path / "no" / "out.json")], "no folder"),
        (["--picture", str(tmp_path / "out.gif")], ".svg"),
        (["--from", str(tmp_path / "absent.json")], "no such file"),
        (["--from", str(tmp_path / "not.json")], "not JSON"),
        (["--from", str(tmp_path / "other.json")], "no curves"),
    ):
        assert robustness.main(options) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    # Without matplotlib a picture is refused before anything is measured; nothing else needs it.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    assert robustness.main(["--picture", str(tmp_path / "out.svg")]) == 2
    assert "pip install 'deepgmr[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "out.svg").exists()


DYING = """
import os

def serve(pipe, seed, threads):
    label, source, _ = pipe.recv()
    pipe.send((7.0, source if label == "echo" else "ValueError: no"))
    pipe.recv()
    os._exit(139)
"""


def test_a_peer_that_ends_its_process_misses_one_pair(
    robustness: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dying_peer.py").write_text(DYING)
    monkeypatch.syspath_prepend(str(tmp_path))
    peers = robustness.Peers(0, 1, serve=importlib.import_module("dying_peer").serve)
    cloud = np.eye(4)
    assert np.array_equal(peers.solve("echo", cloud, cloud), cloud)
    with pytest.raises(robustness.PeerFailed, match="crashed"):
        peers.solve("echo", cloud, cloud)
    with pytest.raises(robustness.PeerFailed, match="ValueError: no"):  # it was started again
        peers.solve("other", cloud, cloud)
    assert peers.milliseconds["echo"][0] == peers.milliseconds["other"][0] == 7.0
    peers.close()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("open3d") is None, reason="needs deepgmr[benchmark]")
def test_a_peer_answers_from_its_own_process(robustness: ModuleType) -> None:
    peers = robustness.Peers(0, 1)
    suite = robustness.make_suite(robustness.Setting(overlap=1.0, noise=0.0), 2, 0)
    suite.targets[:] = [aligned(suite, i)[0] + 0.01 for i in range(2)]
    suite.sources[:] = [target - 0.01 for target in suite.targets]  # a shift that ICP finds
    suite.transforms[:] = np.eye(4)
    suite.transforms[:, :3, 3] = 0.01
    methods, families = robustness.chosen_methods(["icp"], 0, peers)
    row = robustness.measure(suite, methods, families, peers, 0)["methods"]["icp"]
    peers.close()
    assert row["recall"] == 1.0 and max(row["distances"]) < 0.01 and list(families) == ["icp"]
    chosen = {round(float(np.median(times[-2:])), 6) for times in peers.milliseconds.values()}
    assert round(row["milliseconds"], 6) in chosen


@pytest.mark.slow
def test_the_command_line_as_it_is_documented(tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    options = ["--pairs", "1", "--methods", "identity", "--axes", "density", "--json", str(written)]
    command = [sys.executable, str(SCRIPTS / "robustness.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### ADD-S recall@.05 against target points over source points (1 pairs a point)")
    assert len(json.loads(written.read_text())["axes"]["density"]) == 5


# -- reliability.py ----------------------------------------------------------------------------------------------

CONFIDENCE = [0.05, 0.15, 0.3, None, 0.8, 0.9, 1.0]
SUCCESS = [False, False, True, False, False, True, True]


def written(path: Path, suites: dict[str, tuple[list[float | None], list[bool]]]) -> Path:
    tables = [
        {"suite": name, "methods": {"register": {"confidence": c, "success": s}}} for name, (c, s) in suites.items()
    ]
    path.write_text(json.dumps({"tables": tables, "pooled": []}))
    return path


def test_the_numbers_by_hand(reliability: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.json", {"one": (CONFIDENCE[:4], SUCCESS[:4]), "two": (CONFIDENCE[4:], SUCCESS[4:])})
    assert reliability.main([str(path)]) == 0
    text = capsys.readouterr().out
    # Bins .0, .1, .3, .8 hold one pair each, .9 holds .9 and 1.0: (.05 + .15 + .7 + .8 + 2 * .05) / 6.
    # Of the 3 x 3 pairs of a right and a wrong answer only (.3, .8) is in the wrong order.
    assert "### register: 6 pairs, ROC AUC 0.889, expected calibration error 0.300" in text
    assert "| 0.9 to 1.0 | 2 | 0.950 | 1.000 | 0.050 |" in text and "| 0.4 to 0.5 | 0 | - | - | - |" in text
    assert "| one | 3 | 1 | 0.167 | 0.333 | 1.000 | 0.300 |" in text
    assert "| two | 3 | 0 | 0.900 | 0.667 | 1.000 | 0.300 |" in text
    assert "| all together | 6 | 1 | 0.533 | 0.500 | 0.889 | 0.300 |" in text


def test_what_the_evaluation_writes_is_what_is_read(reliability: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(50, 3))
    shift = np.eye(4)
    suite = PairSuite("suite", "modelnet", [cloud] * 12, [cloud] * 12, np.tile(shift, (12, 1, 1)), ("x",) * 12, None)
    stated = rng.uniform(size=12)
    calls = iter([0.5, *stated])  # the first call only warms up

    def sure(source: np.ndarray, target: np.ndarray) -> Answer:
        confidence = next(calls)
        shift[0, 3] = float(confidence < 0.5)  # wrong by 1 where it is unsure
        return Answer(shift.copy(), confidence)

    tables = evaluate([suite], {"sure": sure})
    write_json(tmp_path / "out.json", tables)
    (found,) = reliability.read_stated([tmp_path / "out.json"], "sure")
    assert np.array_equal(found.confidence, stated) and np.array_equal(found.success, stated >= 0.5)
    summary = tables[0].summary()[1]
    assert (found.auc(), found.calibration_error()) == (summary["AUC"], summary["ECE"])
    bins = reliability.binned(found)
    assert sum(b.count for b in bins) == 12
    assert sum(b.count * abs(b.confidence - b.right) for b in bins if b.count) / 12 == pytest.approx(summary["ECE"])
    with pytest.raises(InvalidInput, match="they hold identity, sure"):
        reliability.read_stated([tmp_path / "out.json"], "register")


def test_several_files_are_told_apart_and_none_counts_twice(reliability: ModuleType, tmp_path: Path) -> None:
    paths = [written(tmp_path / name, {"same": (CONFIDENCE, SUCCESS)}) for name in ("a.json", "b.json")]
    found = reliability.read_stated(paths, "register")
    assert [suite.label for suite in found] == [f"same ({path})" for path in paths]
    assert reliability.together(found).silent == 2 and len(reliability.together(found).success) == 12
    with pytest.raises(InvalidInput, match="twice"):
        reliability.read_stated([paths[0], paths[0]], "register")
    paths[0].write_text('{"tables": [{}]}')
    with pytest.raises(InvalidFile, match=r"a\.json: holds no evaluation"):
        reliability.read_stated(paths, "register")


def test_wilson_interval(reliability: ModuleType) -> None:
    from scipy.stats import binomtest

    for right, count in ((0, 5), (3, 4), (50, 50), (17, 100)):
        peer = binomtest(right, count).proportion_ci(0.95, "wilson")
        assert reliability.wilson(right / count, count) == pytest.approx((peer.low, peer.high), abs=1e-4)


@needs_matplotlib
def test_the_diagram_shows_the_bins(reliability: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", {"one": (CONFIDENCE, SUCCESS)})
    library = reliability.matplotlib()
    seen: list[Any] = []
    save = library.figure.Figure.savefig
    monkeypatch.setattr(
        library.figure.Figure, "savefig", lambda figure, *a, **k: seen.append(figure) or save(figure, *a, **k)
    )
    assert reliability.main([str(path), "--picture", str(tmp_path / "out.svg")]) == 0
    upper, lower = seen[0].axes
    drawn = upper.containers[0].lines[0]
    assert np.allclose(drawn.get_xdata(), [0.05, 0.15, 0.3, 0.8, 0.95])
    assert np.allclose(drawn.get_ydata(), [0, 0, 1, 0, 1])
    assert [bar.get_height() for bar in lower.patches] == [1, 1, 1, 1, 2]
    assert "AUC 0.889" in seen[0].get_suptitle() and "0.300" in seen[0].get_suptitle()
    assert (tmp_path / "out.svg").read_bytes().startswith(b"<?xml")
