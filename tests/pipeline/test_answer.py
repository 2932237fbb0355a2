"""answer.py: a motion in the hands of whoever asked, in the types they work in."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from deepgmr.errors import InvalidCloud
from deepgmr.pipeline.answer import Alternative, Registration, Stats
from deepgmr.pipeline.judge import Evidence, Status
from deepgmr.pipeline.precision import FreeDirection, Precision

MATRIX = np.eye(4)
MATRIX[:3, :3] = Rotation.from_rotvec([0.3, -2.0, 0.7]).as_matrix()
MATRIX[:3, 3] = (4e6, -5e5, 100.0)
POINTS = np.random.default_rng(0).normal(size=(30, 3))
WANTED = POINTS @ MATRIX[:3, :3].T + MATRIX[:3, 3]


@pytest.fixture
def answer() -> Registration:
    evidence = Evidence(**dict.fromkeys([item.name for item in fields(Evidence)], 0.5))
    stats = Stats(looks=1, hypotheses=8, components=(30, 30))
    return Registration(MATRIX, 0.9, np.eye(6), 0.5, Status.OK, "It is.", 0.7, evidence, stats)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_arrays_stay_arrays_of_their_type(answer: Registration, dtype: str) -> None:
    near = Registration(**{**vars(answer), "target_from_source": np.where(MATRIX > 1e3, 7.0, MATRIX.clip(-9))})
    given = POINTS.astype(dtype)
    found = near.moved(given)
    assert found.dtype == np.dtype(dtype)
    turn, shift = near.target_from_source[:3, :3], near.target_from_source[:3, 3]
    np.testing.assert_array_equal(found, (given.astype(float) @ turn.T + shift).astype(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_tensors_stay_tensors_of_their_type(answer: Registration, dtype: torch.dtype) -> None:
    given = torch.tensor(POINTS, dtype=dtype).reshape(5, 6, 3)
    found = answer.moved(given)
    assert found.dtype == dtype and found.shape == given.shape and found.device == given.device
    wanted = given.double().numpy() @ MATRIX[:3, :3].T + MATRIX[:3, 3]
    np.testing.assert_allclose(found.double(), wanted, rtol=torch.finfo(dtype).eps)
    assert answer.moved(given.to("meta")).device.type == "meta"


def test_the_gradient_goes_through(answer: Registration) -> None:
    given = torch.tensor(POINTS, requires_grad=True)
    answer.moved(given)[:, 0].sum().backward()
    assert given.grad is not None
    np.testing.assert_allclose(given.grad, np.tile(MATRIX[0, :3], (30, 1)))


def test_integers_and_lists_are_doubles(answer: Registration) -> None:
    for given in (POINTS.round().astype(int), POINTS.round().tolist(), torch.tensor(POINTS.round()).int()):
        found = answer.moved(given)
        assert found.dtype in (np.float64, torch.float64)
        np.testing.assert_allclose(found, POINTS.round() @ MATRIX[:3, :3].T + MATRIX[:3, 3])
    np.testing.assert_allclose(answer.moved(POINTS[0]), WANTED[0])
    np.testing.assert_allclose(answer.moved(torch.from_numpy(POINTS[0])), WANTED[0])


@pytest.mark.parametrize(
    "given", [np.zeros((3, 4)), np.zeros(()), [["a", "b", "c"]], torch.zeros(2, 3, dtype=torch.complex64)]
)
def test_what_is_no_point_is_refused(answer: Registration, given: object) -> None:
    with pytest.raises(InvalidCloud, match=r"expected real numbers of shape \(..., 3\), got"):
        answer.moved(given)


def test_the_motion_in_torch(answer: Registration) -> None:
    np.testing.assert_array_equal(answer.motion().matrix, MATRIX)
    assert answer.motion().matrix.dtype == torch.float64
    single = answer.motion(torch.zeros(2, dtype=torch.float32))
    assert single.matrix.dtype == torch.float32
    np.testing.assert_allclose(single.matrix, MATRIX, rtol=1e-6)
    assert answer.motion(torch.zeros(2, device="meta")).rotation.device.type == "meta"
    assert answer.motion(torch.zeros(2, dtype=torch.int32)).matrix.dtype == torch.float64


def test_printed_it_is_a_few_lines(answer: Registration) -> None:
    free = FreeDirection("shift", np.array([1.0, 0.0, 0.0]))
    precision = Precision(MATRIX[:3, 3], np.diag([4e-6, 0.0, 0.0, 9e-4, 0.0, 0.0]), (free,))
    told = replace(
        answer, precision=precision, notes=("It is.", "look at it"), alternatives=(Alternative(MATRIX, 0.125),)
    )
    assert repr(told) == "<Registration ok: confidence 0.900, overlap 0.500>"
    first, _, *rows, spread, held, other, note = str(told).splitlines()
    assert first == "ok: confidence 0.900, overlap 0.500. It is."
    np.testing.assert_allclose([[float(value) for value in row.split()] for row in rows], MATRIX[:3], atol=1e-6)
    assert spread == "standard deviations: rotation 0.115 degrees, translation 0.03 (units of the input)"
    assert (held, other) == ("nothing holds: shift along (1.000, 0.000, 0.000)", "alternative, score 0.125")
    assert note == "note: look at it"
    assert "rotation 99.2 degrees, translation 1.73" in str(answer)  # of a covariance of ones about the origin
