"""Tables of pairs: every pair is answered once and as `register` answers it, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from problems_bulk import Poisoned
from pyarrow import parquet

import deepgmr
from deepgmr.bulk import bulk, read_pairs
from deepgmr.bulk.node import Node
from deepgmr.bulk.pairs import Ask
from deepgmr.bulk.parts import Parts, row_of
from deepgmr.cli import main
from deepgmr.errors import InvalidConfig, InvalidFile, WorkerDied
from deepgmr.pipeline.answer import Failure

PAIRS = 6


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small clouds and the map that they are parts of."""
    folder, rng = tmp_path_factory.mktemp("clouds"), np.random.default_rng(0)
    shape = np.concatenate([rng.normal(size=(150, 3)) * (1, 0.5, 0.2), rng.normal(size=(150, 3)) * 0.3 + (1, 1, 0)])
    np.save(folder / "map.npy", shape)
    for number in range(PAIRS):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        np.save(folder / f"{number}.npy", shape[rng.random(len(shape)) < 0.8] @ (turn * np.sign(np.linalg.det(turn))).T)
    return folder


def table(clouds: Path, path: Path, **more: Any) -> Path:
    columns = {"source": [str(clouds / f"{n}.npy") for n in range(PAIRS)], "target": [str(clouds / "map.npy")] * PAIRS}
    parquet.write_table(pyarrow.table(columns | more), path)
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return parquet.read_table(path).to_pylist()


# -- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_are_read_alike(tmp_path: Path, suffix: str) -> None:
    path, prior = tmp_path / f"pairs{suffix}", json.dumps(np.eye(4).ravel().tolist())
    if suffix == ".csv":
        path.write_text(f'id,source,target,initial,timeout,other\na,s.ply,t.ply,"{prior}",2.5,x\nb,u.ply,t.ply,,,y\n')
    elif suffix == ".jsonl":
        lines = [
            {"id": "a", "source": "s.ply", "target": "t.ply", "initial": np.eye(4).ravel().tolist(), "timeout": 2.5}
        ]
        path.write_text("\n".join(map(json.dumps, [*lines, {"id": "b", "source": "u.ply", "target": "t.ply"}])))
    else:
        content = {"id": ["a", "b"], "source": ["s.ply", "u.ply"], "target": ["t.ply"] * 2}
        more = {"initial": [np.eye(4).ravel().tolist(), None], "timeout": [2.5, None]}
        parquet.write_table(pyarrow.table(content | more), path)
    asks, kind = read_pairs(str(path))
    first = {"initial": np.eye(4).tolist(), "timeout": 2.5}
    assert asks == [Ask("a", "s.ply", "t.ply", first), Ask("b", "u.ply", "t.ply", {})]
    assert pyarrow.types.is_string(kind)
    assert Ask.from_json(asks[0].to_json()) == asks[0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"source": ["a"]}, "source and target"),
        ({"source": ["a"] * 2, "target": ["b"] * 2, "id": [1, 1]}, "twice"),
        ({"source": ["a"] * 2, "target": ["b"] * 2, "id": [1, None]}, "missing"),
        ({"source": ["a"], "target": ["b"], "id": [1.5]}, "whole numbers"),
        ({"source": ["a"], "target": ["b"], "initial": [[1.0, 2.0]]}, "4x4"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    with pytest.raises(InvalidFile, match=words):
        read_pairs(str(tmp_path / "pairs.parquet"))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 nothing")
    for name in ("pairs.parquet", "none.parquet", "pairs.txt"):
        with pytest.raises(InvalidFile, match=name):
            read_pairs(str(tmp_path / name))


# -- answers -----------------------------------------------------------------------------------------------------


def test_answers_are_those_of_register_and_come_once(clouds: Path, tmp_path: Path) -> None:
    pairs = table(clouds, tmp_path / "pairs.parquet", id=[f"pair {n}" for n in range(PAIRS)])
    summary = bulk(pairs, tmp_path / "out.parquet", workers=1)
    found = rows(tmp_path / "out.parquet")
    assert [row["id"] for row in found] == [f"pair {n}" for n in range(PAIRS)]
    assert sum(summary.statuses.values()) == summary.pairs == PAIRS and summary.before == 0
    for number, row in enumerate(found):
        single = deepgmr.register(np.load(clouds / f"{number}.npy"), np.load(clouds / "map.npy"))
        assert row["target_from_source"] == single.target_from_source.ravel().tolist()
        assert (row["confidence"], row["status"]) == (single.confidence, single.status.value)
    assert not (tmp_path / "out.parquet.parts").exists()
    again = bulk(pairs, tmp_path / "out.parquet")
    assert again.before == PAIRS and rows(tmp_path / "out.parquet") == found


def test_what_is_wrong_with_a_pair_is_in_its_row(clouds: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "line.npy", np.ones((5, 3)))
    columns = {"source": ["/none.ply", str(tmp_path / "line.npy")], "target": [str(clouds / "map.npy")] * 2}
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    assert bulk(tmp_path / "pairs.parquet", tmp_path / "out.parquet").statuses == {"error": 2}
    none, line = rows(tmp_path / "out.parquet")
    assert "/none.ply" in none["error"] and "equal" in line["error"] and none["target_from_source"] is None


def test_a_run_goes_on_where_the_last_one_ended(clouds: Path, tmp_path: Path) -> None:
    pairs = table(clouds, tmp_path / "pairs.parquet")
    parts = Parts(str(tmp_path / "out.parquet"), pyarrow.int64())
    parts.check()
    marked = [row_of(n, Failure(WorkerDied("by an earlier run")), 1.0) for n in (1, 4)]
    parts.write(marked)
    parts.write(marked[:1])  # twice: a driver was killed, and its last worker lived on
    assert parts.done() == {1, 4}
    summary = bulk(pairs, tmp_path / "out.parquet")
    found = rows(tmp_path / "out.parquet")
    assert summary.before == 2 and [row["id"] for row in found] == list(range(PAIRS))
    assert [row["error"] is not None for row in found] == [n in (1, 4) for n in range(PAIRS)]


def test_a_pair_that_hangs_or_crashes_costs_itself_alone(clouds: Path, tmp_path: Path) -> None:
    from deepgmr.pipeline.batch import jobs
    from deepgmr.pipeline.workers import spread

    node = Poisoned("default", "default", str(tmp_path), frozenset())
    pairs = [(str(clouds / f"{n}.npy"), str(clouds / "map.npy")) for n in range(3)]
    pairs[1] = (str(tmp_path / "crash"), pairs[1][1])
    pairs.append((str(tmp_path / "hang"), pairs[0][1]))
    found = dict(spread(node, jobs(node, pairs, {}, copied=False), 1, limit=20.0))
    assert sorted(found) == [0, 1, 2, 3]
    assert isinstance(found[1], Failure) and "signal 9" in str(found[1].error)
    assert isinstance(found[3], Failure) and "took longer than 20 s" in str(found[3].error)
    assert found[3].status is deepgmr.Status.TIMEOUT
    assert all(found[n].status is not deepgmr.Status.ERROR for n in (0, 2))


def test_shared_maps_are_prepared_once_and_read_back(clouds: Path, tmp_path: Path) -> None:
    path = str(clouds / "map.npy")
    node = Node("default", "default", str(tmp_path / "cache"), frozenset([path]))
    first = node.prepare(path, role="target")
    (kept,) = (tmp_path / "cache").glob("*.scan.safetensors")
    before = kept.stat().st_mtime_ns
    again = node.prepare(path, role="target")
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.heaps.sums, again.heaps.sums)
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(node.prepare(path, role="target").heaps.sums, first.heaps.sums)


def test_addresses_are_fetched_once(clouds: Path, tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/maps/map.npy", (clouds / "map.npy").read_bytes())
    node = Node("default", "default", str(tmp_path), frozenset())
    scan = node.prepare("memory://maps/map.npy", role="target")
    assert scan.total == len(np.load(clouds / "map.npy"))
    fsspec.filesystem("memory").rm_file("/maps/map.npy")
    assert node.prepare("memory://maps/map.npy", role="target").total == scan.total
    with pytest.raises(InvalidFile, match="memory://maps/none"):
        node.prepare("memory://maps/none.npy", role="target")


@pytest.mark.parametrize(
    ("options", "words"), [({"engine": "spark"}, "local, ray"), ({"workers": 0}, "workers"), ({"limit": 0.0}, "limit")]
)
def test_options_that_cannot_be_used(clouds: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        bulk(table(clouds, tmp_path / "pairs.parquet"), tmp_path / "out.parquet", **options)


def test_the_command(clouds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, output = str(table(clouds, tmp_path / "pairs.parquet")), str(tmp_path / "out.parquet")
    assert main(["bulk", pairs, "-o", output, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pairs"] == PAIRS and sum(told["statuses"].values()) == PAIRS
    assert main(["bulk", str(tmp_path / "none.parquet"), "-o", output]) == 2


# -- faults ------------------------------------------------------------------------------------------------------


def _run(pairs: Path, output: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "deepgmr", "bulk", str(pairs), "-o", str(output), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_runs_lose_no_pair_and_answer_none_twice(clouds: Path, tmp_path: Path, engine: str) -> None:
    """The driver and everything that it started are killed while there are parts; the next run answers the rest."""
    if engine == "ray":
        pytest.importorskip("ray")
    count = 60
    columns = {
        "id": [f"{n}" for n in range(count)],
        "source": [str(clouds / f"{n % PAIRS}.npy") for n in range(count)],
        "target": [str(clouds / "map.npy")] * count,
    }
    pairs, output = tmp_path / "pairs.parquet", tmp_path / "out.parquet"
    parquet.write_table(pyarrow.table(columns), pairs)
    running = _run(pairs, output, "--engine", engine, "--workers", "1")
    parts = Path(f"{output}.parts")
    end = time.monotonic() + 200
    while time.monotonic() < end and running.poll() is None and not (parts.is_dir() and any(parts.glob("*.parquet"))):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    summary = bulk(pairs, output)
    found = rows(output)
    assert [row["id"] for row in found] == columns["id"]
    assert summary.pairs == count and not parts.exists()
    assert all(row["error"] is None for row in found)


@pytest.mark.slow
@pytest.mark.timeout(590)
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own deprecations
def test_on_ray_every_pair_has_one_row_whatever_its_neighbours_do(clouds: Path, tmp_path: Path) -> None:
    """Pairs that crash, hang or ask for all memory, and an actor that is killed while it holds a chunk."""
    ray = pytest.importorskip("ray")
    from deepgmr.bulk.engines import on_ray

    count, target = 48, str(clouds / "map.npy")
    sources = [str(clouds / f"{n % PAIRS}.npy") for n in range(count)]
    poison = {5: "crash", 17: "hang", 29: "memory"}
    for number, harm in poison.items():
        sources[number] = str(tmp_path / harm)
    fatal = tmp_path / "fatal.npy"
    fatal.write_bytes((clouds / "0.npy").read_bytes())
    Path(f"{fatal}.fuse").touch()
    sources[20] = str(fatal)
    asks = [Ask(number, source, target, {}) for number, source in enumerate(sources)]
    parts, told = Parts(str(tmp_path / "out.parquet"), pyarrow.int64()), list[str]()
    parts.check()
    node = Poisoned("default", "default", str(tmp_path / "cache"), frozenset([target]))
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1]), str(Path(deepgmr.__file__).parents[1])])
    environment = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False, runtime_env=environment)
    try:
        on_ray(node, asks, parts, told.append, workers=2, limit=20.0, address=None, chunk=8)
    finally:
        ray.shutdown()
    assert not Path(f"{fatal}.fuse").exists()  # the actor was killed
    parts.merge(range(count))
    found = rows(tmp_path / "out.parquet")
    assert [row["id"] for row in found] == list(range(count)) and len(told) == count
    assert {row["id"] for row in found if row["error"]} == set(poison)
    assert "signal 9" in found[5]["error"] and found[17]["status"] == "timeout" and found[29]["error"]
