"""The algorithm box: from two clouds to a motion, a confidence and a covariance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deepgmr.errors import InvalidCloud, InvalidConfig
from deepgmr.geometry.transform import rigid_matrix, scale_of, similarity_matrix
from deepgmr.io import read_cloud, read_transform
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.batch import answers
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.clouds import as_points, check_reach, check_units
from deepgmr.pipeline.jobs import Result
from deepgmr.pipeline.judge import Status, judge
from deepgmr.pipeline.looks import looks, propose, rank, refined
from deepgmr.pipeline.near import checked
from deepgmr.pipeline.pace import Pace, Progress, TimeUp
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.scales import at_scale, sized
from deepgmr.pipeline.scan import Pair, Scan
from deepgmr.pipeline.settings import Settings, preset
from deepgmr.pipeline.settle import clear, cut_short, polished, settle, weigh_first
from deepgmr.pipeline.told import told
from deepgmr.pipeline.trace import Clock, Search, Trace
from deepgmr.pipeline.visibility import views_of
from deepgmr.threads import one_thread

_LEAST = 3  # places that a cloud must hold


class Registrar:
    """A bundle ready to register clouds. It is never changed by what it does, and may be shared by threads."""

    def __init__(self, bundle: Bundle, settings: Settings | None = None) -> None:
        self.bundle = bundle
        self.settings = settings or bundle.settings

    @classmethod
    def load(cls, name_or_path: str | Path = "default", *, preset: str = "default") -> Registrar:
        """A bundle by name or path, with the settings it was calibrated with, as a preset changes them.

        Raises `InvalidCheckpoint` for a bundle that cannot be used, `InvalidConfig` for an unknown preset.
        """
        return _loaded(str(name_or_path), preset)

    def replace(self, **changes: Any) -> Registrar:
        """The same bundle with other settings: `registrar.replace(**{"judge.trust": 0.5})`. Raises `InvalidConfig`."""
        return Registrar(self.bundle, self.settings.replace(**changes))

    def prepare(self, cloud: Any, *, role: str = "cloud", drop_invalid: bool = False, seed: int = 0) -> Scan:
        """A cloud, checked and framed once, to be registered as often as wanted; a `Scan` is given back as it is.

        Raises `InvalidCloud`, which knows the `role`, or `InvalidFile`.
        """
        if isinstance(cloud, Scan):
            if cloud.settings != self.settings.scan:
                raise InvalidCloud(
                    f"{role}: was prepared with other settings under `scan` than this registrar's; prepare it with this one",
                    role=role,
                )
            return cloud
        if isinstance(cloud, str | Path):
            cloud = read_cloud(cloud, seed=seed, properties=False)
        scan = Scan.of(as_points(cloud, name=role, drop_invalid=drop_invalid, seed=seed), self.settings.scan)
        if len(scan.heaps) < _LEAST:
            raise InvalidCloud(
                f"{role}: the {scan.total} points lie in {len(scan.heaps)} places; a motion needs at least {_LEAST}",
                role=role,
            )
        return scan

    @one_thread()
    def register(
        self,
        source: Any,
        target: Any,
        *,
        initial: Any = None,
        initial_covariance: Any = None,
        max_rotation_degrees: float | None = None,
        source_origin: Any = None,
        target_origin: Any = None,
        trust: float | None = None,
        seed: int = 0,
        refine: bool = True,
        drop_invalid: bool = False,
        trace: Trace | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
        estimate_scale: bool = False,
    ) -> Registration:
        """Find the rigid motion that carries the source onto the target; see `deepgmr.register`."""
        settings, pace, clock = self._asked(trust, refine), Pace(timeout, progress), Clock()
        pace.report("describing", 0.0)
        with clock("scan"):
            prepared = (
                self.prepare(cloud, role=role, drop_invalid=drop_invalid, seed=seed)
                for role, cloud in (("source", source), ("target", target))
            )
            pair = Pair(*prepared)
            known = read_transform(initial, similar=estimate_scale) if isinstance(initial, str | Path) else initial
            if known is not None:
                known = (similarity_matrix if estimate_scale else rigid_matrix)(known, "initial")
            if estimate_scale:
                pair = pair.rescaled(1 / pair.size_ratio)
            else:
                check_units(pair.size_ratio, settings.judge)
            check_reach((pair.source.size, pair.target.size), settings.judge)

        def begin(pair: Pair) -> Search:
            with clock("scan"):
                prior = Prior.of(pair, settings.initial, known, initial_covariance, max_rotation_degrees)
                views = views_of(pair, settings.visibility, source_origin=source_origin, target_origin=target_origin)
                levels = pair.levels()  # each cloud as a mixture of disks
                search = Search(pair, levels, prior, settings, clock, self.bundle, views)
                search.bundle = self.bundle.seen(detailed=search.detailed)
                return search

        search = begin(pair)
        try:
            with pace:
                if estimate_scale:
                    pace.report("sizing", 0.1)
                    search = sized(search, begin, None if known is None else float(scale_of(known)))
                pace.report("searching", 0.2)
                answer, cut = checked(search), False  # where what is known fits, there is nothing to search for
                if answer is None:
                    for look in looks(search):  # a harder look only where the ones before leave doubt
                        hypotheses = propose(look, search)  # matches, grids -> motions in closed form
                        candidates = refined(look, search, hypotheses)  # local minima of the divergence
                        rank(search, candidates)  # by the divergence of the moved source, and by gaps
                        settle(search)  # the foremost again, where there is more detail
                        if clear(search):
                            break
                    pace.report("polishing", 0.8)
                    answer = polished(search)  # at the resolution of the data
                    weigh_first(search, observed=answer.uncertainty.observability)
        except TimeUp:
            answer, cut = cut_short(search, pace.timeout), True
            weigh_first(search, observed=answer.uncertainty.observability)
        evidence = search.evidence = at_scale(search, answer, estimated=estimate_scale)
        status, confidence = judge(evidence, search.bundle.confidence, settings.judge)
        status = Status.TIMEOUT if cut else status
        pace.report("done", 1.0)
        if trace is not None:
            trace.search = search
        answered = told(search, answer, status, confidence, self.bundle)
        return answered if trace is None else dataclasses.replace(answered, search=search)

    def register_batch(
        self,
        pairs: Iterable[Any],
        *,
        workers: int = 1,
        device: str | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> list[Result]:
        """The answers of `iter_batch`, all of them, in the order of the pairs."""
        found = self.iter_batch(pairs, workers=workers, device=device, batch=batch, progress=progress, **options)
        return [result for _, result in sorted(found, key=lambda one: one[0])]

    def iter_batch(
        self,
        pairs: Iterable[Any],
        *,
        workers: int = 1,
        device: str | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Result]]:
        """The number of a pair and its answer, as they come; see `deepgmr.iter_batch`."""
        return answers(self, pairs, workers, progress, options, device=device, batch=batch)

    def _asked(self, trust: float | None, refine: bool) -> Settings:
        settings = self.settings
        if trust is not None:
            if not 0 <= trust <= 1:
                raise InvalidConfig(f"trust must be a probability in [0, 1], got {trust}")
            settings = dataclasses.replace(settings, judge=dataclasses.replace(settings.judge, trust=float(trust)))
        if not refine:
            settings = dataclasses.replace(settings, polish=dataclasses.replace(settings.polish, iterations=0))
        return settings


@functools.cache
def _loaded(name: str, preset_name: str) -> Registrar:
    bundle = Bundle.load(name)
    return Registrar(bundle, preset(preset_name, bundle.settings))


def register(source: Any, target: Any, **options: Any) -> Registration:
    """Find the rigid motion that carries the source onto the target: any pose, any unit, partial overlap.

    source, target        (N, 3) and (M, 3) arrays or tensors, clouds or meshes of Open3D, trimesh, pyvista or laspy,
                          `PointCloud2` messages, a `GaussianMixture`, paths (of Gaussian splats, too), or a `Scan`
    initial               (4, 4) array or tensor, `RigidTransform` or path: if it fits once refined, nothing else is
                          searched for, and a note says so; if not, it is a motion to consider beside those found
    initial_covariance    (6, 6) of (rotation vector [rad], translation), as an answer's: how far off `initial` may be; by
                          default a twentieth of the size of the clouds
    max_rotation_degrees  the answer turns no further than this from `initial` (without it, from no turn at all)
    source_origin, target_origin  (3,) where the sensor stood that saw the whole cloud, in its frame and units: nothing
                          of the other cloud can stand where it saw through
    trust                 the confidence from which an answer is one to act on; by default .9
    seed                  of the points drawn on meshes; clouds need no chance
    refine                False leaves out the polish at the resolution of the data
    drop_invalid          leave out points with NaN or infinite coordinates instead of raising
    trace                 a `Trace`, which then holds what was proposed, what became of it, and where the time went;
                          the answer can then be shown: `Registration.report`
    timeout               seconds after which the best motion so far is the answer, with `Status.TIMEOUT`: it is not one to
                          act on unseen. Looked at between steps and within long ones, so overstepped by a part of one
    estimate_scale        the source may be larger or smaller than the target: the answer is a similarity, whose `scale` is
                          sought from half to twice the one at which both clouds are of one size; a look at each of eleven
    progress              called often with (stage, fraction done); returns False to have `Cancelled` raised

    `Registrar.load("default").register`, in short. Deterministic, whatever the order of the points. Raises
    `InvalidCloud`, `InvalidFile`, `InvalidTransform` or `InvalidConfig` for input that cannot be used; geometry that
    cannot be answered is answered, with its `status`. Raises `TimedOut` where time was over before any motion was found.
    """
    return Registrar.load("default").register(source, target, **options)


def iter_batch(
    pairs: Iterable[Any], *, workers: int = 1, device: str | None = None, batch: int | None = None, **options: Any
) -> Iterator[tuple[int, Result]]:
    """Register many pairs: the number of a pair, from 0, and its answer, as they come, the same as one by one.

    pairs     (source, target), or (source, target, options) with options of `register` for this pair alone; drawn as
              they are needed, a few ahead
    workers   processes that share the work; 1 works in this one. Each takes a second or two to start
    device    "cuda": `batch` pairs are under way in this process, and of what is compared with one another in them the
              bulk is computed there, for many pairs at once; the same answers but for rounding. Its gain has not been
              measured on a GPU; "cpu" gains nothing worth while (docs/howto/many.md). Without it, one after the other
    batch     pairs under way; by default 32, on a CPU 8
    progress  called with ("registering", fraction done) after each pair, of the number that are known; returns False
              to have `Cancelled` raised
    options   of `register`, for all pairs, but `trace`

    A cloud that comes again is prepared once (by every worker that meets it), as long as it is among the last few. A
    pair that cannot be registered, or whose worker dies, has a `Failure` for an answer, with its `error`; the others go on.
    """
    return Registrar.load("default").iter_batch(pairs, workers=workers, device=device, batch=batch, **options)


def register_batch(
    pairs: Iterable[Any], *, workers: int = 1, device: str | None = None, batch: int | None = None, **options: Any
) -> list[Result]:
    """Register many pairs: the answers of `iter_batch`, all of them, in the order of the pairs."""
    return Registrar.load("default").register_batch(pairs, workers=workers, device=device, batch=batch, **options)
