"""Checkpoints: what goes in comes out, damage is noticed and named, files appear whole."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepgmr.errors import InvalidCheckpoint, InvalidConfig, InvalidFile
from deepgmr.io import checkpoint
from deepgmr.networks import PRESETS, DeepGMR, NetworkConfig
from deepgmr.networks.overlap import OverlapConfig, OverlapNetwork

SMALL = NetworkConfig(components=4, encoder=(8,), decoder=(8,), pooled=8, landmarks=2)


@pytest.fixture
def model() -> DeepGMR:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DeepGMR(SMALL)
    model.calibrate(torch.rand(2, 50, 3))
    return model


@pytest.fixture
def file(model: DeepGMR, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, model, provenance={"steps": 3})
    return path


def _rewritten(path: Path, **changes: object) -> Path:
    """The same file with other header entries, its digest made to match."""
    content = checkpoint.read(path)
    header = {"version": 1, "kind": content.kind, "config": content.config, "provenance": {}, "state": {}} | changes
    text = json.dumps(header | {"digest": checkpoint._digest(header, content.tensors)})
    save_file(content.tensors, path, metadata={"deepgmr": text})
    return path


def test_a_network_comes_back_bit_for_bit_with_its_config_and_provenance(file: Path, model: DeepGMR) -> None:
    loaded = checkpoint.load(file)
    assert isinstance(loaded, DeepGMR)
    assert not loaded.training
    assert loaded.config == SMALL
    assert loaded.provenance == {"steps": 3}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_saving_twice_writes_the_same_bytes(file: Path, model: DeepGMR, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "again.safetensors", model, provenance={"steps": 3})
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_training_checkpoint_gives_its_averaged_weights(file: Path) -> None:
    content = checkpoint.read(file)
    averaged = {name.replace("model.", "ema."): torch.zeros_like(value) for name, value in content.tensors.items()}
    both = checkpoint.Checkpoint(content.kind, content.config, tensors=content.tensors | averaged)
    checkpoint.write(file, both)
    assert all((value == 0).all() for value in checkpoint.load(file).state_dict().values())


def test_every_truncation_is_named(file: Path) -> None:
    data = file.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(data), max(1, len(data) // 25)), len(data) - 1]:
        file.write_bytes(data[:length])
        with pytest.raises(InvalidCheckpoint, match=re.escape(str(file))):
            checkpoint.read(file)


def test_every_flipped_byte_is_noticed(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for place in range(0, len(data), max(1, len(data) // 200)):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(InvalidCheckpoint, match=re.escape(str(file))):
            checkpoint.load(file)


def test_a_foreign_safetensors_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InvalidCheckpoint, match=r"foreign\.safetensors.*not one that deepgmr wrote"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"solid cube", b"\x80\x04pickle", b"\xff" * 64])
def test_any_other_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match="other"):
        checkpoint.load(path)


def test_a_newer_file_asks_for_an_upgrade(file: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"format 2.*Upgrade"):
        checkpoint.load(_rewritten(file, version=2))


def test_an_unknown_kind_of_network_asks_for_an_upgrade(file: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"holds a `transformer`.*Upgrade"):
        checkpoint.load(_rewritten(file, kind="transformer"))


def test_a_config_this_version_does_not_know_is_named(file: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="unknown key `experts`"):
        checkpoint.load(_rewritten(file, config={"experts": 4}))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"version": "one", "digest": ""}'])
def test_a_header_that_is_no_header_is_named(text: str, file: Path) -> None:
    save_file(checkpoint.read(file).tensors, file, metadata={"deepgmr": text})
    with pytest.raises(InvalidCheckpoint, match=re.escape(str(file))):
        checkpoint.load(file)


def test_tensors_that_do_not_fit_the_config_are_named(file: Path) -> None:
    config = checkpoint.to_plain(PRESETS["paper"])
    with pytest.raises(InvalidCheckpoint, match="do not fit"):
        checkpoint.load(_rewritten(file, config=config))


@pytest.mark.parametrize(
    "changes",
    [{"kind": 3}, {"kind": None}, {"config": []}, {"config": "lean"}, {"provenance": 1.5}, {"state": None}],
)
def test_a_header_whose_parts_are_of_other_kinds_is_named(changes: dict[str, object], file: Path) -> None:
    (name,) = changes
    with pytest.raises(InvalidCheckpoint, match=f"its header has .* for `{name}`, where a (str|dict) belongs"):
        checkpoint.load(_rewritten(file, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": [10**9, 10**9]},  # 4 EB of weights
        {"encoder": [10**30]},
        {"encoder": [-5]},
        {"encoder": [0]},
        {"encoder": [1] * 5000},
        {"components": 10**12},
        {"components": 2**63},
        {"landmarks": 10**12},
        {"scales": [0.1] * 5000},
        {"features": "rri", "neighbours": 10**15},
    ],
)
def test_a_network_of_any_size_is_refused_before_it_is_built(changes: dict[str, object], file: Path) -> None:
    config = checkpoint.read(file).config | changes
    with pytest.raises(InvalidCheckpoint, match=re.escape(str(file))) as caught:
        checkpoint.load(_rewritten(file, config=config))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_an_overlap_network_of_a_million_blocks(tmp_path: Path) -> None:
    file = tmp_path / "overlap.safetensors"
    checkpoint.save(file, OverlapNetwork(OverlapConfig(width=8, heads=2, blocks=1)))
    with pytest.raises(InvalidCheckpoint, match="more than 64 blocks"):
        checkpoint.load(_rewritten(file, config={"width": 8, "heads": 2, "blocks": 10**6}))


def test_a_header_nested_without_end_is_named(file: Path) -> None:
    save_file(checkpoint.read(file).tensors, file, metadata={"deepgmr": "[" * 100_000})
    with pytest.raises(InvalidCheckpoint, match="its header is damaged"):
        checkpoint.load(file)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value: float, file: Path) -> None:
    content = checkpoint.read(file)
    name = next(name for name, tensor in content.tensors.items() if tensor.ndim == 2)
    content.tensors[name][0, 0] = value
    checkpoint.write(file, content)
    with pytest.raises(InvalidCheckpoint, match=f"`{name.removeprefix('model.')}` holds numbers that are not finite"):
        checkpoint.load(file)


def test_a_missing_name_lists_the_bundled_ones() -> None:
    with pytest.raises(InvalidCheckpoint, match=r"`no-such-weights` is neither a file nor bundled weights"):
        checkpoint.load("no-such-weights")


def test_a_write_that_fails_leaves_the_old_file(file: Path, model: DeepGMR, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InvalidFile, match="no space left"):
        checkpoint.save(file, model)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["deepgmr", "deepgmr-unseen"])
def test_bundled_weights_load_are_small_and_have_a_card(name: str) -> None:
    path = checkpoint._resolve(name)
    assert path.stat().st_size < 8e6
    assert path.with_suffix(".md").is_file()
    model = checkpoint.load(name)
    assert model.provenance["steps"] > 0


# -- configurations ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inner:
    sizes: tuple[int, ...] = (1, 2)
    rate: float = 0.5


@dataclass(frozen=True)
class _Outer:
    name: str = "a"
    flag: bool = False
    limit: int | None = None
    inner: _Inner = field(default_factory=_Inner)
    weights: dict[str, float] = field(default_factory=dict)


def test_configurations_survive_json() -> None:
    config = _Outer(name="b", flag=True, limit=3, inner=_Inner(sizes=(5,), rate=1e-3), weights={"x": 2.0})
    assert checkpoint.from_plain(_Outer, json.loads(json.dumps(checkpoint.to_plain(config)))) == config


def test_integers_are_numbers_where_numbers_are_wanted() -> None:
    assert checkpoint.from_plain(_Outer, {"inner": {"rate": 1}, "weights": {"x": 2}}).inner.rate == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nme": "b"}, r"unknown key `nme`; the keys are name, flag, limit, inner, weights"),
        ({"inner": {"size": 3}}, r"unknown key `inner\.size`"),
        ({"name": 3}, "`name` must be str, got 3"),
        ({"flag": 1}, "`flag` must be bool, got 1"),
        ({"limit": "many"}, "`limit`"),
        ({"inner": 4}, "`inner` must be a table"),
        ({"inner": {"sizes": ["a"]}}, r"`inner\.sizes` must be int"),
        ({"weights": {"x": "heavy"}}, r"`weights\.x` must be float"),
    ],
)
def test_a_wrong_key_or_value_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        checkpoint.from_plain(_Outer, values)
