"""Draw the pair at the top of the README: `python scripts/hero.py`, into docs/pictures/room.webp.

Two procedural scans of one furnished hall, without ceiling and front wall, registered and drawn as `register --picture`
does. Needs the extra `plots` (for pillow, which matplotlib brings).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np

import deepgmr
from deepgmr.datasets.worlds.halls import hall

ROOT = Path(__file__).resolve().parent.parent
OPEN, FRONT = 2.6, -2.9  # metres: nothing above the one or in front of the other is drawn
APART = 9.0  # metres between the two scans, before
POINTS = 150_000  # of each cloud
SIZE = (1400, 560)


def room(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Source and target (N, 3): the low and the high part of one hall, a few metres and any rotation apart."""
    plan = hall(np.random.default_rng(seed))
    source, target = plan.clouds(POINTS)
    truth = plan.target_from_source
    placed = source @ truth[:3, :3].T + truth[:3, 3]
    source, target = (
        cloud[(seen[:, 2] < OPEN) & (seen[:, 1] > FRONT)] for cloud, seen in ((source, placed), (target, target))
    )
    return source - source.mean(axis=0) - (APART, 0.0, 0.0), target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=2, help="which hall")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures" / "room.webp", metavar="FILE")
    given = parser.parse_args(arguments)
    from PIL import Image

    from deepgmr.report.picture import side_by_side
    from deepgmr.report.scene import Scene

    source, target = room(given.seed)
    result = deepgmr.register(source, target, trace=deepgmr.Trace())
    print(f"{result.status.value}: confidence {result.confidence:.3f}, overlap {result.overlap:.3f}")
    drawn = side_by_side(Scene.of(result, rivals=False), *(2 * side for side in SIZE))
    stream = io.BytesIO()
    Image.fromarray(drawn).resize(SIZE, Image.Resampling.LANCZOS).save(stream, "webp", quality=70, method=6)
    given.to.write_bytes(stream.getvalue())
    print(f"{given.to}: {len(stream.getvalue()):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
