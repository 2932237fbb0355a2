"""Kinds of pairs from worlds: always the same, of the sizes they say, judged as their plans say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from deepgmr.datasets.pairs.kinds import KINDS, MORE_KINDS, PLACES, RECROPS, cases, judge_of
from deepgmr.datasets.worlds.planned import any_pose
from deepgmr.errors import InvalidConfig


@pytest.mark.parametrize("kind", PLACES)
def test_the_judge_takes_the_truth_and_nothing_far_from_it(kind: str) -> None:
    plan, points = PLACES[kind].plan(np.random.default_rng([1, *kind.encode()]))
    low, high = PLACES[kind].points
    assert low <= points <= high
    source = torch.from_numpy(plan.clouds(400)[0])
    judge, truth = judge_of(plan, source), plan.target_from_source
    assert judge(truth)
    assert plan.ambiguous == (kind == "shelves")
    nudge = np.eye(4)
    nudge[:3, 3] = 0.5 * (0.02 if plan.shape is not None else plan.metres) / np.sqrt(3)
    assert judge(nudge @ truth)
    nudge[:3, 3] = 0.5 if plan.shape is not None else 1.5 * plan.metres
    assert not judge(nudge @ truth)
    if plan.shape is None:
        centre = np.eye(4)
        centre[:3, 3] = source.numpy().mean(axis=0)
        turn = any_pose(np.random.default_rng(0), 0.0)
        assert not judge(truth @ centre @ turn @ np.linalg.inv(centre))


@pytest.mark.parametrize("kind", ["view", "part", "shot", "piece", "drive 16", *RECROPS])
def test_cases_follow_from_the_seed_and_the_name(kind: str) -> None:
    first, again, other = (list(cases(2, seed, kinds=(kind,))) for seed in (3, 3, 4))
    assert [case.kind for case in first] == [kind, kind]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.source, b.source) and torch.equal(a.target, b.target)
    assert first[0].source.shape != other[0].source.shape or not torch.equal(first[0].source, other[0].source)


def test_recrops_are_sparse_and_share_no_point() -> None:
    for kind, count in (("recrop70", 358), ("recrop50", 256)):
        for case in cases(3, 0, kinds=(kind,)):
            assert len(case.source) == len(case.target) == count
            assert cKDTree(case.source.numpy()).query(case.target.numpy())[0].min() > 0


def test_kinds_are_named() -> None:
    assert not set(KINDS) & set(MORE_KINDS)
    with pytest.raises(InvalidConfig, match="fragments low"):
        next(cases(1, 0, kinds=("castle",)))
