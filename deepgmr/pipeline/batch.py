"""Many pairs, here or shared out: what is drawn, checked, answered and told, one after the other."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import closing
from typing import Any

import torch

from deepgmr.errors import Cancelled, InvalidConfig, InvalidInput
from deepgmr.pipeline.answer import Failure
from deepgmr.pipeline.cohort import apart, side_by_side
from deepgmr.pipeline.jobs import Given, Job, Registering, Result, Shelf
from deepgmr.pipeline.pace import Progress
from deepgmr.pipeline.together import company, computations, device_of
from deepgmr.pipeline.workers import spread


def answers(
    registrar: Registering,
    pairs: Iterable[Any],
    workers: int,
    progress: Progress | None,
    options: Mapping[str, Any],
    *,
    device: str | None = None,
    batch: int | None = None,
) -> Iterator[tuple[int, Result]]:
    """See `deepgmr.iter_batch`. What is wrong with the options of all pairs is raised here and now."""
    for name, count in (("workers", workers), ("batch", 1 if batch is None else batch)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidConfig(f"{name} must be a whole number from 1, got {count!r}")
    if batch is not None and device is None:
        raise InvalidConfig("`batch` is how many pairs are under way on a `device`, and there is none; give both")
    if device is not None and workers > 1:
        raise InvalidConfig("a batch is computed on a `device` by one process; leave `workers` out, or start several")
    _check_options(registrar, options)
    found = (
        _answers(registrar, pairs, workers, options)
        if device is None
        else _together(registrar, pairs, device_of(device), batch, options)
    )
    return _told(found, pairs, progress)


def _together(
    registrar: Registering, pairs: Iterable[Any], device: torch.device, size: int | None, options: Mapping[str, Any]
) -> Generator[tuple[int, Result], None, None]:
    """Many pairs under way in this process, of which what several ask for is computed at once."""
    shelf = Shelf(registrar)

    def answered(number: int, job: Job | Failure) -> tuple[int, Result]:
        if isinstance(job, Job) and job.options.get("timeout") is not None:
            apart()  # its time is its own
        return number, shelf.answer(job) if isinstance(job, Job) else job

    tasks = (functools.partial(answered, *each) for each in jobs(registrar, pairs, options, copied=True))
    yield from side_by_side(tasks, computations(device), size or company(device))


def _answers(
    registrar: Registering, pairs: Iterable[Any], workers: int, options: Mapping[str, Any]
) -> Generator[tuple[int, Result], None, None]:
    drawn = jobs(registrar, pairs, options, copied=workers > 1)
    if workers > 1:
        yield from spread(registrar, drawn, workers)
        return
    shelf = Shelf(registrar)
    for number, job in drawn:
        yield number, shelf.answer(job) if isinstance(job, Job) else job


def jobs(
    registrar: Registering, pairs: Iterable[Any], options: Mapping[str, Any], *, copied: bool
) -> Iterator[tuple[int, Job | Failure]]:
    """The pairs as jobs, numbered from zero; what is wrong with one is its `Failure`."""
    return (_job(registrar, number, pair, options, copied) for number, pair in enumerate(pairs))


def _job(
    registrar: Registering, number: int, pair: Any, options: Mapping[str, Any], copied: bool
) -> tuple[int, Job | Failure]:
    try:
        source, target, *own = pair
        if len(own) > 1 or not all(isinstance(each, Mapping) for each in own):
            raise InvalidInput("a pair is (source, target) or (source, target, options)")
        asked = {**options, **(own[0] if own else {})}
        _check_options(registrar, asked)
        clouds = Given.of("source", source, asked, copied=copied), Given.of("target", target, asked, copied=copied)
        return number, Job(number, clouds, asked)
    except Exception as error:
        return number, Failure(error.with_traceback(None))


def _check_options(registrar: Registering, options: Mapping[str, Any]) -> None:
    known = set(inspect.signature(registrar.register).parameters) - {"source", "target", "trace", "progress"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"a batch has no option {', '.join(unknown)}; the options are {', '.join(sorted(known))}")


def _told(
    found: Generator[tuple[int, Result], None, None], pairs: Iterable[Any], progress: Progress | None
) -> Iterator[tuple[int, Result]]:
    with closing(found):
        for done, answer in enumerate(found, start=1):
            yield answer
            known = len(pairs) if isinstance(pairs, Sized) else done + 1
            if progress is not None and progress("registering", done / known) is False:
                raise Cancelled(f"stopped by `progress` after {done} pairs")
