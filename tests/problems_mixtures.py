"""Pairs of mixtures to measure divergences on, and the memory it takes."""

from __future__ import annotations

import numpy as np
import oracles_divergence as oracle
import torch

from deepgmr.mixture import GaussianMixture

F64 = torch.float64


def mixture(arrays, dtype=F64):
    return GaussianMixture(*(torch.as_tensor(np.asarray(a), dtype=dtype) for a in arrays))


def pair(seed, batch=(), j=3, k=3, d=3, condition=30.0):
    rng = np.random.default_rng(seed)
    return oracle.random_mixture(rng, batch, j, d, condition), oracle.random_mixture(rng, batch, k, d, condition)


def perturbed(seed, batch, components, scale=0.3):
    """Pairs that correspond: q is p with its parameters moved a little."""
    rng = np.random.default_rng(seed)
    w, m, s = oracle.random_mixture(rng, batch, components, 3)
    moved = m + scale * rng.normal(size=m.shape)
    w2 = w * rng.uniform(0.7, 1.4, size=w.shape)
    return mixture((w, m, s)), mixture(
        (w2 / w2.sum(-1, keepdims=True), moved, s * rng.uniform(0.7, 1.4, size=s.shape[:-2])[..., None, None])
    )


def peak_bytes(function):
    """The largest number of bytes alive at once among what the function allocates."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max())
