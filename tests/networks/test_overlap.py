"""The overlap network: what must not change its answer, what must, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems_pipeline import oriented_normals
from scipy.spatial import cKDTree
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks import OverlapConfig, OverlapNetwork
from deepgmr.networks.overlap import Attention, _geometry
from deepgmr.networks.patches import FEATURES, MEMBERS, SCALES, Nodes, nodes_of

SMALL = OverlapConfig(width=16, heads=2, blocks=2, nodes=24)


def nodes(generator: torch.Generator, batch: int = 2, count: int = 24) -> Nodes:
    normals = torch.nn.functional.normalize(torch.randn(batch, count, 3, generator=generator), dim=-1)
    patches = torch.randn(len(SCALES), batch, count, MEMBERS, FEATURES, generator=generator)
    return Nodes(8 * torch.rand(batch, count, 3, generator=generator), normals, patches)


def network(config: OverlapConfig = SMALL) -> OverlapNetwork:
    torch.manual_seed(0)
    return OverlapNetwork(config).eval()


def part(of: Nodes, rows: Tensor) -> Nodes:
    return Nodes(of.points[:, rows], of.normals[:, rows], of.patches[:, :, rows])


def test_the_answer_follows_the_order_of_the_nodes_and_the_batch(generator: torch.Generator) -> None:
    source, target = nodes(generator), nodes(generator, count=20)
    model = network()
    whole = model(source, target)
    assert whole.similarity.shape == (2, 24, 20)
    rows = torch.randperm(24, generator=generator)
    shuffled = model(part(source, rows), target)
    assert torch.allclose(shuffled.similarity, whole.similarity[:, rows], atol=1e-4)
    alone = model(*(Nodes(n.points[1:], n.normals[1:], n.patches[:, 1:]) for n in (source, target)))
    assert torch.allclose(alone.similarity, whole.similarity[1:], atol=1e-4)


@torch.no_grad()
def test_a_node_is_no_distance_from_itself(generator: torch.Generator) -> None:
    some = nodes(generator)
    for far in (0.0, 100.0):
        geometry = _geometry(some.points + far, some.normals).diagonal(dim1=2, dim2=3)  # (B, features, J)
        exact = _geometry(torch.zeros(2, 24, 3), some.normals).diagonal(dim1=2, dim2=3)
        assert torch.equal(geometry[:, :10], exact[:, :10])


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-4), (torch.float16, 0.1), (torch.bfloat16, 0.5)])
def test_the_weights_may_have_any_precision(dtype: torch.dtype, near: float, generator: torch.Generator) -> None:
    source, target = nodes(generator), nodes(generator, count=20)
    model = network()
    plain = model(source, target)
    cast = model.to(dtype)(source, target)
    assert cast.similarity.dtype == dtype
    assert (cast.similarity - plain.similarity).abs().max() < near


def test_members_of_a_patch_have_no_order(generator: torch.Generator) -> None:
    source, target = nodes(generator), nodes(generator)
    shuffled = replace(source, patches=source.patches[..., torch.randperm(MEMBERS, generator=generator), :])
    model = network()
    assert torch.allclose(model(source, target).similarity, model(shuffled, target).similarity, atol=1e-4)


def test_exchanging_the_clouds_transposes_the_matching(generator: torch.Generator) -> None:
    source, target = nodes(generator), nodes(generator, count=20)
    model = network()
    there, back = model(source, target), model(target, source)
    assert torch.allclose(there.similarity, back.similarity.mT, atol=1e-4)
    assert torch.allclose(there.log_matching(), back.log_matching().mT, atol=1e-4)


def test_a_motion_of_either_cloud_changes_nothing(generator: torch.Generator) -> None:
    source, target = nodes(generator), nodes(generator)
    motion = RigidTransform.random((2,), generator=generator, max_translation=20.0, dtype=torch.float32)
    moved = replace(source, points=motion.apply(source.points), normals=motion.rotate(source.normals))
    model = network()
    assert torch.allclose(model(source, target).similarity, model(moved, target).similarity, atol=1e-3)


def test_geometry_is_lengths_and_cosines(generator: torch.Generator) -> None:
    source = nodes(generator)
    found = _geometry(source.points, source.normals)
    i, j = 3, 11
    line = source.points[0, j] - source.points[0, i]
    length = line.norm()
    hats = (1 - (torch.log2(length + 1) - torch.arange(8)).abs()).clamp_min(0)
    here, there = source.normals[0, i], source.normals[0, j]
    expected = torch.stack([here @ line / length, there @ line / length, here @ there, (here @ there).abs()])
    assert torch.allclose(found[0, :, i, j], torch.cat([hats, expected]), atol=1e-4)
    assert hats.sum() == pytest.approx(1)  # which is why the layer above needs no bias


def test_attention_is_the_fused_kernel(generator: torch.Generator) -> None:
    layer = Attention(16, 2).eval()
    x, y = torch.randn(3, 10, 16, generator=generator), torch.randn(3, 7, 16, generator=generator)
    bias = torch.randn(3, 2, 10, 7, generator=generator)
    query = layer.query(layer.norm(x)).reshape(3, 10, 2, 8).transpose(1, 2)
    key, value = (t.reshape(3, 7, 2, 8).transpose(1, 2) for t in layer.keys(layer.norm_there(y)).chunk(2, dim=-1))
    seen = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    z = x + layer.out(seen.transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x, y, bias), z + layer.think(layer.norm_after(z)), atol=1e-5)


def test_parts_can_be_switched_off(generator: torch.Generator) -> None:
    source, target, other = nodes(generator), nodes(generator), nodes(generator)

    def described(config: OverlapConfig, there: Nodes) -> Tensor:
        """The source's nodes, as they are compared with those of the target."""
        seen: list[Tensor] = []
        model = network(config)
        model.match.register_forward_hook(lambda module, inputs, output: seen.append(output))
        model(source, there)
        return seen[0]

    for config, blind in ((replace(SMALL, cross=False), True), (SMALL, False)):
        assert torch.equal(described(config, target), described(config, other)) is blind
    coarse = replace(source, patches=torch.cat([source.patches[:1], source.patches[1:].flip(2)]))
    assert torch.equal(*(network(replace(SMALL, scales=1))(s, target).similarity for s in (source, coarse)))


def test_impossible_shapes_are_named() -> None:
    with pytest.raises(InvalidConfig, match="multiple of heads"):
        OverlapConfig(width=10, heads=4)
    with pytest.raises(InvalidConfig, match="scales"):
        OverlapConfig(scales=3)


def test_it_learns_which_place_is_which(generator: torch.Generator) -> None:
    """Two samplings of one bumpy surface: matches must become far better than chance."""
    directions = torch.nn.functional.normalize(torch.randn(800, 3, generator=generator), dim=-1)
    surface = (
        directions * (1 + 0.4 * (4 * directions[:, :1]).sin() * directions[:, 1:2]) * torch.tensor([1.0, 0.7, 0.5])
    )

    def sampled(rows: slice) -> Nodes:
        points = surface[rows]
        _, index = cKDTree(points.double().numpy()).query(points.double().numpy(), 65)
        neighbours = torch.from_numpy(index[:, 1:])
        return nodes_of(points, oriented_normals(points, neighbours), neighbours[::5], 0.08, torch.arange(0, 400, 5))

    source, target = sampled(slice(0, 400)), sampled(slice(400, 800))
    truth = torch.cdist(source.points[0], target.points[0]).argmin(1)
    model = network(replace(SMALL, width=32))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(model(source, target).similarity[0], truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = (model(source, target).similarity[0].argmax(1) == truth).float().mean()
    assert right > 0.5  # chance: 1 of 80
    for name, parameter in model.named_parameters():
        assert name.startswith("overlap") or torch.isfinite(parameter.grad).all()  # type: ignore[arg-type]
