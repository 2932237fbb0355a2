"""The overlap network: which component of one cloud is the same place as which of another.

Nodes are described by the patches around them at two scales, look around in their own cloud (attention that knows
distances and angles between nodes) and at the other cloud (cross-attention), three times over; then every pair is
scored. Nothing depends on the pose or the unit of either cloud,
and nothing global is assumed to be seen in both.

Related: GeoTransformer (Qin et al., CVPR 2022: attention biased by geometry, there by embeddings inside the keys, here by
a bias per head); dual softmax as in LoFTR (Sun et al., CVPR 2021). Predator (Huang et al., CVPR 2021) says of every node
whether the other cloud shows it, too; a head that did was trained for long, bought nothing, and is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepgmr.errors import InvalidConfig
from deepgmr.networks.patches import FEATURES, SCALES, Nodes

_DISTANCES = 8  # hats over the logarithm of a distance: 1, 2, 4, ... spacings
_ANGLES = 4


@dataclass(frozen=True)
class OverlapConfig:
    """The shape of an `OverlapNetwork`; the last two switch parts off, to see what they are worth."""

    width: int = 128
    heads: int = 4
    blocks: int = 3
    nodes: int = 128  # a cloud, where there are so many components
    cross: bool = True  # attention from each cloud to the other
    scales: int = len(SCALES)  # of patches, the finest first

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.blocks, self.nodes) < 1 or self.width % self.heads:
            raise InvalidConfig(f"width {self.width} must be a positive multiple of heads {self.heads}")
        if self.blocks > 64:
            raise InvalidConfig(f"a network of more than 64 blocks is not built, got {self.blocks}")
        if not 1 <= self.scales <= len(SCALES):
            raise InvalidConfig(f"there are 1 to {len(SCALES)} scales of patches, got {self.scales}")


@dataclass(frozen=True, eq=False)
class OverlapPrediction:
    """What the network says of a pair of node sets."""

    similarity: Tensor  # (B, J, K) logits

    def log_matching(self) -> Tensor:
        """(B, J, K): the logarithm of how clearly each pair is each other's best."""
        return self.similarity.log_softmax(2) + self.similarity.log_softmax(1)


class OverlapNetwork(nn.Module):
    """Nodes of two clouds -> their matching."""

    def __init__(self, config: OverlapConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OverlapConfig()
        self.patches = nn.ModuleList(PatchEncoder(config.width) for _ in range(config.scales))
        self.gather = nn.Linear(config.scales * config.width, config.width)
        self.geometry = GeometryBias(config.heads, config.blocks)
        self.within = nn.ModuleList(Attention(config.width, config.heads) for _ in range(config.blocks))
        self.across = nn.ModuleList(
            Attention(config.width, config.heads) for _ in range(config.blocks if config.cross else 0)
        )
        self.norm = nn.LayerNorm(config.width)
        self.match = nn.Linear(config.width, config.width)

    def forward(self, source: Nodes, target: Nodes) -> OverlapPrediction:
        """Match nodes (B, J) with nodes (B, K)."""
        x, y = self._described(source), self._described(target)
        p, q = self.geometry(source).unbind(1), self.geometry(target).unbind(1)  # (B, heads, J, J) for every block
        for block, within in enumerate(self.within):
            x, y = within(x, x, p[block]), within(y, y, q[block])
            if self.config.cross:
                across = self.across[block]
                x, y = across(x, y), across(y, x)
        x, y = self.norm(x), self.norm(y)
        with torch.autocast(x.device.type, enabled=False):
            x, y = x.to(self.match.weight.dtype), y.to(self.match.weight.dtype)
            a, b = self.match(x), self.match(y)
            return OverlapPrediction(a @ b.mT / self.config.width**0.5)

    def _described(self, nodes: Nodes) -> Tensor:
        patches = nodes.patches.to(self.gather.weight.dtype)  # pairs to train on are carried in half precision
        scales = [encode(patches[i]) for i, encode in enumerate(self.patches)]
        return self.gather(torch.cat(scales, dim=-1))


class PatchEncoder(nn.Module):
    """A patch (*B, MEMBERS, FEATURES) as one vector (*B, width): whatever the order of its members (Qi et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        in_place = nn.ReLU(inplace=True)  # of megabytes: memory that is new has to be cleared first
        self.members = nn.Sequential(nn.Linear(FEATURES, 48), in_place, nn.Linear(48, 64), in_place)
        self.pooled = nn.Sequential(nn.Linear(128, width), in_place)

    def forward(self, patches: Tensor) -> Tensor:
        members = self.members(patches)
        # `amax` is twenty times as fast as `max`, but its gradient, like that of `mean`, is slow.
        largest = members.max(-2).values if torch.is_grad_enabled() else members.amax(-2)
        share = members.new_full((1, 1, 1, members.shape[-2]), 1 / members.shape[-2])
        return self.pooled(torch.cat([largest, (share @ members).squeeze(-2)], dim=-1))


class GeometryBias(nn.Module):
    """What a node makes of another of its cloud: a logit for every head of every block, from distance and angles."""

    def __init__(self, heads: int, blocks: int) -> None:
        super().__init__()
        self.shape = blocks, heads
        # No biases: the hats add up to one, and what is added to all logits of a row drops out of its softmax.
        self.first = nn.Linear(_DISTANCES + _ANGLES, 16, bias=False)
        self.second = nn.Linear(16, blocks * heads, bias=False)

    def forward(self, nodes: Nodes) -> Tensor:
        """(B, blocks, heads, J, J)."""
        count = nodes.points.shape[1]
        features = _geometry(nodes.points, nodes.normals).flatten(2).to(self.first.weight.dtype)  # (B, features, J * J)
        # Batched products: a folded one would come out transposed.
        first, second = (layer.weight.expand(len(features), -1, -1) for layer in (self.first, self.second))
        bias = second.bmm(functional.relu(first.bmm(features)))
        return bias.reshape(len(bias), *self.shape, count, count)


def _geometry(points: Tensor, normals: Tensor) -> Tensor:
    """(B, _DISTANCES + _ANGLES, J, J): hats over the log distance, and the cosines between two normals and the line."""
    with torch.autocast(points.device.type, enabled=False):
        centred = points - points.mean(1, keepdim=True)
        products = centred @ centred.mT
        square = products.diagonal(dim1=1, dim2=2)  # so that a node is no distance from itself, to the last digit
        length = (square.unsqueeze(2) + square.unsqueeze(1) - 2 * products).clamp_min(1e-6).sqrt()
        along = normals @ centred.mT  # n_i . p_j
        rise = (along - along.diagonal(dim1=1, dim2=2).unsqueeze(2)) / length  # n_i . (p_j - p_i) / |p_j - p_i|
        turn = normals @ normals.mT
        place = torch.log2(length + 1)
        hats = [functional.relu(1 - (place - centre).abs()) for centre in range(_DISTANCES)]
        return torch.stack([*hats, rise, -rise.mT, turn, turn.abs()], dim=1)


class Attention(nn.Module):
    """One layer of a transformer (Vaswani et al. 2017), normalised before: `x` (B, J, C) looks at `y` (B, K, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_there, self.norm_after = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.keys = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` (B, heads, J, K) is added to the logits."""
        query = self._split(self.query(self.norm(x)) * (x.shape[-1] // self.heads) ** -0.5)
        key, value = (self._split(part) for part in self.keys(self.norm_there(y)).chunk(2, dim=-1))
        # Written out: for sets this small the fused kernel with a learned bias is slow to train.
        logits = query.bmm(key.mT) if bias is None else torch.baddbmm(bias.flatten(0, 1), query, key.mT)
        seen = logits.softmax(-1).to(value.dtype).bmm(value)  # (B * heads, J, C / heads)
        x = x + self.out(seen.unflatten(0, (len(x), self.heads)).transpose(1, 2).flatten(2))
        return x + self.think(self.norm_after(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1)
