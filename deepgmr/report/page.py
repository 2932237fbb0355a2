"""One HTML file that shows an answer: no network, no library, nothing that a file name could inject.

The viewer is our own: some six hundred lines of plain WebGL in `page_files`, 27 kB. plotly's bundle alone is 4.8 MB of
the 5 MB that a page may have, three.js 0.7 MB and a dependency, and both would have to be taught depth shading.
"""

from __future__ import annotations

import base64
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.io.disk import check_writable, replacing
from deepgmr.pipeline.answer import Registration, plain
from deepgmr.report import facts
from deepgmr.report.picture import view
from deepgmr.report.raster import png
from deepgmr.report.scene import Cloud, Pose, Scene, moved, spacing

SCRIPTS = ("gl.js", "shaders.js", "viewer.js", "drawing.js", "steering.js", "page.js")
_NO_COUNTERPART, _TOP = 255, 127  # codes of residuals


def write_page(
    path: Any, result: Registration, *, source: str = "source", target: str = "target", command: str = ""
) -> None:
    """Write the page; the same answer gives the same bytes. Raises `InvalidFile` or, without a trace, `InvalidInput`."""
    check_writable(Path(path))
    text = page(Scene.of(result), source=source, target=target, command=command)
    with replacing(Path(path)) as stream:
        stream.write(text.encode("utf-8"))


def page(scene: Scene, *, source: str = "source", target: str = "target", command: str = "") -> str:
    """The page as text; names and command are escaped."""
    import jinja2
    from markupsafe import Markup

    from deepgmr import __version__

    files = resources.files("deepgmr.report") / "page_files"

    def read(name: str) -> str:
        return (files / name).read_text(encoding="utf-8")

    rooms = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader({name: read(name) for name in ("page.html", "panels.html")}),
    )
    rooms.filters.update(number=number, percent=percent, seconds=seconds)
    widest = facts.widest_gap(scene)
    shown, (terms, base) = data(scene, widest), facts.confidence_terms(scene)
    behind = scene.search.bundle.ranking.plausibility(scene.search.pose_terms).double()
    return rooms.get_template("page.html").render(
        scene=scene,
        result=scene.result,
        names={"source": source, "target": target},
        command=command,
        python=facts.python_lines(scene),
        version=__version__,
        widest=widest,
        histograms=[facts.histogram(pose, widest) for pose in scene.poses],
        apart=[facts.apart(scene, pose) for pose in scene.poses],
        behind=(behind[0] - behind).tolist(),
        degrees=facts.degrees(scene.result.target_from_source),
        distance=float(np.linalg.norm(scene.answer.motion[:3, 3] + scene.target.origin - scene.source.origin)),
        terms=terms,
        base=base,
        total=facts.confidence_sum(scene),
        precision=facts.precision(scene),
        stretch=shown["uncertainty"]["stretch"],
        looks=list(facts.looks(scene)),
        changed=facts.changed_settings(scene),
        trust=scene.search.settings.judge.trust,
        style=Markup(read("style.css")),
        script=Markup("\n".join(read(name) for name in SCRIPTS)),
        data=Markup(in_script(shown)),
        poster=base64.b64encode(png(view(scene, scene.answer.motion, 720, 480))).decode("ascii"),
    )


def data(scene: Scene, widest: float) -> dict[str, Any]:
    """What the viewer reads, and the answer in full: `registration` is `Registration.to_dict()`."""
    precise = facts.precision(scene)
    drawn = np.concatenate([moved(scene.answer.motion, scene.source.points), scene.target.points])
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    centre = (low + high) / 2
    radius = float(np.linalg.norm(drawn - centre, axis=1).max()) or 1.0
    source, target = scene.match_ends
    return {
        "registration": scene.result.to_dict(),
        "clouds": {cloud.role: _cloud(cloud) for cloud in (scene.source, scene.target)},
        "poses": [_pose(scene, pose, widest) for pose in scene.poses],
        "before": scene.before.ravel().tolist(),
        "matches": {"source": _packed(source, "<f4"), "target": _packed(target, "<f4"), "count": len(source)},
        "uncertainty": _uncertainty(precise, radius),
        "centre": centre.tolist(),
        "radius": radius,
        "spacing": spacing(drawn),
        "view": scene.view,
    }


def in_script(value: Any) -> str:
    """JSON that no text inside can end the script element of."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def unpacked(text: str, kind: str) -> np.ndarray:
    """The numbers that `_packed` wrote, in a row."""
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def _cloud(cloud: Cloud) -> dict[str, Any]:
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    roots = cloud.axes[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    return {
        "count": len(cloud.points),
        "total": cloud.total,
        "low": low.tolist(),
        "high": (low + span).tolist(),
        "points": _packed(np.rint(65535 * (cloud.points - low) / span), "<u2"),
        "normals": _packed(np.rint(127 * cloud.normals), "i1"),
        "components": _packed(cloud.components, "<f4"),
        "roots": _packed(roots, "<f4"),
    }


def _pose(scene: Scene, pose: Pose, widest: float) -> dict[str, Any]:
    return {
        "name": pose.name,
        "score": pose.score,
        "motion": pose.motion.ravel().tolist(),
        "source_gaps": _packed(_codes(pose.source_gaps, widest), "u1"),
        "target_gaps": _packed(_codes(pose.target_gaps, widest), "u1"),
        "agreeing": _packed(scene.agreeing(pose), "u1"),
    }


def _codes(gaps: np.ndarray, widest: float) -> np.ndarray:
    """Roots of gaps (N,), so that small ones keep their digits: `_TOP` at the end of the scale, 254 four times as far."""
    codes = np.rint(_TOP * np.sqrt(np.where(np.isfinite(gaps), gaps, 0.0) / widest)).clip(0, _NO_COUNTERPART - 1)
    return np.where(np.isfinite(gaps), codes, _NO_COUNTERPART)


def _uncertainty(precise: facts.Precision, radius: float) -> dict[str, Any]:
    """One standard deviation of the place as an ellipsoid, of the rotation as needles along its axes; both enlarged."""
    shown, thin = 0.16 * radius, 0.004 * radius
    longest, widest = float(precise.lengths[0]), float(precise.degrees[0])
    stretch = shown / longest if longest > 0 else 1.0
    axes = precise.shift_axes
    root = (axes.T * np.maximum(stretch * precise.lengths, thin)) @ axes
    needles = []
    for axis, degrees in zip(precise.turn_axes, precise.degrees, strict=True):
        along = max(2 * shown * degrees / widest, thin) if widest > 0 else thin
        needles.append(_six(thin * np.eye(3) + (along - thin) * np.outer(axis, axis)))
    return {"root": _six(root), "stretch": stretch, "needles": needles}


def _six(matrix: np.ndarray) -> list[float]:
    return matrix[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist()


def number(value: float | None, digits: int = 3) -> str:
    """A number as it reads best, and a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0 or 1e-4 <= abs(rounded) < 1e6:
        return f"{rounded:,.10g}"
    mantissa, _, exponent = f"{rounded:.{digits - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(value: float | None) -> str:
    """A share."""
    return "-" if value is None else f"{100 * value:.0f} %"


def seconds(milliseconds: float) -> str:
    """A time."""
    return f"{milliseconds / 1e3:.2f} s" if milliseconds >= 1e3 else f"{milliseconds:.0f} ms"
