"""What the commands of the studies share: options, a bound on threads, one line for an error, JSON, page and picture."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgmr.cli.terminal import progress_bar
from deepgmr.errors import DeepGMRError, InvalidInput

if TYPE_CHECKING:
    from deepgmr.evaluation.results import Result, Watch

Measure = Callable[[argparse.Namespace, "Watch"], "Result"]


def options(doc: str | None, study: str, name: str = "") -> argparse.ArgumentParser:
    """A parser with what every study takes; `study` is the module of `deepgmr.evaluation` that knows the result, and
    `name` that of its file where it is another."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = Path("docs", "results", f"{name or study}.json")
    parser.set_defaults(study=study)
    parser.add_argument("--json", type=Path, metavar="OUT", default=place, help=f"every number [default: {place}]")
    parser.add_argument("--from", type=Path, nargs="+", dest="read", metavar="JSON", help="show again, measure nothing")
    parser.add_argument("--picture", type=Path, metavar="OUT", help="draw it too, where there is a picture (.svg, ...)")
    parser.add_argument(
        "--threads", type=int, default=1, help="processors the whole run may use [default: %(default)s]"
    )
    return parser


def run(parser: argparse.ArgumentParser, measure: Measure, arguments: list[str] | None = None) -> int:
    """Measure, or read again; write the JSON, print the page, draw the picture. Returns the exit code."""
    given = parser.parse_args(arguments)
    for name in ("suites", "files"):
        if getattr(given, name, None) == [] and not given.read:
            parser.error(f"give {name} to measure, or --from to show again what was measured")
    limit_threads(given.threads)
    import torch

    from deepgmr.evaluation.figures import check_picture
    from deepgmr.evaluation.results import Watch, read_result, write_result
    from deepgmr.io.disk import check_writable

    torch.set_num_threads(given.threads)
    study: Any = import_module(f"deepgmr.evaluation.{given.study}")
    try:
        if given.picture is not None:
            if not hasattr(study, "draw"):
                raise InvalidInput(f"the study `{given.study}` has no picture")
            check_picture(given.picture)
        if given.read:
            results = [read_result(path, given.study) for path in given.read]
            if len(results) > 1 and not hasattr(study, "merged"):
                raise InvalidInput(f"the study `{given.study}` cannot put several runs together; give one")
            result = study.merged(results) if len(results) > 1 else results[0]
        else:
            check_writable(given.json)
            with progress_bar() as progress:
                result = measure(given, Watch(lambda found: write_result(given.json, found), progress))
        if not given.read or len(given.read) > 1:
            write_result(given.json, result)
        print(study.markdown(result))
        if given.picture is not None:
            study.draw(result, given.picture)
    except DeepGMRError as error:
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{Path(sys.argv[0]).name}: interrupted; {given.json} holds what was kept so far, if anything",
            file=sys.stderr,
        )
        return 130
    return 0


def limit_threads(threads: int) -> None:
    """Before anything is imported that starts threads: every library is bound to the same processors."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def listed(text: str) -> list[str]:
    """Words between commas."""
    return [word for word in text.split(",") if word]
