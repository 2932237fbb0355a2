"""The point network: the cheap form equals the paper's, and order, batch and pose matter only where they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks.pointnet import PointNet, PoseTransformer


def _net(generator: torch.Generator, **settings: object) -> PointNet:
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return PointNet(7, 5, encoder=(16, 24), decoder=(20, 12), **settings)  # type: ignore[arg-type]


def _input(generator: torch.Generator, batch: int = 3, points: int = 40) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, points, 7, generator=generator), torch.randn(batch, points, 3, generator=generator)


@pytest.mark.parametrize("pooling", ["max", "max+mean"])
@pytest.mark.parametrize("pooled", [0, 32])
def test_the_cloud_as_a_bias_is_the_cloud_concatenated_to_every_point(
    generator: torch.Generator, pooling: str, pooled: int
) -> None:
    net = _net(generator, pooling=pooling, pooled=pooled)
    features, points = _input(generator)
    local = net.encoder(features)
    values = local if net.pooled is None else net.pooled(local)
    cloud = values.max(dim=1).values
    if pooling == "max+mean":
        cloud = torch.cat([cloud, values.mean(dim=1)], dim=-1)
    if pooled:
        cloud = cloud.relu()
    concatenated = torch.cat([local, cloud[:, None].expand(-1, 40, -1)], dim=-1)  # as the paper does
    layer = torch.nn.Linear(concatenated.shape[-1], 20)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([net.local.weight, net.shared.weight], dim=1))
        layer.bias.copy_(net.local.bias)
    expected = net.head(net.decoder(net.entry(layer(concatenated))))
    assert torch.allclose(net(features, points), expected, atol=1e-5)


def test_points_in_another_order_give_the_same_rows(generator: torch.Generator) -> None:
    net = _net(generator, pooled=8, pooling="max+mean", landmarks=4)
    features, points = _input(generator)
    order = torch.randperm(40, generator=generator)
    assert torch.allclose(net(features[:, order], points[:, order]), net(features, points)[:, order], atol=1e-5)


def test_a_batch_is_its_clouds_one_by_one(generator: torch.Generator) -> None:
    net = _net(generator, landmarks=4).train()  # in training mode too: nothing is shared over the batch
    features, points = _input(generator)
    whole = net(features, points)
    for i in range(3):
        assert torch.allclose(net(features[i : i + 1], points[i : i + 1])[0], whole[i], atol=1e-5)


def test_landmarks_turn_with_the_cloud(generator: torch.Generator) -> None:
    net = _net(generator, landmarks=4)
    features, points = _input(generator)
    turned = RigidTransform.random((3,), generator=generator).rotate(points)
    assert torch.allclose(net(features, turned), net(features, points), atol=1e-5)
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    assert (net(features, mirrored) - net(features, points)).abs().max() > 1e-3


def test_landmarks_tell_points_apart_whose_features_agree(generator: torch.Generator) -> None:
    features, points = _input(generator)
    features = features[:, :1].expand(-1, 40, -1).clone()
    features[:, :5] += 1.0  # one group of points differs; the rest look alike
    plain = _net(generator)(features, points)
    assert torch.allclose(plain[:, 10], plain[:, 20], atol=1e-6)
    placed = _net(generator, landmarks=4)(features, points)
    assert (placed[:, 10] - placed[:, 20]).abs().max() > 1e-3


def test_gradients_are_finite_on_a_cloud_of_coincident_points(generator: torch.Generator) -> None:
    net = _net(generator, landmarks=4)
    net(torch.zeros(1, 10, 7), torch.zeros(1, 10, 3)).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_the_pose_transformer_gives_rotations_and_starts_near_none(generator: torch.Generator) -> None:
    rotation = PoseTransformer()(torch.randn(5, 30, 3, generator=generator))
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)
    assert (torch.linalg.det(rotation) > 0.99).all()
    assert (rotation - torch.eye(3)).abs().max() < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "median"}, "unknown pooling `median`"),
        ({"pooled": -1}, "positive widths"),
        ({"encoder": ()}, "positive widths"),
    ],
)
def test_impossible_networks_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        PointNet(7, 5, **settings)  # type: ignore[arg-type]
