"""What `register` answers to a pair of every procedural kind: kept, so that a drift is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.datasets.pairs.kinds import cases
from deepgmr.pipeline.registrar import Registrar

FILE = Path(__file__).resolve().parent / "golden.json"
COMMAND = "python scripts/golden.py"
SEED = 20261121


def answers() -> dict[str, dict[str, Any]]:
    """The answer to one pair of each kind, as JSON holds it."""
    registrar, found = Registrar.load(), {}
    for case in cases(1, SEED):
        answer = registrar.register(case.source, case.target, max_rotation_degrees=case.max_rotation_degrees)
        found[case.kind] = {
            "status": answer.status.value,
            "looks": answer.stats.looks,
            "hypotheses": answer.stats.hypotheses,
            "right": case.judge(answer.target_from_source),
            "confidence": answer.confidence,
            "overlap": answer.overlap,
            "score": answer.score,
            "target_from_source": answer.target_from_source.tolist(),
            "deviations": np.sqrt(answer.covariance.diagonal()).tolist(),
        }
    return found


def kept() -> dict[str, dict[str, Any]]:
    return json.loads(FILE.read_text())
