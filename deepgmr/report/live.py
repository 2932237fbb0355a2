"""A registration played back in the Rerun viewer: clouds, matches, every candidate look by look, and the winner.

Reads what `Trace.to_dict` writes, so a file made on a robot can be looked at on a desk. Needs the extra `deepgmr[view]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra
from deepgmr.io.disk import check_readable, check_writable
from deepgmr.pipeline.trace import Search
from deepgmr.report.scene import POINTS, moved, spacing

_SOURCE, _TARGET, _AGREES, _OTHER = (224, 123, 16), (31, 119, 180), (18, 160, 110), (150, 150, 155)
_NEEDED = ("components", "matches", "looks", "poses", "pose_terms")


@dataclass(frozen=True, eq=False)
class Step:
    """One place of the source in the order in which it was tried."""

    words: str
    motion: np.ndarray  # (4, 4) float64, in the coordinates of the input
    score: float | None
    look: int | None  # whose matches are shown


def viewer() -> Any:
    """Rerun, or `MissingDependency` with the command that installs it."""
    return extra("rerun", "view", "a live view")


def read_trace(path: Path) -> dict[str, Any]:
    """What `register --trace` wrote. Raises `InvalidFile` for anything else."""
    check_readable(path)
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in _NEEDED if name not in trace]
    except (ValueError, TypeError) as error:
        raise InvalidFile(f"{path}: is not JSON ({error}); give a file that `register --trace` wrote") from None
    if missing:
        raise InvalidFile(
            f"{path}: is no trace of this version, it lacks {', '.join(missing)}; write it again with `register --trace`"
        )
    return trace


def thinned(search: Search, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Both clouds (N, 3) and (M, 3) float64 at about so many points, in the coordinates of the input."""
    pair = search.pair
    source, target = pair.fine(points, search.settings.detail.neighbours)
    return pair.scale * source.points + pair.source.origin, pair.scale * target.points + pair.target.origin


def show(
    trace: Mapping[str, Any], clouds: tuple[np.ndarray, np.ndarray] | None = None, save: Path | None = None
) -> None:
    """Play a trace in a window of the viewer, or save it as a recording (.rrd).

    Without clouds the components stand for them. Raises `MissingDependency`, or `InvalidFile` where nothing can be saved.
    """
    library = viewer()
    if save is not None:
        check_writable(save)
    recording = library.RecordingStream("deepgmr")
    if save is not None:
        recording.save(str(save))
    else:
        recording.spawn()
    from rerun import blueprint

    plots = blueprint.Vertical(blueprint.TimeSeriesView(origin="score"), blueprint.TextLogView(origin="steps"))
    scene = blueprint.Spatial3DView(origin="/", name="clouds")
    shown = blueprint.Horizontal(scene, plots, column_shares=[5, 2])
    recording.send_blueprint(blueprint.Blueprint(shown, blueprint.SelectionPanel(state="hidden")))
    _log(library, recording, trace, clouds)
    recording.flush()


def steps(trace: Mapping[str, Any]) -> Iterator[Step]:
    """Before, every refined candidate in the order of the looks, and the winner."""
    yield Step("before", np.eye(4), None, None)
    for number, look in enumerate(trace["looks"]):
        proposed = ", ".join(f"{room} {len(motions)}" for room, motions in look["proposed"].items())
        for rank, (motion, terms) in enumerate(zip(look["candidates"], look["terms"], strict=True)):
            words = f"look {number + 1} ({proposed}), candidate {rank + 1} of {len(look['candidates'])}"
            yield Step(words, np.array(motion), terms["score"], number)
    last = len(trace["looks"]) - 1
    yield Step("the answer", np.array(trace["poses"][0]), trace["pose_terms"][0]["score"], last)


def _log(library: Any, recording: Any, trace: Mapping[str, Any], clouds: tuple[np.ndarray, np.ndarray] | None) -> None:
    components = tuple(np.array(trace["components"][role]) for role in ("source", "target"))
    ours, theirs = clouds or components
    here, there = (each.mean(axis=0) for each in components)  # float32 has no digits to spare for far coordinates
    radius = 0.6 * spacing(np.concatenate([ours - here, theirs - there]))
    recording.log("target", library.Points3D(theirs - there, colors=_TARGET, radii=radius), static=True)
    recording.log("source", library.Points3D(ours - here, colors=_SOURCE, radii=radius), static=True)
    for number, step in enumerate(steps(trace)):
        recording.set_time("step", sequence=number)
        inside = step.motion.copy()
        inside[:3, 3] += step.motion[:3, :3] @ here - there
        recording.log("source", library.Transform3D(translation=inside[:3, 3], mat3x3=inside[:3, :3]))
        recording.log("steps", library.TextLog(step.words if step.score is None else f"{step.words}: {step.score:.3f}"))
        if step.score is not None:
            recording.log("score", library.Scalars(step.score))
        recording.log("matches", _lines(library, trace, step, inside, here, there))


def _lines(
    library: Any, trace: Mapping[str, Any], step: Step, inside: np.ndarray, here: np.ndarray, there: np.ndarray
) -> Any:
    """The matches of the look, green where they agree with the step."""
    found = [met for met in trace["matches"] if met["look"] == step.look]
    if not found:
        return library.Clear(recursive=False)
    starts = moved(inside, np.concatenate([np.array(met["source"]).reshape(-1, 3) for met in found]) - here)
    ends = np.concatenate([np.array(met["target"]).reshape(-1, 3) for met in found]) - there
    tolerance = np.concatenate([np.full(len(met["source"]), met["tolerance"]) for met in found])
    agrees = np.linalg.norm(starts - ends, axis=1) <= tolerance
    colours = np.where(agrees[:, None], _AGREES, _OTHER).astype(np.uint8)
    widths = np.where(agrees, -2.0, -0.7)  # below zero: in pixels of the screen
    return library.LineStrips3D(np.stack([starts, ends], axis=1), colors=colours, radii=widths)
