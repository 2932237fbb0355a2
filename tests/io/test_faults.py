"""What happens to files when a process is killed, a disk is full, or a path is not there: the old file or the new one."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepgmr import Bundle, RigidTransform, Scan, write_cloud
from deepgmr.errors import DeepGMRError, InvalidFile
from deepgmr.io import checkpoint, disk, write_transform
from deepgmr.io.cloud import CloudFile
from deepgmr.io.disk import replacing
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
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cloud.ply", "motion.txt", "network", "bundle", "scan"])
def test_a_kill_leaves_the_old_file_or_the_new_one(kind: str, tmp_path: Path) -> None:
    path, rng = tmp_path / kind, random.Random(kind)
    program = WRITE + (
        "contents = []\n"
        "for number in (0, 1):\n"
        "    write(number)\n"
        "    contents.append(open(path, 'rb').read())\n"
        "import pathlib, os, signal\n"
        "for number in (0, 1): pathlib.Path(path + f'.{number}').write_bytes(contents[number])\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"  # a child a kill: starting an interpreter takes long
        "    if not os.fork():\n"
        "        timer, seconds = line.split()\n"
        "        signal.setitimer(getattr(signal, timer), float(seconds))\n"
        "        while True:\n"
        "            write(0); write(1)\n"
        "    print(os.WTERMSIG(os.wait()[1]) in (signal.SIGPROF, signal.SIGALRM), flush=True)\n"
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
        kills = cut = 0
        while kills < 15 or (cut < 3 and kills < 300):
            timer = ("ITIMER_REAL", "ITIMER_PROF")[kills % 2]  # the machine may be too busy for its clock to mean much
            process.stdin.write(f"{timer} {rng.uniform(0.002, 0.04)}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "True\n", "the signal that nothing in Python hears ended it"
            assert path.read_bytes() in whole
            parts = list(tmp_path.glob(".*.part"))
            assert len(parts) <= 1, "the next writer left what the one before had left"
            kills, cut = kills + 1, cut + len(parts)
        process.stdin.close()
    assert cut >= 3, "no kill came while something was written: the test shows nothing"


@POSIX
def test_what_a_dead_writer_left_goes_with_the_next_write_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for name in (".x.0.part", ".x.3.part", ".x.part", ".y.0.part", "x.0.part"):
        (tmp_path / name).write_bytes(b"left")
    with replacing(path) as one, replacing(path) as two:
        assert {len(part.read_bytes()) for part in tmp_path.glob(".x.*.part")} == {0}
        one.write(b"one")
        two.write(b"two")
        with replacing(path) as three:
            three.write(b"three")
        assert path.read_bytes() == b"three"
    assert path.read_bytes() == b"one"  # which was done last
    assert {each.name for each in tmp_path.iterdir()} == {"x", ".x.part", ".y.0.part", "x.0.part"}


@POSIX
def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / ".x.0.part").symlink_to("theirs")
    os.mkfifo(tmp_path / ".x.1.part")
    with replacing(tmp_path / "x") as stream:
        stream.write(b"ours")
    assert (tmp_path / "theirs").read_bytes() == b"theirs" and (tmp_path / "x").read_bytes() == b"ours"


def test_without_locks_files_are_whole_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for broken in (None, SimpleNamespace(LOCK_EX=0, LOCK_NB=0, flock=refuse)):
        monkeypatch.setattr(disk, "fcntl", broken)
        with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as two:
            one.write(b"one")
            two.write(b"two")
        assert (tmp_path / "x").read_bytes() == b"one" and [each.name for each in tmp_path.iterdir()] == ["x"]


@POSIX
@pytest.mark.slow
def test_many_writers_of_one_path_of_which_some_are_killed(tmp_path: Path) -> None:
    program = (
        "import sys, os; from pathlib import Path; from deepgmr.io.disk import replacing\n"
        "while True:\n"
        "    with replacing(Path(sys.argv[1])) as stream:\n"
        "        for _ in range(50): stream.write(sys.argv[2].encode() * 1000)\n"
    )
    path, rng = tmp_path / "x", random.Random(0)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = lambda word: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", program, str(path), word], env=environment, stderr=subprocess.PIPE
    )
    children = {word: start(word) for word in "abc"}
    limit = time.monotonic() + 120
    try:
        while not path.exists() and time.monotonic() < limit:
            time.sleep(0.05)
        for turn in range(12):
            time.sleep(rng.uniform(0.2, 0.6))
            word = "abc"[turn % 3]
            assert all(child.poll() is None for child in children.values()), children[word].communicate()
            children[word].kill()
            children[word].communicate()
            children[word] = start(word)
            content = path.read_bytes()
            assert len(content) == 50_000 and content in {letter.encode() * 50_000 for letter in "abc"}
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
    with replacing(path) as stream:
        stream.write(b"last")
    assert path.read_bytes() == b"last" and list(tmp_path.iterdir()) == [path]


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
