"""How far to trust an answer: one calibrated probability, and one word with its remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

_TIED = 1.5  # nats of plausibility within which another pose explains the clouds as well
_FREE = 0.004  # observability below which the clouds can slide or turn on one another ...
_NEARLY_FREE = 0.03  # ... and below which they can if, besides, another pose explains them as well
_LOW_OVERLAP = 0.12
_TRUSTED = 0.5
_SURE = 20.0  # nats of standing beyond which more means nothing
_WIDE = 3.0  # nats of margin beyond which more means nothing
_LEAST, _LEAST_OBSERVABILITY = 0.05, 1e-4  # keep logarithms finite


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
    """What speaks for and against an answer; every number is free of units.

    `misfit`, `looseness` and `relief` are those of `deepgmr.pipeline.search.Ranking`, `accidents` is that of
    `deepgmr.pipeline.search.accidents`, at the winner.
    """

    score: float  # of the winner, in [0, 1]
    standing: float  # log odds of the winner, and of poses that are as good as the same for the shape, against the rest
    share: float  # of the probability, in (0, 1], that is not with poses which put the shape somewhere else entirely
    margin: float  # nats by which the winner is more plausible than the best other pose, symmetries included
    source_overlap: float
    target_overlap: float
    misfit: float
    looseness: float
    relief: float
    accidents: float  # log of how many motions would bring unrelated surfaces as close by chance
    observability: float  # least over largest eigenvalue of the information of the matched points

    @property
    def tied(self) -> bool:
        """Whether another pose explains the clouds as well as the winner, be it a symmetry or a mistake."""
        return self.margin < _TIED


# Logistic regression on 1,525 procedural pairs: `python scripts/calibrate.py --pairs 100` prints about these numbers,
# which were fitted before the ceiling sent more of the unrelated pairs to a harder look.
_INTERCEPT = 0.293
_COEFFICIENTS = {
    "standing": 0.705,
    "margin": 0.289,
    "log_overlap": 2.775,
    "misfit": -1.629,
    "looseness": -0.724,
    "relief": 0.885,
    "log_observability": 0.103,
}


def features(evidence: Evidence) -> dict[str, float]:
    """The regressors of the confidence, by name."""
    return {
        "standing": math.copysign(math.sqrt(min(abs(evidence.standing), _SURE)), evidence.standing),
        "margin": min(evidence.margin, _WIDE),
        "log_overlap": math.log(min(evidence.source_overlap, evidence.target_overlap) + _LEAST),
        "misfit": evidence.misfit,
        "looseness": evidence.looseness,
        "relief": evidence.relief,
        "log_observability": math.log10(max(evidence.observability, _LEAST_OBSERVABILITY)),
    }


def confidence(evidence: Evidence) -> float:
    """The probability in (0, 1) that the answer is right up to the symmetry of the shape.

    Right means that the whole shape, moved by the answer, lies within a twentieth of its radius of where it belongs
    (ADD-S, the mean distance to the nearest point; Hinterstoisser et al. 2012). That several poses of a symmetric shape
    fit equally well therefore costs little confidence; `Status.AMBIGUOUS` says so instead. Rivals that would put the
    shape elsewhere cost much: no answer is surer than its share, about a half for a thing that stands there twice, and
    none that unrelated clouds would give as well: a handful of points fits anything somewhere.
    """
    values = features(evidence)
    logit = _INTERCEPT + sum(weight * values[name] for name, weight in _COEFFICIENTS.items())
    return min(_logistic(logit), ceiling(evidence))


def ceiling(evidence: Evidence) -> float:
    """What no answer is surer than: its share among its rivals, and its odds against an accident."""
    return min(evidence.share, _logistic(-evidence.accidents))


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-max(min(logit, 30.0), -30.0)))


def judge(evidence: Evidence) -> tuple[Status, float]:
    """The status of an answer and its confidence. Only `Status.OK` is an answer to act on.

    The status looks at the pose, the confidence at the shape: an answer can be ambiguous or degenerate and yet almost
    certainly one of the poses that put the source where it belongs.
    """
    probability = confidence(evidence)
    if evidence.observability < (_NEARLY_FREE if evidence.tied else _FREE):
        return Status.DEGENERATE, probability
    if evidence.tied and confidence(replace(evidence, standing=_SURE, share=1.0, margin=_WIDE)) >= _TRUSTED:
        return Status.AMBIGUOUS, probability  # one of at least two that are as good
    if probability >= _TRUSTED:
        return Status.OK, probability
    if min(evidence.source_overlap, evidence.target_overlap) < _LOW_OVERLAP:
        return Status.LOW_OVERLAP, probability
    return Status.UNCERTAIN, probability
