"""The pairs of a batch shared out to processes of their own: one that dies costs the pair it held, and no other.

A worker is this interpreter started afresh: it neither inherits threads nor runs the caller's program again, and ends
when its parent does. The two speak by pickles over pipes that nobody else has. Of the pairs at hand a worker takes one
whose clouds it holds already, so that not all of them prepare every cloud of a sequence.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import IO, Any

from deepgmr.errors import DeepGMRError, TimedOut, WorkerDied
from deepgmr.pipeline.answer import Failure
from deepgmr.pipeline.jobs import Job, Registering, Result, Shelf

_AHEAD = 4  # pairs that are drawn for every worker
# an interrupt is meant for the caller, who ends this process in his own time, be it still starting
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from deepgmr.pipeline.workers import work; work()"
)
_GRACE = 5.0  # seconds within which a process that has closed its pipes has ended


def spread(
    registrar: Registering, drawn: Iterator[tuple[int, Job | Failure]], workers: int, *, limit: float | None = None
) -> Iterator[tuple[int, Result]]:
    """The number of a job and its answer, as they come. Raises `WorkerDied` if no worker can be started.

    A worker that is at one job for longer than `limit` seconds is ended: nothing else stops one that hangs.
    """
    with closing(Pool(registrar, workers, limit=limit)) as pool:
        yield from pool.answers(drawn)


class Pool:
    """Workers for several batches, one after the other: a process starts when it is first needed, and stays."""

    def __init__(self, registrar: Registering, workers: int, *, limit: float | None = None) -> None:
        self._workers, self._desk = workers, _Desk(pickle.dumps(registrar))
        self._threads = [threading.Thread(target=_serve, args=(self._desk, limit), daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def answers(
        self, drawn: Iterator[tuple[int, Job | Failure]], *, own: Shelf | None = None
    ) -> Iterator[tuple[int, Result]]:
        """As `spread`; with a shelf of its own this process takes part. Read to the end, or close the pool."""
        held, more = 0, True
        while more or held:
            while more and held < _AHEAD * self._workers:
                number, job = next(drawn, (-1, None))
                if isinstance(job, Job):
                    self._desk.put(job)
                    held += 1
                elif job is None:
                    more = False
                else:
                    yield number, job
            if held:
                number, answer = self._next(own)
                if number < 0:
                    raise answer
                held -= 1
                yield number, answer

    def _next(self, own: Shelf | None) -> tuple[int, Any]:
        if own is not None and self._desk.answers.empty():
            job = self._desk.take(own.keys, wait=False)
            if job is not None:
                return job.number, own.answer(job)
        return self._desk.answers.get()

    def close(self) -> None:
        """Whatever the workers are at, they are ended."""
        self._desk.close()
        for thread in self._threads:
            thread.join()


class _Desk:
    """Where the pairs at hand lie, and the answers."""

    def __init__(self, registrar: bytes) -> None:
        self.answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()  # a negative number: the batch is over
        self._registrar = registrar
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._workers: list[_Worker] = []
        self._open = True

    def put(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def take(self, held: frozenset[str], *, wait: bool = True) -> Job | None:
        """The first job that has one of the clouds held, or else the last one; None once the desk is closed."""
        with self._changed:
            while wait and self._open and not self._jobs:
                self._changed.wait()
            if not self._open or not self._jobs:
                return None
            near = (place for place, job in enumerate(self._jobs) if job.keys & held)
            return self._jobs.pop(next(near, -1))

    def hire(self) -> _Worker:
        with self._changed:
            worker = _Worker()
            self._workers.append(worker)
            if not self._open:
                worker.end()
        worker.begin(self._registrar)
        return worker

    def close(self) -> None:
        """The workers are ended, whatever they are at."""
        with self._changed:
            self._open = False
            for worker in self._workers:
                worker.end()
            self._changed.notify_all()


def _serve(desk: _Desk, limit: float | None) -> None:
    """One worker after the other, as they die, until the desk is closed."""
    worker: _Worker | None = None
    held: frozenset[str] = frozenset()
    try:
        while (job := desk.take(held)) is not None:
            worker = worker or desk.hire()
            result: Result
            watch = threading.Timer(limit or threading.TIMEOUT_MAX, worker.kill)
            try:
                if limit is not None:
                    watch.start()
                result, held = worker.answer(job)
            except (OSError, EOFError, pickle.UnpicklingError):
                how = worker.end(_GRACE)
                if limit is not None and watch.finished.is_set():
                    result = Failure(TimedOut(f"pair {job.number} took longer than {limit:g} s, and was given up"))
                else:
                    result = Failure(
                        WorkerDied(f"the process that worked on pair {job.number} ended before it ({how})")
                    )
                worker, held = None, frozenset()
            finally:
                watch.cancel()
            desk.answers.put((job.number, result))
    except Exception as error:
        desk.answers.put((-1, error))


class _Worker:
    """A process that registers pairs, as its parent sees it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _START.format(path=sys.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._jobs, self._answers = self._process.stdin, self._process.stdout

    def begin(self, registrar: bytes) -> None:
        """Raises `WorkerDied` if the process does not come up."""
        try:
            _put(self._jobs, registrar)
            pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise WorkerDied(f"no process can be started to work on the batch ({self.end(_GRACE)})") from None

    def answer(self, job: Job) -> tuple[Result, frozenset[str]]:
        """The answer, and the keys of the clouds that it holds now. Raises `EOFError` or `OSError` if it dies."""
        bare = replace(job, clouds=tuple(replace(given, cloud=None) for given in job.clouds))
        try:
            message = pickle.dumps(bare)
        except Exception as error:  # an option that cannot be sent
            return Failure(error.with_traceback(None)), frozenset()
        _put(self._jobs, message)
        missing = pickle.load(self._answers)
        _put(self._jobs, pickle.dumps({given.key: given.cloud for given in job.clouds if given.key in missing}))
        return pickle.load(self._answers)

    def kill(self) -> None:
        """End it whatever it is at; who waits for its answer finds the pipe closed."""
        self._process.kill()

    def end(self, grace: float = 0.0) -> str:
        """End it unless it has ended, and say how."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        code = self._process.wait()
        for stream in (self._jobs, self._answers):
            with suppress(OSError):
                stream.close()
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def work() -> None:
    """What a worker does all its life."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints is no answer
    with suppress(EOFError, OSError):
        shelf = Shelf(pickle.load(jobs))
        _put(answers, pickle.dumps(True))
        while True:
            job = pickle.load(jobs)
            _put(answers, pickle.dumps(shelf.missing(job.keys)))
            clouds = pickle.load(jobs)
            job = replace(job, clouds=tuple(replace(given, cloud=clouds.get(given.key)) for given in job.clouds))
            _put(answers, _pickled(shelf.answer(job), shelf.keys))


def _pickled(result: Result, held: frozenset[str]) -> bytes:
    if isinstance(result, Failure):
        try:
            pickle.loads(pickle.dumps(result))
        except Exception:  # an error of another library that cannot be sent
            result = Failure(DeepGMRError(f"{type(result.error).__name__}: {result.error}"))
    return pickle.dumps((result, held))


def _put(stream: IO[bytes], message: bytes) -> None:
    stream.write(message)
    stream.flush()
