"""How much longer a registration takes on a busy machine: beside busy loops, and beside another process that registers.

    python scripts/benchmark_busy.py --pairs 40

Procedural crops of 70 %, median milliseconds a call. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from deepgmr import register
from deepgmr.datasets.pairs.protocols import PROTOCOLS, make_pairs
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.io.disk import replacing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--loops", type=int, nargs="*", default=[1, 2], help="busy loops beside a call")
    parser.add_argument("--processes", type=int, default=2, help="processes that register at the same time")
    parser.add_argument("--json", type=Path, help="keep the numbers")
    arguments = parser.parse_args()
    rows = {"quiet": milliseconds(arguments.pairs)}
    for loops in arguments.loops:
        with busy(loops):
            rows[f"{loops} busy loop{'s' if loops > 1 else ''}"] = milliseconds(arguments.pairs)
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        pool.map(milliseconds, [2] * arguments.processes, chunksize=1)  # imports are not what is timed
        together = pool.map(milliseconds, [arguments.pairs] * arguments.processes, chunksize=1)
    rows[f"{arguments.processes} processes"] = max(together)
    print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads allowed, {platform.machine()}")
    for name, value in rows.items():
        print(f"{name:>16}: {value:7.1f} ms a call, {value / rows['quiet']:.2f} times the quiet one")
    if arguments.json:
        with replacing(arguments.json) as stream:
            stream.write(json.dumps(rows).encode())


def milliseconds(count: int) -> float:
    """The median wall-clock time of a call."""
    generator = torch.Generator().manual_seed(7)
    shapes, normals = sample_shapes(count, 1024, generator=generator)
    pairs = make_pairs(shapes, PROTOCOLS["crop70_180"], generator=generator, normals=normals)
    times = []
    for i in range(count):
        start = time.perf_counter()
        register(pairs.source[i], pairs.target[i])
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that want a core each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
