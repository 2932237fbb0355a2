"""How far to trust an answer: one calibrated probability, and one word with its remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import torch

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.rank import Ranking, Terms, astray, check_names, unlikeness
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import JudgeSettings, RankSettings

FEATURES = {  # of the confidence: whether the more of it there is, the more (+1) or the less (-1) an answer is to be trusted
    "standing": 1,
    "margin": 1,
    "lead": 1,
    "log_overlap": 1,
    "misfit": -1,
    "looseness": -1,
    "relief": 1,
    "contradiction": -1,
    "matched": 1,
    "log_observability": 1,
    "log_stray": -1,
}


class Worded(str, Enum):
    """A member's value is the word for machines, `sentence` is for people."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> Worded:
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    def __str__(self) -> str:
        return self.value


class Status(Worded):
    """What became of a registration. The value is the word for machines, `sentence` is for people."""

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
    OTHER_SCALE = (
        "other_scale",
        "the clouds fit plainly better with one of them larger or smaller, which no rigid motion makes it; bring both to "
        "one unit or have the scale estimated (estimate_scale=True, --estimate-scale); if they are of one scale, this "
        "answer is wrong",
    )
    UNCERTAIN = (
        "uncertain",
        "no motion explains the clouds well enough to be trusted; give cleaner or more overlapping clouds, "
        "or an initial motion",
    )
    TIMEOUT = (
        "timeout",
        "the time was over before the search was; this is the best motion found until then, and rivals or its last "
        "digits may have been left out; give more time or an initial motion",
    )
    ERROR = "error", "the pair could not be registered; see the error"  # of a `Failure`, in a batch


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against an answer; every number is free of units.

    From `misfit` to `matched` they are those of `deepgmr.pipeline.rank.Terms`, at the answer.
    """

    score: float  # of the answer, in [0, 1]
    standing: float  # log odds of the answer, and of poses that are as good as the same for the shape, against the rest
    share: float  # of the probability, in (0, 1], that is not with poses which put the shape somewhere else entirely
    margin: float  # nats by which the answer is more plausible than the best other pose, symmetries included
    source_overlap: float
    target_overlap: float
    misfit: float
    looseness: float
    relief: float
    contradiction: float
    matched: float  # what is typical of right answers where the network was not asked
    accidents: float  # log of how many motions would bring unrelated surfaces as close by chance
    observability: float  # least over largest eigenvalue of the information of the matched points
    # how far from the initial motion that it was fitted to, in what that may be off; 0 if searched for
    stray: float = 0.0
    scale: float = 1.0  # so many times as large the source would fit better; 1 where that is not plain
    freedom: float = 1.0  # so many times as much room there was to be wrong in: the scale was in question, too


def weigh(
    poses: RigidTransform,
    terms: Terms,
    ranking: Ranking,
    levels: tuple[Level, Level],
    settings: RankSettings,
    *,
    detailed: bool,
    observability: float,
    matched: float | None = None,
) -> Evidence:
    """What speaks for the first of P different poses, the answer, against the others.

    The poses share out the probability as their plausibilities say; a pose that puts the source where the answer does,
    by a symmetry, counts for the answer. Where `levels` are `detailed`, a symmetry is one that leaves nothing of one of
    the two clouds without a place: shelves moved by a bay lie near themselves, but for what stands in the last one.
    How well the answer is determined, its `observability`, is not known here, nor what share to take for `matched` where
    the terms were measured without the network.
    """
    plausibility = ranking.plausibility(terms).double()
    behind = plausibility[0] - plausibility  # nats (P,)
    odds = torch.exp(-behind)
    if len(poses.rotation) == 1:
        apart, like, unlike, far = torch.zeros(1), 0.0, 1.0, 1.0
    elif detailed:
        apart, like, unlike, far = astray(poses[0], poses, *levels, settings), *settings.astray, settings.astray[1]
    else:
        apart, like, unlike = unlikeness(poses[0], poses, levels[0], settings), settings.like, settings.unlike
        far = settings.elsewhere
    apart[0] = 0.0
    elsewhere, here = ((apart.double() - like) / (unlike - like)).clamp(0, 1), apart <= far
    for_it, against = float((odds * (1 - elsewhere)).sum()), float((odds * elsewhere).sum())
    answer = terms.row(0)
    return Evidence(
        score=answer["score"],
        standing=math.log(for_it / max(against, 1e-9)),
        share=float(odds[here].sum() / odds.sum()),
        margin=float(behind[1:].min()) if len(terms) > 1 else math.inf,
        source_overlap=answer["source_overlap"],
        target_overlap=answer["target_overlap"],
        misfit=answer["misfit"],
        looseness=answer["looseness"],
        relief=answer["relief"],
        contradiction=answer["contradiction"],
        matched=answer["matched"] if matched is None else math.log(matched),
        accidents=-math.inf,
        observability=observability,
    )


def features(evidence: Evidence, settings: JudgeSettings) -> dict[str, float]:
    """The regressors of the confidence, by the names in `FEATURES`."""
    return {
        "standing": math.copysign(math.sqrt(min(abs(evidence.standing), settings.sure)), evidence.standing),
        "margin": min(evidence.margin, settings.wide),
        "lead": math.sqrt(min(max(evidence.margin, 0.0), settings.sure)),
        "log_overlap": math.log(min(evidence.source_overlap, evidence.target_overlap) + settings.least_overlap),
        "misfit": evidence.misfit,
        "looseness": evidence.looseness,
        "relief": evidence.relief,
        "contradiction": evidence.contradiction,
        "matched": evidence.matched,
        "log_observability": math.log10(max(evidence.observability, settings.least_observability)),
        "log_stray": math.log(evidence.stray + settings.least_stray),
    }


def ceiling(evidence: Evidence) -> float:
    """What no answer is surer than: its share among its rivals, and its odds against an accident."""
    return min(evidence.share, logistic(-evidence.accidents))


def logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-max(min(logit, 30.0), -30.0)))


@dataclass(frozen=True)
class Confidence:
    """A logistic model of how often such an answer is right, fitted on procedural pairs, under a ceiling."""

    intercept: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        check_names("the confidence", self.weights, tuple(FEATURES))
        check_names("the confidence", {"intercept": self.intercept}, ("intercept",))

    def probability(self, evidence: Evidence, settings: JudgeSettings) -> float:
        """The probability in (0, 1) that the answer is right up to the symmetry of the shape.

        Right means that the whole shape, moved by the answer, lies within a twentieth of its radius of where it belongs
        (ADD-S, the mean distance to the nearest point; Hinterstoisser et al. 2012). That several poses of a symmetric
        shape fit equally well therefore costs little confidence; `Status.AMBIGUOUS` says so instead. Rivals that would
        put the shape elsewhere cost much: no answer is surer than its share, about a half for a thing that stands there
        twice, and none that unrelated clouds would give as well: a handful of points fits anything somewhere.
        """
        values = features(evidence, settings)
        logit = self.intercept + sum(self.weights[name] * values[name] for name in FEATURES)
        doubt = 1 - min(logistic(logit), ceiling(evidence))
        return 1 - min(evidence.freedom * doubt, 1.0)


def judge(evidence: Evidence, confidence: Confidence, settings: JudgeSettings) -> tuple[Status, float]:
    """The status of an answer and its confidence. Only `Status.OK` is an answer to act on.

    The status looks at the pose, the confidence at the shape: an answer can be ambiguous or degenerate and yet almost
    certainly one of the poses that put the source where it belongs.
    """
    probability = confidence.probability(evidence, settings)
    tied = evidence.margin < settings.tied
    if evidence.observability < (settings.nearly_free if tied else settings.free):
        return Status.DEGENERATE, probability
    if evidence.scale != 1:
        return Status.OTHER_SCALE, probability
    alone = replace(evidence, standing=settings.sure, share=1.0, margin=settings.wide)
    if tied and confidence.probability(alone, settings) >= settings.shape:
        return Status.AMBIGUOUS, probability  # one of at least two that are as good
    if probability >= settings.trust:
        return Status.OK, probability
    if min(evidence.source_overlap, evidence.target_overlap) < settings.low_overlap:
        return Status.LOW_OVERLAP, probability
    return Status.UNCERTAIN, probability
