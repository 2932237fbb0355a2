"""Pairs registered side by side: what several of them ask for is computed for all of these at once.

Every pair takes the same steps as alone, in a thread of its own. One of them runs at a time, until it asks for something
that can be shared; where all wait, what most of them ask for is computed. So the same pairs meet in the same order every
time, and whatever goes wrong in one pair's steps is its own.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from deepgmr.threads import one_thread

T = TypeVar("T")
Ask = tuple[Any, ...]  # the arguments of a function
Shared = Mapping[Callable[..., Any], Callable[[Sequence[Ask]], Sequence[Any]]]  # a function, and what answers many asks


def asked(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`; within a cohort that shares the function, computed together with the asks of others."""
    member = _member.get()
    return function(*arguments) if member is None else member.ask(function, arguments)


def apart() -> None:
    """From here on the task that this is part of shares nothing, and so waits for nobody."""
    _member.set(None)


def side_by_side(tasks: Iterable[Callable[[], T]], shared: Shared, size: int) -> Generator[T, None, None]:
    """What the tasks give, as they end, with up to `size` of them under way; what one raises is raised here."""
    rest = iter(tasks)
    members: list[_Member[T]] = []
    try:
        while True:
            while len(members) < size and (task := next(rest, None)) is not None:
                members.append(_Member(task, shared))
                yield from _ended(members)
            if not members:
                return
            _answer(members, shared)
            yield from _ended(members)
    finally:
        for member in members:
            member.give_up()


def _ended(members: list[_Member[T]]) -> list[T]:
    """What those that have what they asked for give once they have gone on, if it is to the end."""
    found = []
    for member in [member for member in members if member.ask_of is None]:
        member.go_on()
        if member.over:
            members.remove(member)
            found.append(member.result())
    return found


def _answer(members: Sequence[_Member[Any]], shared: Shared) -> None:
    """Compute what most of them ask for."""
    groups: dict[Callable[..., Any], list[_Member[Any]]] = {}
    for member in members:
        assert member.ask_of is not None
        groups.setdefault(member.ask_of[0], []).append(member)
    function, group = max(groups.items(), key=lambda item: len(item[1]))
    answers: Sequence[Any] | None = None
    try:
        with one_thread():
            answers = shared[function]([member.ask_of[1] for member in group if member.ask_of is not None])
    except Exception as error:
        warnings.warn(
            f"{function.__name__} cannot be computed for {len(group)} pairs at once ({error}); each computes its own",
            RuntimeWarning,
            stacklevel=2,
        )
    for number, member in enumerate(group):
        member.ask_of, member.answer = None, None if answers is None else (answers[number],)


class _GivenUp(BaseException):
    """Nobody waits for the task any more."""


class _Member(Generic[T]):
    """A task in a thread that runs only while somebody waits in `go_on`."""

    def __init__(self, task: Callable[[], T], shared: Shared) -> None:
        self.ask_of: tuple[Callable[..., Any], Ask] | None = None  # what it waits for
        self.answer: tuple[Any] | None = None  # None: it is to compute that itself
        self.over = False
        self._given_up = False
        self._shared = shared
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(task,), daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Until it asks for something or is over."""
        self._go.release()
        self._back.acquire()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result

    def give_up(self) -> None:
        self._given_up = True
        self._go.release()
        self._thread.join()

    def ask(self, function: Callable[..., T], arguments: Ask) -> T:
        """Within the task: what others compute, or this itself."""
        if function not in self._shared:
            return function(*arguments)
        self.ask_of = function, arguments
        self._back.release()
        self._wait()
        answer, self.answer = self.answer, None
        return function(*arguments) if answer is None else answer[0]

    def _wait(self) -> None:
        self._go.acquire()
        if self._given_up:
            raise _GivenUp

    def _run(self, task: Callable[[], T]) -> None:
        self._error: BaseException | None = None
        try:
            self._wait()
            _member.set(self)
            self._result = task()
        except BaseException as error:
            self._error = error
        finally:
            self.over = True
            self._back.release()


_member: ContextVar[_Member[Any] | None] = ContextVar("member", default=None)  # the task that this is part of
