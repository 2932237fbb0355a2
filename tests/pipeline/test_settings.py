"""Settings: every number has a name, TOML in and out, a wrong key or type is named, presets are what they say."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepgmr.errors import InvalidConfig
from deepgmr.pipeline.settings import PRESETS, LookSettings, Settings, preset
from deepgmr.plain import from_plain, to_plain


def test_settings_are_frozen_and_survive_toml() -> None:
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.judge.trust = 0.5  # type: ignore[misc]
    assert Settings.from_toml(settings.to_toml()) == settings
    assert Settings.from_toml("") == settings
    assert from_plain(Settings, to_plain(settings)) == settings


@given(trust=st.floats(0, 1), components=st.integers(1, 10**6), grid=st.integers(0, 50))
def test_changed_settings_survive_toml_too(trust: float, components: int, grid: int) -> None:
    looks = [to_plain(LookSettings(grid=grid)), to_plain(LookSettings(learned=True))]
    changed = Settings().replace(**{"judge.trust": trust, "polish": {"components": components}, "search.looks": looks})
    assert changed.judge.trust == trust and changed.polish.components == components
    assert changed.search.looks[0].grid == grid and changed.search.looks[1].learned
    assert Settings.from_toml(changed.to_toml()) == changed
    assert dataclasses.replace(changed, judge=Settings().judge) != Settings()  # what was not asked for stays


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"judge.trusted": 0.5}, "unknown setting `judge.trusted`.*judge.trust"),
        ({"judges.trust": 0.5}, "unknown setting `judges.trust`"),
        ({"judge.trust.much": 0.5}, "unknown setting `judge.trust.much`"),
        ({"judge": {"trusted": 0.5}}, "unknown setting `judge.trusted`; it holds trust"),
        ({"judge.trust": "much"}, "`judge.trust` must be float, got 'much'"),
        ({"scan.fewest": 1.5}, "`scan.fewest` must be int"),
        ({"scan.most": -5}, "`scan.most` must be a finite number > 0, got -5"),
        ({"polish.components": 0}, "`polish.components` must be"),
        ({"scan.inner": float("nan")}, "`scan.inner` must be a finite number"),
        ({"search.looks": []}, "at least one look"),
        ({"refine.reaches": [1.0]}, "as many numbers"),
        ({"descent.across": [1.0]}, "`descent.asked`, `descent.iterations` must hold as many numbers"),
        ({"search.looks": [{"learnt": True}]}, "unknown key .*learnt"),
    ],
)
def test_a_wrong_name_or_type_is_named(changes: dict, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        Settings().replace(**changes)


@pytest.mark.parametrize(("text", "words"), [("trust =", "no TOML"), ("[judge]\ntrusted = 1.0", "trusted")])
def test_bad_toml_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        Settings.from_toml(text)


def test_presets_are_what_they_say() -> None:
    assert preset("default") == Settings()
    assert len(preset("fast").search.looks) == 1 and preset("fast").search.looks[0].learned
    assert preset("thorough").search.looks == Settings().search.looks and preset("thorough").search.clear > 1
    assert [look.mixtures for look in preset("paper").search.looks] == [True]
    assert set(PRESETS) == {"default", "fast", "thorough", "paper"}
    with pytest.raises(InvalidConfig, match="unknown preset `best`; the presets are default, fast"):
        preset("best")


@pytest.mark.parametrize("number", [10**400, -(10**400), float("nan")], ids=["long", "below", "none"])
@pytest.mark.parametrize("name", ["judge.trust", "scan.most"])
def test_numbers_that_no_float_holds_are_named(name: str, number: float) -> None:
    with pytest.raises(InvalidConfig, match=name):
        Settings().replace(**{name: number})
