"""A bundle is one file: what was saved comes back, and what does not belong together is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepgmr.errors import InvalidCheckpoint, InvalidConfig
from deepgmr.io import checkpoint
from deepgmr.pipeline import scan
from deepgmr.pipeline.bundle import Bundle, bundles
from deepgmr.pipeline.judge import FEATURES, Confidence
from deepgmr.pipeline.rank import RANKED, Ranking
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.settings import Settings


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load()


def test_what_was_saved_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    changed = replace(bundle, settings=Settings().replace(**{"judge.trust": 0.7}), provenance={"command": "by hand"})
    changed.save(tmp_path / "b.safetensors")
    again = Bundle.load(tmp_path / "b.safetensors")
    assert (again.settings, again.ranking, again.confidence) == (changed.settings, bundle.ranking, bundle.confidence)
    assert again.provenance == {"command": "by hand"} and again.id != bundle.id and len(again.id) == 12
    ours, theirs = bundle.network.state_dict(), again.network.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_bundled_one_says_how_it_came_to_be(bundle: Bundle) -> None:
    assert "default" in bundles()
    told = bundle.provenance["calibration"]
    assert told["command"].startswith("deepgmr calibrate") and told["all"]["pairs"] > 100
    assert bundle.provenance["network"]["steps"] > 0 and bundle.provenance["version"]
    card = Path(checkpoint.__file__).parents[1] / "bundles" / "default.md"
    assert bundle.id in card.read_text()


def test_another_front_end_is_refused(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.save(tmp_path / "b.safetensors")
    monkeypatch.setattr(scan, "FRONT_END", scan.FRONT_END + 1)
    with pytest.raises(InvalidCheckpoint, match=r"another front-end.*calibrate it again"):
        Bundle.load(tmp_path / "b.safetensors")


def test_a_network_is_no_bundle() -> None:
    path = Path(checkpoint.__file__).parents[1] / "weights" / "deepgmr.safetensors"
    with pytest.raises(InvalidCheckpoint, match="holds a `deepgmr`, not a bundle"):
        Bundle.load(path)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidCheckpoint, match=r"`nowhere` is neither a file nor a bundle.*default"):
        Bundle.load("nowhere")


FIRST = next(iter(RANKED))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"score": 1.0}, "missing `misfit`"),
        ({**dict.fromkeys(RANKED, 1.0), "colour": 1.0}, "unknown `colour`"),
        (
            {**dict.fromkeys(RANKED, 1.0), FIRST: float("nan")},
            f"weighs `{FIRST}` by 'nan', which is no",
        ),
        ({**dict.fromkeys(RANKED, 1.0), FIRST: "one"}, f"weighs `{FIRST}` by 'one', which is no finite number"),
    ],
)
def test_a_ranking_that_names_other_terms_is_refused(weights: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        Ranking(weights)


def test_a_confidence_that_names_other_features_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="missing `standing`"):
        Confidence(0.0, {name: 1.0 for name in FEATURES if name != "standing"})
    bundle.save(tmp_path / "b.safetensors")
    found = checkpoint.read(tmp_path / "b.safetensors")
    found.config["confidence"]["weights"]["colour"] = 1.0
    checkpoint.write(tmp_path / "b.safetensors", found)
    with pytest.raises(InvalidCheckpoint, match=r"b\.safetensors: is no bundle of this version.*unknown `colour`"):
        Bundle.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("ranking", None),
        ("ranking", "score"),
        ("confidence", []),
        ("confidence", {"intercept": None, "weights": dict.fromkeys(FEATURES, 1.0)}),
        ("confidence", {"intercept": 0.0, "weights": dict.fromkeys(FEATURES, "much")}),
        ("settings", 3),
        ("settings", {"scan": {"finest": "many"}}),
        ("network", {"width": 10**12, "heads": 1}),
        ("network", {"blocks": 10**9}),
        ("network", None),
        ("front_end", {}),
    ],
)
def test_a_bundle_that_says_something_else_is_named(part: str, value: object, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    bundle.save(path)
    found = checkpoint.read(path)
    found.config[part] = value
    checkpoint.write(path, found)
    with pytest.raises(InvalidCheckpoint, match=r"b\.safetensors: "):
        Bundle.load(path)


def test_a_registrar_is_never_changed(bundle: Bundle) -> None:
    registrar = Registrar(bundle)
    other = registrar.replace(**{"judge.trust": 0.1})
    assert registrar.settings == bundle.settings and other.settings.judge.trust == 0.1
    assert Registrar.load() is Registrar.load()
