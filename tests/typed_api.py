"""The public names as a user with a strict type checker writes them; checked by tests/test_packaging.py, never run."""

from __future__ import annotations

import numpy as np
import torch

import deepgmr


def registering(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    trace = deepgmr.Trace()
    registrar: deepgmr.Registrar = deepgmr.Registrar.load("default", preset="fast").replace(**{"judge.trust": 0.5})
    scan: deepgmr.Scan = registrar.prepare(target)
    answer: deepgmr.Registration = registrar.register(source, scan, max_rotation_degrees=90.0, trace=trace)
    others: tuple[deepgmr.Alternative, ...] = answer.alternatives
    if answer.status is deepgmr.Status.OK and answer.trusted and not others:
        matrix: np.ndarray = answer.target_from_source
        return matrix
    confidence: float = answer.confidence
    evidence: deepgmr.Evidence = answer.evidence
    stats: deepgmr.Stats = answer.stats
    assert confidence + evidence.score + stats.looks > 0
    return None


def batch(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    try:
        return [answer.sentence for answer in deepgmr.register_batch(pairs)]
    except deepgmr.errors.InvalidCloud as error:
        return [error.role or str(error)]


def mathematics(points: torch.Tensor) -> torch.Tensor:
    mixture: deepgmr.GaussianMixture = deepgmr.GaussianMixture.fit(points, 8).mixture
    motion: deepgmr.RigidTransform = deepgmr.solve_rigid(mixture, mixture).target_from_source
    kl: torch.Tensor = deepgmr.divergence.kl_unscented(mixture.transformed(motion), mixture)
    return kl


def files(path: str) -> str:
    cloud = deepgmr.read_cloud(path)
    lost: tuple[str, ...] = deepgmr.write_cloud("moved.ply", cloud)
    settings: deepgmr.Settings = deepgmr.Bundle.load("default").settings
    network: torch.nn.Module = deepgmr.load("deepgmr")
    version: str = deepgmr.__version__
    return settings.to_toml() + version + str(network) + str(lost)
