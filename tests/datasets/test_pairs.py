"""Pair protocols: what each step promises, checked on the pairs themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import kstest

from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.pairs.protocols import PROTOCOLS, Crop, Disjoint, Jitter, Move, Outliers, Same, Thin, make_pairs
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform, rotation_angle


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These batches are small: threads that share a busy machine would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clouds(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(64, 1024, 3, generator=generator)


def corresponding(pair: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The distance (B, N) of each moved source point from the same point in the target; where there is one."""
    match = pair.correspondence()
    target = pair.target.gather(1, match.clamp_min(0).unsqueeze(-1).expand(*match.shape, 3))
    moved = pair.target_from_source.apply(pair.source)
    return (moved - target).norm(dim=-1), match >= 0


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_truth_carries_each_point_onto_itself(name: str, clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, name, generator=generator)
    distance, found = corresponding(pair)
    noise = 0.0 if name == "clean" else 0.05 * math.sqrt(3) * 2
    assert (distance[found] <= noise + 1e-5).all()
    share = {"clean": 1.0, "noisy": 1.0, "unseen": 1.0, "resampled": 0.0, "recrop70": 0.0, "recrop50": 0.0}.get(name)
    if share is not None:
        assert found.float().mean().item() == share
        assert (pair.overlap == 1).all() or "crop" in name
    else:
        assert 0.3 < found.float().mean().item() < 0.8


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("clean", 1024),
        ("noisy", 1024),
        ("resampled", 512),
        ("crop70_45", 512),
        ("crop70_180", 512),
        ("crop50_180", 384),
        ("recrop70", 358),
        ("recrop50", 256),
    ],
)
def test_protocols_have_the_published_sizes(
    name: str, points: int, clouds: torch.Tensor, generator: torch.Generator
) -> None:
    pair = make_pairs(clouds, name, generator=generator)
    assert pair.source.shape == pair.target.shape == (64, points, 3)
    assert pair.source.dtype == torch.float32 and pair.target_from_source.batch_shape == (64,)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_one_generator_decides_everything(name: str, clouds: torch.Tensor) -> None:
    first, second, other = (
        make_pairs(clouds[:8], name, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.source, second.source) and torch.equal(first.target, second.target)
    assert torch.equal(first.target_from_source.matrix, second.target_from_source.matrix)
    assert not torch.equal(first.source, other.source)


def test_same_points_come_in_another_order(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, [Same(100)], generator=generator)
    assert pair.source_index is not None and pair.target_index is not None
    assert torch.equal(pair.source_index.sort(dim=1).values, pair.target_index.sort(dim=1).values)
    assert (pair.source_index == pair.target_index).float().mean() < 0.05
    assert all(len(set(row.tolist())) == 100 for row in pair.source_index[:5])


def test_disjoint_halves_share_no_point(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, [Disjoint(512)], generator=generator)
    assert (pair.correspondence() == -1).all()
    assert pair.source_index is not None and pair.target_index is not None
    both = torch.cat([pair.source_index, pair.target_index], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(1024).expand(64, 1024))


@pytest.mark.parametrize(("keep", "shared"), [(0.7, 0.45), (0.5, 0.3)])
def test_recrops_have_neighbours_in_the_other(keep: float, shared: float, generator: torch.Generator) -> None:
    directions = torch.randn(12, 1024, 3, generator=generator)
    balls = directions / directions.norm(dim=-1, keepdim=True)
    steps = [Disjoint(512), Crop(keep, shared=shared, near=0.1), Move()]
    pair = make_pairs(balls, steps, generator=generator)
    moved = pair.target_from_source.apply(pair.source)
    for source, target, overlap in zip(moved.numpy(), pair.target.numpy(), pair.overlap, strict=True):
        shares = [(cKDTree(b).query(a)[0] <= 0.1).mean() for a, b in ((source, target), (target, source))]
        assert min(shares) == pytest.approx(float(overlap), abs=0.02) and overlap >= shared


@pytest.mark.parametrize(("keep", "shared"), [(0.7, 0.45), (0.5, 0.3), (0.5, 0.8), ((0.4, 1.0), 0.3)])
def test_crops_are_half_spaces_that_share_enough(
    keep: float | tuple[float, float], shared: float, clouds: torch.Tensor, generator: torch.Generator
) -> None:
    pair = make_pairs(clouds, [Crop(keep, shared=shared)], generator=generator)
    assert (pair.overlap >= shared).all() and (pair.overlap <= 1).all()
    if isinstance(keep, float):
        assert pair.source.shape[1] == pair.target.shape[1] == round(keep * 1024)
        # Everything that is kept is in the crop, so its overlap can be counted from the points themselves.
        counted = (pair.correspondence() >= 0).float().mean(dim=1)
        assert torch.allclose(counted, pair.overlap, atol=1e-6)
    # Some plane separates what is kept from what is not: a perceptron finds it for a few pairs.
    for i in range(3):
        assert pair.source_index is not None
        inside = torch.zeros(1024, dtype=torch.bool)
        inside[pair.source_index[i]] = True
        if isinstance(keep, float):
            assert separable(clouds[i].numpy(), inside.numpy())


def separable(points: np.ndarray, inside: np.ndarray) -> bool:
    from scipy.optimize import linprog

    rows = np.hstack([points, np.ones((len(points), 1))]) * np.where(inside, 1.0, -1.0)[:, None]
    return linprog(np.zeros(4), A_ub=-rows, b_ub=-np.full(len(rows), 1e-6), bounds=[(None, None)] * 4).success


def test_an_impossible_crop_falls_back_on_the_same_plane(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds[:4], [Crop(0.3, shared=0.999)], generator=generator)
    assert (pair.overlap == 1).all() and (pair.correspondence() >= 0).all()


def test_noise_is_gaussian_and_clipped(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, [Jitter(0.01, 0.02)], generator=generator)
    change = (pair.source - clouds).flatten()
    assert change.abs().max() <= 0.02 + 1e-6
    inner = change[change.abs() < 0.0199].numpy() / 0.01
    assert kstest(inner[:5000], lambda x: truncated(x)).pvalue > 1e-3
    assert not torch.equal(pair.source, pair.target)


def truncated(x: np.ndarray) -> np.ndarray:
    from scipy.stats import truncnorm

    return truncnorm.cdf(x, -2, 2)


def test_noise_may_differ_from_pair_to_pair(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, [Jitter((0.0, 0.1), None)], generator=generator)
    sigma = (pair.source - clouds).std(dim=(1, 2))
    assert sigma.min() < 0.02 and sigma.max() > 0.08


def test_rotations_and_translations_are_drawn_as_told(generator: torch.Generator) -> None:
    clouds = torch.randn(4000, 4, 3, generator=generator)
    paper = make_pairs(clouds, [Move("axis-angle", 180.0, "ball", 0.25)], generator=generator).target_from_source
    assert kstest(rotation_angle(paper.rotation).numpy() / math.pi, "uniform").pvalue > 1e-3
    assert kstest(paper.translation.norm(dim=-1).numpy() / 0.25, "uniform").pvalue > 1e-3
    any_turn = make_pairs(clouds, [Move("uniform", 180.0, "box", 0.5)], generator=generator).target_from_source
    angle = rotation_angle(any_turn.rotation).numpy()
    assert kstest(angle, lambda x: (x - np.sin(x)) / np.pi).pvalue > 1e-3  # Haar
    assert kstest(any_turn.translation.flatten().numpy() + 0.5, "uniform").pvalue > 1e-3


def test_euler_motions_stay_below_their_bound_and_keep_the_source(
    clouds: torch.Tensor, generator: torch.Generator
) -> None:
    pair = make_pairs(clouds, [Move("euler", 45.0, "box", 0.5, pose=False)], generator=generator)
    assert torch.equal(pair.source, clouds)
    assert rotation_angle(pair.target_from_source.rotation).rad2deg().max() < 80


def test_moving_twice_composes(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, [Same(200), Move(), Move("euler", 10.0)], generator=generator)
    distance, found = corresponding(pair)
    assert found.all() and distance.max() < 1e-5


def test_the_way_back_to_the_parent_is_kept(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, [Same(200), Crop(0.7), Move(), Move()], generator=generator)
    assert pair.source_index is not None and pair.source_from_parent is not None
    parent = clouds.gather(1, pair.source_index.unsqueeze(-1).expand(*pair.source_index.shape, 3))
    assert torch.allclose(pair.source_from_parent.apply(parent), pair.source, atol=1e-5)


def test_normals_turn_with_their_points(clouds: torch.Tensor, generator: torch.Generator) -> None:
    normals = clouds / clouds.norm(dim=-1, keepdim=True)
    pair = make_pairs(clouds, [Same(300), Crop(0.7), Move()], generator=generator, normals=normals)
    assert pair.source_normals is not None and pair.target_normals is not None and pair.source_index is not None
    match = pair.correspondence()
    expected = pair.target_normals.gather(1, match.clamp_min(0).unsqueeze(-1).expand(*match.shape, 3))
    turned = pair.target_from_source.rotate(pair.source_normals)
    assert torch.allclose(turned[match >= 0], expected[match >= 0], atol=1e-5)
    assert torch.allclose(pair.source_normals.norm(dim=-1), torch.ones(()), atol=1e-5)


def test_outliers_take_the_place_of_points(clouds: torch.Tensor, generator: torch.Generator) -> None:
    pair = make_pairs(clouds, [Same(1024), Outliers(0.3)], generator=generator)
    assert pair.source_index is not None
    assert (pair.source_index == -1).float().mean().item() == pytest.approx(0.3, abs=0.02)
    distance, found = corresponding(pair)
    assert distance[found].max() < 1e-6
    assert found.float().mean().item() == pytest.approx(0.49, abs=0.03)
    assert (pair.source[pair.source_index == -1].norm(dim=-1) > 2.5).float().mean() > 0.2  # most of a ball is outside


def test_thinning_makes_one_side_denser(generator: torch.Generator) -> None:
    clouds = torch.rand(200, 2000, 3, generator=generator)
    even = make_pairs(clouds, [Thin(400, 1.0)], generator=generator).source
    uneven = make_pairs(clouds, [Thin(400, 16.0)], generator=generator).source
    assert even.shape == (200, 400, 3)
    assert (even.mean(1) - 0.5).norm(dim=-1).mean() < 0.06
    assert (uneven.mean(1) - 0.5).norm(dim=-1).mean() > 0.1


@pytest.mark.parametrize(
    "steps",
    ["unknown", [Same(1025)], [Disjoint(600)], [Thin(2000)], [Crop(0.0001)], [Move("spin")], [Move(translation="far")]],
)
def test_bad_requests_are_named(steps: object, clouds: torch.Tensor, generator: torch.Generator) -> None:
    with pytest.raises(InvalidConfig):
        make_pairs(clouds, steps, generator=generator)  # type: ignore[arg-type]


def test_pairs_without_a_parent_have_no_correspondence(clouds: torch.Tensor) -> None:
    pair = PairBatch(clouds, clouds, RigidTransform.identity((64,)), torch.ones(64))
    assert len(pair) == 64
    with pytest.raises(InvalidConfig, match="common parent"):
        pair.correspondence()
