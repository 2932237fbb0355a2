"""What odometry remembers of the way: places, the motions between them, and loops that were closed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from deepgmr.errors import InvalidCloud
from deepgmr.odometry.fix import Fix, Loop
from deepgmr.odometry.local_map import LocalMap
from deepgmr.odometry.motion import between
from deepgmr.odometry.places import Place, alike, revisited
from deepgmr.odometry.settings import OdometrySettings
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.scan import Scan
from deepgmr.posegraph.graph import Edge, optimised, right_from_left
from deepgmr.posegraph.looks import look_of


@dataclass(eq=False)
class Memory:
    """Places in the order in which they were passed."""

    registrar: Registrar
    settings: OdometrySettings
    places: list[Place] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    _paused: int = 0  # places before the next loop is looked for

    def look(self, scan: Scan) -> np.ndarray:
        return look_of(scan, self.registrar.settings.propose)

    def remember(self, place: Place, before: int, since: np.ndarray) -> None:
        """A new place; `since` (6, 6) is the covariance of the motion from the place numbered `before` in the list.

        It is that of the pose, along the axes of the world, about the sensor.
        """
        self.places.append(place)
        if len(self.places) > 1:
            axes = np.kron(np.eye(2), place.pose[:3, :3])
            motion = np.linalg.inv(self.places[before].pose) @ place.pose
            self.edges.append(Edge(before, len(self.places) - 1, motion, axes.T @ since @ axes))

    def similar(self, scan: Scan, turn: int) -> tuple[int, Registration] | None:
        """One of the places that look most like a scan, another one every turn, if a search finds the scan there."""
        likely = alike(self.look(scan), self.places)[: self.settings.tried]
        if not likely:
            return None
        place = likely[turn % len(likely)]
        answer = self._verified(scan, place, None)
        return None if answer is None else (self.places.index(place), answer)

    def around(self, pose: np.ndarray, empty: LocalMap, range: float) -> LocalMap:
        """The map of all places from which a pose may have been seen."""
        found = empty
        for place in self.places:
            reach = range * float(np.linalg.norm(place.points, axis=1).max())
            if np.linalg.norm(place.pose[:3, 3] - pose[:3, 3]) <= reach:
                found = found.with_points(place.points.astype(np.float64), place.pose, math.inf)
        return found

    def close(self, scan: Scan, size: float) -> None:
        """Look for a loop that ends at the newest place, seen by a scan; `size` is that of the first scan."""
        self._paused -= 1
        if self._paused >= 0:
            return
        settings, here = self.settings, self.places[-1]
        after, near = settings.revisit * size, settings.near * size
        for place in revisited(here, self.places, after=after, near=near, drift=settings.drift)[:1]:
            expected = np.linalg.inv(place.pose) @ here.pose
            answer = self._verified(scan, place, expected)
            if answer is None:
                continue
            motion = answer.target_from_source
            off = float(np.linalg.norm(motion[:3, 3] - expected[:3, 3]))
            if off > settings.first_reach * size + settings.drift * (here.way - place.way):
                continue  # further than odometry drifts: another place that looks the same
            right = right_from_left(answer.covariance, motion)
            self.edges.append(Edge(self.places.index(place), len(self.places) - 1, motion, right, loop=True))
            self.loops.append(Loop(place.number, here.number, motion, answer.covariance, answer.confidence))
            self._paused = settings.pause

    def corrected(self, fixes: list[Fix]) -> np.ndarray:
        """The poses (F, 4, 4) of fixes that have one, as the loops bend the way; those between places follow both."""
        poses = np.array([fix.world_from_sensor for fix in fixes]).reshape(-1, 4, 4)
        if not self.loops:
            return poses
        settings, before = self.settings, np.array([place.pose for place in self.places])
        after = optimised(before, self.edges, rounds=settings.rounds, robust=settings.robust)
        numbers = np.array([place.number for place in self.places])
        moves = after @ np.linalg.inv(before)
        for row, fix in enumerate(fixes):
            last = max(int(np.searchsorted(numbers, fix.number, side="right")) - 1, 0)
            following = min(last + 1, len(numbers) - 1)
            share = (fix.number - numbers[last]) / max(numbers[following] - numbers[last], 1)
            # the move as a motion of the sensor, so that it is small wherever the world's origin is
            one, other = (moves[i] @ poses[row] for i in (last, following))
            poses[row] = between(one, other, min(max(share, 0.0), 1.0))
        return poses

    def _verified(self, scan: Scan, place: Place, expected: np.ndarray | None) -> Registration | None:
        """The motion of the scan onto a place, if it is one to act on."""
        try:
            there = self.registrar.prepare(place.points, role="target")
            answer = self.registrar.register(scan, there, initial=expected)
        except InvalidCloud:  # what came cannot be the same place: sizes of another order
            return None
        return answer if answer.trusted else None
