"""One thread for small tensors: held, given back, and nothing left that a fork or a busy machine would wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepgmr.errors import InvalidConfig
from deepgmr.threads import one_thread, set_threads


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@given(depth=st.integers(1, 4), given_threads=st.integers(1, 3))
def test_the_number_is_held_and_given_back(depth: int, given_threads: int) -> None:
    torch.set_num_threads(given_threads)

    def inside(left: int) -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            if left:
                inside(left - 1)
            assert torch.get_num_threads() == 1

    inside(depth - 1)
    assert torch.get_num_threads() == given_threads


def test_an_error_gives_it_back_too() -> None:
    with pytest.raises(RuntimeError, match="inside"), one_thread():
        raise RuntimeError("inside")
    assert torch.get_num_threads() == 2


def test_threads_that_overlap_all_get_theirs_back() -> None:
    inside, go_on = threading.Event(), threading.Event()
    seen: dict[str, list[int]] = {}

    def hold(name: str, wait: bool) -> None:
        with one_thread():
            seen[name] = [torch.get_num_threads()]
            if wait:
                inside.set()
                go_on.wait(10)
        seen[name].append(torch.get_num_threads())

    first = threading.Thread(target=hold, args=("first", True))
    first.start()
    inside.wait(10)
    second = threading.Thread(target=hold, args=("second", False))  # starts while the first holds: torch tells it one
    second.start()
    second.join()
    go_on.set()
    first.join()
    assert seen == {"first": [1, 2], "second": [1, 2]}
    later: list[int] = []
    last = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    last.start()
    last.join()
    assert later == [2] and torch.get_num_threads() == 2


def run(code: str, **threads: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.endswith("NUM_THREADS")}
    environment = kept | {"OMP_NUM_THREADS": "2"} | threads
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CLOUDS = """
import multiprocessing, os
import numpy as np, torch, deepgmr
x = np.random.default_rng(0).normal(size=(600, 3))
y = x[100:] + 1
def answer(_): return deepgmr.register(x, y).target_from_source.tobytes().hex()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_answers_after_its_parent_did(method: str, tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        CLOUDS
        + f"""
if __name__ == "__main__":
    ours = answer(0)
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        theirs = pool.map_async(answer, range(2)).get(60)
    print({{ours}} == set(theirs))
"""
    )
    assert run(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')") == "True\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_a_registration_starts_no_threads() -> None:
    code = (
        CLOUDS
        + """
deepgmr.register  # its imports start the idle threads of OpenBLAS
before = len(os.listdir("/proc/self/task"))
answer(0)
print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
"""
    )
    assert run(code) == "0 2\n"


MANY = """
if __name__ == "__main__":
    import sys, threading
    from deepgmr import Registrar
    registrar, pairs = Registrar.load(), [(x, y), (y, x), (x[:300], y), (y, x[50:350])]
    def key(a): return a.target_from_source.tobytes() + a.covariance.tobytes() + repr(a.evidence).encode()
    alone = [key(registrar.register(*pair)) for pair in pairs]
"""


def test_threads_that_share_scans_agree_to_the_last_bit() -> None:
    code = (
        MANY
        + """
    scans = {id(cloud): registrar.prepare(cloud) for pair in pairs[:2] for cloud in pair}
    found = []
    def worker(shift):
        for number in range(4):
            at = (number + shift) % 4
            pair = [scans.get(id(cloud), cloud) for cloud in pairs[at]]
            found.append(key(registrar.register(*pair)) == alone[at])
    threads = [threading.Thread(target=worker, args=(shift,)) for shift in range(4)]
    [thread.start() for thread in threads]; [thread.join() for thread in threads]
    print(len(found), set(found))
"""
    )
    assert run(CLOUDS + code) == "16 {True}\n"


def test_more_threads_change_no_bit_and_a_forked_child_goes_without() -> None:
    code = (
        MANY
        + """
    deepgmr.set_threads(2)
    again = [key(registrar.register(*pair)) == known for pair, known in zip(pairs, alone)]
    more = len(os.listdir("/proc/self/task")) if sys.platform.startswith("linux") else 2
    torch.set_num_threads(2)
    (torch.randn(3_000_000) * 2).sum()  # starts torch's own, which a child would wait for
    theirs = None
    if hasattr(os, "fork"):
        import warnings
        warnings.simplefilter("ignore")
        with multiprocessing.get_context("fork").Pool(1) as pool:
            theirs = pool.map_async(answer, [0]).get(60)[0]
    print(again, more > 1, theirs in (None, answer(0)), deepgmr.threads.searching())
"""
    )
    assert (
        run(CLOUDS.replace("deepgmr\n", "deepgmr, deepgmr.threads\n", 1) + code)
        == "[True, True, True, True] True True 2\n"
    )


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_number_of_threads_is_a_whole_number(count: object) -> None:
    with pytest.raises(InvalidConfig, match="number of threads"):
        set_threads(count)  # type: ignore[arg-type]


def test_the_threads_that_numpy_was_given_change_no_bit() -> None:
    """BLAS shares large products out and rounds them otherwise: `register` makes none of those where it matters."""
    code = (
        CLOUDS
        + """
import hashlib
scene = np.random.default_rng(1).uniform(-1, 1, (9000, 3))
scene[np.arange(9000), np.arange(9000) % 3] = 1.0  # three walls
for a, b in ((x, y), (scene, scene[1000:] @ np.array([[0., -1, 0], [1, 0, 0], [0, 0, 1]]))):
    a = deepgmr.register(a, b)
    content = a.target_from_source.tobytes() + a.covariance.tobytes() + repr((a.evidence, a.confidence)).encode()
    print(hashlib.sha256(content).hexdigest())
"""
    )
    one, two = (run(code, OMP_NUM_THREADS=count, OPENBLAS_NUM_THREADS=count) for count in "12")
    assert one == two and len(one.split()) == 2
