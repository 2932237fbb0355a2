"""Hypotheses without training: where the source may lie in the target, in order of plausibility."""

from deepgmr.pipeline.search.descriptors import describe
from deepgmr.pipeline.search.grid import grid_motions
from deepgmr.pipeline.search.learned import LearnedMatches, match_nodes
from deepgmr.pipeline.search.matches import Matches, consistent_motions, match
from deepgmr.pipeline.search.prior import Prior
from deepgmr.pipeline.search.ranking import Ranking, accidents, distinct, first_look, rank, unlikeness

__all__ = [
    "Prior",
    "describe",
    "Matches",
    "match",
    "LearnedMatches",
    "match_nodes",
    "consistent_motions",
    "grid_motions",
    "Ranking",
    "first_look",
    "rank",
    "accidents",
    "distinct",
    "unlikeness",
]
