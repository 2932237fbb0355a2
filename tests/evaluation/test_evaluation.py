"""The table: its numbers by hand, its failures counted, its JSON complete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from deepgmr.datasets.suites.fixed import PairSuite, write_suite
from deepgmr.errors import InvalidCheckpoint, InvalidCloud, InvalidConfig, InvalidFile
from deepgmr.evaluation import METHODS, Answer, Sizes, evaluate, make_methods, pooled, to_text, write_json
from deepgmr.mixture import GaussianMixture


@pytest.fixture
def suite() -> PairSuite:
    """Six exact pairs of one lopsided cloud under known motions."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(60, 3)) * [1.0, 0.6, 0.3]
    transforms = np.tile(np.eye(4), (6, 1, 1))
    transforms[:, :3, :3] = Rotation.random(6, rng=rng).as_matrix()
    transforms[:, :3, 3] = rng.normal(size=(6, 3))
    return PairSuite(
        name="exact",
        kind="modelnet",
        sources=[cloud] * 6,
        targets=[cloud @ m[:3, :3].T + m[:3, 3] for m in transforms],
        transforms=transforms,
        names=("bunny_0", "bunny_1", "3dmatch_0", "kitti_0", "bunny_2", "bunny_3"),
        shapes=[cloud] * 6,
        axisymmetric=np.array([True, False, False, False, False, False]),
        unseen=np.array([True, True, False, False, False, False]),
    )


class Oracle:
    """Knows the truth; turns it by `degrees` on the rows it is told to spoil."""

    def __init__(self, suite: PairSuite, spoil: tuple[int, ...] = (), degrees: float = 180.0) -> None:
        self.suite, self.spoil, self.degrees = suite, spoil, degrees

    def __call__(self, source: np.ndarray, target: np.ndarray) -> Answer:
        row = next(i for i, cloud in enumerate(self.suite.targets) if cloud is target)
        matrix = self.suite.transforms[row].copy()
        if row in self.spoil:
            matrix[:3, :3] = matrix[:3, :3] @ Rotation.from_euler("z", self.degrees, degrees=True).as_matrix()
        return Answer(matrix, 0.2 if row in self.spoil else 0.9)


def test_a_perfect_method_is_perfect(suite: PairSuite) -> None:
    (table,) = evaluate([suite], {"oracle": Oracle(suite)})
    identity, perfect = table.summary()
    assert identity["method"] == "identity" and perfect["method"] == "oracle"
    assert perfect["recall@.05"] == perfect["recall@.2"] == perfect["asym@.05"] == perfect["ADD-S@.05"] == 1.0
    assert perfect["mean distance"] < 1e-9 and perfect["rotation (deg)"] < 1e-5 and perfect["failed"] == "0"
    assert perfect["ECE"] == pytest.approx(0.1) and perfect["AUC"] is None  # no wrong answer to tell apart
    assert identity["ADD-S@.05"] < 1.0 and identity["ECE"] is None


def test_errors_are_measured_by_hand(suite: PairSuite) -> None:
    (table,) = evaluate([suite], {"oracle": Oracle(suite, spoil=(0, 3), degrees=10.0)})
    row = table.summary()[1]
    assert row["rotation (deg)"] == pytest.approx(20 / 6, abs=1e-6) and row["median (deg)"] < 1e-5
    cloud = suite.sources[0]
    moved = cloud @ Rotation.from_euler("z", 10, degrees=True).as_matrix().T
    distance = np.linalg.norm(moved - cloud, axis=1).mean()
    assert row["mean distance"] == pytest.approx(2 * distance / 6)
    assert distance > 0.05
    assert row["recall@.05"] == pytest.approx(4 / 6) and row["recall@.2"] == 1.0
    assert row["asym@.05"] == pytest.approx(4 / 5)  # row 0 is axisymmetric
    outcome = table.outcomes[1]
    nearest = np.linalg.norm(moved[:, None] - cloud[None], axis=2).min(axis=1).mean()
    assert outcome.symmetric[0] == pytest.approx(nearest)
    assert outcome.success.tolist() == [nearest < 0.05, True, True, nearest < 0.05, True, True]
    assert row["AUC"] is None or row["AUC"] == 1.0


def test_scans_are_judged_by_their_tolerances(suite: PairSuite) -> None:
    scans = replace(
        suite,
        kind="scans",
        shapes=None,
        axisymmetric=None,
        tolerance_degrees=np.array([5.0, 5, 15, 5, 5, 5]),
        tolerance_translation=np.full(6, 10.0),
    )
    (table,) = evaluate([scans], {"oracle": Oracle(scans, spoil=(0, 2, 3), degrees=10.0)})
    row = table.summary()[1]
    assert row["success"] == pytest.approx(4 / 6)
    assert (row["objects"], row["rooms"], row["lidar"]) == (0.75, 1.0, 0.0)
    assert row["AUC"] == pytest.approx((2 * 3 + 2) / 8 * 1.0, abs=0.13)
    assert "recall@.05" not in row
    shifted = {
        "shift": lambda s, t: Answer(scans.transforms[next(i for i in range(6) if scans.targets[i] is t)] + SHIFT)
    }
    (table,) = evaluate([replace(scans, tolerance_translation=np.full(6, 0.5))], shifted)
    assert table.summary()[1]["success"] == 0.0


SHIFT = np.zeros((4, 4))
SHIFT[0, 3] = 1.0


def test_failures_are_counted_by_name_and_never_dropped(suite: PairSuite) -> None:
    oracle = Oracle(suite)

    def moody(source: np.ndarray, target: np.ndarray) -> object:
        answer = oracle(source, target)
        row = next(i for i, cloud in enumerate(suite.targets) if cloud is target)
        if row == 1:
            raise InvalidCloud("no")
        if row == 2:
            raise RuntimeError("crash")
        if row == 3:
            return Answer(np.full((4, 4), np.nan), 0.9)
        if row == 4:
            return Answer(np.diag([2.0, 1, 1, 1]), 0.9)
        return answer

    (table,) = evaluate([suite], {"moody": moody})
    row, outcome = table.summary()[1], table.outcomes[1]
    assert outcome.failures == {"InvalidCloud": 1, "RuntimeError": 1, "InvalidTransform": 2}
    assert row["failed"] == "2 InvalidTransform, 1 InvalidCloud, 1 RuntimeError"
    assert row["recall@.05"] == pytest.approx(2 / 6) and row["mean distance"] < 1e-9
    assert len(outcome.errors) == 6 and outcome.errors[1] == "InvalidCloud: no"
    assert not outcome.success[1:5].any()


def test_a_method_that_always_fails_still_has_a_row(suite: PairSuite) -> None:
    def broken(source: np.ndarray, target: np.ndarray) -> object:
        raise ValueError

    (table,) = evaluate([suite], {"broken": broken})
    row = table.summary()[1]
    assert row["recall@.05"] == 0.0 and row["mean distance"] is None and row["failed"] == "6 ValueError"
    assert "6 ValueError" in table.to_text()


def test_answers_of_any_kind_are_understood(suite: PairSuite) -> None:
    from deepgmr.geometry.transform import RigidTransform

    exact = Oracle(suite)
    truth = lambda s, t: exact(s, t).target_from_source  # noqa: E731
    kinds = {
        "array": truth,
        "list": lambda s, t: truth(s, t).tolist(),
        "batch of one": lambda s, t: SimpleNamespace(target_from_source=torch.tensor(truth(s, t))[None].float()),
        "motion": lambda s, t: RigidTransform.from_matrix(torch.tensor(truth(s, t))),
    }
    (table,) = evaluate([suite], kinds)
    assert all(row["recall@.05"] == 1.0 for row in table.summary()[1:])


def test_divergences_are_reported_where_an_answer_has_mixtures(suite: PairSuite) -> None:
    oracle = Oracle(suite)
    fitted = [torch.from_numpy(cloud) for cloud in suite.sources]
    mixture = GaussianMixture(
        torch.full((4,), 0.25, dtype=torch.float64),
        fitted[0][:4],
        0.1 * torch.eye(3, dtype=torch.float64).expand(4, 3, 3),
    )

    def with_mixtures(source: np.ndarray, target: np.ndarray) -> object:
        answer = oracle(source, target)
        from deepgmr.geometry.transform import RigidTransform

        truth = RigidTransform.from_matrix(torch.tensor(answer.target_from_source))
        moved = mixture.transformed(truth)
        return SimpleNamespace(
            target_from_source=answer.target_from_source, source_mixture=mixture, target_mixture=moved
        )

    (table,) = evaluate([suite], {"mixtures": with_mixtures})
    row = table.summary()[1]
    assert abs(row["KL after"]) < 1e-6 and row["KL before"] > 0.5
    assert row["KL~error"] is None or -1 <= row["KL~error"] <= 1
    assert "KL after" not in table.summary()[0]


def test_limit_spreads_and_rows_can_be_chosen(suite: PairSuite, tmp_path: Path) -> None:
    path = tmp_path / "exact.h5"
    write_suite(path, suite)
    thin, unseen = evaluate([path, f"{path}#unseen"], ["identity"], limit=3)
    assert thin.names == ("bunny_0", "3dmatch_0", "bunny_3")
    assert unseen.suite == "exact#unseen" and unseen.names == ("bunny_0", "bunny_1")
    with pytest.raises(InvalidConfig):
        evaluate([path], ["identity"], limit=0)
    write_suite(tmp_path / "plain.h5", replace(suite, unseen=None))
    with pytest.raises(InvalidFile, match="unseen"):
        evaluate([f"{tmp_path / 'plain.h5'}#unseen"], ["identity"])


def test_text_is_markdown_and_json_is_complete(suite: PairSuite, tmp_path: Path) -> None:
    tables = evaluate([suite, suite], {"oracle": Oracle(suite, spoil=(1,))}, seed=7, max_rotation_degrees=80)
    text = to_text(tables)
    assert text.count("| identity |") == 3 and "all suites together" in text and "below 80 degrees" in text
    widths = {line.count("|") for line in tables[0].to_text().splitlines() if line.startswith("|")}
    assert len(widths) == 1
    write_json(tmp_path / "out.json", tables)
    found = json.loads((tmp_path / "out.json").read_text())
    first = found["tables"][0]
    assert first["provenance"]["seed"] == 7 and first["provenance"]["versions"]["torch"]
    assert {"threads", "date", "limit"} <= set(first["provenance"])
    oracle = first["methods"]["oracle"]
    assert len(oracle["rotation_degrees"]) == 6 and len(oracle["matrices"][0]) == 4
    assert first["methods"]["identity"]["confidence"] == [None] * 6
    assert found["pooled"][1]["pairs"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    with pytest.raises(InvalidFile):
        write_json(tmp_path / "no" / "out.json", tables)


def test_pooled_calibration_is_over_all_suites(suite: PairSuite) -> None:
    tables = evaluate([suite, suite], {"oracle": Oracle(suite, spoil=(1, 2), degrees=90.0)})
    identity, oracle = pooled(tables)
    assert identity["AUC"] is None and oracle["AUC"] == 1.0
    assert oracle["success"] == pytest.approx(4 / 6) and oracle["ECE"] == pytest.approx((4 * 0.1 + 2 * 0.2) / 6)


def test_progress_and_registry(suite: PairSuite) -> None:
    heard: list[tuple[str, float]] = []
    evaluate([suite], ["identity"], progress=lambda label, done: heard.append((label, done)))
    assert len(heard) == 6 and heard[-1] == ("exact: identity", 1.0)
    assert {"identity", "register", "network"} <= set(METHODS)
    with pytest.raises(InvalidConfig, match="unknown method `magic`"):
        make_methods(["magic"])


def test_register_is_evaluated_on_real_clouds(shared: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one small pair: two threads that share a busy machine mostly wait for each other
    try:
        (table,) = evaluate([shared / "modelnet40" / "benchmark" / "modelnet_noisy.h5"], ["register"], limit=1)
    finally:
        torch.set_num_threads(threads)
    outcome = table.outcomes[1]
    assert not any(outcome.errors) and np.isfinite(outcome.confidence).all() and all(outcome.status)


def test_methods_are_found_by_name_preset_and_path(suite: PairSuite, tmp_path: Path) -> None:
    from deepgmr.io import checkpoint
    from deepgmr.pipeline.bundle import Bundle

    replace(Bundle.load(), provenance={"copied": True}).save(tmp_path / "mine.safetensors")
    checkpoint.save(tmp_path / "overlap.safetensors", checkpoint.load("overlap"))
    specs = ["register:fast", f"register:{tmp_path}/mine.safetensors", f"{tmp_path}/mine.safetensors"]
    specs += ["deepgmr-unseen", "network:deepgmr-unseen", f"{tmp_path}/overlap.safetensors"]
    methods = make_methods(specs)
    assert list(methods) == specs
    answers = [method(suite.sources[0], suite.targets[0]) for method in methods.values() if callable(method)]
    assert len(answers) == 6
    looks = [answer.stats for answer in answers[:3]]
    assert looks[0].looks == 1 and looks[1].bundle == looks[2].bundle != looks[0].bundle
    assert np.array_equal(answers[3].motion.matrix, answers[4].motion.matrix)
    for spec in ("register:magic", "network:magic"):
        with pytest.raises(InvalidCheckpoint, match="magic"):
            make_methods([spec])


def test_the_best_size_of_each_group_is_told(suite: PairSuite) -> None:
    sizes = Sizes({"peer:1": Oracle(suite, spoil=(0, 1, 4)), "peer:2": Oracle(suite, spoil=(2, 3))})
    (table,) = evaluate([suite], {"ours": Oracle(suite), "peer": sizes})
    assert [outcome.method for outcome in table.outcomes] == ["identity", "ours", "peer"]
    # Objects (rows 0, 1, 4, 5) go with size 2, the room and the LiDAR pair with size 1.
    assert table.outcomes[2].distance.max() < 1e-9
    assert "peer: best of 2 sizes for lidar 1, objects 2, rooms 1" in table.to_text()
    assert len(table.outcomes[2].errors) == 6


def test_wrong_and_sure_is_over_all_answers(suite: PairSuite) -> None:
    oracle = Oracle(suite, spoil=(1, 2))

    def bold(source: np.ndarray, target: np.ndarray) -> Answer:
        row = next(i for i, cloud in enumerate(suite.targets) if cloud is target)
        if row == 5:
            raise ValueError
        return Answer(oracle(source, target).target_from_source, {1: 0.95, 2: 0.9}.get(row, 0.99))

    (table,) = evaluate([suite], {"bold": bold})
    assert table.summary()[0]["wrong and sure"] is None
    assert table.summary()[1]["wrong and sure"] == pytest.approx(1 / 5)  # .9 is not above .9
    assert pooled([table, table])[1]["wrong and sure"] == pytest.approx(1 / 5)
    assert "wrong and sure" in table.to_text()


def test_fragments_are_judged_as_3dmatch_judges_them(suite: PairSuite) -> None:
    """A pair turned by 10 degrees about an axis through its centre: by the root mean square distance of what meets."""
    from deepgmr.datasets.suites.fixed import PairSuite as Suite

    cloud = suite.sources[0] / 2
    rows = np.array([np.hstack([np.eye(3), -2 * np.cross(np.eye(3), point)]) for point in cloud])
    information = np.einsum("nij,nik->jk", rows, rows)
    targets = [cloud @ m[:3, :3].T + m[:3, 3] for m in suite.transforms]
    scenes = ("kitchen",) * 4 + ("hotel",) * 2
    fragments = Suite(
        "3DMatch",
        "fragments",
        [cloud] * 6,
        targets,
        suite.transforms,
        suite.names,
        scenes=scenes,
        information=np.tile(information, (6, 1, 1)),
    )
    (table,) = evaluate([fragments], {"oracle": Oracle(fragments, spoil=(1, 4), degrees=10.0)})
    found = table.outcomes[1].information
    moved = cloud @ Rotation.from_euler("z", 10, degrees=True).as_matrix().T
    distance = np.sqrt(np.square(moved - cloud).sum(1).mean())
    assert found[[0, 2, 3, 5]] == pytest.approx(0, abs=1e-6) and found[[1, 4]] == pytest.approx(distance, rel=1e-2)
    row = table.summary()[1]
    assert row["recall"] == 1.0 and distance < 0.2
    (table,) = evaluate([fragments], {"oracle": Oracle(fragments, spoil=(1, 4))})
    row = table.summary()[1]
    assert (row["kitchen"], row["hotel"], row["recall"]) == (0.75, 0.5, 0.625)


@pytest.mark.parametrize("benchmark", ["3DMatch", "3DLoMatch"])
def test_3dmatch_is_evaluated_by_name(shared: Path, benchmark: str) -> None:
    if not (shared / "3dmatch").is_dir():
        pytest.skip("no 3dmatch")
    (table,) = evaluate([f"{shared}/3dmatch#{benchmark}"], ["identity"], limit=3)
    assert table.suite == benchmark and len(table.names) == 3 and table.summary()[0]["recall"] is not None
