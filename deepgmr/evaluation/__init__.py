"""One table for any method on any suite of fixed pairs, and the studies behind the numbers of the docs.

A method is a callable `(source (N, 3), target (M, 3)) -> answer` whose answer has `target_from_source` (4, 4) and
perhaps a `confidence`. It sees the two clouds and nothing else. An answer that is an error is counted by its name
and is a miss in every recall; means are over the pairs that were answered.

A study is a module: what it measures is a dictionary that JSON can hold, `markdown` makes a page of that, and `draw`,
where there is one, a picture.
"""

from __future__ import annotations

from deepgmr.evaluation.methods import METHODS, Answer, Method, Sizes, make_methods
from deepgmr.evaluation.results import read_result, write_result
from deepgmr.evaluation.running import evaluate
from deepgmr.evaluation.tables import COARSE, RIGHT, Outcome, Table, pooled, to_result, to_text, write_json

__all__ = [
    "COARSE",
    "METHODS",
    "RIGHT",
    "Answer",
    "Method",
    "Outcome",
    "Sizes",
    "Table",
    "evaluate",
    "make_methods",
    "pooled",
    "read_result",
    "to_result",
    "to_text",
    "write_json",
    "write_result",
]
