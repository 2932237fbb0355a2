"""Check a release and build it: `python scripts/release.py`, from a clean tree at the commit to be released.

Refuses a tree with changes, a version that is tagged already or that CHANGELOG.md does not describe. Builds the sdist and the
wheel, checks what they say of themselves and how large they are, installs the wheel into a fresh environment and runs
`deepgmr doctor` there. It uploads nothing: the last lines say how. Needs the extra `release` (build, twine).

    python scripts/release.py --rehearse --to /tmp/dist     # no refusals, and the dependencies of this environment
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 25_000_000  # bytes of an archive
NEEDED = (
    "deepgmr/py.typed",
    "deepgmr/__init__.pyi",
    "deepgmr/bundles/default.safetensors",
    "deepgmr/weights/deepgmr.md",
)


class Refused(Exception):
    """Why there is no release."""


def version_of(root: Path) -> str:
    """The version, from the one place where it stands."""
    found = re.search(r'(?m)^__version__ = "([^"]+)"$', (root / "deepgmr" / "__init__.py").read_text(encoding="utf-8"))
    if not found:
        raise Refused("deepgmr/__init__.py says no __version__")
    return found[1]


def troubles(root: Path) -> list[str]:
    """What stands in the way of releasing this tree."""
    version, found = version_of(root), []

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    if changes := git("status", "--porcelain"):
        found.append(f"the tree has changes; commit them first:\n{changes}")
    if git("tag", "--list", f"v{version}"):
        found.append(f"v{version} is tagged already; raise __version__ in deepgmr/__init__.py")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"(?m)^## {re.escape(version)}\b", changelog):
        found.append(f"CHANGELOG.md has no section `## {version}`")
    unreleased = re.search(r"(?ms)^## Unreleased\n(.*?)(?=^## |\Z)", changelog)
    if unreleased and unreleased[1].strip():
        found.append(f"CHANGELOG.md still has changes under `## Unreleased`; they belong under `## {version}`")
    return found


def build(root: Path, to: Path) -> list[Path]:
    """The sdist and the wheel, checked."""
    if lacking := [name for name in ("build", "twine") if find_spec(name) is None]:
        raise Refused(f"needs {' and '.join(lacking)}; install with: {sys.executable} -m pip install -e '.[release]'")
    to.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(to), str(root)], check=True, stdout=subprocess.DEVNULL
    )
    archives = sorted([*to.glob(f"deepgmr-{version_of(root)}*.whl"), *to.glob(f"deepgmr-{version_of(root)}.tar.gz")])
    if len(archives) != 2:
        raise Refused(f"expected a wheel and an sdist in {to}, found {[path.name for path in archives]}")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)], check=True)
    for path in archives:
        size = path.stat().st_size
        print(f"{path.name}: {size / 1e6:.1f} MB")
        if size > LARGEST:
            raise Refused(f"{path.name} has {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}")
    wheel = next(path for path in archives if path.suffix == ".whl")
    with zipfile.ZipFile(wheel) as packed:
        missing = [name for name in NEEDED if name not in packed.namelist()]
        strangers = {name.split("/")[0] for name in packed.namelist()} - {
            "deepgmr",
            f"deepgmr-{version_of(root)}.dist-info",
        }
    if missing or strangers:
        raise Refused(f"{wheel.name} lacks {missing} and holds {sorted(strangers)} beside the package")
    return archives


def try_out(archive: Path, constraints: Path, *, borrow: bool) -> None:
    """Install an archive into a fresh environment, and ask its doctor.

    `borrow` lends it the dependencies of this environment, which spares minutes; the package itself is never lent.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if borrow:
            inside = next(Path(folder).glob("lib/python*/site-packages"))
            inside.joinpath("borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
            pip += ["--no-deps", "--force-reinstall"]
        subprocess.run([*pip, "-c", str(constraints), str(archive)], check=True, cwd=folder)
        subprocess.run([f"{folder}/bin/deepgmr", "doctor"], check=True, cwd=folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "dist", metavar="FOLDER", help="[default: dist]")
    parser.add_argument("--rehearse", action="store_true", help="build and try, whatever the state of the tree")
    parser.add_argument("--sdist-too", action="store_true", help="try the sdist in a fresh environment as well")
    given = parser.parse_args(arguments)
    try:
        found = [] if given.rehearse else troubles(ROOT)
        if found:
            raise Refused("\n".join(found))
        archives = build(ROOT, given.to)
        for archive in archives:
            if archive.suffix == ".whl" or given.sdist_too:
                try_out(archive, ROOT / "constraints.txt", borrow=given.rehearse)
    except Refused as error:
        print(f"release.py: refused: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"release.py: {error}", file=sys.stderr)
        return 2
    if not given.rehearse:
        version, files = version_of(ROOT), " ".join(map(str, archives))
        tag = f"git tag -a v{version} -m v{version} && git push origin v{version}"
        print(f"all is well; what is left:\n{tag}\ntwine upload {files}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
