"""DeepGMR as a whole: exact where it can be, equivariant where it must be, and clear about what it cannot take."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from deepgmr.divergence import kl_same_index
from deepgmr.errors import InvalidCloud, InvalidConfig
from deepgmr.geometry.neighbours import gather_points
from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid
from deepgmr.networks import PRESETS, DeepGMR, NetworkConfig, Prediction

SMALL = NetworkConfig(components=8, encoder=(32,), decoder=(32, 16), pooled=16, landmarks=4)


def _network(config: NetworkConfig, clouds: Tensor) -> DeepGMR:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = DeepGMR(config)
    model.calibrate(clouds)
    return model.eval()


def _clouds(
    generator: torch.Generator, batch: int = 3, points: int = 150, dtype: torch.dtype = torch.float32
) -> Tensor:
    direction = torch.nn.functional.normalize(torch.randn(batch, points, 3, generator=generator), dim=-1)
    radius = 1 + 0.4 * direction[..., :1] * direction[..., 1:2] + 0.3 * (3 * direction[..., 2:]).sin()
    return (direction * radius * torch.tensor([1.0, 0.7, 0.5])).to(dtype)


def _motion(batch: int, generator: torch.Generator) -> RigidTransform:
    return RigidTransform.random((batch,), generator=generator, max_translation=1.0)


@pytest.mark.parametrize("features", ["moments", "rri"])
def test_the_same_points_moved_and_shuffled_are_registered_exactly_by_any_weights(
    features: str, generator: torch.Generator
) -> None:
    source = _clouds(generator)
    truth = _motion(3, generator)
    target = truth.apply(source)[:, torch.randperm(150, generator=generator)]
    model = _network(NetworkConfig(components=8, features=features, encoder=(32,), decoder=(32, 16), pooled=16), source)
    prediction = model(source, target)
    assert rotation_angle(prediction.motion.rotation.mT @ truth.rotation).max() < 1e-2
    assert (prediction.motion.apply(source) - truth.apply(source)).abs().max() < 1e-2
    moved = prediction.source_mixture.transformed(prediction.motion)
    before = kl_same_index(prediction.source_mixture, prediction.target_mixture)
    assert (kl_same_index(moved, prediction.target_mixture) < 1e-3 * before).all()


def test_the_answer_is_one_object_in_the_frame_of_the_input(generator: torch.Generator) -> None:
    source, target = _clouds(generator), _clouds(generator, points=120) + 3.0
    prediction = _network(SMALL, source)(source, target)
    assert isinstance(prediction, Prediction)
    assert prediction.target_from_source.shape == (3, 4, 4)
    assert prediction.source_responsibilities.shape == (3, 150, 8)
    assert prediction.target_responsibilities.shape == (3, 120, 8)
    assert torch.allclose(prediction.target_responsibilities.sum(-1), torch.ones(3, 120), atol=1e-5)
    RigidTransform.from_matrix(prediction.target_from_source)  # raises unless rigid
    for cloud, share, mixture in (
        (source, prediction.source_responsibilities, prediction.source_mixture),
        (target, prediction.target_responsibilities, prediction.target_mixture),
    ):
        expected = GaussianMixture.from_responsibilities(cloud, share)
        assert torch.allclose(mixture.weights, expected.weights, atol=1e-5)
        assert torch.allclose(mixture.means, expected.means, atol=1e-4)
        assert torch.allclose(mixture.covariances, expected.covariances, atol=1e-4)


def test_the_motion_is_the_closed_form_answer_for_the_mixtures_it_comes_with(generator: torch.Generator) -> None:
    source, target = _clouds(generator), 8 * _motion(3, generator).apply(_clouds(generator))  # sizes tell scales apart
    prediction = _network(SMALL, source)(source, target)
    expected = solve_rigid(prediction.source_mixture, prediction.target_mixture)
    assert (prediction.target_from_source - expected.target_from_source.matrix).abs().max() < 5e-3
    assert torch.allclose(prediction.solution.determinacy, expected.determinacy, atol=1e-3)


@pytest.mark.parametrize("features", ["moments", "rri", "xyz", "tnet"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-4), (torch.float16, 0.05), (torch.bfloat16, 0.2)])
def test_the_weights_may_have_any_precision(
    features: str, dtype: torch.dtype, near: float, generator: torch.Generator
) -> None:
    source = _clouds(generator)
    target = _motion(3, generator).apply(source).to(dtype)
    config = NetworkConfig(components=8, features=features, encoder=(32,), decoder=(32, 16), pooled=16, landmarks=4)
    model = _network(config, source)
    plain = model(source, target.float())
    cast = model.to(dtype)(source.to(dtype), target)
    assert cast.target_from_source.dtype == dtype
    assert (cast.source_responsibilities - plain.source_responsibilities).abs().max() < near
    motion = cast.motion.to(torch.float64)
    assert (motion.rotation @ motion.rotation.mT - torch.eye(3)).abs().max() < 0.02
    if dtype == torch.float64:
        assert (cast.target_from_source - plain.target_from_source).abs().max() < 1e-3
        assert (motion.apply(source.double()) - target).abs().mean() < (1e-5 if features == "moments" else 1)


def test_it_never_sees_the_truth() -> None:
    assert list(inspect.signature(DeepGMR.forward).parameters) == ["self", "source", "target", "queries"]


def test_moving_and_scaling_both_clouds_carries_the_answer_along(generator: torch.Generator) -> None:
    source, target = _clouds(generator), _clouds(generator)
    model = _network(SMALL, source)
    plain = model(source, target).motion
    left, right = _motion(3, generator), _motion(3, generator)
    moved = model(1000 * right.apply(source), 1000 * left.apply(target)).motion
    expected = left @ plain @ right.inverse()
    assert (moved.rotation - expected.rotation).abs().max() < 1e-2
    assert (moved.translation / 1000 - expected.translation).abs().max() < 1e-2


def test_swapping_the_clouds_of_noiseless_pairs_inverts_the_answer(generator: torch.Generator) -> None:
    source = _clouds(generator)
    target = _motion(3, generator).apply(source)
    model = _network(SMALL, source)
    forward, backward = model(source, target).motion, model(target, source).motion
    assert ((forward @ backward).matrix - torch.eye(4)).abs().max() < 1e-2


def test_a_batch_is_its_pairs_one_by_one(generator: torch.Generator) -> None:
    source, target = _clouds(generator), _clouds(generator)
    model = _network(SMALL, source)
    whole = model(source, target).target_from_source
    for i in range(3):
        alone = model(source[i : i + 1], target[i : i + 1]).target_from_source
        assert torch.allclose(alone[0], whole[i], atol=1e-3)


def test_survey_coordinates_in_float64_lose_nothing(generator: torch.Generator) -> None:
    source = _clouds(generator, dtype=torch.float64)
    truth = RigidTransform.random((3,), generator=generator, max_rotation=0.5, max_translation=2.0).to(torch.float64)
    offset = torch.tensor([5e5, 5e6, 300.0], dtype=torch.float64)
    target = truth.apply(source) + offset
    prediction = _network(SMALL, source.float())(source + offset, target)
    assert prediction.target_from_source.dtype == torch.float64
    assert (prediction.motion.apply(source + offset) - target).abs().max() < 1e-2
    assert prediction.source_mixture.means.dtype == torch.float64


def test_flat_clouds_give_mixtures_that_divergences_accept(generator: torch.Generator) -> None:
    source = _clouds(generator) * torch.tensor([1.0, 1.0, 0.0])
    target = _motion(3, generator).apply(source)
    prediction = _network(SMALL, source)(source, target)
    for mixture in (prediction.source_mixture, prediction.target_mixture):
        mixture.validated()  # raises unless positive definite
    assert torch.isfinite(prediction.target_from_source).all()


def test_queries_build_the_mixtures_from_those_points(generator: torch.Generator) -> None:
    source = _clouds(generator)
    target = _motion(3, generator).apply(source)
    model = _network(SMALL, source)
    rows = torch.stack([torch.randperm(150, generator=generator) for _ in range(3)])
    everything = model(source, target, queries=(rows, rows))
    assert torch.allclose(everything.target_from_source, model(source, target).target_from_source, atol=1e-3)
    some = model(source, target, queries=(rows[:, :60], rows[:, :60]))
    assert some.source_responsibilities.shape == (3, 60, 8)
    points = gather_points(source, rows[:, :60])
    expected = GaussianMixture.from_responsibilities(points, some.source_responsibilities)
    assert torch.allclose(some.source_mixture.means, expected.means, atol=1e-4)


def test_gradients_reach_every_weight(generator: torch.Generator) -> None:
    source = _clouds(generator)
    target = _motion(3, generator).apply(source) + 0.02 * torch.randn(source.shape, generator=generator)
    model = _network(SMALL, source)
    model(source, target).target_from_source.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if name != "pointnet.head.bias":
            assert parameter.grad.abs().max() > 0, name


def test_under_autocast_the_geometry_stays_in_float32(generator: torch.Generator) -> None:
    source = _clouds(generator)
    truth = _motion(3, generator)
    model = _network(SMALL, source)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(source, truth.apply(source))
    assert prediction.motion.rotation.dtype == torch.float32
    assert torch.linalg.det(prediction.motion.rotation).sub(1).abs().max() < 1e-5
    assert (prediction.motion.apply(source) - truth.apply(source)).abs().max() < 0.2


def test_the_paper_preset_has_the_published_size() -> None:
    parameters = sum(p.numel() for p in DeepGMR(PRESETS["paper"]).parameters())
    assert parameters == pytest.approx(1.53e6, rel=0.01)
    assert PRESETS["paper"].components == 16


@pytest.mark.parametrize("features", ["xyz", "tnet"])
def test_coordinates_as_features_run_and_are_not_invariant(features: str, generator: torch.Generator) -> None:
    source = _clouds(generator)
    model = _network(NetworkConfig(components=8, features=features, encoder=(32,), decoder=(32, 16)), source)
    logits = model.logits(source)
    turned = model.logits(_motion(3, generator).rotate(source))
    assert (logits - turned).abs().max() > 1e-3
    assert model(source, source).target_from_source.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (torch.rand(10, 3), torch.rand(1, 10, 3), r"source: .* \(10, 3\)"),
        (torch.rand(1, 10, 3), torch.rand(1, 10, 2), r"target: .* \(1, 10, 2\)"),
        (torch.ones(1, 10, 3, dtype=torch.int64), torch.rand(1, 10, 3), r"source: .*int64"),
        (torch.rand(1, 2, 3), torch.rand(1, 10, 3), "source: 2 points"),
        (torch.rand(1, 10, 3), torch.full((1, 10, 3), float("nan")), "target: .*NaN"),
        (torch.rand(1, 10, 3), torch.ones(1, 10, 3), "target: all points"),
        (torch.rand(2, 10, 3), torch.rand(1, 10, 3), "2 and 1"),
    ],
)
def test_clouds_it_cannot_take_are_named(source: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(InvalidCloud, match=message):
        DeepGMR(SMALL)(source, target)


def test_the_papers_features_need_more_points_than_neighbours() -> None:
    with pytest.raises(InvalidCloud, match="20 points a cloud, this network needs at least 21"):
        DeepGMR(PRESETS["paper"])(torch.rand(1, 20, 3), torch.rand(1, 30, 3))


@pytest.mark.parametrize("settings", [{"features": "normals"}, {"components": 2}, {"neighbours": 0}])
def test_impossible_configurations_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        NetworkConfig(**settings)  # type: ignore[arg-type]
