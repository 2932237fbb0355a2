"""A batch of pairs: two stacks of clouds and the motions between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B pairs of clouds with the motions that take each source onto its target."""

    source: Tensor  # (B, N, 3)
    target: Tensor  # (B, M, 3)
    target_from_source: RigidTransform  # (B,)
    overlap: Tensor  # (B,) share of source points whose place was sampled in the target too
    source_index: Tensor | None = None  # (B, N) int64: which point of the parent cloud; -1 for an outlier
    target_index: Tensor | None = None  # (B, M)
    source_normals: Tensor | None = None  # (B, N, 3)
    target_normals: Tensor | None = None  # (B, M, 3)
    source_from_parent: RigidTransform | None = None  # (B,) where the steps left the source

    def __len__(self) -> int:
        return len(self.source)

    def correspondence(self) -> Tensor:
        """(B, N) int64: the target point that is the same point of the parent as each source point, or -1."""
        if self.source_index is None or self.target_index is None:
            raise InvalidConfig("these pairs were made without a common parent cloud, so no points correspond")
        batch, width = len(self), int(max(self.source_index.max(), self.target_index.max())) + 2
        place = torch.full((batch, width), -1, dtype=torch.int64, device=self.source.device)
        count = torch.arange(self.target_index.shape[1], device=self.source.device).expand_as(self.target_index)
        place.scatter_(1, self.target_index + 1, count)  # column 0 collects the outliers
        place[:, 0] = -1
        return place.gather(1, self.source_index + 1)
