"""`deepgmr export`: what it writes, and what it says of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from deepgmr import cli
from deepgmr.pipeline.bundle import Bundle


def test_the_network_of_a_bundle_is_written_with_where_it_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "default", "--format", "pt2", "--out", str(tmp_path / "graphs"), "--json"]) == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)["written"]
    assert row["file"] == str(tmp_path / "graphs" / "default.pt2") and not printed.err
    bundle = Bundle.load()
    assert (row["kind"], row["id"]) == ("overlap", bundle.id) and row["difference"] <= 1e-4
    kept = torch.export.load(row["file"]).state_dict
    assert all(torch.equal(kept[f"network.{name}"], value) for name, value in bundle.network.state_dict().items())
    digest = hashlib.sha256(Path(row["file"]).read_bytes()).hexdigest()
    assert cli.main(["export", row["file"], "--format", "pt2", "--out", str(tmp_path / "graphs")]) == 2
    assert "default.pt2" in capsys.readouterr().err
    assert hashlib.sha256(Path(row["file"]).read_bytes()).hexdigest() == digest
