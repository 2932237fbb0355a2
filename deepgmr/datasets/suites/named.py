"""A suite of any kind by its path; `#` and a word choose pairs of it."""

from __future__ import annotations

from pathlib import Path

from deepgmr.datasets.pairs.protocols import PROTOCOLS
from deepgmr.datasets.suites.fixed import PairSuite, read_suite
from deepgmr.datasets.suites.made import PROCEDURAL, modelnet_suite, procedural_suite
from deepgmr.datasets.suites.modelnet import is_modelnet
from deepgmr.datasets.suites.procedural import is_procedural, read_procedural
from deepgmr.datasets.suites.recrops import RECROPS, recropped
from deepgmr.datasets.suites.threedmatch import BENCHMARKS, is_threedmatch, read_threedmatch
from deepgmr.errors import InvalidFile


def read_named(path: str | Path, *, points: int | None = None) -> PairSuite:
    """What `read_suite` reads, the 3DMatch layout, procedural worlds, or pairs cut on the spot; `points` cuts each cloud.

    `procedural#PROTOCOL` cuts procedural shapes, and `PATH#PROTOCOL` of a ModelNet40 folder its test split, by a
    protocol of `deepgmr.datasets.pairs.protocols` (noisy where none is named).

    `PATH#unseen` and `PATH#seen` keep the rows whose category is not, or is, among the first twenty; `PATH#3DMatch` and
    `PATH#3DLoMatch` choose the benchmark; `PATH#recrop70` and `PATH#recrop50` cut new pairs from the shapes of a suite,
    or from the test shapes where the path is a folder of ModelNet40. `WORLD#WORDS` makes pairs of a procedural world,
    see `procedural`, unless a file of that name is there. Raises `InvalidFile`; of a world `InvalidConfig`.
    """
    text, mark, word = str(path).rpartition("#")
    if is_procedural(str(path)) and not Path(text or path).exists():
        return read_procedural(str(path)).cut(points)
    place, protocol = (text, word) if mark and (word in PROTOCOLS or text == PROCEDURAL) else (str(path), "noisy")
    if place == PROCEDURAL:
        return procedural_suite(protocol).cut(points)
    if mark and word in RECROPS:
        return recropped(text, word).cut(points)
    if is_modelnet(place):
        return modelnet_suite(place, protocol).cut(points)
    if mark and word in BENCHMARKS:
        return read_threedmatch(text, word).cut(points)
    if is_threedmatch(path):
        raise InvalidFile(f"{path} holds several benchmarks; give {path}#{f' or {path}#'.join(BENCHMARKS)}")
    if not mark or word not in ("seen", "unseen"):
        return read_suite(path, points=points)
    suite = read_suite(text, points=points)
    if suite.unseen is None:
        raise InvalidFile(f"{text} does not say which rows are unseen, so `#{word}` means nothing there")
    return suite.subset(suite.unseen if word == "unseen" else ~suite.unseen, name=f"{suite.name}#{word}")
