"""Calibration: the fits find what made the data, the confidence keeps its word, a bundle comes out whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deepgmr import metrics
from deepgmr.datasets.pairs.kinds import KINDS, cases
from deepgmr.errors import InvalidConfig
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.judge import Evidence
from deepgmr.pipeline.rank import RANKED
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.trace import Trace
from deepgmr.training import calibration
from deepgmr.training.calibration import Ranked

GOOD = Evidence(0.4, 6.0, 0.999, 6.0, 0.9, 0.8, -1.6, -1.5, -0.6, 0.05, -0.8, -200.0, 0.1)


def test_confidence_keeps_its_word_on_fresh_pairs() -> None:
    """A few pairs of every kind, drawn with a seed that nothing was fitted to."""
    registrar = Registrar.load()
    rows = [calibration.outcome(registrar, case, np.random.default_rng(0)) for case in cases(4, seed=77)]
    probability, judge = registrar.bundle.confidence.probability, registrar.settings.judge
    stated = torch.tensor([probability(row.evidence, judge) for row in rows], dtype=torch.float64)
    right = torch.tensor([row.right for row in rows])
    assert {row.kind for row in rows} == set(KINDS)
    # Three standard deviations of the number of right answers that these confidences promise.
    spread = 3 * float((stated * (1 - stated)).sum().sqrt())
    assert abs(float(stated.sum()) - int(right.sum())) < max(spread, 1.5)
    assert float(metrics.roc_auc(stated, right)) > 0.85
    assert max(value for value, row in zip(stated, rows, strict=True) if row.kind == "unrelated") < 0.5


def test_the_fits_recover_the_models_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(20_000, 2)) * [1.0, 3.0] + [0.0, 1.0], np.array([0.5, 1.5, -0.4])
    y = (rng.uniform(size=len(x)) < 1 / (1 + np.exp(-(weights[0] + x @ weights[1:])))).astype(float)
    np.testing.assert_allclose(calibration.fit_logistic(x, y), weights, atol=0.08)

    wanted = np.array([2.0, -1.0, -0.5, 0.0, 1.0, -1.5, 0.8, 1.2, 0.0, 0.6])
    assert len(wanted) == len(RANKED) and (wanted * list(RANKED.values()) >= 0).all()
    rows = []
    for _ in range(4000):
        terms = rng.normal(size=(rng.integers(2, 7), len(RANKED)))
        odds = np.exp(terms @ wanted)
        right = rng.choice(len(terms), p=odds / odds.sum())
        rows.append(Ranked(terms, np.arange(len(terms)) == right))
    np.testing.assert_allclose(calibration.fit_ranking(rows), wanted, atol=0.12)
    against = [Ranked(-row.terms, row.rights) for row in rows]  # evidence that speaks the wrong way says nothing
    np.testing.assert_array_equal(calibration.fit_ranking(against), np.zeros(len(RANKED)))


def test_a_pair_is_judged_by_the_candidates_that_were_ranked_where_it_was_decided() -> None:
    registrar = Registrar.load()
    for kind in ("crop50", "floor"):
        (case,) = cases(1, seed=5, kinds=[kind])
        trace = Trace()
        answer = registrar.register(case.source, case.target, trace=trace)
        row = calibration.outcome(registrar, case, np.random.default_rng(0))
        assert (
            row.evidence == answer.evidence and row.kind == kind and row.right == case.judge(answer.target_from_source)
        )
        assert trace.search is not None
        search, ranked = trace.search, row.ranked
        assert ranked is not None and search.detailed == row.detailed == (kind == "floor")
        terms = search.pose_terms if row.detailed else search.terms
        expected = [[terms.row(i)[name] for name in RANKED] for i in range(len(terms))]
        np.testing.assert_array_equal(ranked.terms, expected)
        assert not row.detailed or ranked.rights[0] == row.right
        assert len(row.initials) == (len(calibration.INITIALS + calibration.STUCK) if row.right else 0)
        for initial in row.initials:  # nobody sought a rival of these
            assert initial.evidence.stray >= 0 and initial.evidence.margin == np.inf and initial.ranked is None


@pytest.mark.slow
def test_processes_gather_what_one_does() -> None:
    kinds, heard = ["crop70", "unrelated"], {1: list[tuple[str, float]](), 2: list[tuple[str, float]]()}
    made = [
        calibration.calibrate(
            Bundle.load(), pairs=2, seed=4, rounds=1, kinds=kinds, workers=workers,
            progress=lambda said, done, to=told: to.append((said, done)),
        )
        for workers, told in heard.items()
    ]  # fmt: skip
    assert made[0].id == made[1].id and made[0].ranking == made[1].ranking and made[0].confidence == made[1].confidence
    assert heard[1] == heard[2] == [(f"calibrating: {kind}", (i + 1) / 2) for i, kind in enumerate(kinds)]


@pytest.mark.slow
def test_a_bundle_comes_out_whole_and_says_how_good_it_is(tmp_path: Path) -> None:
    before = Bundle.load()
    heard: list[float] = []
    kinds = ["crop70 resampled", "crop50 resampled", "unrelated"]
    made = calibration.calibrate(
        before, pairs=6, seed=3, rounds=2, kinds=kinds, progress=lambda _, done: heard.append(done)
    )
    assert heard == sorted(heard) and len(heard) == 2 * len(kinds) and 0 < heard[0] < heard[-1] == pytest.approx(1)
    path = calibration.write(tmp_path, made)
    after = Bundle.load(path)
    assert after.ranking != before.ranking and after.confidence != before.confidence
    assert after.id != before.id and after.settings == before.settings
    assert after.provenance["calibration"]["kinds"].keys() == set(kinds)
    card = path.with_suffix(".md").read_text()
    assert all(word in card for word in (*kinds, after.id, "wrong and sure"))
    (case,) = cases(1, seed=9, kinds=["clean"])
    assert Registrar(after).register(case.source, case.target).stats.bundle == after.id


def test_too_little_to_fit_is_named() -> None:
    with pytest.raises(InvalidConfig, match="at least one pair"):
        calibration.calibrate(Bundle.load(), pairs=0)
    with pytest.raises(InvalidConfig, match="worker"):
        calibration.calibrate(Bundle.load(), workers=0)
    with pytest.raises(InvalidConfig, match=r"unknown kind of pair `moon`; .*warehouse"):
        calibration.calibrate(Bundle.load(), kinds=["crop70", "moon"])
    with pytest.raises(InvalidConfig, match="unknown kind of pair `halls`"):
        next(cases(1, 0, kinds=["halls"]))
    with pytest.raises(InvalidConfig, match="give more pairs"):
        calibration.fit_ranking([])
