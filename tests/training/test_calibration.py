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
from deepgmr.training import calibration
from deepgmr.training.calibration import Outcome

GOOD = Evidence(0.4, 6.0, 0.999, 6.0, 0.9, 0.8, -1.6, -1.5, -0.6, -200.0, 0.1)


def test_confidence_keeps_its_word_on_fresh_pairs() -> None:
    """A few pairs of every kind, drawn with a seed that nothing was fitted to."""
    registrar = Registrar.load()
    rows = [calibration.outcome(registrar, case) for case in cases(4, seed=77)]
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

    wanted = np.array([2.0, -1.0, 0.5, 0.0, 1.0])
    assert len(wanted) == len(RANKED)
    rows = []
    for _ in range(4000):
        terms = rng.normal(size=(rng.integers(2, 7), 5))
        odds = np.exp(terms @ wanted)
        right = rng.choice(len(terms), p=odds / odds.sum())
        rights = np.arange(len(terms)) == right
        rows.append(Outcome("made", GOOD, bool(rights[0]), terms, rights))
    np.testing.assert_allclose(calibration.fit_ranking(rows), wanted, atol=0.12)


def test_a_pair_is_judged_by_the_candidates_that_were_ranked() -> None:
    registrar = Registrar.load()
    (case,) = cases(1, seed=5, kinds=["crop50"])
    row = calibration.outcome(registrar, case)
    answer = registrar.register(case.source, case.target)
    assert len(row.terms) == len(row.rights) == answer.stats.hypotheses
    assert row.evidence == answer.evidence


@pytest.mark.slow
def test_a_bundle_comes_out_whole_and_says_how_good_it_is(tmp_path: Path) -> None:
    before = Bundle.load()
    heard: list[float] = []
    kinds = ["crop70 resampled", "crop50 resampled", "unrelated"]
    made = calibration.calibrate(
        before, pairs=6, seed=3, rounds=2, kinds=kinds, progress=lambda _, done: heard.append(done)
    )
    assert heard == sorted(heard) and len(heard) == 36 and 0 <= heard[0] <= heard[-1] < 1
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
    with pytest.raises(InvalidConfig, match="unknown kind of pair `halls`"):
        next(cases(1, 0, kinds=["halls"]))
    with pytest.raises(InvalidConfig, match="give more pairs"):
        calibration.fit_ranking([])
