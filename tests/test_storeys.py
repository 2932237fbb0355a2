"""The house keeps its order: a room imports only from rooms above it, and the upper rooms are pure.

Read from the syntax tree of every module, imports inside functions included.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "deepgmr"

# no opinion on registration
MATHEMATICS = ("errors", "plain", "extras", "threads", "remaining", "geometry", "mixture", "divergence", "networks")
PRODUCT = ("io", "pipeline", "posegraph", "odometry", "alignment", "bulk")  # what `register` is, and what is made of it
SHOWN = ("report",)  # an answer made visible: it reads the product and decides nothing
WORKSHOP = ("metrics", "datasets", "training", "evaluation", "cli", "__main__")  # makes and measures the product
HOUSE_ORDER = (*MATHEMATICS, *PRODUCT, *SHOWN, *WORKSHOP)
# What can show itself to who asks for it, as notebooks do, opens this one door downwards: inside a method, so that nothing
# is loaded before.
DOORS = {("pipeline.answer", "report"), ("mixture.gaussian_mixture", "report"), ("pipeline.scan", "pipeline.saved")}
DOORS |= {("alignment.answer", "report.aligned")}
# Of the product's algorithm, what reads a file or starts a process; and what is told when one forks.
IMPURE = (
    "pipeline.bundle",
    "pipeline.saved",
    "pipeline.jobs",
    "pipeline.workers",
    "pipeline.registrar",
    "odometry.stream",
    "alignment.joint",
    "threads",
)
INSIDE = {  # the order of the rooms within a wing, where it is laid down
    "geometry": ("transform", "procrustes"),
    "mixture": ("gaussian_mixture", "solver"),
    "networks": ("rri", "moments", "patches", "pointnet", "overlap", "deepgmr", "graphs"),
    "report": ("scene", "raster", "picture", "facts", "page", "notebook", "live"),
    "pipeline": (
        *(
            "settings",
            "clouds",
            "frame",
            "scan",
            "saved",
            "pace",
            "cohort",
            "visibility",
            "agree",
            "refine",
            "rank",
            "sandwich",
            "uncertainty",
            "stretch",
            "polish",
            "precision",
            "judge",
            "answer",
            "bundle",
            "trace",
            "near",
            "looks",
            "settle",
            "scales",
            "told",
            "gicp",
            "together",
            "jobs",
            "workers",
            "batch",
        ),
        "registrar",
    ),
    "posegraph": ("graph", "looks"),
    "alignment": (
        "settings",
        "answer",
        "meeting",
        "bonds",
        "forest",
        "worlds",
        "settled",
        "solved",
        "plan",
        "tries",
        "joint",
    ),
    "odometry": ("settings", "fix", "motion", "local_map", "fitting", "places", "memory", "stream"),
}
HEAVY = ("open3d", "trimesh", "matplotlib", "h5py", "jinja2", "rerun", "onnx", "onnxscript", "onnxruntime")

# What an upper room must not touch: the disk, the terminal, and chance that no generator governs.
BUILTINS = {"open", "print", "input", "exec", "eval", "breakpoint"}
MODULES = {"io", "os", "pathlib", "pickle", "random", "secrets", "shutil", "socket", "subprocess", "sys", "tempfile"}
MODULES |= {"h5py", "plyfile", "laspy", "safetensors"}
METHODS = {"load", "save", "savez", "savetxt", "loadtxt", "genfromtxt", "fromfile", "tofile", "memmap"}
METHODS |= {"read_text", "read_bytes", "write_text", "write_bytes", "manual_seed_all", "set_rng_state", "fork_rng"}
DRAWS = {"rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli", "poisson"}
DRAWS_IN_PLACE = {"uniform_", "normal_", "random_", "exponential_", "bernoulli_", "geometric_", "cauchy_"}
DRAWS_LIKE = {"rand_like", "randn_like", "randint_like"}  # these cannot be given a generator


def modules() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def dotted(path: Path) -> str:
    """deepgmr/a/b.py -> a.b; deepgmr/a/__init__.py -> a; deepgmr/__init__.py -> the empty string."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names() -> set[str]:
    return {dotted(path) for path in modules()}


def imported(tree: ast.AST, here: str, package: bool) -> Iterator[str]:
    """Every module of this package that a module imports, by its longest name that is a module."""
    known = names()
    anchor = here.split(".") if package else here.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = [part for part in anchor if part][: len(anchor) - (node.level - 1)]
                base = ".".join(["deepgmr", *up, *([base] if base else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] != "deepgmr" or target == "deepgmr.__version__":  # a version brings no room along
                continue
            inner = target.split(".")[1:]
            while inner and ".".join(inner) not in known:
                inner.pop()
            yield ".".join(inner)


def room(module: str) -> str:
    return module.split(".")[0]


def impurities(source: str) -> list[str]:
    """What in a module's source touches the disk, the terminal or the global random state."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"line {node.lineno}: import {name}" for name in origin if name.split(".")[0] in MODULES]
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith(("np.random.", "numpy.random.")) and node.attr not in ("Generator", "default_rng"):
                found.append(f"line {node.lineno}: {text}")
            if text.startswith("torch.random.") or text in ("torch.manual_seed", "torch.seed", "torch.initial_seed"):
                found.append(f"line {node.lineno}: {text}")
        if isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {text}" for text in impure_call(node)]
    return found


def impure_call(node: ast.Call) -> Iterator[str]:
    text = ast.unparse(node.func)
    last = text.rpartition(".")[2]
    method = isinstance(node.func, ast.Attribute)
    governed = any(keyword.arg == "generator" for keyword in node.keywords)
    touches = last in METHODS | {"open"} if method else text in BUILTINS
    draws = (text.startswith("torch.") and last in DRAWS) or (method and last in DRAWS_IN_PLACE)
    if touches:
        yield f"{text}()"
    if last in DRAWS_LIKE or (draws and not governed):
        yield f"{text}() draws from the global generator"
    if last == "default_rng" and not node.args:
        yield f"{text}() without a seed"


# -- the rules -------------------------------------------------------------------------------------------------


def test_every_room_is_in_the_list() -> None:
    strangers = {room(module) for module in names()} - {"", *HOUSE_ORDER}
    assert not strangers, f"rooms that the house does not know: {sorted(strangers)}; give them a place in its order"


@pytest.mark.parametrize("path", modules(), ids=lambda path: dotted(path) or "deepgmr")
def test_imports_point_upwards(path: Path) -> None:
    here = dotted(path)
    if not here or room(here) not in HOUSE_ORDER:
        return  # the public list may import from every room
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for target in imported(tree, here, path.name == "__init__.py"):
        if (here, target) in DOORS:
            continue
        assert target, f"{here} imports the package itself, and with it every room"
        if room(target) == room(here):
            continue
        assert room(target) in HOUSE_ORDER, f"{here} imports {target}, which has no place in the house"
        assert HOUSE_ORDER.index(room(target)) < HOUSE_ORDER.index(room(here)), (
            f"{here} imports {target}, which is below it"
        )


def test_wings_have_no_cycles_and_keep_their_own_order() -> None:
    graph: dict[str, set[str]] = {}
    for path in modules():
        here = dotted(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = set(imported(tree, here, path.name == "__init__.py")) - {here}
        targets -= {target for target in targets if (here, target) in DOORS}
        graph[here] = targets
        order = INSIDE.get(room(here), ())
        for target in targets:
            ours, theirs = here.rpartition(".")[2], target.rpartition(".")[2]
            if room(target) == room(here) and ours in order and theirs in order:
                assert order.index(theirs) < order.index(ours), f"{here} imports {target}, which is below it"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("door", sorted(DOORS))
def test_doors_open_inside_methods_only(door: tuple[str, str]) -> None:
    here, there = door
    tree = ast.parse((HOUSE / f"{here.replace('.', '/')}.py").read_text(encoding="utf-8"))
    outside = ast.Module([node for node in tree.body if not isinstance(node, ast.ClassDef)], [])
    assert there not in set(imported(outside, here, False)) and there in set(imported(tree, here, False))


PURE = [
    path
    for path in modules()
    if room(dotted(path)) in (*MATHEMATICS, "pipeline", "posegraph", "odometry", "alignment")
    and not dotted(path).startswith(IMPURE)
]


@pytest.mark.parametrize("path", PURE, ids=dotted)
def test_upper_rooms_are_pure(path: Path) -> None:
    found = impurities(path.read_text(encoding="utf-8"))
    assert not found, f"{path.relative_to(ROOT)} must be tensors in, tensors out: {found}"


def test_importing_the_package_is_light() -> None:
    code = f"import sys, json, deepgmr; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout) == [], "import these inside the function that needs them"


@pytest.mark.parametrize(
    "path", [p for p in modules() if room(dotted(p)) != "cli"], ids=lambda p: dotted(p) or "deepgmr"
)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:  # the top level only
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            heavy = {name.split(".")[0] for name in origin} & set(HEAVY)
            assert not heavy, f"{dotted(path)} imports {heavy} at its top"


def compares_arrays(definition: ast.ClassDef) -> bool:
    """Whether a dataclass would compare, or hash, what arrays cannot: their truth has no value."""
    for decorator in definition.decorator_list:
        text = ast.unparse(decorator)
        if text.startswith("dataclass") and "eq=False" not in text:
            kinds = " ".join(
                ast.unparse(field.annotation) for field in definition.body if isinstance(field, ast.AnnAssign)
            )
            return any(
                word in kinds for word in ("ndarray", "Tensor", "RigidTransform", "GaussianMixture", "Alternative")
            )
    return False


@pytest.mark.parametrize("path", modules(), ids=lambda path: dotted(path) or "deepgmr")
def test_what_holds_arrays_is_compared_by_identity(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and compares_arrays(node)]
    assert not found, f"{dotted(path)}: declare {found} with eq=False"


def test_the_public_list_is_what_can_be_reached() -> None:
    code = (
        "import deepgmr; assert issubclass(deepgmr.errors.InvalidCloud, deepgmr.errors.DeepGMRError); "
        "assert {'register', 'Registrar', 'divergence', 'GaussianMixture'} < set(deepgmr.__all__); "
        "assert all(hasattr(deepgmr, name) and name in dir(deepgmr) for name in deepgmr.__all__); "
        "from deepgmr import *; assert register.__name__ == 'register' and divergence.__name__ == 'deepgmr.divergence'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# -- the rules can fail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "open('x')",
        "def f(p):\n    return p.open()",
        "import pathlib",
        "def f():\n    from os import path",
        "import os.path",
        "import random",
        "torch.manual_seed(0)",
        "torch.random.fork_rng()",
        "np.random.seed(0)",
        "x = np.random.rand(3)",
        "np.random.default_rng()",
        "torch.randn(3)",
        "torch.randn_like(x)",
        "torch.randperm(4)",
        "x.normal_()",
        "torch.load('x')",
        "np.save('x', y)",
    ],
)
def test_impurity_is_seen(source: str) -> None:
    assert impurities(source)


@pytest.mark.parametrize(
    "source",
    [
        "import math",
        "def f(rng: np.random.Generator): return rng.normal(size=3)",
        "np.random.default_rng(7)",
        "torch.randn(3, generator=generator)",
        "torch.Generator().manual_seed(0)",
        "x.normal_(generator=g)",
        "'print(1) in a string'",
    ],
)
def test_purity_is_not_mistaken(source: str) -> None:
    assert not impurities(source)


def test_imports_are_seen_wherever_they_stand() -> None:
    source = (
        "import deepgmr.mixture.solver\n"
        "from deepgmr import divergence\n"
        "from . import metrics\n"
        "from .io import read_cloud\n"
        "def f():\n    from deepgmr.errors import InvalidCloud\n"
    )
    found = list(imported(ast.parse(source), "metrics", False))
    assert found == ["mixture.solver", "divergence", "metrics", "io", "errors"]


# -- what is private stays private -----------------------------------------------------------------------------


def set_private(source: str) -> list[str]:
    """The private names of the package that a test or a script sets, by monkeypatch or setattr."""
    found = []
    for node in ast.walk(ast.parse(source)):
        verb = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and verb in ("setattr", "setitem", "delattr"):
            texts = [ast.unparse(argument).strip("'\"") for argument in node.args]
            path = texts[0] if verb == "setitem" or len(texts) == 2 else ".".join(texts[:2])
            name = path.rpartition(".")[2]
            found += [f"line {node.lineno}: {path}"] if name[:1] == "_" and name[:2] != "__" else []
    return found


HANDS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])


@pytest.mark.parametrize("path", HANDS, ids=lambda path: path.name)
def test_nobody_sets_a_private_name(path: Path) -> None:
    assert not set_private(path.read_text(encoding="utf-8")), "a seam that a test cuts open is a missing parameter"


def test_a_private_name_that_is_set_is_seen() -> None:
    assert set_private("monkeypatch.setattr(pool, '_CHUNK', 3)") and set_private("monkeypatch.setitem(x._y, 'z', 1)")
    assert set_private("monkeypatch.setattr('deepgmr.a._b', 3)")
    assert not set_private("monkeypatch.setattr(pool, 'CHUNK', 3)") and not set_private("x.__class__")
