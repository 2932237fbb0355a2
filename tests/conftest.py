"""Fixtures every room may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile(
    "deepgmr", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("deepgmr")


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)  # two threads on a busy machine are slower than one


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(20201)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real benchmark data, from DEEPGMR_SHARED; missing data skips, except in CI."""
    folder = Path(os.environ.get("DEEPGMR_SHARED", ROOT.parent / "shared"))
    if not (folder / "scans").is_dir():
        message = f"no real data in {folder}: set DEEPGMR_SHARED to the folder that holds scans/ and modelnet40/"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def sample() -> Path:
    """The folder of the bundled sample pair."""
    return ROOT / "data"
