"""Many pairs on one device: each computation as alone, and the answers those of the loop.

What a GPU would be given is computed here on the CPU: the same code, and slow. The last test needs a GPU.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from problems_pipeline import level as whole
from problems_pipeline import motion, moved, shape
from scipy.spatial import cKDTree

from deepgmr import Failure, iter_batch, register_batch
from deepgmr.datasets.pairs.kinds import KINDS, SHAPES, Case, cases
from deepgmr.errors import Cancelled, InvalidConfig
from deepgmr.geometry.neighbours import Tree
from deepgmr.networks.overlap import OverlapPrediction
from deepgmr.pipeline import batch
from deepgmr.pipeline.agree import agreed
from deepgmr.pipeline.propose.learned import predicted
from deepgmr.pipeline.refine import align
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import AgreeSettings
from deepgmr.pipeline.together import computations

CPU = torch.device("cpu")
NEAR, SURE = 1e-3, 0.01  # bounds of an answer: sizes of the cloud that a point of it may be put elsewhere; confidence


def everything(device: torch.device) -> Any:
    return computations(device, everything=True)


def content(result: Any) -> tuple[Any, ...]:
    if isinstance(result, Failure):
        return type(result.error), str(result.error)
    return result.target_from_source.tobytes(), result.covariance.tobytes(), result.confidence, result.status


def differences(cases: Sequence[Case], one: Sequence[Any], other: Sequence[Any]) -> list[str]:
    """What is not within the bounds."""
    found = []
    for case, a, b in zip(cases, one, other, strict=True):
        points = np.asarray(case.source, dtype=np.float64)
        size = 2 * np.sqrt(np.square(points - points.mean(0)).sum(1).mean())
        apart = points @ (a.target_from_source - b.target_from_source)[:3, :3].T
        gap = np.linalg.norm(apart + (a.target_from_source - b.target_from_source)[:3, 3], axis=1).max() / size
        if a.status != b.status or gap > NEAR or abs(a.confidence - b.confidence) > SURE:
            found.append(f"{case.kind}: {a.status}, {b.status}, {gap:.1e}, {a.confidence:.3f}, {b.confidence:.3f}")
    return found


def asked_of(cases: Sequence[Case]) -> list[Any]:
    return [(case.source, case.target, {"max_rotation_degrees": case.max_rotation_degrees}) for case in cases]


@pytest.fixture(scope="module")
def drawn() -> list[Case]:
    return list(cases(1, 11))


@pytest.fixture(scope="module")
def loop(drawn: list[Case]) -> list[Any]:
    return register_batch(asked_of(drawn))


def test_answers_are_those_of_the_loop_on_every_kind(drawn: list[Case], loop: list[Any]) -> None:
    assert [case.kind for case in drawn] == list(KINDS)
    assert not differences(drawn, loop, register_batch(asked_of(drawn), device="cpu", batch=5))


@pytest.mark.slow
def test_so_are_those_of_what_a_gpu_is_given(drawn, loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "computations", everything)
    assert not differences(drawn, loop, register_batch(asked_of(drawn), device="cpu", batch=5))


def test_so_are_those_of_small_and_of_unlike_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    points = shape(3, 900)
    pairs = [(points[i * 40 : i * 40 + size], moved(motion(i), points[i * 30 : i * 30 + size])) for i, size in
             enumerate((300, 240, 8, 60, 200))]  # fmt: skip
    small = [Case("small", torch.from_numpy(a), torch.from_numpy(b), lambda _: True) for a, b in pairs]
    small.append(Case("dwarf", small[1].source, 9 * small[1].target, lambda _: True))
    one = register_batch(asked_of(small))
    monkeypatch.setattr(batch, "computations", everything)
    assert not differences(small, one, register_batch(asked_of(small), device="cpu", batch=4))


def test_bounds_hold_where_a_device_rounds_otherwise(drawn, loop, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def off(value: torch.Tensor) -> torch.Tensor:
        """As far as single precision may be off after a network's many sums."""
        return value + 1e-5 * torch.randn(value.shape, generator=generator) * value.abs().clamp_min(1)

    def rounded(device: torch.device) -> Any:
        shared = computations(device, everything=True)

        def networks(asks: Any) -> list[OverlapPrediction]:
            with torch.inference_mode():
                return [OverlapPrediction(off(one.similarity)) for one in shared[predicted](asks)]

        def agreeing(asks: Any) -> list[Any]:  # in double precision
            found = shared[agreed]([(*(each.double() for each in ask[:4]), *ask[4:]) for ask in asks])
            return [(motions.to(torch.float32), agreement.float()) for motions, agreement in found]

        return {predicted: networks, agreed: agreeing}

    few = [number for number, case in enumerate(drawn) if case.kind in SHAPES]
    monkeypatch.setattr(batch, "computations", rounded)
    other = register_batch(asked_of([drawn[number] for number in few]), device="cpu")
    assert not differences([drawn[number] for number in few], [loop[number] for number in few], other)


# -- each computation ----------------------------------------------------------------------------------------------


def level(seed: int, count: int) -> Level:
    return whole(shape(seed, count))


def matrix(seed: int) -> np.ndarray:
    return motion(seed).matrix.numpy()


def test_generalised_icp_is_small_gicps() -> None:
    asks = []
    for number, (count, goal) in enumerate(((250, 180), (120, 300), (300, 300))):
        starts = np.stack([matrix(10 * number + i) for i in range(number + 1)])
        starts[:, :3, 3] *= 0.1
        asks.append((level(number, count), level(number, goal), starts, 0.4 - 0.1 * number, 8, 3e-3))
    asks.append((*asks[0][:3], 1e-9, 8, 3e-3))  # nothing is within reach
    asks.append((*asks[1][:4], 2, 1e-5))
    for ask, found in zip(asks, everything(CPU)[align](asks), strict=True):
        assert found.shape == ask[2].shape
        np.testing.assert_allclose(found, align(*ask), atol=1e-9)
    np.testing.assert_array_equal(everything(CPU)[align](asks)[3], asks[0][2])
    assert np.abs(align(*asks[2]) - asks[2][2]).max() > 0.01  # there was something to do


def test_nearest_points_are_the_nearest() -> None:
    rng = np.random.default_rng(0)
    asks = [(Tree(rng.normal(size=(n, 3))), rng.normal(size=(m, 3)), reach) for n, m, reach in
            ((50, 70, 0.3), (400, 30, 9.0), (9000, 20, 0.1), (3, 1, 1e-6))]  # fmt: skip
    for (tree, queries, reach), (distance, index) in zip(asks, everything(CPU)[Tree.within](asks), strict=True):
        true, place = cKDTree(tree.points).query(queries)
        near = true <= reach
        assert (np.isfinite(distance) == near).all()
        np.testing.assert_allclose(distance[near], true[near], rtol=1e-12)
        np.testing.assert_array_equal(index[near], place[near])


def test_motions_that_matches_agree_on_are_those_of_each_pair_alone() -> None:
    rng, asks = np.random.default_rng(1), []
    for number, count in enumerate((60, 40, 60, 60)):
        points, normals = (torch.from_numpy(rng.normal(size=(count, 3))).float() for _ in range(2))
        normals = torch.nn.functional.normalize(normals, dim=-1)
        truth = motion(number).to(torch.float32)
        other = truth.apply(points)
        other[::3] = other[::3].flip(0)  # wrong matches
        asks.append((points, other, normals, truth.rotate(normals), 0.05 + 0.01 * number, AgreeSettings()))
    for number, (ask, (motions, agreement)) in enumerate(zip(asks, everything(CPU)[agreed](asks), strict=True)):
        alone, votes = agreed(*ask)
        np.testing.assert_allclose(float(agreement.max()), float(votes.max()), rtol=1e-4)
        for found, count in ((motions, agreement), (alone, votes)):
            np.testing.assert_allclose(found.matrix[count.argmax()], matrix(number), atol=1e-4)


# -- the batch -----------------------------------------------------------------------------------------------------


def test_a_bad_pair_costs_itself_alone_and_a_pair_of_its_own_time_is_answered(monkeypatch) -> None:
    points = shape(1, 500)
    good = (points[:300], moved(motion(1), points[100:400]))
    pairs: list[Any] = [good, (points[:2], points), 7, (points, "nowhere.ply"), (*good, {"timeout": 1e-9}), good]
    pairs += [(*good, {"timeout": 60.0})]
    loop = register_batch(pairs)
    one = [content(each) for each in loop]
    monkeypatch.setattr(batch, "computations", everything)
    before = threading.active_count()
    other = register_batch(iter(pairs), device="cpu", batch=3)
    assert threading.active_count() == before
    assert [isinstance(each, Failure) for each in other] == [False, True, True, True, True, False, False]
    assert [content(each) for each in other[1:5]] == one[1:5]
    assert content(other[6]) == one[6]
    for number in (0, 5):
        np.testing.assert_allclose(other[number].target_from_source, loop[0].target_from_source, atol=1e-4)


def test_a_callers_own_arrays_may_change_and_progress_stops_the_batch() -> None:
    points = shape(1, 400)
    buffer = np.empty((200, 3))

    def frames() -> Any:
        for i in range(4):
            buffer[:] = points[i * 50 : i * 50 + 200]
            yield buffer, points

    assert [content(each) for each in register_batch(frames(), device="cpu")] == [
        content(each) for each in register_batch(frames())
    ]
    before = threading.active_count()
    with pytest.raises(Cancelled):
        register_batch(frames(), device="cpu", batch=2, progress=lambda *_: False)
    found = iter_batch(frames(), device="cpu", batch=2)
    next(found)
    del found
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "nonsense"}, "device `nonsense` cannot be used"),
        ({"device": "meta"}, "device `meta` cannot be used"),
        ({"device": "cpu", "batch": 0}, "batch must be a whole number"),
        ({"batch": 4}, "there is none; give both"),
        ({"device": "cpu", "workers": 2}, "by one process"),
    ],
)
def test_options_that_cannot_be_followed_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        iter_batch([], **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can compute on")
def test_answers_of_a_gpu_are_those_of_the_loop(drawn: list[Case], loop: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # nothing fell back to the CPU
        found = register_batch(asked_of(drawn), device="cuda")
    assert not differences(drawn, loop, found)
