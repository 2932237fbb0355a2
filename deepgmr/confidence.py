"""How far to trust an answer: one calibrated probability, and one word with its remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

_TIED = 0.95  # a rival with this share of the winner's score explains the clouds as well
_FREE = 0.004  # observability below which the clouds can slide or turn on one another ...
_NEARLY_FREE = 0.03  # ... and below which they can if, besides, a rival explains them as well
_LOW_OVERLAP = 0.12
_TRUSTED = 0.5


class Status(str, Enum):
    """What became of a registration. The value is the word for machines, `sentence` is for people."""

    sentence: str

    OK = "ok", "the clouds are registered"
    AMBIGUOUS = (
        "ambiguous",
        "other motions explain the clouds as well (see the alternatives): the shape repeats or is symmetric; "
        "give an initial motion or a largest rotation",
    )
    DEGENERATE = (
        "degenerate",
        "the shared geometry leaves some motion free (a line, a plane, a sphere, a surface of revolution); "
        "give clouds that also hold edges or corners",
    )
    LOW_OVERLAP = (
        "low_overlap",
        "hardly any of the clouds was seen in both; give scans that share more, or an initial motion",
    )
    UNCERTAIN = (
        "uncertain",
        "no motion explains the clouds well enough to be trusted; give cleaner or more overlapping clouds, "
        "or an initial motion",
    )

    def __new__(cls, value: str, sentence: str) -> Status:
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against an answer; every number is free of units."""

    score: float  # of the winner, in [0, 1]
    rival: float  # the score of the best different motion, in [0, 1]
    source_overlap: float
    target_overlap: float
    observability: float  # least over largest eigenvalue of the information of the matched points

    @property
    def tied(self) -> bool:
        """Whether the rival explains the clouds as well as the winner."""
        return self.rival > _TIED * self.score


# Logistic regression on 780 procedural pairs: `python scripts/calibrate.py --pairs 60` fits and prints these numbers.
_INTERCEPT = 2.170
_COEFFICIENTS = {"score": 4.701, "rivalry": -3.905, "overlap": 1.172, "log_observability": 0.636}


def features(evidence: Evidence) -> dict[str, float]:
    """The regressors of the confidence, by name."""
    return {
        "score": evidence.score,
        "rivalry": min(evidence.rival / max(evidence.score, 1e-6), 1.0),
        "overlap": min(evidence.source_overlap, evidence.target_overlap),
        "log_observability": math.log10(max(evidence.observability, 1e-6)),
    }


def confidence(evidence: Evidence) -> float:
    """The probability in (0, 1) that the answer is right, up to the symmetry of the shape."""
    values = features(evidence)
    logit = _INTERCEPT + sum(weight * values[name] for name, weight in _COEFFICIENTS.items())
    return 1 / (1 + math.exp(-max(min(logit, 30.0), -30.0)))


def judge(evidence: Evidence) -> tuple[Status, float]:
    """The status of an answer and its confidence. Only `Status.OK` is an answer to act on."""
    probability = confidence(evidence)
    if evidence.observability < (_NEARLY_FREE if evidence.tied else _FREE):
        return Status.DEGENERATE, min(probability, _TRUSTED / 2)
    if evidence.tied and confidence(replace(evidence, rival=0.0)) >= _TRUSTED:
        return Status.AMBIGUOUS, probability / 2  # the answer is one of at least two that are as good
    if probability >= _TRUSTED:
        return Status.OK, probability
    if min(evidence.source_overlap, evidence.target_overlap) < _LOW_OVERLAP:
        return Status.LOW_OVERLAP, probability
    return Status.UNCERTAIN, probability
