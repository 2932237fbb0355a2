"""Tasks side by side: one at a time, what they ask for answered together, and each one's mishaps its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from deepgmr.pipeline.cohort import apart, asked, side_by_side


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number**2


def double(number: int) -> int:
    return 2 * number


class Calls:
    """Answers many asks at once, and remembers them."""

    def __init__(self, function: Callable[[int], int]) -> None:
        self.function, self.heard = function, list[list[int]]()

    def __call__(self, asks: Sequence[tuple[Any, ...]]) -> list[int]:
        self.heard.append([number for (number,) in asks])
        return [self.function(number) for (number,) in asks]


def task(number: int, log: list[int] | None = None) -> Callable[[], tuple[int, Any]]:
    def steps() -> tuple[int, Any]:
        try:
            found = [asked(square, number + more) for more in range(number + 2)]
            return number, asked(double, sum(found))
        except ValueError as error:
            return number, str(error)
        finally:
            if log is not None:
                log.append(number)

    return steps


def expected(number: int) -> int:
    return 2 * sum((number + more) ** 2 for more in range(number + 2))


def test_what_is_asked_for_is_computed_together_in_the_same_order_every_time() -> None:
    heard = []
    for _ in range(3):
        squares, doubles = Calls(square), Calls(double)
        found = dict(side_by_side(map(task, range(7)), {square: squares, double: doubles}, 3))
        assert found == {number: expected(number) for number in range(7)}
        assert squares.heard[:2] == [[0, 1, 2], [1, 2, 3]]  # 0 waits for `double`, which most do not ask for
        assert max(map(len, squares.heard + doubles.heard)) == 3
        heard.append((squares.heard, doubles.heard))
    assert heard[0] == heard[1] == heard[2]


def test_what_is_not_shared_and_who_is_apart_computes_alone() -> None:
    def alone() -> tuple[int, Any]:
        apart()
        return task(5)()

    squares = Calls(square)
    assert dict(side_by_side([task(1), alone], {square: squares}, 2)) == {1: expected(1), 5: expected(5)}
    assert squares.heard == [[1], [2], [3]]
    assert task(4)() == (4, expected(4))  # outside of any cohort


def test_an_error_is_its_own_tasks_alone() -> None:
    squares = Calls(square)
    with pytest.warns(RuntimeWarning, match="square cannot be computed for 3 pairs at once"):
        found = dict(side_by_side([task(1), task(-1), task(2)], {square: squares}, 3))
    assert found == {1: expected(1), 2: expected(2), -1: "-1 is negative"}


def test_tasks_are_drawn_as_they_are_needed_and_given_up_with_the_one_who_waits() -> None:
    before, drawn, ended = threading.active_count(), list[int](), list[int]()

    def tasks() -> Any:
        for number in range(100):
            drawn.append(number)
            yield task(number, ended)

    found = side_by_side(tasks(), {square: Calls(square), double: Calls(double)}, 4)
    assert next(found)[0] == 0
    assert len(drawn) == 4 and ended[0] == 0
    found.close()
    assert sorted(ended) == [0, 1, 2, 3] and threading.active_count() == before


def test_one_task_runs_at_a_time() -> None:
    running, most = [0], [0]

    def steps() -> None:
        for number in range(20):
            running[0] += 1
            most[0] = max(most[0], running[0])
            for _ in range(200):
                pass
            running[0] -= 1
            asked(square, number)

    list(side_by_side([steps] * 5, {square: Calls(square)}, 5))
    assert most == [1]
