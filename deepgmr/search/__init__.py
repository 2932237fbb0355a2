"""Hypotheses without training: where the source may lie in the target, in order of plausibility."""

from deepgmr.search.descriptors import describe
from deepgmr.search.grid import grid_motions
from deepgmr.search.learned import LearnedMatches, match_nodes
from deepgmr.search.matches import Matches, consistent_motions, match
from deepgmr.search.prior import Prior
from deepgmr.search.ranking import Ranking, accidents, distinct, first_look, rank, unlikeness

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
