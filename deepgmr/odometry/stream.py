"""Scan after scan: a prediction, a fit to the map of the surroundings, a check, and a search where it fails."""

from __future__ import annotations

import math
import time as clock
from typing import Any

import numpy as np

from deepgmr.errors import InvalidCloud, InvalidConfig
from deepgmr.geometry.voxels import rung, size_of
from deepgmr.io.trajectories import Trajectory
from deepgmr.odometry.fitting import Fitted, carried_covariance, fitted, symmetric
from deepgmr.odometry.fix import Fix, Loop, Tracking
from deepgmr.odometry.local_map import LocalMap
from deepgmr.odometry.memory import Memory
from deepgmr.odometry.motion import carried, deskewed, velocity
from deepgmr.odometry.places import Place
from deepgmr.odometry.settings import OdometrySettings
from deepgmr.pipeline.clouds import as_points
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.scan import Scan
from deepgmr.threads import one_thread


class Odometry:
    """Feed scans of one moving sensor, get its poses. The world is the frame of the first scan.

    registrar  what searches where tracking is lost and verifies loops; by default the default bundle
    settings   `OdometrySettings`
    loops      whether places that are come back to are looked for; they bend `trajectory`, and no `Fix`
    """

    def __init__(
        self, registrar: Registrar | None = None, *, settings: OdometrySettings | None = None, loops: bool = True
    ) -> None:
        self.registrar = registrar or Registrar.load("default")
        self.settings = settings or OdometrySettings()
        self.fixes: list[Fix] = []
        self._loops = loops
        self._memory = Memory(self.registrar, self.settings)
        self._map: LocalMap | None = None
        self._rung: int | None = None  # of the cells that scans are fitted at; None: every point
        self._size = 0.0  # of the first scan
        self._twist = np.zeros(6)  # a second, in the frame of the sensor
        self._newest: Fix | None = None  # with a pose
        self._key = np.eye(4), np.zeros((6, 6))  # pose and covariance of the newest scan in the map
        self._since = np.zeros((6, 6))  # covariance of the motion from a place that is remembered ...
        self._place = 0  # ... and which one
        self._way = 0.0
        self._off = 0.0  # mean square of how far predictions were off, input units
        self._usual = 0.0  # overlap
        self._first: tuple[np.ndarray, np.ndarray] | None = None  # points and ages of the first scan, as it came

    @property
    def loops(self) -> tuple[Loop, ...]:
        """The places that were come back to."""
        return tuple(self._memory.loops)

    @property
    def trajectory(self) -> Trajectory:
        """All poses so far, those of lost scans left out; where loops were closed, as they bend the way."""
        fixes = [fix for fix in self.fixes if fix.trusted]
        return Trajectory(self._memory.corrected(fixes), np.array([fix.time for fix in fixes]))

    @one_thread()
    def feed(
        self, cloud: Any, *, time: float | None = None, point_times: Any = None, drop_invalid: bool = False
    ) -> Fix:
        """The pose of the next scan.

        cloud         what `register` takes, in the frame of the sensor
        time          seconds, later than the scan before; by default the number of the scan
        point_times   (N,) seconds on the same clock, when each point of an array was measured: the points are then put
                      where the sensor would have seen them at `time`, as if it went on as it did before
        drop_invalid  leave out points with NaN or infinite coordinates instead of raising

        A scan that cannot be used raises `InvalidCloud`, `InvalidFile` or `InvalidConfig`, and changes nothing.
        """
        start, now = clock.perf_counter(), self._checked(time)
        timed = None if point_times is None else self._timed(cloud, now, point_times)
        scan = self._prepared(cloud, timed, drop_invalid)
        if self._map is None or self._newest is None:
            status, fit = Tracking.STARTED, self._started(scan)
            self._first = timed
        else:
            status, fit = self._found(scan, self._expected(now))
            if self._first is not None and status is Tracking.TRACKED:
                scan, fit = self._started_again(cloud, timed, fit, now)
        known = status is not Tracking.LOST
        fix = Fix(
            number=len(self.fixes),
            time=now,
            status=status,
            world_from_sensor=fit.pose if known else None,
            covariance=symmetric(self._carried(fit.pose, self._key[1]) + fit.covariance) if known else None,
            overlap=fit.overlap,
            observability=fit.observability,
        )
        if known:
            self._learn(fix, fit)
            self._remember(scan, fix, fit)
        fix = fix.after(1e3 * (clock.perf_counter() - start))
        self.fixes.append(fix)
        self._newest = fix if known else self._newest
        return fix

    # -- the steps ---------------------------------------------------------------------------------------------

    def _started(self, scan: Scan) -> Fitted:
        self._size, self._rung = scan.size, scan.rung_for(self.settings.components)
        spacing = scan.level(None, 1.0).spacing if self._rung is None else 0.0
        self._map = LocalMap.empty(size_of(rung(spacing) if self._rung is None else self._rung), scan.settings)
        self._off = self._first_off
        return Fitted(np.eye(4), np.zeros((6, 6)), 1.0, 1.0)

    def _started_again(
        self, cloud: Any, timed: tuple[np.ndarray, np.ndarray] | None, fit: Fitted, now: float
    ) -> tuple[Scan, Fitted]:
        """The second scan on a map of the first, both as a sensor saw them that moved as it did in between."""
        assert self._first is not None and self._map is not None and self._newest is not None
        self._twist = velocity(np.eye(4), fit.pose, now - self._newest.time)
        first, scan = (self._prepared(cloud, each, False) for each in (self._first, timed))
        self._first, self._map = None, LocalMap.empty(self._map.cell, scan.settings)
        self._memory = Memory(self.registrar, self.settings)
        self._remember(first, self.fixes[0], Fitted(np.eye(4), np.zeros((6, 6)), 1.0, 1.0))
        return scan, self._fitted(scan, fit.pose, self._least_reach)

    def _expected(self, now: float) -> np.ndarray:
        """Where the sensor is if it goes on as it did."""
        assert self._newest is not None and self._newest.world_from_sensor is not None
        return carried(self._newest.world_from_sensor, self._twist, now - self._newest.time)

    def _found(self, scan: Scan, expected: np.ndarray) -> tuple[Tracking, Fitted]:
        """On the map where it is expected, or else wherever a search finds it."""
        assert self._map is not None and self._newest is not None
        reach = max(self.settings.reach * math.sqrt(self._off), self._least_reach)
        fit = self._fitted(scan, expected, reach)
        if self._meets(fit):
            return Tracking.TRACKED, fit
        lost = fit
        try:
            answer = self.registrar.register(scan, self._map.scan, initial=expected)
        except InvalidCloud:  # sizes of another order: the scan shows something else altogether
            return Tracking.LOST, lost
        if answer.trusted and self._meets(fit := self._fitted(scan, answer.target_from_source, self._least_reach)):
            return Tracking.RELOCALISED, fit
        here, found = self._map, self._memory.similar(scan, len(self.fixes) - self._newest.number - 1)
        if found is not None:
            number, answer = found
            pose = self._memory.places[number].pose @ answer.target_from_source
            self._map = self._memory.around(pose, LocalMap.empty(here.cell, scan.settings), self.settings.range)
            if self._meets(fit := self._fitted(scan, pose, self._least_reach)):
                self._place, self._key = number, (pose, self._memory.places[number].covariance)
                self._since = np.zeros((6, 6))
                return Tracking.RELOCALISED, fit
        self._map = here
        return Tracking.LOST, lost

    def _fitted(self, scan: Scan, expected: np.ndarray, reach: float) -> Fitted:
        assert self._map is not None
        settings = self.registrar.settings
        return fitted(scan, self._map, self._rung, expected, reach=reach, own=self.settings, settings=settings)

    def _meets(self, fit: Fitted) -> bool:
        return fit.overlap >= max(self.settings.least_overlap, self.settings.usual_overlap * self._usual)

    def _learn(self, fix: Fix, fit: Fitted) -> None:
        """How the sensor moves, how far predictions are off, and how much of a scan meets the map."""
        before, weight = self._newest, self.settings.settling
        if before is None or before.world_from_sensor is None:
            return
        self._way += float(np.linalg.norm(fit.pose[:3, 3] - before.world_from_sensor[:3, 3]))
        if fix.status is Tracking.RELOCALISED:
            self._off = self._first_off
            return
        apart = np.linalg.inv(self._expected(fix.time)) @ fit.pose
        turned = math.sqrt(max(3 - float(np.trace(apart[:3, :3])), 0.0))  # 2 sin(angle / 2)
        off = float(np.linalg.norm(apart[:3, 3])) + turned * self._size / 2
        self._off += weight * (off**2 - self._off)
        self._usual += (weight if self._usual else 1.0) * (fit.overlap - self._usual)
        self._twist = velocity(before.world_from_sensor, fit.pose, fix.time - before.time)

    def _remember(self, scan: Scan, fix: Fix, fit: Fitted) -> None:
        """Into the map what was seen from elsewhere than before, and into memory now and then."""
        assert self._map is not None and fix.covariance is not None
        settings, cell, places = self.settings, self._map.cell, self._memory.places
        apart = np.linalg.inv(self._key[0]) @ fit.pose
        turned = np.degrees(np.arccos(np.clip((np.trace(apart[:3, :3]) - 1) / 2, -1, 1)))
        fresh = not places or np.linalg.norm(apart[:3, 3]) >= settings.keyframe * cell
        if not fresh and turned < settings.keyframe_degrees:
            return
        points = scan.heaps.gathered(max(cell / 2 ** (settings.finer / 4), scan.heaps.finest_size)).means + scan.origin
        reach = settings.range * float(np.linalg.norm(points, axis=1).max())
        self._map = self._map.with_points(points, fit.pose, reach)
        self._since = self._carried(fit.pose, self._since) + fit.covariance
        self._key = fit.pose, fix.covariance
        if places and self._way - places[-1].way < settings.place * cell:
            return
        look = self._memory.look(scan)
        place = Place(fix.number, fit.pose, fix.covariance, self._way, points.astype(np.float32), look)
        self._memory.remember(place, self._place, self._since)
        self._place, self._since = len(places) - 1, np.zeros((6, 6))
        if self._loops:
            self._memory.close(scan, self._size)

    def _carried(self, pose: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """A covariance about the newest scan in the map, of a pose that moves with it."""
        return carried_covariance(covariance, pose[:3, 3] - self._key[0][:3, 3])

    @property
    def _first_off(self) -> float:
        return (self.settings.first_reach * self._size / self.settings.reach) ** 2

    @property
    def _least_reach(self) -> float:
        assert self._map is not None
        return self.settings.least_reach * self._map.cell

    # -- what is given -------------------------------------------------------------------------------------------

    def _checked(self, time: float | None) -> float:
        now = float(len(self.fixes)) if time is None else float(time)
        if not math.isfinite(now) or (self.fixes and now <= self.fixes[-1].time):
            last = self.fixes[-1].time if self.fixes else None
            raise InvalidConfig(f"time must be finite and later than that of the scan before ({last}), got {time}")
        return now

    def _timed(self, cloud: Any, now: float, times: Any) -> tuple[np.ndarray, np.ndarray]:
        """The points (N, 3) float64 of a scan, and the seconds (N,) from each one's measurement to now."""
        points, times = as_points(cloud, name="scan"), np.asarray(times, dtype=np.float64)
        if times.shape != (len(points),) or not np.isfinite(times).all():
            raise InvalidConfig(f"point_times must be {len(points)} finite numbers, got an array of {times.shape}")
        return points.astype(np.float64), now - times

    def _prepared(self, cloud: Any, timed: tuple[np.ndarray, np.ndarray] | None, drop_invalid: bool) -> Scan:
        still = cloud if timed is None else deskewed(*timed, self._twist)
        return self.registrar.prepare(still, role="scan", drop_invalid=drop_invalid)
