"""Every other study at a tiny size: its JSON goes round, its page says what the JSON says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from deepgmr.datasets.pairs.kinds import cases
from deepgmr.datasets.pairs.protocols import make_pairs
from deepgmr.datasets.suites.fixed import PairSuite, suite_of
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidConfig, InvalidFile
from deepgmr.evaluation import (
    ablation,
    busy,
    covariance,
    divergences,
    networks,
    paired,
    profile,
    read_result,
    soak,
    solvers,
    throughput,
    trainings,
    worlds,
    write_result,
)
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.geometry.transform import RigidTransform
from deepgmr.io import checkpoint
from deepgmr.pipeline.registrar import Registrar


@pytest.fixture
def suite(generator: torch.Generator) -> PairSuite:
    shapes, _ = sample_shapes(2, 1024, generator=generator)
    return suite_of(make_pairs(shapes, "noisy", generator=generator), "tiny", parents=shapes)


def returned(study: ModuleType, result: Result, folder: Path) -> str:
    """The page of a result that was written and read again."""
    write_result(folder / "out.json", result)
    again = read_result(folder / "out.json", study.STUDY)
    assert again == json.loads(json.dumps(result))
    text = study.markdown(again)
    assert text == study.markdown(result)
    return text


def test_throughput_accounts_for_all_of_the_time_and_tells_what_differs(tmp_path: Path) -> None:
    result = throughput.measure(pairs=2, points=150, repeats=1, shared=1)
    text = returned(throughput, result, tmp_path)
    loop, together = result["ways"]
    assert loop["beside the loop"] == 1 and together["beside the loop"] > 0
    assert together["other status"] == 0 and together["motion"] < 1e-3 and together["confidence"] < 0.01
    assert sum(row["share"] for row in result["steps"]) == pytest.approx(1)
    idle = [row["step"] for row in result["steps"] if row["ms a pair"] <= 0]
    assert idle == ["generalised ICP"], "of which objects ask none"
    assert result["steps"][0]["asked a pair"] == 1
    assert "| together, on cpu |" in text and "| generalised ICP |" in text


def test_the_profile_accounts_for_all_of_the_time(suite: PairSuite, tmp_path: Path) -> None:
    result = profile.measure([suite], pairs=2)
    column = result["suites"]["tiny"]
    steps = {name: value for name, value in column.items() if name not in ("other", "all")}
    assert sum(steps.values()) + column["other"] == pytest.approx(column["all"])
    assert min(steps.values()) >= 0 and {"scan", "network", "refinement", "ranking", "polish"} <= set(steps)
    assert 0 < column["other"] < 0.5 * column["all"]
    text = returned(profile, result, tmp_path)
    assert text.splitlines()[0] == "| step | tiny |" and text.splitlines()[-1].startswith("| all |")


def test_the_covariance_is_held_against_errors_that_are_known(tmp_path: Path) -> None:
    answers = [
        covariance.Found(2.0, False, False),
        covariance.Found(12.0, True, False),
        covariance.Found(13.0, False, False),
    ]
    rows = covariance.summary("kind", [*answers, covariance.Found(500.0, False, True), None])
    assert rows == {"kind": "kind", "pairs": 5, "right": 4} | {
        "mean": 9.0,
        "median": 12.0,
        "within 95 %": pytest.approx(2 / 3),
        "free": pytest.approx(1 / 4),
        "elsewhere": pytest.approx(1 / 4),
    }
    assert covariance.summary("none", [None]) == {"kind": "none", "pairs": 1, "right": 0}
    result = covariance.measure(pairs=2, kinds=("resampled",))
    row = result["kinds"][0]
    assert row["right"] == 2 and 0 < row["median"] < 100
    assert covariance.merged([result, result])["kinds"] == [row, row]
    assert "| resampled | 2 | 2 |" in returned(covariance, result, tmp_path)


def test_to_slide_along_a_surface_is_not_to_be_elsewhere() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3)) * [1, 1, 0]
    along, across = np.eye(4), np.eye(4)
    along[0, 3] = across[2, 3] = 0.1
    assert not covariance.elsewhere(points, along, np.eye(4)) and covariance.elsewhere(points, across, np.eye(4))
    assert not covariance.elsewhere(points, across, across)


def test_the_errors_are_those_of_the_covariance_that_is_stated() -> None:
    """An answer off by two standard deviations along one axis is four off in the square, wherever that axis is."""
    case = next(covariance.cases(1, 3, kinds=("resampled",)))
    answer = Registrar.load().register(case.source.numpy(), case.target.numpy())
    assert answer.precision is not None
    values, vectors = np.linalg.eigh(answer.precision.covariance)
    for value, vector in zip(values, vectors.T, strict=True):
        centre = np.eye(4)
        centre[:3, 3] = answer.precision.centre
        twist = torch.from_numpy(2 * np.sqrt(value) * vector)
        nudge = RigidTransform.exp(twist).matrix.numpy()
        truth = centre @ nudge @ np.linalg.inv(centre) @ answer.target_from_source
        assert covariance.mahalanobis(answer, truth) == pytest.approx(4.0, rel=1e-4)


def test_variants_leave_out_what_they_say() -> None:
    variants = ablation.variants(Registrar.load())
    whole, alone, search = (variants[name].settings.search.looks for name in ("all", "network only", "search only"))
    assert alone == whole[:1] and len(search) == len(whole)
    assert not any(look.learned for look in search) and all(look.described for look in search)
    assert len({id(registrar) for registrar in variants.values()}) == len(variants)
    (case,) = cases(1, 7, kinds=["crop50 resampled"])  # of which more than one pose is found
    margins = {
        name: registrar.register(case.source, case.target).evidence.margin for name, registrar in variants.items()
    }
    assert margins["all, ranked by inliers"] != margins["all"] != margins["all, ranked by the divergence alone"]


def test_the_ablation_has_a_row_a_variant(tmp_path: Path) -> None:
    result = ablation.parts(pairs=1, kinds=("crop70", "tabletop"))
    rows = {row["variant"]: row for row in result["rows"]}
    assert list(rows) == list(ablation.variants(Registrar.load()))
    assert rows["all"]["mean"] == (rows["all"]["crop70"] + rows["all"]["tabletop"]) / 2
    assert all(0 <= row["wrong and sure"] <= 1 and row["ms"] > 0 for row in rows.values())
    assert "| all, ranked by inliers |" in returned(ablation, result, tmp_path)


def test_the_curve_is_in_the_order_of_training(tmp_path: Path) -> None:
    network = checkpoint.load("overlap")
    for name, pairs in (("late", 2000), ("early", 1000)):
        checkpoint.save(tmp_path / f"{name}.safetensors", network, provenance={"pairs": pairs})
    files = [tmp_path / "late.safetensors", tmp_path / "early.safetensors"]
    result = ablation.curve(files, pairs=1, kinds=("resampled",))
    assert [row["variant"] for row in result["rows"]] == ["1,000 pairs", "2,000 pairs"]
    with pytest.raises(InvalidConfig, match="not an overlap network"):
        ablation.network_of("deepgmr")


def test_stray_points_lie_where_they_should() -> None:
    cloud = np.random.default_rng(0).normal(size=(1000, 3)) + 5
    stray = busy.with_stray_points(cloud, 20, 1000.0, seed=1)
    assert np.array_equal(stray[:1000], cloud) and len(stray) == 1020
    size = 2 * np.sqrt(np.square(cloud - cloud.mean(0)).sum(1).mean())
    assert np.linalg.norm(stray[1000:] - cloud.mean(0), axis=1) == pytest.approx(1000 * size)
    source, target = busy.procedural_pair(2000)
    assert source.shape == target.shape == (2000, 3)
    larger = busy.disturbances()["target 25.4 times too large"]((source, target))
    assert np.array_equal(larger[0], source) and np.allclose(larger[1], 25.4 * target)


def test_a_disturbed_pair_is_held_against_the_pair_as_it_is(tmp_path: Path) -> None:
    result = busy.measure(pairs=1, loops=(), processes=0, points=1500, repeats=1)
    (quiet,) = result["machine"]
    assert quiet["ratio"] == 1.0 and quiet["ms"] > 0
    rows = {row["disturbed by"]: row for row in result["clouds"]}
    assert len(rows) == 1 + len(busy.STRAY) + 2 * len(busy.UNITS) and rows["nothing"]["ratio"] == 1.0
    assert rows["20 points 1000 sizes away"]["confidence"] == pytest.approx(rows["nothing"]["confidence"], abs=0.1)
    assert "### Disturbed clouds, 1,500 points a side" in returned(busy, result, tmp_path)


@pytest.mark.slow
def test_a_busy_machine_is_slower(tmp_path: Path) -> None:
    rows = {row["beside"]: row for row in busy.on_a_busy_machine(2, (1,), 1)}
    assert set(rows) == {"quiet", "1 busy loop", "1 processes"} and all(row["ms"] > 0 for row in rows.values())


def test_the_plain_network_gives_the_same_numbers(suite: PairSuite, tmp_path: Path) -> None:
    result = networks.measure(weights="deepgmr-unseen", suite=suite, training=False, repeats=1, batch=2)
    ours, paper = result["forward"]
    assert ours["responsibilities apart"] < 1e-2 and paper["responsibilities apart"] < 1e-2 and ours["ratio"] > 1
    assert [row["noise"] for row in result["solvers"]] == list(networks.NOISE)
    assert all(row["cost ratio (median)"] >= 1 - 1e-9 for row in result["solvers"])  # ours minimises it
    assert "| `deepgmr-unseen` |" in returned(networks, result, tmp_path)
    with pytest.raises(InvalidConfig, match="not a DeepGMR network"):
        networks.network_of("overlap")


@pytest.mark.slow
def test_training_steps_are_compared(tmp_path: Path) -> None:
    rows = networks.compare_training(torch.device("cpu"), plain_batch=1)
    assert len(rows) == 3 and rows[-1]["ratio to plain"] == 1.0


def test_divergences_at_toy_size(tmp_path: Path) -> None:
    result = divergences.measure(parts=("accuracy",), sizes=replace(divergences.TOY, accuracy=(2, 1000)))
    found = result["accuracy"]
    assert set(found["estimators"]) == set(divergences.ESTIMATORS) and len(found["truth"]) == 8
    assert found["estimators"]["kl_unscented"]["percent"]["random, J=16, full"] < 60
    text = returned(divergences, result, tmp_path)
    assert "| kl_unscented |" in text and "over 2 pairs a column" in text


@pytest.mark.slow
def test_the_speed_of_divergences_at_toy_size(tmp_path: Path) -> None:
    result = divergences.measure(parts=("speed", "unscented"), sizes=divergences.TOY)
    assert len(result["speed"]) == 7 and "pairwise component KL" in returned(divergences, result, tmp_path)


@pytest.mark.slow
def test_short_trainings_are_scored(suite: PairSuite, shared: Path, tmp_path: Path) -> None:
    result = trainings.deepgmr(shared / "modelnet40", suite, steps=2, only="J = 8")
    (row,) = result["rows"]
    assert row["training"] == "J = 8" and row["parameters"] > 0 and 0 <= row["recall@.2"] <= 1
    assert "| J = 8 |" in returned(trainings, result, tmp_path)
    with pytest.raises(InvalidConfig, match="no training has"):
        trainings.deepgmr(shared / "modelnet40", suite, steps=2, only="magic")


def test_trainings_change_one_thing_each() -> None:
    rows = trainings.overlap_rows(100)
    assert len({row.name for row in rows.values()}) == 5 and all(row.optimiser.steps == 100 for row in rows.values())
    assert not rows["no cross-attention"].network.cross and rows["one patch scale"].network.scales == 1
    assert rows["with KL"].losses == {"matching": 1.0, "kl": 0.02}
    assert all(row.network == rows["whole"].network for name, row in rows.items() if row.losses != rows["whole"].losses)
    on = trainings.overlap_rows(100, start="overlap")
    assert on.keys() == rows.keys() - {"no cross-attention", "one patch scale"}  # those fit no weights there are
    assert {row.start for row in on.values()} == {"overlap"} and {row.start for row in rows.values()} == {""}


def test_a_result_is_read_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_result(path, {"study": "busy"})
    with pytest.raises(InvalidFile, match="is of the study `busy`"):
        read_result(path, "profile")
    for text, told in (("{", "not JSON"), ("[]", "holds no study"), ("", "empty")):
        path.write_text(text)
        with pytest.raises(InvalidFile, match=told):
            read_result(path, "profile")


def test_tables_show_what_is_known() -> None:
    text = as_table([{"a": "x", "n": 1200, "b": 0.25, "c": None}, {"a": "y", "b": float("nan")}], {"b": ".1f"})
    assert text.splitlines() == ["| a | n | b |", "| --- | ---: | ---: |", "| x | 1,200 | 0.2 |", "| y | - | - |"]


def test_the_solver_beside_its_peers(tmp_path: Path) -> None:
    result = solvers.measure(problems=8, components=4, rounds=1)
    rows = {(row["method"], row["type"]): row for row in result["rows"]}
    ours = rows["`weighted_procrustes`", "float64"]
    assert ours["exact"] < 1e-5 < ours["noisy"] and ours["finite"] == 1.0 and ours["backward"] > 0
    assert rows[solvers.LOOP, "float64"]["noisy"] == pytest.approx(ours["noisy"], abs=1e-6)
    text = returned(solvers, result, tmp_path)
    assert "| `weighted_procrustes` |" in text and "| finite, float32 |" in text


def test_worlds_are_drawn_and_timed(tmp_path: Path) -> None:
    result = worlds.measure(points=[500, 2_000], worlds=["halls"])
    (row,) = result["rows"]
    assert list(row) == ["world", "500", "2k"] and min(row["500"], row["2k"]) >= 0
    assert "| halls |" in returned(worlds, result, tmp_path)


def test_the_command_is_told_without_the_folders_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["/usr/bin/deepgmr", "evaluate", "/data/a b/x.h5#recrop70", "ModelNet40/#noisy", "../scans/"]
    for first, told in ((typed[0], "deepgmr"), ("scripts/busy.py", "python scripts/busy.py")):
        monkeypatch.setattr("sys.argv", [first, *typed[1:]])
        assert provenance()["command"] == f"{told} evaluate 'x.h5#recrop70' 'ModelNet40/#noisy' scans"
    monkeypatch.setattr("sys.argv", ["/lib/deepgmr/__main__.py", "doctor"])
    assert provenance(pairs=3)["command"] == "python -m deepgmr doctor" and provenance(pairs=3)["pairs"] == 3


def test_the_soak_counts_every_registration_and_what_is_raised(tmp_path: Path, monkeypatch: Any) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(soak, "KEPT", 3)
    monkeypatch.setattr(soak, "SHARES", (0.7, 0.3))
    found, calls = Registrar.register, []

    def register(self: Registrar, *pair: Any, **options: Any) -> Any:
        calls.append(options)
        if len(calls) == 2:
            raise ValueError("on purpose")
        return found(self, *pair, **options)

    monkeypatch.setattr(Registrar, "register", register)
    result = soak.measure(7, watch=Watch(kept.append), sizes=(60, 300), seed=3)
    assert [each["provenance"]["registrations"] for each in kept] == [3, 6]
    assert sum(result["statuses"].values()) == len(calls) == 7 and result["errors"] == ["ValueError: on purpose"]
    assert sum(row["registrations"] for row in result["processor"].values()) == 7
    assert len(result["resident"]["course"]) == 8 and result["resident"]["most"] > 50
    assert "raised" in returned(soak, result, tmp_path)
    assert soak.growth([0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) == (1.0, 8.0)


def test_pairs_that_only_one_of_two_got_right_are_counted_and_weighed_as_mcnemar_does(tmp_path: Path) -> None:
    result = paired.measure(pairs=2, kinds=("crop70", "recrop50"))
    assert [row["kind"] for row in result["rows"]] == ["crop70", "recrop50", "all"] and "recrop50" in returned(
        paired, result, tmp_path
    )
    for row in result["rows"]:
        assert row["won"] - row["lost"] == round(row["pairs"] * (row["with"] - row["without"]))
        assert row["won"] + row["lost"] <= row["pairs"]
    told = paired._row("made up", [((True, 1.0), (False, 2.0))] * 9 + [((False, 1.0), (True, 2.0))])
    tail = sum(math.comb(10, k) for k in (0, 1)) / 2**10
    assert (told["won"], told["lost"]) == (9, 1) and told["p"] == pytest.approx(2 * tail)


def test_without_the_network_no_look_asks_it_and_no_ranking_listens() -> None:
    bare = paired.without_network(Registrar.load())
    assert not any(look.learned for look in (*bare.settings.search.looks, *bare.settings.search.detailed))
    for ranking in (bare.bundle.ranking, bare.bundle.detailed_ranking):
        assert ranking.weights["matched"] == 0 < ranking.weights["score"]
