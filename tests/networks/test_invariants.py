"""Features: against transcriptions in NumPy with plain loops, and against the symmetries they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems_pipeline import bumpy_clouds
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry import neighbours
from deepgmr.geometry.frames import unit_frame
from deepgmr.geometry.neighbours import gather_points
from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks.moments import SCALES, local_moments, moments_width
from deepgmr.networks.rri import rri


def _moved(clouds: Tensor, generator: torch.Generator) -> Tensor:
    motion = RigidTransform.random(clouds.shape[:-2], generator=generator, max_translation=2.0)
    return unit_frame(motion.apply(clouds))[0]


# -- the paper's features ------------------------------------------------------------------------------------------


def _rri_by_loops(cloud: np.ndarray, k: int, order: str) -> np.ndarray:
    out = []
    for i, p in enumerate(cloud):
        nearest = [j for j in np.argsort(np.linalg.norm(cloud - p, axis=1)) if j != i][:k]
        axis = p / np.linalg.norm(p)
        radii, openings, across = [], [], []
        for j in nearest:
            q = cloud[j]
            radii.append(np.linalg.norm(q))
            openings.append(math.acos(np.clip(q @ axis / np.linalg.norm(q), -1, 1)))
            across.append(q - (q @ axis) * axis)
        gaps = []
        for a in range(k):
            turns = [
                math.atan2(np.cross(across[a], across[b]) @ axis, across[a] @ across[b]) % (2 * math.pi)
                for b in range(k)
                if b != a
            ]
            gaps.append(min(turns))
        arrange = sorted if order == "value" else list
        out.append([np.linalg.norm(p)] * k + arrange(radii) + arrange(openings) + arrange(gaps))
    return np.array(out)


@pytest.mark.parametrize("order", ["value", "distance"])
def test_rri_is_the_transcription_with_loops(order: str, generator: torch.Generator) -> None:
    clouds = bumpy_clouds(generator, points=60)
    found = rri(clouds, neighbours=6, order=order)
    for cloud, rows in zip(clouds, found, strict=True):
        np.testing.assert_allclose(rows.numpy(), _rri_by_loops(cloud.double().numpy(), 6, order), atol=2e-5)


def test_rri_does_not_change_by_1e4_under_rigid_motions_in_float32(generator: torch.Generator) -> None:
    clouds = bumpy_clouds(generator, batch=4, points=1024)
    before, after = rri(clouds), rri(_moved(clouds, generator))
    assert before.shape == (4, 1024, 80)
    assert (before - after).abs().max() < 1e-4


def test_rri_angles_around_a_point_make_a_full_turn(generator: torch.Generator) -> None:
    gaps = rri(bumpy_clouds(generator))[..., 60:]
    assert torch.allclose(gaps.sum(-1), torch.tensor(2 * math.pi), atol=1e-4)


def test_rri_tells_a_shape_from_its_mirror_image_by_nothing_but_order(generator: torch.Generator) -> None:
    # Sorted gaps lose the sense of turning: the paper's four numbers, taken as sets, are blind to reflections.
    clouds = bumpy_clouds(generator)
    mirrored = clouds * torch.tensor([-1.0, 1.0, 1.0])
    assert (rri(clouds) - rri(mirrored)).abs().max() < 1e-4


def test_rri_is_finite_with_duplicates_and_a_point_at_the_centroid() -> None:
    half = torch.rand(1, 20, 3) - 0.5
    cloud = torch.cat([half, -half, torch.zeros(1, 2, 3)], dim=1)
    assert torch.isfinite(rri(cloud, neighbours=5)).all()


# -- moments -------------------------------------------------------------------------------------------------------


def _moments_of_one(cloud: np.ndarray, p: np.ndarray, h: float) -> list[float]:
    """Thirteen numbers at one scale, from the definition."""
    weight = np.exp(-((cloud - p) ** 2).sum(1) / (2 * h * h))
    share = weight / weight.sum()
    axis = p / np.linalg.norm(p)
    mean = share @ cloud
    lean = (mean - p) / h
    spread = np.einsum("n,ni,nj->ij", share, cloud - mean, cloud - mean) / h**2
    third = np.einsum("n,n,ni->i", share, (cloud**2).sum(1), cloud)
    sideways = np.cross(axis, lean)
    return [
        math.log(weight.mean()),
        lean @ axis,
        lean @ lean,
        np.trace(spread),
        axis @ spread @ axis,
        (spread**2).sum(),
        lean @ spread @ lean,
        sideways @ spread @ axis,
        sideways @ spread @ lean,
        np.linalg.det(spread),
        float(np.linalg.norm(mean)),
        third @ axis,
        sideways @ third,
    ]


@pytest.mark.parametrize("scales", [SCALES, (0.3,), (0.2, 0.5)])
def test_moments_are_the_definition(generator: torch.Generator, scales: tuple[float, ...]) -> None:
    clouds = bumpy_clouds(generator, points=150)
    found = local_moments(clouds, scales=scales).double().numpy()
    assert found.shape == (2, 150, moments_width(scales))
    cloud = clouds[1].double().numpy()
    for i in (0, 31, 149):
        np.testing.assert_allclose(found[1, i, 0], np.linalg.norm(cloud[i]), rtol=1e-5)
        expected = [value for h in reversed(scales) for value in _moments_of_one(cloud, cloud[i], h)]
        np.testing.assert_allclose(found[1, i, 1 : 1 + len(expected)], expected, rtol=2e-3, atol=2e-3)


def test_moments_do_not_change_under_rigid_motions_in_float32(generator: torch.Generator) -> None:
    clouds = bumpy_clouds(generator, batch=4, points=1024)
    change = (local_moments(clouds) - local_moments(_moved(clouds, generator))).abs()
    assert change.mean() < 1e-5
    assert change.max() < 1e-3  # of second moments divided by the square of the smallest scale


def test_moments_tell_a_shape_from_its_mirror_image(generator: torch.Generator) -> None:
    clouds = bumpy_clouds(generator)
    mirrored = clouds * torch.tensor([-1.0, 1.0, 1.0])
    deviation = local_moments(clouds).std((0, 1))
    assert ((local_moments(clouds) - local_moments(mirrored)).abs() / deviation).max() > 0.5


def test_noise_moves_moments_less_than_the_papers_features(generator: torch.Generator) -> None:
    clouds = bumpy_clouds(generator, batch=4, points=512)
    noisy = unit_frame(clouds + 0.02 * torch.randn(clouds.shape, generator=generator))[0]

    def correlation(describe: object) -> float:
        a, b = (describe(cloud).flatten(0, 1) for cloud in (clouds, noisy))  # type: ignore[operator]
        a, b = a - a.mean(0), b - b.mean(0)
        return float(((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-9)).mean())

    assert correlation(local_moments) > correlation(rri)


@pytest.mark.parametrize("describe", [rri, local_moments])
def test_features_follow_the_points_and_queries_pick_rows(describe, generator: torch.Generator) -> None:  # type: ignore[no-untyped-def]
    clouds = bumpy_clouds(generator)
    whole = describe(clouds)
    order = torch.randperm(clouds.shape[1], generator=generator)
    assert torch.allclose(describe(clouds[:, order]), whole[:, order], atol=2e-3)
    rows = torch.stack([torch.randperm(200, generator=generator)[:30] for _ in range(2)])
    assert torch.allclose(describe(clouds, queries=rows), gather_points(whole, rows), atol=2e-3)


@pytest.mark.parametrize("describe", [rri, local_moments])
def test_features_take_any_leading_dimensions(describe, generator: torch.Generator) -> None:  # type: ignore[no-untyped-def]
    clouds = bumpy_clouds(generator, batch=6, points=50)
    whole = describe(clouds)
    assert torch.allclose(describe(clouds.unflatten(0, (2, 3))), whole.unflatten(0, (2, 3)), atol=1e-3)
    assert torch.allclose(describe(clouds[0]), whole[0], atol=1e-3)
    assert describe(clouds[:0]).shape == (0, *whole.shape[1:])


def test_moments_in_chunks_are_the_same(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = bumpy_clouds(generator, batch=3)
    whole = local_moments(clouds)
    for budget in (1, 200 * 64, 200 * 200 * 2):  # a row at a time, part of a cloud, two clouds
        monkeypatch.setitem(neighbours.CHUNK, "cpu", budget)
        assert torch.allclose(local_moments(clouds), whole, atol=2e-3)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="unknown order `random`"):
        rri(torch.rand(1, 30, 3), order="random")


def test_scales_out_of_order_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="ascending"):
        local_moments(torch.rand(1, 10, 3), scales=(0.4, 0.2))
