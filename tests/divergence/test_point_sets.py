"""Distances between samples: loops and scipy as truth, unequal counts, chunks, gradients, bad input."""

from __future__ import annotations

import functools
import math

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from problems_mixtures import peak_bytes
from scipy import stats
from scipy.spatial import cKDTree

from deepgmr.divergence import chamfer, energy_distance, median_bandwidth, mmd, point_sets, sliced_wasserstein
from deepgmr.errors import InvalidCloud, InvalidInput

F64 = torch.float64
ALL = {
    "mmd": mmd,
    "mmd_biased": functools.partial(mmd, biased=True),
    "energy_distance": energy_distance,
    "chamfer": chamfer,
    "sliced_wasserstein": sliced_wasserstein,
    "sliced_wasserstein_1": functools.partial(sliced_wasserstein, order=1),
}


def clouds(seed, n=11, m=8, d=3, batch=(), shift=0.3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*batch, n, d)), rng.normal(size=(*batch, m, d)) + shift


def tensors(arrays, dtype=F64):
    return [torch.as_tensor(a, dtype=dtype) for a in arrays]


@pytest.mark.parametrize("biased", [False, True])
def test_mmd_agrees_with_loops(biased):
    x, y = clouds(0)
    value = mmd(*tensors((x, y)), bandwidths=0.7, biased=biased)
    assert value.item() == pytest.approx(oracle.mmd(x, y, 0.7, biased), rel=1e-12)
    several = mmd(*tensors((x, y)), bandwidths=[0.5, 2.0], biased=biased)
    assert several.item() == pytest.approx(
        (oracle.mmd(x, y, 0.5, biased) + oracle.mmd(x, y, 2.0, biased)) / 2, rel=1e-12
    )
    pool = np.concatenate([x, y])
    distances = sorted(np.linalg.norm(a - b) for i, a in enumerate(pool) for b in pool[:i])
    median = distances[(len(distances) - 1) // 2]
    assert median_bandwidth(*tensors((x, y))).item() == pytest.approx(median, rel=1e-12)
    assert mmd(*tensors((x, y)), biased=biased).item() == pytest.approx(oracle.mmd(x, y, median, biased), rel=1e-12)


def test_unbiased_mmd_averages_to_zero_for_equal_distributions():
    x, y = tensors(clouds(1, 20, 30, batch=(4000,), shift=0.0))
    unbiased, biased = mmd(x, y, bandwidths=1.0), mmd(x, y, bandwidths=1.0, biased=True)
    assert unbiased.mean().abs() < 4 * unbiased.std() / math.sqrt(4000)
    assert (unbiased < 0).any() and (biased > 0).all()


def test_energy_distance_agrees_with_scipy():
    x, y = clouds(2, d=1)
    expected = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert energy_distance(*tensors((x, y))).item() == pytest.approx(expected, rel=1e-10)


def test_chamfer_agrees_with_a_tree():
    x, y = clouds(3, 200, 150)
    expected = (cKDTree(y).query(x)[0] ** 2).mean() + (cKDTree(x).query(y)[0] ** 2).mean()
    assert chamfer(*tensors((x, y))).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", [(10, 10), (10, 7), (6, 15), (1, 9)])
def test_sliced_wasserstein_in_one_dimension_is_exact(sizes):
    """On the line every direction is the same; scipy for order one, the common refinement by repetition for order two."""
    x, y = clouds(4, *sizes, d=1)
    first = sliced_wasserstein(*tensors((x, y)), order=1, projections=3)
    assert first.item() == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-10)
    n, m = sizes
    repeated = np.sort(np.repeat(x[:, 0], m)) - np.sort(np.repeat(y[:, 0], n))
    second = sliced_wasserstein(*tensors((x, y)), projections=3)
    assert second.item() == pytest.approx(math.sqrt((repeated**2).mean()), rel=1e-10)


def test_sliced_wasserstein_of_a_shift_is_known():
    """All directions see the projection of the shift; its mean square over the sphere is |shift|^2 / d."""
    x = tensors(clouds(5, 50))[0]
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    value = sliced_wasserstein(x, x + shift, projections=20_000)
    assert value.item() == pytest.approx(math.sqrt(shift.square().sum().item() / 3), rel=0.02)


@pytest.mark.parametrize("name", ALL)
def test_batches_order_of_points_and_rigid_motions(name):
    x, y = tensors(clouds(6, 12, 9, batch=(2, 3)))
    function = ALL[name]
    value = function(x, y)
    assert value.shape == (2, 3)
    torch.testing.assert_close(value[1, 2], function(x[1, 2], y[1, 2]))
    torch.testing.assert_close(function(x[:, :1], y[0])[1, 2], function(x[1, 0], y[0, 2]))
    torch.testing.assert_close(function(x.flip(-2), y.roll(4, -2)), value)
    assert function(x[:0], y[:0]).shape == (0, 3)
    torch.testing.assert_close(function(x + 5, y + 5), value)
    if "sliced" not in name:  # its directions are finitely many and fixed
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0)))[0]
        torch.testing.assert_close(function(x @ turn, y @ turn), value)
    torch.testing.assert_close(function(y, x), value)


@pytest.mark.parametrize("name", [n for n in ALL if n != "mmd"])
def test_zero_against_itself_and_never_negative(name):
    x, y = tensors(clouds(7, 40, 30, batch=(50,), shift=0.01), torch.float32)
    assert (ALL[name](x, y) > 0).all()
    far = x + 1000.0  # differences, not expanded squares: no digits are lost far from the origin
    assert ALL[name](far, far).abs().max() < 1e-6


@pytest.mark.parametrize("name", ALL)
def test_chunks_change_nothing_forward_or_backward(name, monkeypatch):
    results = []
    for chunk in (1 << 22, 40):
        monkeypatch.setattr(point_sets, "CHUNK", chunk)
        x, y = (t.requires_grad_() for t in tensors(clouds(8, 12, 9, batch=(2,))))
        value = ALL[name](x, y)
        value.sum().backward()
        results.append((value.detach(), x.grad, y.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["mmd", "energy_distance", "chamfer"])
def test_memory_grows_with_the_samples_not_their_product(name, monkeypatch):
    monkeypatch.setattr(point_sets, "CHUNK", 1 << 15)
    rng = np.random.default_rng(9)
    x, y = (torch.as_tensor(rng.normal(size=(1000, 3)), dtype=torch.float32).requires_grad_() for _ in range(2))
    function = functools.partial(mmd, bandwidths=1.0) if name == "mmd" else ALL[name]
    assert peak_bytes(lambda: function(x, y).backward()) < 0.4 * 4 * 1000**2


@pytest.mark.parametrize("name", ALL)
def test_gradients(name):
    x, y = (t.requires_grad_() for t in tensors(clouds(10, 6, 4)))
    options = {"bandwidths": 1.0} if "mmd" in name else {"projections": 5} if "sliced" in name else {}
    assert torch.autograd.gradcheck(functools.partial(ALL[name], **options), (x, y))
    z = x.detach().clone().requires_grad_()
    ALL[name](z, x.detach()).backward()  # at equal samples all but the biased zero have a corner
    assert torch.isfinite(z.grad).all()


def test_directions_come_from_the_generator_alone():
    x, y = tensors(clouds(11))
    state = torch.get_rng_state()
    seeded = [sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2] and sliced_wasserstein(x, y) == sliced_wasserstein(x, y)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.zeros(4, 2), r"\(4, 2\)"),
        (torch.zeros(3), r"\(3,\)"),
        (torch.zeros(0, 3), r"\(0, 3\)"),
        (torch.full((4, 3), math.nan), "NaN"),
        (torch.zeros(4, 3).double(), "float64"),
        (torch.zeros(5, 4, 3), r"\(5, 4, 3\)"),
    ],
)
def test_bad_samples_are_named(name, bad, words):
    good = torch.zeros(2, 5, 3)
    for sides in ((good, bad), (bad, good)):
        with pytest.raises(InvalidCloud, match=words):
            ALL[name](*sides)


def test_bad_options_are_named():
    x, y = tensors(clouds(12))
    for bandwidths in (0.0, [1.0, -1.0], []):
        with pytest.raises(InvalidInput, match="bandwidths"):
            mmd(x, y, bandwidths=bandwidths)
    with pytest.raises(InvalidCloud, match="at least 2"):
        mmd(x[:1], y)
    for options in ({"projections": 0}, {"order": 3}):
        with pytest.raises(InvalidInput, match="projection"):
            sliced_wasserstein(x, y, **options)
