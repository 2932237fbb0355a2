"""Generators whose streams follow from numbers, so that what is drawn can be drawn again."""

from __future__ import annotations

import numpy as np
import torch


def mixed_generator(*numbers: int) -> torch.Generator:
    """A generator whose stream follows from all of the numbers, none negative."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))
