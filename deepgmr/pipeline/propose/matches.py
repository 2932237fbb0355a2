"""Pairs of components that may be the same place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.pipeline.settings import ProposeSettings


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of components that may be the same place, best first."""

    source: Tensor  # (M,) int64
    target: Tensor  # (M,) int64
    scores: Tensor  # (M,)


def match(source: Tensor, target: Tensor, settings: ProposeSettings) -> Matches:
    """The most distinctive pairs between descriptors (J, F) and (K, F) with unit rows.

    A pair counts by its softmax over targets times its softmax over sources (dual softmax, Rocco et al. 2018): how
    clearly each is the other's best.
    """
    clear = mutual(source, target, sharpness=settings.sharpness)
    few = source.shape[0] * min(settings.candidates, target.shape[0])
    # in a tiny cloud every pair is worth a look
    candidates = target.shape[0] if few < settings.few else settings.candidates
    scores, index = clear.topk(min(candidates, target.shape[0]), dim=1)
    order = scores.flatten().argsort(descending=True, stable=True)[: settings.matches]
    places = torch.arange(len(source)).unsqueeze(-1).expand_as(index).flatten()
    return Matches(places[order], index.flatten()[order], scores.flatten()[order])


def mutual(source: Tensor, target: Tensor, *, sharpness: float) -> Tensor:
    """(*B, J, K): the softmax over targets times that over sources of descriptors (*B, J, F), (*B, K, F) with unit rows."""
    likeness = (sharpness * source @ target.mT).exp_()  # rows are unit: nothing overflows
    rows, columns = likeness.sum(-1, keepdim=True), likeness.sum(-2, keepdim=True)
    return likeness.square_().div_(columns).div_(rows)
