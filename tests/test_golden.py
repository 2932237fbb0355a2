"""`register` answers as it did: whoever means to change its answers writes the file again and says why."""

from __future__ import annotations

from typing import Any

import golden_answers as golden
import numpy as np
import pytest

from deepgmr.datasets.pairs.kinds import KINDS


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    return golden.answers()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_have_not_drifted(answers: dict[str, dict[str, Any]], kind: str) -> None:
    now, before = answers[kind], golden.kept()[kind]
    changed = [key for key in before if not _alike(now[key], before[key])]
    assert not changed, (
        f"{kind}: {', '.join(f'{key} was {before[key]}, is {now[key]}' for key in changed)}; "
        f"if that is meant, `{golden.COMMAND}` writes the file again"
    )


def test_the_file_holds_every_kind_and_nothing_else() -> None:
    assert set(golden.kept()) == set(KINDS)
    assert sum(row["right"] for row in golden.kept().values()) >= len(KINDS) - 4


def _alike(now: Any, before: Any) -> bool:
    """The same, but for what another processor rounds otherwise."""
    if isinstance(before, str | bool | int):
        return bool(now == before)
    return np.allclose(now, before, rtol=1e-4, atol=1e-5)
