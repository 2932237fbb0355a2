"""Every number that decides a trajectory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from deepgmr.errors import InvalidConfig
from deepgmr.plain import from_plain, to_plain


@dataclass(frozen=True)
class OdometrySettings:
    """Lengths are in cells of the map, or where a comment says so in sizes of the first scan."""

    components: int = 8_000  # of the first scan, whose cells then are those of the map
    finer: int = 4  # rungs of the ladder of cell sizes by which what goes into the map is finer
    moved: int = 1_500  # components of a scan, of every direction as many, that are fitted at first and checked at last
    steps: int = 0  # with matches from both the scan and the map, at last
    keyframe: float = 6.0  # the way between scans that go into the map ...
    keyframe_degrees: float = 10.0  # ... or the turn
    range: float = 1.0  # of the farthest point of a scan, beyond which the map forgets
    first_reach: float = 0.06  # sizes: how far off the prediction may be, before it is known how far it is
    reach: float = 3.0  # root mean squares of how far it was off, within which surfaces are matched ...
    least_reach: float = 1.5  # ... but at least this
    settling: float = 0.2  # weight of the newest scan in what is typical
    close: float = 1.0  # distance within which surfaces meet
    least_overlap: float = 0.4  # share of a scan that has to meet the map ...
    usual_overlap: float = 0.7  # ... and share of what usually does, or tracking is lost
    place: float = 20.0  # the way between places that are remembered
    tried: int = 3  # places, the most alike, that scans which are lost are tried at in turn
    revisit: float = 3.0  # sizes of the way after which a place may be come back to ...
    near: float = 0.4  # ... once it is so near, sizes ...
    drift: float = 0.02  # ... and this share of the way in between
    pause: int = 3  # places after a loop is closed before the next is looked for
    bins: int = 11  # of the histograms that places are told by
    rounds: int = 50  # of the pose graph
    robust: float = 3.0  # deviations from which a loop counts for less

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = ">= 0" if name == "steps" else "> 0"
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "steps"):
                raise InvalidConfig(f"`odometry.{name}` must be a finite number {least}, got {value}")

    def replace(self, **changes: Any) -> OdometrySettings:
        """Other settings. Raises `InvalidConfig` for an unknown name or a value of another type."""
        return from_plain(OdometrySettings, to_plain(self) | changes, where="odometry.")
