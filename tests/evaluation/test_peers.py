"""Other libraries: in a process of their own, by name, and missing where they are missing."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.errors import InvalidConfig, MissingDependency
from deepgmr.evaluation import Sizes, evaluate, make_methods, peers

DYING = """
import os

def serve(pipe, seed, threads):
    peer, source, _ = pipe.recv()
    pipe.send((7.0, source if peer.name == "echo" else "ValueError: no"))
    pipe.recv()
    os._exit(139)
"""


def test_a_peer_that_ends_its_process_misses_one_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dying_peer.py").write_text(DYING)
    monkeypatch.syspath_prepend(str(tmp_path))
    process = peers.PeerProcess(0, 1, serve=importlib.import_module("dying_peer").serve)
    echo, other, cloud = peers.Peer("echo", 1.0), peers.Peer("other", 1.0), np.eye(4)
    answer, milliseconds = process.solve(echo, cloud, cloud)
    assert np.array_equal(answer, cloud) and milliseconds == 7.0
    with pytest.raises(peers.PeerFailed, match="crashed"):
        process.solve(echo, cloud, cloud)
    with pytest.raises(peers.PeerFailed, match="ValueError: no"):  # it was started again
        process.solve(other, cloud, cloud)
    process.close()


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    assert not peers.is_installed("icp")
    with pytest.raises(MissingDependency, match=r"icp needs open3d: pip install 'deepgmr\[benchmark\]'"):
        make_methods(["icp"])
    with pytest.raises(InvalidConfig, match="must be a number"):
        make_methods(["gicp:wide"])


def shifted() -> PairSuite:
    """Two pairs that are a small shift apart, which any local method finds."""
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(400, 3)) * [1.0, 0.6, 0.3] for _ in range(2)]
    transforms = np.tile(np.eye(4), (2, 1, 1))
    transforms[:, :3, 3] = 0.01
    return PairSuite("shifted", "modelnet", clouds, [cloud + 0.01 for cloud in clouds], transforms, ("a", "b"))


def test_a_peer_answers_by_name_at_its_best_size() -> None:
    methods = make_methods(["gicp", "gicp:0.4"])
    assert {label: list(sizes) for label, sizes in methods.items() if isinstance(sizes, Sizes)} == {
        "gicp": ["gicp:0.05", "gicp:0.15", "gicp:0.4"],
        "gicp:0.4": ["gicp:0.4"],
    }
    (table,) = evaluate([shifted()], methods)
    _, best, one = table.outcomes
    assert best.success.all() and best.distance.max() < 0.01 and (best.milliseconds > 0).all()
    assert "gicp: best of 3 sizes" in table.to_text() and not any(one.errors)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icp", "fgr", "ransac", "kiss"])
def test_every_peer_answers(name: str) -> None:
    if find_spec(peers.PEERS[name].needs) is None:
        pytest.skip("needs deepgmr[benchmark]")
    (table,) = evaluate([shifted()], make_methods([name]))
    assert table.outcomes[1].method == name and np.isfinite(table.outcomes[1].milliseconds).all()
    if name == "icp":
        assert table.outcomes[1].success.all()
