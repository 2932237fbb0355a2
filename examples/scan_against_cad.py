"""A scan against its CAD mesh: where is the part too low or too high? In millimetres, blue is below and red above.

The same from the terminal: register scan.ply part.stl --deviations out.ply
"""

from __future__ import annotations

from typing import Any

import numpy as np
import trimesh
from picture import SOURCE, TARGET, draw, moved, wanted

import deepgmr
from deepgmr.geometry.surfaces import surface_distances

# A part of three blocks, and a scan of it in another pose, with noise of .02 mm and a dent of .8 mm on its top.
blocks = [((80, 50, 12), (0, 0, 0)), ((20, 15, 30), (22, 10, 21)), ((10, 40, 20), (-30, 3, 16))]
part: Any = trimesh.util.concatenate(
    [trimesh.creation.box(size, trimesh.transformations.translation_matrix(place)) for size, place in blocks]
)
draw_numbers = np.random.default_rng(0)
surface, _ = trimesh.sample.sample_surface(part, 20_000, seed=1)
buried = [(np.abs(surface - place) < np.array(size) / 2 - 1e-6).all(axis=1) for size, place in blocks]
surface = surface[~np.any(buried, axis=0)]
dent = (np.abs(surface[:, 2] - 6) < 0.01) & (np.hypot(surface[:, 0], surface[:, 1] + 15) < 6)
surface[dent, 2] -= 0.8
pose = trimesh.transformations.rotation_matrix(2.0, (1, 2, 3), (10, 20, 30))
scan = moved(surface + draw_numbers.normal(scale=0.02, size=surface.shape), pose)

result = deepgmr.register(scan, part)
found = moved(scan, result.target_from_source)
deviations = surface_distances(found, part.vertices, part.faces)  # (N,) mm, negative inside the part

print(f"{result.status.value}, confidence {result.confidence:.3f}")
print(f"half of the points within {np.median(np.abs(deviations)):.3f} mm, lowest {deviations.min():.2f} mm")
counts, edges = np.histogram(deviations.clip(-1, 1), 10, (-1, 1))
for count, low, high in zip(counts, edges, edges[1:], strict=False):
    print(f"{low:+.1f} to {high:+.1f} mm {count:6} {'#' * round(40 * count / counts.max())}")
assert -1.0 < deviations.min() < -0.6, "the dent was not found"

if path := wanted(__doc__):
    from matplotlib import colormaps

    colours = colormaps["coolwarm"](np.clip(0.5 + deviations / 1.6, 0, 1))
    draw(path, [("the scan", [(scan, SOURCE)]), ("the part", [(surface, TARGET)]), ("deviations", [(found, colours)])])
