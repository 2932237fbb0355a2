"""What happens to files when a process is killed, a disk is full, or a path is not there: the old file or the new one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deepgmr import Bundle, RigidTransform, Scan, write_cloud
from deepgmr.errors import DeepGMRError, InvalidFile
from deepgmr.io import checkpoint, write_transform
from deepgmr.io.cloud import CloudFile
from deepgmr.networks.deepgmr import DeepGMR

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and limits")

WRITE = """
import sys, numpy as np, torch
from deepgmr import Bundle, RigidTransform, Scan, write_cloud
from deepgmr.io import checkpoint, write_transform
from deepgmr.io.cloud import CloudFile
from deepgmr.networks.deepgmr import DeepGMR
kind, path = sys.argv[1:]
rng = np.random.default_rng(0)
points, cloud, network, bundle = rng.normal(size=(20_000, 3)), rng.normal(size=(9_000, 3)), DeepGMR(), Bundle.load()
scans = [Scan.of(cloud), Scan.of(cloud * 2)]
motions = [RigidTransform.identity(), RigidTransform(torch.eye(3), torch.ones(3))]
def write(number):
    if kind == "cloud.ply": write_cloud(path, CloudFile(points + number))
    elif kind == "motion.txt": write_transform(path, motions[number])
    elif kind == "network": checkpoint.save(path, network, provenance={"number": number})
    elif kind == "bundle": bundle.save(path)
    elif kind == "scan": scans[number].save(path)
"""


@POSIX
@pytest.mark.parametrize("kind", ["cloud.ply", "motion.txt", "network", "bundle", "scan"])
def test_a_kill_leaves_the_old_file_or_the_new_one(kind: str, tmp_path: Path) -> None:
    path, rng = tmp_path / kind, random.Random(kind)
    program = WRITE + (
        "contents = []\n"
        "for number in (0, 1):\n"
        "    write(number)\n"
        "    contents.append(open(path, 'rb').read())\n"
        "import pathlib\n"
        "for number in (0, 1): pathlib.Path(path + f'.{number}').write_bytes(contents[number])\n"
        "import os\n"
        "print('ready', flush=True)\n"
        "while sys.stdin.readline():\n"  # a child a kill: starting an interpreter takes long
        "    child = os.fork()\n"
        "    if not child:\n"
        "        while True:\n"
        "            write(0); write(1)\n"
        "    print(child, flush=True)\n"
        "    os.waitpid(child, 0)\n"
        "    print('dead', flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, kind, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        whole = {(tmp_path / f"{kind}.{number}").read_bytes() for number in (0, 1)}
        cut = 0
        for _ in range(15):
            process.stdin.write("again\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            time.sleep(rng.uniform(0.002, 0.06))
            os.kill(child, 9)
            assert process.stdout.readline() == "dead\n"
            assert path.read_bytes() in whole
            parts = list(tmp_path.glob(".*.part"))
            cut += len(parts)
            for part in parts:
                part.unlink()
        process.stdin.close()
    assert cut, "no kill came while something was written: the test shows nothing"


def writers() -> dict[str, Callable[[Path], None]]:
    points = np.random.default_rng(0).normal(size=(20_000, 3))
    return {
        "cloud.ply": lambda path: write_cloud(path, CloudFile(points)),
        "cloud.npz": lambda path: write_cloud(path, CloudFile(points)),
        "network": lambda path: checkpoint.save(path, DeepGMR()),
        "bundle": lambda path: Bundle.load().save(path),
        "scan": lambda path: Scan.of(points).save(path),
    }


@POSIX
@pytest.mark.parametrize("kind", ["cloud.ply", "cloud.npz", "network", "bundle", "scan"])
def test_a_disk_that_is_full_is_named_and_the_old_file_stays(kind: str, tmp_path: Path) -> None:
    import resource

    path = tmp_path / kind
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # as a full disk: a write that the system refuses
    try:
        with pytest.raises(InvalidFile, match=f"{kind}: could not be written .*make room"):
            writers()[kind](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system")
def test_a_small_file_system_that_fills_up(tmp_path: Path) -> None:
    program = (
        WRITE
        + "from deepgmr.errors import InvalidFile\nimport os\n"
        + "for path in (f'{sys.argv[2]}/first', f'{sys.argv[2]}/second'):\n"
        + "    try: write(0)\n"
        + "    except InvalidFile as error: print(error)\n"
        + "print(sorted(os.listdir(sys.argv[2])))\n"
    )
    script = f'mount -t tmpfs -o size=400k none {tmp_path} && exec {sys.executable} -W ignore -c "$0" scan {tmp_path}'
    command = ["unshare", "-Urm", "sh", "-c", script, program]
    try:
        trial = subprocess.run([*command[:4], f"mount -t tmpfs none {tmp_path}"], capture_output=True, check=False)
    except OSError:
        trial = None
    if trial is None or trial.returncode:
        pytest.skip("no file system can be mounted here")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    message, left = done.stdout.splitlines()
    assert "second: could not be written (No space left on device)" in message and left == "['first']"


@pytest.mark.parametrize("kind", ["cloud.ply", "network", "bundle", "scan"])
def test_a_path_that_vanishes_is_named(kind: str, tmp_path: Path) -> None:
    write = writers()[kind]
    with pytest.raises(InvalidFile, match="no folder"):
        write(tmp_path / "gone" / kind)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DeepGMRError, match="file"):
        write(tmp_path / "file" / kind)
    (tmp_path / kind).mkdir()
    with pytest.raises(InvalidFile, match="is a directory"):
        write(tmp_path / kind)


def test_a_folder_that_goes_while_the_file_is_written(tmp_path: Path) -> None:
    from deepgmr.io.disk import replacing

    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InvalidFile, match="could not be written"), replacing(folder / "x") as stream:
        stream.write(b"12")
        folder.rename(tmp_path / "elsewhere")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_nobody_may_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InvalidFile, match="cannot be written"):
            write_transform(tmp_path / "motion.txt", RigidTransform(torch.eye(3), torch.zeros(3)))
    finally:
        tmp_path.chmod(0o700)
