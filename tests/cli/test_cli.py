"""The terminal: what is printed where, what is written when, and the exit codes.

The plumbing is tested with a stand-in for the registration, so that what it is given and what becomes of its answer
are known exactly; at the end the real thing runs on the sample pair and on clouds that cannot be registered.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

import deepgmr
from deepgmr import cli
from deepgmr.errors import InvalidCloud, NumericalWarning
from deepgmr.io import CloudFile, read_cloud, read_transform, transformed, write_cloud, write_transform
from deepgmr.pipeline.answer import Alternative, Registration, Stats
from deepgmr.pipeline.judge import Evidence, Status
from deepgmr.pipeline.settings import PRESETS, Settings
from deepgmr.pipeline.trace import Trace

MOTION = np.eye(4)
MOTION[:3, :3] = Rotation.from_rotvec([0.1, 2.0, -0.4]).as_matrix()
MOTION[:3, 3] = (1 / 3, -np.pi, 1e-9)
POINTS = np.random.default_rng(1).normal(size=(40, 3))


@dataclass
class StandIn:
    """In place of deepgmr.pipeline.registrar and its Registrar: remembers what it was asked, answers what it was told."""

    status: str = "ok"
    notes: tuple[str, ...] = ()
    covariance: np.ndarray = field(default_factory=lambda: np.diag([1e-4] * 6))
    before: Callable[[], object] = lambda: None
    calls: list[dict[str, Any]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def Registrar(self) -> StandIn:
        return self

    def load(self, name_or_path: str, *, preset: str) -> StandIn:
        self.loaded += [name_or_path, preset]
        return self

    def replace(self, **changes: Any) -> StandIn:
        self.changes.append(changes)
        return self

    def register(self, source: np.ndarray, target: np.ndarray, **options: Any) -> Registration:
        self.calls.append({"source": source, "target": target, **options})
        if options["progress"] is not None:
            options["progress"]("searching", 0.5)
        self.before()
        return Registration(
            target_from_source=MOTION,
            confidence=0.875,
            overlap=0.5,
            score=0.75,
            covariance=self.covariance,
            status=Status(self.status),
            sentence=f"It is {self.status};\ndo something.",
            evidence=Evidence(**dict.fromkeys([item.name for item in fields(Evidence)], 0.5) | {"accidents": -np.inf}),
            stats=Stats(looks=2, hypotheses=32, components=(1500, 1400), milliseconds={"scan": 1.5}, bundle="0123"),
            alternatives=(Alternative(np.eye(4), 0.125),),
            notes=self.notes,
        )


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    double = StandIn()
    monkeypatch.setitem(sys.modules, "deepgmr.pipeline.registrar", double)
    monkeypatch.setattr("deepgmr.pipeline.registrar", double, raising=False)
    return double


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """A source with colours and normals, and a target, as paths."""
    properties = {name: np.full(40, value, np.float32) for name, value in (("nx", 0), ("ny", 0), ("nz", 1))}
    properties["red"] = np.arange(40, dtype=np.uint8)
    write_cloud(tmp_path / "src.ply", CloudFile(POINTS, properties))
    write_cloud(tmp_path / "tgt.ply", CloudFile(POINTS[::-1]))
    return [str(tmp_path / "src.ply"), str(tmp_path / "tgt.ply")]


def assert_refused(capsys: pytest.CaptureFixture[str], code: int, words: str) -> None:
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("register: error: ")
    assert words in printed.err


# -- answers -----------------------------------------------------------------------------------------------------


def test_the_answer_is_for_numpy_and_for_people(
    pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.register_main(pair) == 0
    printed = capsys.readouterr()
    np.testing.assert_array_equal(np.loadtxt(io.StringIO(printed.out)), MOTION)
    assert printed.out.splitlines()[4:] == ["# ok: confidence 0.875, overlap 0.500. It is ok; do something."]
    assert printed.err == ""
    np.testing.assert_array_equal(standin.calls[0].pop("source").points, POINTS)
    np.testing.assert_array_equal(standin.calls[0].pop("target").points, POINTS[::-1])
    assert isinstance(standin.calls[0].pop("trace"), Trace)
    assert callable(standin.calls[0].pop("progress"))
    assert standin.calls[0] == {
        **{"initial": None, "max_rotation_degrees": None, "trust": None, "seed": 0, "refine": True},
        **{"drop_invalid": False, "source_origin": None, "target_origin": None, "timeout": None},
        "estimate_scale": False,
    }
    assert standin.loaded == ["default", "default"] and standin.changes == []


def test_the_verb_is_the_same_command(pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["register", *pair]) == 0
    one = capsys.readouterr().out
    assert cli.register_main(pair) == 0
    assert capsys.readouterr().out == one


def test_options_reach_the_registration(pair: list[str], standin: StandIn, tmp_path: Path) -> None:
    write_transform(tmp_path / "T0.txt", MOTION)
    options = ["--initial", str(tmp_path / "T0.txt"), "--max-rotation", "45", "--seed", "7"]
    options += ["--trust", "0.5", "--preset", "fast", "--bundle", "mine.safetensors"]
    options += ["--source-origin", "1", "-2.5", "3e2", "--target-origin", "0", "0", "0"]
    assert cli.register_main([*pair, *options, "--no-refine", "--drop-invalid"]) == 0
    call = standin.calls[0]
    np.testing.assert_array_equal(call["initial"], MOTION)
    assert (call["max_rotation_degrees"], call["seed"], call["refine"], call["drop_invalid"]) == (45.0, 7, False, True)
    assert call["source_origin"] == (1.0, -2.5, 300.0) and call["target_origin"] == (0.0, 0.0, 0.0)
    assert call["trust"] == 0.5 and standin.loaded == ["mine.safetensors", "fast"]


def test_settings_are_changed_in_the_order_they_are_given(pair: list[str], standin: StandIn, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[judge]\ntrust = 0.25\n[search]\nclear = 1\n")
    looks = '[{"learned": true, "refined": 4}]'
    values = ["judge.trust=0.5", str(tmp_path / "mine.toml"), "refine.reaches=[3, 1.5]", f"search.looks={looks}"]
    values += ["search.looks=[{ grid = 3 }]", "scan.finest = 1_000"]
    assert cli.register_main([*pair, *(word for value in values for word in ("--config", value))]) == 0
    assert standin.changes == [
        {"judge": {"trust": 0.5}},
        {"judge": {"trust": 0.25}, "search": {"clear": 1}},
        {"refine": {"reaches": [3, 1.5]}},
        {"search": {"looks": [{"learned": True, "refined": 4}]}},
        {"search": {"looks": [{"grid": 3}]}},
        {"scan": {"finest": 1000}},
    ]


def test_settings_written_as_toml_are_settings(pair: list[str], standin: StandIn, tmp_path: Path) -> None:
    wanted = Settings().replace(judge={"trust": 0.75})
    (tmp_path / "all.toml").write_text(wanted.to_toml())
    assert cli.register_main([*pair, "--config", str(tmp_path / "all.toml")]) == 0
    assert Settings().replace(**standin.changes[0]) == wanted


def test_the_seed_draws_the_points_on_a_mesh(tmp_path: Path, standin: StandIn) -> None:
    for suffix in (".ply", ".obj"):
        box = str(tmp_path / f"box{suffix}")
        trimesh.creation.box((1.0, 2.0, 3.0)).export(box)
        for seed in ("7", "7", "8"):
            assert cli.register_main([box, box, "--seed", seed]) == 0
        one, again, other = (call["source"].points for call in standin.calls[-3:])
        np.testing.assert_array_equal(one, again)
        assert one.shape == other.shape and not (one == other).all(axis=1).any()


def test_json_is_one_object_whatever_libraries_print(
    pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    standin.before = lambda: sys.stdout.write("a library says hello\n")
    standin.covariance = np.full((6, 6), np.inf)
    standin.notes = ("the units look different",)
    assert cli.register_main([*pair, "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert printed.out.count("\n") == 1
    np.testing.assert_array_equal(answer["target_from_source"], MOTION)
    assert answer["registered"] is True and answer["status"] == "ok" and answer["confidence"] == 0.875
    assert answer["overlap"] == 0.5 and answer["score"] == 0.75 and answer["notes"] == ["the units look different"]
    assert answer["covariance"] == [[None] * 6] * 6
    assert answer["alternatives"] == [{"target_from_source": np.eye(4).tolist(), "score": 0.125}]
    assert answer["source"] == {"path": pair[0], "points": 40} and answer["target"]["points"] == 40
    assert answer["evidence"]["accidents"] is None and answer["stats"]["components"] == [1500, 1400]
    assert answer["seconds"] >= 0
    assert printed.err == "a library says hello\n"


def test_outputs_are_written(
    pair: list[str], standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, matrix = tmp_path / "moved.ply", tmp_path / "T.json"
    assert cli.register_main([*pair, "-o", str(moved), "--transform", str(matrix)]) == 0
    expected, found = transformed(read_cloud(pair[0]), MOTION), read_cloud(moved)
    np.testing.assert_array_equal(found.points, expected.points)
    assert list(found.properties) == ["nx", "ny", "nz", "red"]
    np.testing.assert_array_equal(found.properties["ny"], expected.properties["ny"])
    np.testing.assert_array_equal(found.properties["red"], np.arange(40))
    np.testing.assert_array_equal(read_transform(matrix), MOTION)
    assert capsys.readouterr().err == ""


def test_what_the_output_cannot_hold_is_said(
    pair: list[str], standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.register_main([*pair, "-o", str(tmp_path / "moved.npy")]) == 0
    assert capsys.readouterr().err == "note: .npy cannot hold nx, ny, nz, red; a .ply or .npz can hold more\n"


def test_a_pcd_of_doubles_is_said(
    pair: list[str], standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cloud(tmp_path / "src.ply", CloudFile(POINTS + 5e6))
    for name, words in (("moved.pcd", "holds double coordinates"), ("moved.ply", "")):
        assert cli.register_main([*pair, "-o", str(tmp_path / name)]) == 0
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == bool(words)


@pytest.mark.parametrize("status", ["ambiguous", "degenerate", "low_overlap", "uncertain", "timeout"])
def test_an_answer_not_to_be_trusted_is_still_given(
    pair: list[str], standin: StandIn, tmp_path: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    standin.status = status
    standin.notes = ("look at it",)
    assert cli.register_main([*pair, "-o", str(tmp_path / "moved.pcd")]) == 3
    printed = capsys.readouterr()
    np.testing.assert_array_equal(np.loadtxt(io.StringIO(printed.out)), MOTION)
    assert printed.out.splitlines()[-1].startswith(f"# {status}: ")
    assert printed.err == "note: look at it\n"
    assert len(read_cloud(tmp_path / "moved.pcd")) == 40
    assert cli.register_main([*pair, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["registered"] is False


def test_at_a_terminal_a_doubtful_answer_says_where_to_look(
    pair: list[str], standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, options, said in (
        ("ok", [], ""),
        ("ambiguous", [], "note: -v prints the alternative, --report FILE.html shows"),
        ("ambiguous", ["-v"], "note: --report FILE.html shows the alternative; --initial"),
        ("ambiguous", ["--json"], ""),
    ):
        standin.status, screen = status, Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", screen)
            assert cli.register_main([*pair, *options]) == (0 if status == "ok" else 3)
        assert (said in screen.getvalue()) if said else ("note:" not in screen.getvalue())


def test_verbose_speaks_on_stderr_only(pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.register_main([*pair, "-v"]) == 0
    printed = capsys.readouterr()
    np.testing.assert_array_equal(np.loadtxt(io.StringIO(printed.out)), MOTION)
    assert f"source: {pair[0]}: ply, 40 points, with nx, ny, nz, red" in printed.err
    assert "rotation 0.992 degrees, translation 0.0173" in printed.err  # sqrt(3e-4) rad
    assert "2 looks at 1500 and 1400 components, 32 hypotheses" in printed.err
    assert "settings default, bundle default (0123)" in printed.err
    assert "alternative, score 0.125" in printed.err


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(
    pair: list[str], standin: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert cli.register_main(pair) == 0
    assert "searching" in screen.getvalue()
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_warnings_are_one_line(pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a jitter of\n1e-9", NumericalWarning, stacklevel=1)

    standin.before = warn
    assert cli.register_main(pair) == 0
    assert capsys.readouterr().err == "register: warning: a jitter of 1e-9\n"


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.ply", None, "no such file"),
        ("empty.ply", b"", "is empty (0 bytes)"),
        ("cut.ply", b"ply\nformat ascii 1.0\nelement vertex 3\n", "no end_header"),
        ("words.xyz", b"1 2 3\n4 five 6\n", "'five'"),
        ("columns.csv", b"1,2\n3,4\n", "2 columns"),
        ("broken.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "broken.obj"),
        ("broken.las", b"LASF" + bytes(300), "broken.las"),
        ("huge.pts", b"1000000000000\n1 2 3\n", "promises 1,000,000,000,000 points"),
    ],
)
@pytest.mark.parametrize("role", [0, 1])
def test_bad_files(
    pair: list[str],
    standin: StandIn,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    words: str,
    role: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    pair[role] = str(tmp_path / name)
    code = cli.register_main([*pair, "-o", str(tmp_path / "out.ply"), "--transform", str(tmp_path / "T.txt")])
    assert_refused(capsys, code, words)
    assert standin.calls == []
    assert not (tmp_path / "out.ply").exists() and not (tmp_path / "T.txt").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "{}/no/a.ply"], "there is no folder"),
        (["-o", "{}"], "no suffix names no format"),
        (["-o", "{}/a.jpg"], "the suffix .jpg names no format"),
        (["-o", "{}/a.stl"], "the source has only points"),
        (["-o", "{}/src.ply"], "is named twice"),
        (["-o", "{}/x.txt", "--transform", "{}/../{name}/x.txt"], "is named twice"),
        (["--transform", "{}"], "is a directory"),
        (["--transform", "/dev/null"], "not a regular file"),
        (["--initial", "{}/no.txt"], "no such file"),
        (["--initial", "{}/src.ply"], "src.ply: is not text"),
        (["--max-rotation", "0"], "at most 180 degrees, got 0"),
        (["--max-rotation", "nan"], "at most 180 degrees, got nan"),
        (["--timeout", "0"], "a positive number of seconds, got 0"),
        (["--timeout", "nan"], "a positive number of seconds, got nan"),
        (["--trust", "1.5"], "a probability from 0 to 1, got 1.5"),
        (["--trust", "nan"], "a probability from 0 to 1, got nan"),
        (["--preset", "best"], "unknown preset `best`; the presets are default, fast, thorough, paper"),
        (["--config", "judge.trust"], "--config judge.trust: is neither KEY=VALUE nor a file"),
        (["--config", "{}"], "is neither KEY=VALUE nor a file of settings ("),
        (["--config", "{}/src.ply"], "src.ply"),
        (["--config", "judge.trust=high"], "the value in --config judge.trust=high is no TOML"),
        (["--config", "judge.trust=true"], "`judge.trust` must be float, got True"),
        (["--config", "judge.trusty=1"], "unknown setting `judge.trusty`; it holds trust, shape"),
        (["--config", "judge=1"], "`judge` must be a table, got 1"),
        (["--config", "trust=1"], "unknown setting `trust`"),
        (["--config", "scan.most=1.5"], "`scan.most` must be int, got 1.5"),
        (["--config", "search.looks=[{ lernt = true }]"], "lernt"),
        (["--trace", "{}/no/t.json"], "there is no folder"),
        (["--trace", "{}/x.txt", "--transform", "{}/x.txt"], "is named twice"),
    ],
)
def test_bad_options_are_found_before_anything_is_computed(
    pair: list[str],
    standin: StandIn,
    tmp_path: Path,
    options: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    places = [option.replace("{name}", tmp_path.name).replace("{}", str(tmp_path)) for option in options]
    assert_refused(capsys, cli.register_main([*pair, *places]), words)
    assert standin.calls == []
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_output_is_looked_at_before_the_clouds(
    pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, cli.register_main(["no.ply", pair[1], "-o", "a.jpg"]), "the suffix .jpg")


@pytest.mark.parametrize(
    "arguments", [[], ["one.ply"], ["a", "b", "c"], ["a", "b", "--nonsense"], ["a", "b", "--seed", "x"]]
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.register_main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "Usage: register" in printed.err and "Traceback" not in printed.err


def test_a_refused_cloud_names_its_file(pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise InvalidCloud("target: 3 of 40 points\nare NaN; clean the cloud", role="target")

    standin.before = refuse
    assert_refused(capsys, cli.register_main(pair), f"{pair[1]}: target: 3 of 40 points are NaN; clean the cloud")


def test_too_little_memory(pair: list[str], standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise MemoryError

    standin.before = refuse
    assert_refused(capsys, cli.register_main(pair), "not enough memory")


def test_interruption(pair: list[str], standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    standin.before = interrupt
    before = sorted(tmp_path.iterdir())
    assert cli.register_main([*pair, "-o", str(tmp_path / "moved.ply")]) == 130
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == "register: interrupted, nothing more was written\n"
    assert sorted(tmp_path.iterdir()) == before


# -- the process -------------------------------------------------------------------------------------------------


def _python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    root = Path(deepgmr.__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], text=True, env=environment, timeout=120, **options)


def test_help_and_refusals_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from deepgmr import cli\n"
        "codes = [cli.register_main(['--help']), cli.register_main(['no.ply', 'no.ply']), cli.main(['--version'])]\n"
        "slow = {'torch', 'scipy', 'trimesh', 'open3d', 'h5py', 'rich', 'small_gicp'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {slow}' if slow or codes != [0, 2, 0] else 0)\n"
    )
    done = _python(code, capture_output=True)
    assert done.returncode == 0, done.stderr
    for option in (
        "--output",
        "--transform",
        "--json",
        "--initial",
        "--max-rotation",
        "--seed",
        "--no-refine",
        "--trust",
    ):
        assert option in done.stdout
    assert f"deepgmr {deepgmr.__version__}" in done.stdout


def test_a_damaged_laz_is_one_line(pair: list[str], tmp_path: Path) -> None:
    pytest.importorskip("laspy")
    write_cloud(tmp_path / "a.laz", CloudFile(POINTS))
    (tmp_path / "cut.laz").write_bytes((tmp_path / "a.laz").read_bytes()[:-150])
    arguments = [str(tmp_path / "cut.laz"), pair[1]]
    code = f"import sys; from deepgmr import cli; sys.exit(cli.register_main({arguments!r}))"
    done = _python(code, capture_output=True)  # a process of its own: laspy also logs, and pytest would swallow that
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "cut.laz" in done.stderr


def test_a_closed_pipe_is_no_error(pair: list[str]) -> None:
    code = STAND_IN + f"sys.exit(deepgmr.cli.register_main({pair!r}))\n"
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -0` would
    try:
        done = _python(code, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


STAND_IN = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    "import deepgmr.cli, deepgmr.pipeline, test_cli\n"
    "deepgmr.pipeline.registrar = sys.modules['deepgmr.pipeline.registrar'] = test_cli.StandIn()\n"
)
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device to write to")


@FULL
@pytest.mark.parametrize("options", [[], ["--json"], ["--help"], ["--version"]])
def test_a_full_disk_under_stdout_is_one_line(pair: list[str], options: list[str]) -> None:
    code = STAND_IN + f"sys.exit(deepgmr.cli.register_main({[*pair, *options]!r}))\n"
    with Path("/dev/full").open("w") as full:
        done = _python(code, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "standard output: could not be written (No space left on device)" in done.stderr


@FULL
def test_a_full_disk_under_stderr_hides_no_answer(pair: list[str]) -> None:
    code = STAND_IN + f"sys.exit(deepgmr.cli.register_main({[*pair, '-v']!r}))\n"
    with Path("/dev/full").open("w") as full:
        done = _python(code, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 0
    np.testing.assert_array_equal(np.loadtxt(io.StringIO(done.stdout)), MOTION)


def test_a_closed_stdout_is_one_line(pair: list[str]) -> None:
    code = STAND_IN + f"sys.stdout = None; sys.exit(deepgmr.cli.register_main({pair!r}))\n"
    done = _python(code, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        *(2, ""),
        "register: error: standard output: is closed; send it to a file or a terminal\n",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 kB that is almost full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        (folder / "rest").write_bytes(bytes(64 * 1024 - 4096))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("option", ["moved.ply", "moved.pcd", "moved.csv", "moved.npy", "moved.npz", "T.txt", "T.json"])
def test_a_full_disk_is_one_line(
    standin: StandIn, small_disk: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cloud(tmp_path / "src.ply", CloudFile(np.random.default_rng(2).normal(size=(4000, 3))))
    if option.startswith("T"):
        (small_disk / "more").write_bytes(bytes(4096))
    before = sorted(small_disk.iterdir())
    arguments = ["--transform" if option.startswith("T") else "-o", str(small_disk / option)]
    code = cli.register_main([*[str(tmp_path / "src.ply")] * 2, *arguments])
    assert_refused(capsys, code, f"{option}: could not be written (No space left on device); make room")
    assert sorted(small_disk.iterdir()) == before


def test_a_folder_that_vanishes_is_one_line(
    pair: list[str], standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    standin.before = (tmp_path / "out").rmdir
    code = cli.register_main([*pair, "-o", str(tmp_path / "out" / "moved.ply")])
    assert_refused(capsys, code, "cannot be written, there is no folder")


# -- evaluate ----------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Three pairs in the layout of the 2020 release; the first needs no motion."""
    sources = np.random.default_rng(4).normal(size=(3, 64, 3)).astype(np.float32)
    motions = np.stack([np.eye(4), MOTION, MOTION]).astype(np.float32)
    targets = np.einsum("bij,bnj->bni", motions[:, :3, :3], sources) + motions[:, None, :3, 3]
    with h5py.File(tmp_path / "tiny.h5", "w") as file:
        file["source"], file["target"], file["transform"] = sources, targets, motions
    return tmp_path / "tiny.h5"


def test_evaluate_prints_a_table_and_writes_json(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, brief = tmp_path / "out.json", tmp_path / "brief.json"
    arguments = ["--method", "identity", "--json", str(out), "--summary", str(brief), "--limit", "2"]
    assert cli.main(["evaluate", str(suite), *arguments]) == 0
    printed = capsys.readouterr()
    assert "tiny: 2 pairs" in printed.out and "identity" in printed.out
    table = json.loads(out.read_text())["tables"][0]
    assert table["summary"][0]["method"] == "identity" and len(table["pairs"]["name"]) == 2
    (short,) = json.loads(brief.read_text())["tables"]
    assert short == {key: value for key, value in table.items() if key not in ("pairs", "methods")}
    assert cli.main(["evaluate", "--summary", str(suite)]) == 2
    assert "must end in .json" in capsys.readouterr().err and suite.read_bytes()


def test_evaluate_on_a_full_disk_is_one_line(suite: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small_disk / "more").write_bytes(bytes(4096))
    before = sorted(small_disk.iterdir())
    code = cli.main(["evaluate", str(suite), "--method", "identity", "--json", str(small_disk / "out.json")])
    printed = capsys.readouterr()
    assert (code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert "out.json: could not be written (No space left on device)" in printed.err
    assert sorted(small_disk.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.h5", "--method", "identity"], "no.h5"),
        (["{suite}", "--method", "nonsense"], "nonsense"),
        (["{suite}", "--method", "identity", "--json", "no/folder/out.json"], "there is no folder"),
    ],
)
def test_evaluate_refuses(suite: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["evaluate", *(argument.replace("{suite}", str(suite)) for argument in arguments)])
    printed = capsys.readouterr()
    assert (code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert words in printed.err


# -- the real thing ----------------------------------------------------------------------------------------------


def _error(estimate: np.ndarray, truth: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Rotation error in degrees, displacement of the points' centroid."""
    turn = Rotation.from_matrix(estimate[:3, :3] @ truth[:3, :3].T).magnitude()
    centre = np.append(points.mean(axis=0), 1.0)
    return float(np.degrees(turn)), float(np.linalg.norm(((estimate - truth) @ centre)[:3]))


def _assert_registers(pair: list[Path], truth: np.ndarray, out: str) -> None:
    answer = json.loads(out)
    degrees, distance = _error(np.array(answer["target_from_source"]), truth, read_cloud(pair[0]).points)
    assert degrees < 1.0 and distance < 0.001


def test_the_sample_pair(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [sample / "sample_source.ply", sample / "sample_target.ply"]
    truth = read_transform(sample / "sample_target_from_source.txt")
    assert cli.register_main([*map(str, pair), "--json", "-o", str(tmp_path / "moved.ply")]) == 0
    _assert_registers(pair, truth, capsys.readouterr().out)
    assert list(read_cloud(tmp_path / "moved.ply").properties) == ["nx", "ny", "nz", "red", "green", "blue"]
    assert cli.register_main([*map(str, pair[::-1]), "--json"]) == 0
    _assert_registers(pair[::-1], np.linalg.inv(truth), capsys.readouterr().out)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_registers_the_sample_pair(
    sample: Path, tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [sample / "sample_source.ply", sample / "sample_target.ply"]
    options = ["--json", "--preset", preset, "--trace", str(tmp_path / "trace.json")]
    code = cli.register_main([*map(str, pair), *options])
    assert code == (3 if preset == "paper" else 0)  # one forward pass knows no rival, so it is never sure
    printed = capsys.readouterr().out
    _assert_registers(pair, read_transform(sample / "sample_target_from_source.txt"), printed)
    trace, answer = json.loads((tmp_path / "trace.json").read_text()), json.loads(printed)
    assert len(trace["looks"]) == answer["stats"]["looks"] == {"thorough": 3}.get(preset, 1)
    patches = [] if preset == "fast" else ["patches"]
    rooms = ["mixtures"] if preset == "paper" else ["learned", *patches, "correlated", "as they are"]
    assert list(trace["looks"][0]["proposed"]) == rooms
    assert trace["evidence"]["score"] == pytest.approx(answer["score"])


def test_the_trust_that_is_asked_for_decides(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(sample / "sample_source.ply"), str(sample / "sample_target.ply")]
    for options in (["--trust", "1"], ["--config", "judge.trust=1"]):
        assert cli.register_main([*pair, *options]) == 3
        assert "# uncertain: " in capsys.readouterr().out
    assert cli.register_main([*pair, "--config", "judge.trust=1", "--trust", "0.5"]) == 0


def test_the_time_that_is_given_decides(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(sample / "sample_source.ply"), str(sample / "sample_target.ply")]
    known = ["--initial", str(sample / "sample_target_from_source.txt"), "--timeout", "1e-6"]
    assert cli.register_main([*pair, *known]) == 3
    printed = capsys.readouterr()
    assert "# timeout: " in printed.out and np.loadtxt(io.StringIO(printed.out)).shape == (4, 4)
    assert cli.register_main([*pair, "--timeout", "1e-6", "--json", "-o", str(tmp_path / "x.ply")]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["kind"] == "TimedOut" and json.loads(printed.out)["exit_code"] == 3
    assert "no motion was found within the timeout of 1e-06 s" in printed.err and not list(tmp_path.iterdir())


def test_a_bundle_that_is_none_is_refused(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(sample / "sample_source.ply"), str(sample / "sample_target.ply")]
    assert_refused(
        capsys, cli.register_main([*pair, "--bundle", "nothing"]), "`nothing` is neither a file nor a bundle"
    )
    assert_refused(capsys, cli.register_main([*pair, "--bundle", pair[0]]), pair[0])


def test_the_real_bunny(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "scans" / "ply"
    pair = [folder / "bunny_source.ply", folder / "bunny_target.ply"]
    truth = read_transform(folder / "bunny_target_from_source.txt")
    for clouds, motion in ((pair, truth), (pair[::-1], np.linalg.inv(truth))):
        assert cli.register_main([*map(str, clouds), "--json"]) == 0
        _assert_registers(clouds, motion, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (POINTS[:1], "bad.ply: source: 1 usable points"),
        (POINTS[:2], "bad.ply: source: 2 usable points"),
        (np.ones((40, 3)), "bad.ply: source: all 40 points are equal"),
        (np.where(np.arange(40)[:, None] < 3, np.nan, POINTS), "bad.ply: source: 3 of 40 points have NaN or infinite"),
        (np.where(np.arange(40)[:, None] < 2, np.inf, POINTS), "bad.ply: source: 2 of 40 points have NaN or infinite"),
        (POINTS * 1000.0, "millimetres"),
    ],
)
def test_clouds_that_are_refused(
    pair: list[str], tmp_path: Path, points: np.ndarray, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cloud(tmp_path / "bad.ply", CloudFile(points))
    code = cli.register_main([str(tmp_path / "bad.ply"), pair[1], "-o", str(tmp_path / "out.ply")])
    assert_refused(capsys, code, words)
    assert not (tmp_path / "out.ply").exists()


def test_invalid_points_are_dropped_when_asked(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = read_cloud(sample / "sample_source.ply")
    cloud.points[::100] = np.nan
    write_cloud(tmp_path / "holes.ply", cloud)
    pair = [tmp_path / "holes.ply", sample / "sample_target.ply"]
    options = ["--json", "--drop-invalid", "-o", str(tmp_path / "moved.ply")]
    assert cli.register_main([*map(str, pair), *options]) == 0
    answer = np.array(json.loads(capsys.readouterr().out)["target_from_source"])
    finite = np.isfinite(cloud.points).all(axis=1)
    truth = read_transform(sample / "sample_target_from_source.txt")
    degrees, distance = _error(answer, truth, cloud.points[finite])
    assert degrees < 1.0 and distance < 0.001
    moved = read_cloud(tmp_path / "moved.ply")  # every row is still there, with its properties
    np.testing.assert_array_equal(np.isfinite(moved.points).all(axis=1), finite)


def _shape(kind: str, generator: np.random.Generator, count: int = 2000) -> np.ndarray:
    if kind == "line":
        return generator.uniform(-1, 1, (count, 1)) * [1.0, 2.0, 3.0]
    if kind == "sphere":
        directions = generator.normal(size=(count, 3))
        return directions / np.linalg.norm(directions, axis=1, keepdims=True)
    flat = generator.uniform(-1, 1, (count, 3))
    flat[:, 2] = np.where(np.arange(count) % 2, 0.0, 0.5)
    return flat * [5.0, 5.0, 1.0]


@pytest.mark.parametrize("kind", ["line", "sphere", "two planes"])
def test_geometry_without_an_answer_is_not_trusted(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(11)
    write_cloud(tmp_path / "a.ply", CloudFile(_shape(kind, generator)))
    write_cloud(tmp_path / "b.ply", transformed(CloudFile(_shape(kind, generator)), MOTION))
    assert cli.register_main([str(tmp_path / "a.ply"), str(tmp_path / "b.ply"), "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert answer["registered"] is False and answer["status"] in ("degenerate", "ambiguous")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "configuration file or --preset"),
        (["a.toml", "--preset", "deepgmr"], "not both"),
        (["--preset", "nothing"], "unknown preset `nothing`"),
        (["missing.toml"], "missing.toml"),
        (["--preset", "deepgmr"], "no_such_data"),
        (["--preset", "overlap", "--start", "nothing"], "nothing"),
    ],
)
def test_training_refuses_what_it_cannot_start(tmp_path, capsys, arguments, words) -> None:
    out = tmp_path / "out"
    assert cli.main(["train", *arguments, "--data", str(tmp_path / "no_such_data"), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    *said, last = captured.err.splitlines()
    assert words in last and last.startswith("deepgmr train: error: ")
    assert all(line.startswith("training `") for line in said) and len(said) <= 1
    assert captured.out == "" and not out.exists()
