"""What a notebook shows at the end of a cell: a small picture and a few numbers, nothing to scroll through."""

from __future__ import annotations

import base64
import html
import math

import numpy as np

from deepgmr.mixture.gaussian_mixture import GaussianMixture
from deepgmr.pipeline.answer import Registration
from deepgmr.report.facts import degrees
from deepgmr.report.picture import two_clouds
from deepgmr.report.raster import TARGET, Camera, draw, lit, png
from deepgmr.report.scene import spacing, widest_view

WIDTH, HEIGHT = 360, 240  # pixels
_DRAWN = 20_000  # points on the components of a mixture


def registration_html(result: Registration) -> str:
    """The clouds as they meet, the verdict, and how sure and precise it is."""
    image = ""
    if result.sketch is not None:
        source, target = (points.astype(np.float64) for points in result.sketch)
        seen_from = widest_view(np.concatenate([source, target]))
        image = _image(two_clouds((source, None), (target, None), seen_from, WIDTH, HEIGHT), "both clouds, registered")
    spread = np.sqrt(np.maximum(np.diag(result.covariance), 0.0))
    rows = {
        "confidence": f"{result.confidence:.3f}",
        "overlap": f"{100 * result.overlap:.0f} %",
        "rotation": f"{degrees(result.target_from_source):.2f}° ± {math.degrees(float(np.linalg.norm(spread[:3]))):.2g}°",
        "alternatives": f"{len(result.alternatives)}",
        "time": f"{sum(result.stats.milliseconds.values()) / 1e3:.2f} s, {result.stats.hypotheses} hypotheses",
    }
    colour = "#0b7a52" if result.trusted else "#b3470b"
    head = f'<b style="color:{colour}">{html.escape(result.status.value)}</b>: {html.escape(result.sentence)}'
    return _card(image, head, rows)


def mixture_html(mixture: GaussianMixture) -> str:
    """The components as their surfaces of one standard deviation, and the sizes of what the mixture holds."""
    rows = {
        "components": f"{mixture.components}",
        "batch": f"{tuple(mixture.batch_shape)}" if mixture.batch_shape else "-",
        "numbers": f"{str(mixture.dtype).removeprefix('torch.')} on {mixture.device}",
    }
    image = _image(_components(mixture), "the components") if _drawable(mixture) else ""
    return _card(image, f"<b>Gaussian mixture</b> in {mixture.dimension} dimensions", rows)


def _drawable(mixture: GaussianMixture) -> bool:
    parts = (mixture.weights, mixture.means, mixture.covariances)
    single = not mixture.batch_shape and mixture.dimension == 3
    return single and all(bool(part.isfinite().all()) for part in parts)


def _components(mixture: GaussianMixture) -> np.ndarray:
    """A picture of the components that weigh most, as shells; heavier ones in stronger colours."""
    weights = mixture.weights.detach().double().cpu().numpy()
    kept = np.argsort(-weights, kind="stable")[:2000]
    means = mixture.means.detach().double().cpu().numpy()[kept]
    values, vectors = np.linalg.eigh(mixture.covariances.detach().double().cpu().numpy()[kept])
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    sphere = _sphere(max(24, _DRAWN // len(means)))
    points = means[:, None] + np.einsum("jik,sk->jsi", roots, sphere)
    inverse = vectors / np.sqrt(np.maximum(values, 1e-12 * values.max() + 1e-300))[:, None, :]
    normals = np.einsum("jik,sk->jsi", inverse, sphere)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    flat = points.reshape(-1, 3)
    camera = Camera.around(flat, widest_view(means) if len(means) > 2 else (0.8, 0.5), WIDTH / HEIGHT)
    strength = (weights[kept] / weights[kept[0]] if weights[kept[0]] > 0 else weights[kept])[:, None, None]
    colours = lit(TARGET, normals.reshape(-1, 3), camera).reshape(points.shape)
    colours = colours * (0.35 + 0.65 * strength) + 0.65 * (1 - strength) * 0.9
    radius = min(max(0.75 * spacing(flat) * WIDTH / camera.width, 0.8), 2.4)
    return draw(flat, colours.reshape(-1, 3), camera, WIDTH, HEIGHT, radius=radius)


def _sphere(count: int) -> np.ndarray:
    """Points (count, 3) spread evenly over the unit sphere (Fibonacci's spiral)."""
    step = np.arange(count) + 0.5
    z, turn = 1 - 2 * step / count, np.pi * (1 + 5**0.5) * step
    ring = np.sqrt(1 - z * z)
    return np.column_stack([ring * np.cos(turn), ring * np.sin(turn), z])


def _image(pixels: np.ndarray, words: str) -> str:
    coded = base64.b64encode(png(pixels)).decode("ascii")
    return (
        f'<img alt="{words}" width="{WIDTH}" height="{HEIGHT}" style="border-radius:8px;background:#fff" '
        f'src="data:image/png;base64,{coded}">'
    )


def _card(image: str, head: str, rows: dict[str, str]) -> str:
    """Picture beside numbers; `head` is HTML, everything else text."""
    cells = "".join(
        f'<tr><td style="text-align:left;opacity:.65">{html.escape(name)}</td>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:center">'
        f'{image}<div style="max-width:26em"><div>{head}</div><table style="margin:6px 0 0">{cells}</table></div></div>'
    )
