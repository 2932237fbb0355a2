"""One table for any method on any suite of fixed pairs.

A method is a callable `(source (N, 3), target (M, 3)) -> answer` whose answer has `target_from_source` (4, 4) and
perhaps a `confidence`. It sees the two clouds and nothing else. An answer that is an error is counted by its name
and is a miss in every recall; means are over the pairs that were answered.
"""

from __future__ import annotations

from deepgmr.evaluation.methods import METHODS, Answer, Method, make_methods
from deepgmr.evaluation.running import evaluate
from deepgmr.evaluation.tables import COARSE, RIGHT, Outcome, Table, pooled, to_text, write_json

__all__ = [
    "COARSE",
    "METHODS",
    "RIGHT",
    "Answer",
    "Method",
    "Outcome",
    "Table",
    "evaluate",
    "make_methods",
    "pooled",
    "to_text",
    "write_json",
]
