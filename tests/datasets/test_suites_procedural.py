"""Worlds by name: what the words mean, and that clouds are made when they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepgmr.datasets.suites.named import read_named
from deepgmr.errors import InvalidConfig
from deepgmr.evaluation.running import evaluate
from deepgmr.geometry.transform import is_rigid


def test_words_say_what_is_made() -> None:
    suite = read_named("halls#s4-2k-3pairs-seed7")
    assert suite.name == "halls#s4-2k-3pairs-seed7" and len(suite) == 3 and suite.kind == "scans"
    assert suite.sources[0].shape == suite.targets[2].shape == (2000, 3)
    assert is_rigid(suite.transforms).all()
    assert suite.tolerance_degrees is not None and suite.tolerance_translation is not None
    assert suite.tolerance_degrees.tolist() == [1.0] * 3 and np.allclose(suite.tolerance_translation, 0.4)
    again = read_named("halls#seed7-3pairs-2000-s4")
    assert np.array_equal(again.sources[1], suite.sources[1]) and np.array_equal(again.transforms, suite.transforms)
    more = read_named("halls#s4-2k-4pairs-seed7")  # more pairs are the same and others
    assert np.array_equal(more.sources[1], suite.sources[1])
    assert not np.allclose(read_named("halls#s4-2k-3pairs").transforms, suite.transforms)


def test_pairs_are_thinned_and_cut_like_any_other() -> None:
    suite = read_named("halls#1k-4pairs", points=100).thinned(2)
    assert suite.names == ("halls_000", "halls_003") and suite.sources[1].shape == (100, 3)
    assert set(suite.groups) == {"halls"}


def test_a_file_of_that_name_is_read_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(read_named("halls")) > 1
    (tmp_path / "halls").mkdir()
    with pytest.raises(ValueError, match="holds no scans"):
        read_named("halls")


@pytest.mark.parametrize("words", ["castle", "s4-5G", "0pairs", "0", "seedx", "q3", "s-4", "2.5pairs"])
def test_words_that_mean_nothing_are_named(words: str) -> None:
    with pytest.raises(InvalidConfig, match="halls#"):
        read_named(f"halls#{words}")


def test_ambiguous_pairs_are_marked_and_apart() -> None:
    suite = read_named("warehouses#12pairs-1k-bays8")
    marked = [name.endswith("_ambiguous") for name in suite.names]
    assert any(marked) and not all(marked)
    assert [group == "warehouses ambiguous" for group in suite.groups] == marked
    assert not any(name.endswith("_ambiguous") for name in read_named("warehouses#6pairs-plain-bays8").names)
    tables = evaluate([suite.thinned(12)], [])
    assert tables[0].summary()[0]["warehouses ambiguous"] == 0.0


def test_models_are_judged_up_to_symmetry() -> None:
    suite = read_named("views#2pairs-500")
    assert suite.kind == "modelnet" and suite.shapes is not None and suite.tolerance_degrees is None
    table = evaluate([suite], [])[0]
    assert table.has_shapes and table.summary()[0]["ADD-S@.05"] is not None
