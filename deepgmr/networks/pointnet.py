"""The paper's network from points to components: a shared MLP a point, one pooled description a cloud, a second MLP.

DeepGMR (Yuan et al., ECCV 2020, section 4.1) repeats the pooled description for every point and concatenates it.
A linear layer over [local, pooled] is a linear layer over local plus the same vector for all points, so here the
pooled part is computed once a cloud and added as a bias: the same function, without 2/3 of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepgmr.errors import InvalidConfig

POOLINGS = ("max", "max+mean")


class PointNet(nn.Module):
    """Logits of the components for every point: features (B, N, F), points (B, N, 3) -> (B, N, components).

    features     numbers a point
    encoder      widths of the shared layers before pooling; the last is what the decoder sees of a point
    pooled       width of one more layer that only the pooling sees; 0 pools the encoder's output as the paper does
    decoder      widths of the shared layers after it; the first takes the local and the pooled description
    pooling      "max" as the paper, or "max+mean"
    landmarks    how many landmarks the pooled description has beside its numbers; 0 as the paper

    A landmark is a sum of the points with learned signed weights: a vector that turns with the cloud. Where a point
    lies along the landmarks and their cross products is invariant under rotation, yet tells the legs of a symmetric
    table apart, which numbers alone cannot.

    Normalisation is over the channels of each point (LayerNorm) where the paper has BatchNorm: the answer for a cloud
    does not depend on its batch, batches of one work, and processes need not exchange statistics.
    """

    def __init__(
        self,
        features: int,
        components: int,
        *,
        encoder: Sequence[int] = (64, 128, 256, 1024),
        decoder: Sequence[int] = (512, 256, 128),
        pooled: int = 0,
        pooling: str = "max",
        landmarks: int = 0,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise InvalidConfig(f"unknown pooling `{pooling}`; the poolings are {', '.join(POOLINGS)}")
        if (
            not encoder
            or not decoder
            or min(*encoder, *decoder, features, components) < 1
            or min(pooled, landmarks) < 0
        ):
            raise InvalidConfig(
                f"a network needs positive widths, got encoder {tuple(encoder)}, decoder {tuple(decoder)}, "
                f"{features} features and {components} components"
            )
        self.pooling = pooling
        self.encoder = shared_mlp(features, encoder)
        self.pooled = nn.Linear(encoder[-1], pooled) if pooled else None
        width = (pooled or encoder[-1]) * (2 if pooling == "max+mean" else 1)
        self.local = nn.Linear(encoder[-1], decoder[0])
        self.shared = nn.Linear(width, decoder[0], bias=False)
        self.landmarks = nn.Linear(encoder[-1], landmarks, bias=False) if landmarks else None
        self.along = nn.Linear(2 * landmarks, decoder[0], bias=False) if landmarks else None
        self.entry = nn.Sequential(nn.LayerNorm(decoder[0]), nn.ReLU())
        self.decoder = shared_mlp(decoder[0], decoder[1:])
        self.head = nn.Linear(decoder[-1], components)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        local = self.encoder(features)  # (B, N, encoder[-1])
        hidden = self.local(local) + self.describe_cloud(local).unsqueeze(-2)
        if self.along is not None and self.landmarks is not None:
            hidden = hidden + self.along(place(self.landmarks, local, points).to(self.along.weight.dtype))
        return self.head(self.decoder(self.entry(hidden)))

    def describe_cloud(self, local: Tensor) -> Tensor:
        """What every point of a cloud is told alike (B, decoder[0]); the order of the points does not matter."""
        values = local if self.pooled is None else self.pooled(local)
        pooled = values.amax(-2)
        if self.pooling == "max+mean":
            pooled = torch.cat([pooled, values.mean(-2)], dim=-1)
        return self.shared(pooled if self.pooled is None else torch.relu(pooled))


def place(landmarks: nn.Linear, local: Tensor, points: Tensor) -> Tensor:
    """Where each point (B, N, 3) lies along the landmarks and along their cross products (B, N, 2 landmarks)."""
    with torch.autocast(local.device.type, enabled=False):
        share = landmarks(local.to(landmarks.weight.dtype)).to(points.dtype)  # (B, N, landmarks)
        share = share - share.mean(-2, keepdim=True)
        vectors = share.mT @ points / points.shape[-2]  # (B, landmarks, 3)
        length = (vectors.square().sum((-2, -1), keepdim=True) + 1e-8).sqrt()
        vectors = 2 * vectors / length
        crossed = torch.linalg.cross(vectors, vectors.roll(1, dims=-2), dim=-1)
        return points @ torch.cat([vectors, crossed], dim=-2).mT


class PoseTransformer(nn.Module):
    """The T-Net of the ablation: a rotation (B, 3, 3) guessed from the cloud (B, N, 3) itself.

    Two vectors are regressed and made orthonormal (Zhou et al. 2019), as the released code of DeepGMR does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = shared_mlp(3, (64, 128, 256))
        last = nn.Linear(64, 6)
        with torch.no_grad():  # starts near the identity, away from the two parallel vectors where it is singular
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
        self.decoder = nn.Sequential(shared_mlp(256, (128, 64)), last)

    def forward(self, points: Tensor) -> Tensor:
        cast = points.to(next(self.parameters()).dtype)
        first, second = self.decoder(self.encoder(cast).amax(-2)).to(points.dtype).split(3, dim=-1)
        x = nn.functional.normalize(first, dim=-1)
        y = nn.functional.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
        return torch.stack([x, y, torch.linalg.cross(x, y, dim=-1)], dim=-2)


def shared_mlp(width: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear, LayerNorm, ReLU for each width, the same for every point."""
    layers: list[nn.Module] = []
    for following in widths:
        layers += [nn.Linear(width, following), nn.LayerNorm(following), nn.ReLU()]
        width = following
    return nn.Sequential(*layers)
