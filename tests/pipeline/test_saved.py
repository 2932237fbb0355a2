"""A prepared scan on disk: the same answers to the last bit, or an error that says why not."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from problems_pipeline import motion, moved, shape

from deepgmr import Registrar, Scan, register
from deepgmr.errors import InvalidCheckpoint, InvalidCloud, InvalidFile
from deepgmr.io import checkpoint
from deepgmr.pipeline.answer import Registration


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    points = shape(1, 2500)
    return points[rng.permutation(2500)[:1500]] * 7 + 1e5, moved(motion(3), points[rng.permutation(2500)[:1200]]) * 7


def content(answer: Registration) -> tuple[object, ...]:
    others = [other.target_from_source.tobytes() for other in answer.alternatives]
    numbers = answer.confidence, answer.overlap, answer.score, answer.evidence, answer.status, answer.notes
    return (answer.target_from_source.tobytes(), answer.covariance.tobytes(), *others, *numbers)


def test_raw_prepared_used_again_and_read_back_are_one(clouds, tmp_path: Path) -> None:
    source, target = clouds
    raw, back = content(register(source, target)), content(register(target, source))
    prepared = Registrar.load().prepare(target)
    prepared.save(tmp_path / "map.scan")
    read = Scan.load(tmp_path / "map.scan")
    other = Registrar.load().prepare(shape(9, 300) * 3)
    for scan in (prepared, pickle.loads(pickle.dumps(read))):
        register(other, scan)  # another pair's scale, before and between
        assert content(register(source, scan)) == raw
        register(other, scan, max_rotation_degrees=30)
        assert content(register(source, scan)) == raw and content(register(scan, source)) == back
    read.save(tmp_path / "again.scan")
    assert (tmp_path / "again.scan").read_bytes() == (tmp_path / "map.scan").read_bytes()


def test_a_scan_forgets_what_it_has_not_met_for_long(clouds) -> None:
    scan = Scan.of(clouds[0])
    first = scan.level(None, 1.0)
    for number in range(40):
        scan.level(None, 2.0 + number)
        assert scan.level(None, 1.0) is first, "what is used all the time was forgotten"
        first.made(("number", number), lambda: np.zeros(3))
    assert scan.level(None, 41.0) is scan.level(None, 41.0)
    held = [key for key in range(39, -1, -1) if first.made(("number", key), lambda: np.ones(3)).sum() == 0]
    assert 0 < len(held) <= 16 and held[0] == 39


def test_scans_of_other_settings_are_refused(clouds, tmp_path: Path) -> None:
    other = Registrar.load().replace(**{"scan.for_normals": 9})
    scan = other.prepare(clouds[0])
    with pytest.raises(InvalidCloud, match="source: was prepared with other settings") as caught:
        register(scan, clouds[1])
    assert caught.value.role == "source"
    scan.save(tmp_path / "scan")
    assert Scan.load(tmp_path / "scan").settings == scan.settings


def rewritten(path: Path, config: dict[str, object] | None = None, **tensors: object) -> Path:
    """The file with other content, and a digest that fits it."""
    held = checkpoint.read(path)
    changed = dataclasses.replace(held, config=held.config | (config or {}), tensors=held.tensors | tensors)
    out = path.with_name("changed")
    checkpoint.write(out, changed)
    return out


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"front_end": "0123456789abcdef"}, "another front-end"),
        ({"settings": {"no such": 1}}, "no scan of this version"),
        ({"size": float("nan")}, "cannot be"),
        ({"size": "large"}, "no scan of this version"),
        ({"total": 0}, "cannot be"),
        ({"step": -1.0}, "cannot be"),
    ],
)
def test_what_does_not_fit_is_named(clouds, tmp_path: Path, config: dict[str, object], words: str) -> None:
    Scan.of(clouds[0]).save(tmp_path / "scan")
    with pytest.raises(InvalidCheckpoint, match=words):
        Scan.load(rewritten(tmp_path / "scan", config))


def test_tensors_that_do_not_fit_are_named(clouds, tmp_path: Path) -> None:
    Scan.of(clouds[0]).save(tmp_path / "scan")
    held = checkpoint.read(tmp_path / "scan").tensors
    for name, value in (("sums", held["sums"][:5]), ("counts", held["counts"] * 0), ("origin", held["origin"].float())):
        with pytest.raises(InvalidCheckpoint, match="cannot be"):
            Scan.load(rewritten(tmp_path / "scan", **{name: value}))
    data = (tmp_path / "scan").read_bytes()
    for damaged in (b"", data[:200], data[:-9], data[:-9] + b"123456789", b"ply\n"):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(InvalidCheckpoint, match="damaged"):
            Scan.load(tmp_path / "damaged")
    with pytest.raises(InvalidCheckpoint, match="no such file"):
        Scan.load(tmp_path / "nowhere")
    with pytest.raises(InvalidFile, match="no folder"):
        Scan.of(clouds[0]).save(tmp_path / "no" / "scan")
    Registrar.load().bundle.save(tmp_path / "bundle")
    with pytest.raises(InvalidCheckpoint, match="holds a `bundle`"):
        Scan.load(tmp_path / "bundle")
