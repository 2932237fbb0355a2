"""Hostile arrays: whatever a program may hand to `register` in place of a cloud, from a seed, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from damage import Report, judged, watched

import deepgmr
from deepgmr.geometry.transform import is_rigid

SIZES = (0, 2, 3, 4, 5, 8, 20, 20, 60, 60, 200, 200, 600, 600, 2000)
SCALES = (
    1e300,
    1e160,
    1e140,
    1e30,
    1e12,
    1e3,
    10.0,
    2.0,
    1.0,
    0.9,
    0.1,
    1e-3,
    1e-12,
    1e-30,
    1e-140,
    1e-160,
    1e-300,
    1e-310,
)
OFFSETS = (1e2, 1e6, 1e9, 1e15, 1e30, 1e149, 1e300, -1e308)
BAD = (np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, -0.0)
REAL = ("f2", "f4", "f8", "g", ">f4", ">f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", "bool")
OTHER = ("c16", "O", "U5", "S5", "M8[s]", "m8[s]", "V8")


def fuzz_arrays(arrays: int, seed: int) -> Report:
    """Register so many pairs of which one at least is hostile: each ends in an answer or in one named error."""
    report = Report(what="arrays")
    registrar = deepgmr.Registrar.load()
    with watched() as printed, suppress(KeyboardInterrupt):
        for number in range(arrays):
            source, target, options = pair(np.random.default_rng([seed, number]))
            call = partial(registered, registrar, source, target, options)
            judged(report, call, "array", f"seed {seed}, array {number}".encode, printed, begins="")
    return report


def registered(registrar: deepgmr.Registrar, source: Any, target: Any, options: dict[str, Any]) -> None:
    """Register, and look at what is said: a rigid motion, a probability, a covariance, and JSON."""
    answer = registrar.register(source, target, **options)
    assert is_rigid(answer.target_from_source[None])[0], answer.target_from_source
    assert 0 <= answer.confidence <= 1 and 0 <= answer.overlap <= 1, (answer.confidence, answer.overlap)
    assert np.isfinite(answer.covariance).all(), answer.covariance
    assert np.linalg.eigvalsh(answer.covariance).min() >= -1e-6 * np.abs(answer.covariance).max(), answer.covariance
    json.dumps(answer.to_dict(), allow_nan=False)


def pair(generator: np.random.Generator) -> tuple[Any, Any, dict[str, Any]]:
    """Two clouds of which one at least is hostile, and options that mostly are not."""
    points = shape(generator)
    spoilt = disguised(spoil(points, generator), generator)
    other: Any = points[::-1] @ np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    if generator.random() < 0.3:
        other = disguised(spoil(shape(generator), generator), generator)
    elif generator.random() < 0.2:
        other = spoilt
    options: dict[str, Any] = {"drop_invalid": bool(generator.random() < 0.7)}
    if generator.random() < 0.2:
        options["initial"] = np.diag(generator.choice([1.0, 1.0, 1.0, 1.0, np.nan, -1.0, 1e300], 4))
    if generator.random() < 0.1:
        options["max_rotation_degrees"] = generator.choice([0.0, 1e-300, 1e-9, 5.0, 180.0, 1e300, np.nan, -1.0])
    if generator.random() < 0.1:
        options["source_origin"] = generator.choice([0.0, 1.0, 1e300, np.nan, 1e-300], 3)
    if generator.random() < 0.1:
        options["trust"] = generator.choice([0.0, 1.0, 0.5, np.nan, -1.0, np.inf])
    return (spoilt, other, options) if generator.random() < 0.5 else (other, spoilt, options)


def shape(generator: np.random.Generator) -> np.ndarray:
    """Points (N, 3) of some shape, or of none."""
    count = int(generator.choice(SIZES))
    points = generator.normal(size=(count, 3))
    match generator.integers(12):
        case 0:
            points[:, 2] = 0.0
        case 1:
            points[:, 1:] = points[:, :1]
        case 2:
            points /= np.linalg.norm(points, axis=1, keepdims=True)
        case 3:
            points = np.rint(points)
        case 4:
            points = points[generator.integers(0, max(count // 3, 1), count)] if count else points
        case 5:
            points[:] = 0.25
    return points


def spoil(points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The points after none to two changes for the worse."""
    points = points.copy()
    with np.errstate(all="ignore"):
        for _ in range(generator.integers(0, 3)):
            rows = generator.random(len(points)) < generator.choice([0.01, 0.1, 0.5, 1.0])
            match generator.integers(7):
                case 0:
                    points = points * generator.choice(SCALES)
                case 1:
                    points = points + generator.choice(OFFSETS) * generator.integers(-1, 2, 3)
                case 2:
                    points[rows, generator.integers(3)] = generator.choice(BAD)
                case 3:
                    points[rows] = points[rows] * generator.choice([1e3, 1e9, 1e100, 1e300])
                case 4:
                    points = np.repeat(points, generator.integers(1, 5), axis=0)
                case 5:
                    points = points * generator.choice(SCALES, 3)
                case 6:
                    points = points + generator.choice(OFFSETS)
                    points = points.astype(np.float32).astype(np.float64)
    return points


def disguised(points: np.ndarray, generator: np.random.Generator) -> Any:
    """The points as another type, in another layout, or as something that is no cloud."""
    choices: list[Callable[[np.ndarray], Any]] = [
        lambda p: p,
        lambda p: p.astype(generator.choice(REAL)),
        lambda p: p.astype(generator.choice(OTHER)) if len(p) else p,
        lambda p: np.asfortranarray(p),
        lambda p: np.repeat(p, 3, axis=0)[::-3],
        lambda p: np.column_stack([p, p, p])[:, 1:8:3],
        _read_only,
        lambda p: np.broadcast_to(p[:1], p.shape) if len(p) else p,
        lambda p: p[: len(p) // 2 * 2].reshape(2, -1, 3),
        lambda p: p.T,
        lambda p: p[:, :2],
        lambda p: p.reshape(-1),
        _structured,
        lambda p: np.ma.masked_invalid(p),
        lambda p: np.frombuffer(b"\0" + p.tobytes(), np.uint8)[1:].view(np.float64).reshape(-1, 3),  # not aligned
        lambda p: p.tolist(),
        lambda p: torch.from_numpy(np.array(p)),
        lambda p: torch.from_numpy(np.array(p)).to(torch.bfloat16),
        lambda p: torch.from_numpy(np.array(p)).float().requires_grad_(),
        _message,
        lambda p: deepgmr.io.CloudFile(
            p,
            {
                "opacity": p[:, 0],
                **{f"scale_{i}": p[:, i] for i in range(3)},
                **{f"rot_{i}": p[:, i % 3] for i in range(4)},
            },
        ),
        lambda p: np.ascontiguousarray(p).data,
        lambda p: [None, "cloud", object(), 3, b"xyz", {}, {"x": 1}, np.float64(3), iter(()), Exception][
            generator.integers(10)
        ],
    ]
    with np.errstate(all="ignore"):
        try:
            return choices[generator.integers(len(choices)) if generator.random() < 0.5 else 0](points)
        except (ValueError, TypeError, OverflowError):  # NumPy itself does not do it
            return points


def _read_only(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points.flags.writeable = False
    return points


def _structured(points: np.ndarray) -> np.ndarray:
    table = np.zeros(len(points), [("z", "f4"), ("x", "f8"), ("pad", "S3"), ("y", ">f4")])
    for axis, column in zip("xyz", points.T, strict=True):
        table[axis] = column
    return table


def _message(points: np.ndarray) -> SimpleNamespace:
    fields = [SimpleNamespace(name=axis, offset=8 * i, datatype=8, count=1) for i, axis in enumerate("xyz")]
    shape = {"height": 1, "width": len(points), "point_step": 24, "row_step": 24 * len(points)}
    dense = bool(len(points) % 2)
    return SimpleNamespace(
        fields=fields, data=points.astype("<f8").tobytes(), is_bigendian=False, is_dense=dense, **shape
    )
