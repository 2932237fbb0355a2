"""Two files: register the bundled pair of scans, look at how sure the answer is, and at what else it could be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from picture import SOURCE, TARGET, draw, moved, wanted

import deepgmr

data = Path(__file__).resolve().parent.parent / "data"
result = deepgmr.register(data / "sample_source.ply", data / "sample_target.ply")

print(np.array_str(result.target_from_source, precision=4, suppress_small=True))
print(f"{result.status.value}, confidence {result.confidence:.3f}, overlap {result.overlap:.2f}")
turn, shift = np.sqrt(np.diag(result.covariance)[:3].sum()), np.sqrt(np.diag(result.covariance)[3:].sum())
print(f"standard deviations: {np.degrees(turn):.3f} degrees, {shift:.2g} in the units of the files")
for other in result.alternatives:  # what a robot would check against its odometry, or a person by eye
    print(f"also possible, score {other.score:.3f} against {result.score:.3f}")

if path := wanted(__doc__):
    source, target = (deepgmr.read_cloud(data / f"sample_{name}.ply").points for name in ("source", "target"))
    after = moved(source, result.target_from_source)
    draw(path, [("before", [(source, SOURCE), (target, TARGET)]), ("after", [(after, SOURCE), (target, TARGET)])])
