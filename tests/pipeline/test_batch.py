"""Many pairs: the same answers as one by one, whoever works on them, and whatever becomes of a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems_pipeline import motion, moved, shape

import deepgmr
from deepgmr import Failure, Registrar, Scan, Status, iter_batch, register, register_batch
from deepgmr.errors import Cancelled, InvalidCloud, InvalidConfig, InvalidFile, TimedOut, WorkerDied
from deepgmr.pipeline.jobs import Shelf

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Six views of one shape: arrays of two types, a path, a tensor-like list, a prepared scan."""
    points = shape(1, 700)
    views: list[Any] = [moved(motion(i), points[i * 40 : i * 40 + 500]) for i in range(6)]
    path = tmp_path_factory.mktemp("clouds") / "view.npy"
    np.save(path, views[1])
    views[1], views[2], views[3] = path, views[2].astype(np.float32), views[3].tolist()
    views[4] = Registrar.load().prepare(views[4])
    return views


@pytest.fixture(scope="module")
def pairs(clouds: list[Any]) -> list[Any]:
    good: list[Any] = list(pairwise(clouds))
    bad = [(clouds[0][:2], clouds[1]), (clouds[0], "nowhere.ply"), (clouds[0],), 7, (clouds[0], clouds[1], {"no": 1})]
    return [*good, *bad, (clouds[0], clouds[5], {"initial": np.eye(4), "max_rotation_degrees": 60}), good[0]]


def content(result: Any) -> tuple[Any, ...]:
    if isinstance(result, Failure):
        return type(result.error), str(result.error), getattr(result.error, "role", None), result.status
    others = [other.target_from_source.tobytes() for other in result.alternatives]
    numbers = result.confidence, result.overlap, result.score, result.evidence, result.status, result.notes
    return (result.target_from_source.tobytes(), result.covariance.tobytes(), *others, *numbers)


@pytest.fixture(scope="module")
def alone(pairs: list[Any]) -> list[Any]:
    """One by one, by `register` itself."""
    found = []
    for pair in pairs[:5]:
        found.append(content(register(*pair)))
    return [*found, content(register(*pairs[-2][:2], **pairs[-2][2])), content(register(*pairs[-1]))]


def test_a_batch_is_what_one_by_one_is(pairs, alone) -> None:
    batch = register_batch(pairs)
    assert [content(result) for result in batch[:5] + batch[-2:]] == alone
    errors = [type(result.error) for result in batch[5:10]]
    assert errors == [InvalidCloud, InvalidFile, ValueError, TypeError, TypeError]
    assert batch[5].error.role == "source" and "nowhere.ply" in batch[6].sentence
    for result in batch[5:10]:
        assert result.status is Status.ERROR and result.confidence == 0 and not result.trusted
        assert result.target_from_source is None
        assert json.loads(json.dumps(result.to_dict()))["registered"] is False
    assert all(result.error is None for result in batch[:5])


def test_workers_answer_the_same_and_one_that_is_killed_costs_its_pair_alone(pairs, alone) -> None:
    here = [content(result) for result in register_batch(pairs)]
    there = {number: content(result) for number, result in iter_batch(iter(pairs), workers=2)}
    assert [there[number] for number in range(len(pairs))] == here
    # And now one that ends when it unpickles an option, as a crash in a library would end it.
    deadly = (*pairs[0], {"initial": Deadly()})
    batch = register_batch([pairs[0], deadly, pairs[1]], workers=2)
    assert [content(batch[0]), content(batch[2])] == alone[:2]
    assert isinstance(batch[1].error, WorkerDied) and "signal 9" in batch[1].sentence and "pair 1" in batch[1].sentence


class Deadly:
    """What kills the process that unpickles it."""

    def __reduce__(self) -> Any:
        return eval, (
            f"__import__('os').getpid() == {os.getpid()} or __import__('os').kill(__import__('os').getpid(), 9)",
        )


def test_clouds_that_come_again_are_prepared_once(clouds, monkeypatch) -> None:
    counted: list[str] = []
    framed = Scan.of
    monkeypatch.setattr(Scan, "of", lambda *given: counted.append("") or framed(*given))
    arrays = [clouds[0], clouds[2], clouds[5]]
    register_batch(
        [(arrays[0], arrays[1]), (arrays[1], arrays[2]), (arrays[0].copy(), arrays[2]), (clouds[1], arrays[0])]
    )
    assert len(counted) == 4


def test_an_array_that_is_filled_anew_is_another_cloud(clouds) -> None:
    buffer = np.empty((500, 3))

    def frames() -> Iterator[Any]:
        for number in (0, 2, 5):
            buffer[:] = clouds[number]
            yield buffer, clouds[4]

    expected = [content(register(np.float64(clouds[number]), clouds[4])) for number in (0, 2, 5)]
    assert [content(result) for result in register_batch(frames())] == expected
    assert [content(result) for result in register_batch(frames(), workers=2)] == expected


def test_a_shelf_holds_the_last_few_and_both_of_a_pair(clouds) -> None:
    shelf = Shelf(Registrar.load())
    rng = np.random.default_rng(0)
    for number in range(20):
        assert not register_batch([(clouds[0], rng.normal(size=(50, 3)))])[0].error, number
    assert shelf.missing(["a", "b"]) == ["a", "b"] and not shelf.keys


def test_what_is_wrong_for_all_is_said_at_once(pairs) -> None:
    for options, error in (
        ({"workers": 0}, InvalidConfig),
        ({"workers": True}, InvalidConfig),
        ({"nonsense": 1}, TypeError),
        ({"trace": deepgmr.Trace()}, TypeError),
    ):
        with pytest.raises(error):
            iter_batch(pairs, **options)


def test_a_batch_tells_how_far_it_is_and_can_be_stopped(pairs) -> None:
    heard: list[float] = []
    register_batch(pairs[:3], progress=lambda _, done: heard.append(done))
    assert heard == [1 / 3, 2 / 3, 1]
    before = threading.active_count()
    with pytest.raises(Cancelled, match="after 1 pairs"):
        register_batch(pairs[:3], workers=2, progress=lambda *_: False)
    answers = iter_batch(pairs, workers=2)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_time_that_is_over_before_anything_was_found_is_a_result(pairs) -> None:
    result = register_batch(pairs[:1], timeout=1e-9)[0]
    assert isinstance(result.error, TimedOut) and result.status is Status.TIMEOUT and not result.trusted


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_the_workers_and_says_nothing_of_them(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # without a guard for `__main__`, as people write them
    program.write_text(
        "import numpy as np, deepgmr, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs in the background is born deaf to it
        "x = np.random.default_rng(0).normal(size=(400, 3))\n"
        "try:\n"
        "    for number, result in deepgmr.iter_batch(((x, x + i) for i in range(10**6)), workers=2):\n"
        "        os.killpg(os.getpgid(0), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    left = [p for p in os.listdir('/proc') if p.isdigit() and open(f'/proc/{p}/stat').read().split()[3] == "
        "str(os.getpid())] if sys.platform == 'linux' else []\n"
        "    print('interrupted', left)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        env=environment,
        start_new_session=True,
        timeout=240,
    )
    assert (done.stdout, done.stderr) == ("interrupted []\n", "")


def test_a_process_that_cannot_start_is_said(pairs, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(WorkerDied, match="no process can be started"):
        register_batch(pairs[:1], workers=2)
