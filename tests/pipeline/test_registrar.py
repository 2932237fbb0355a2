"""`register` as a user meets it: exact problems recovered, frames composed, bad input named, doubt admitted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import cuboid
from scipy.spatial.transform import Rotation

from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidCloud, InvalidConfig, InvalidFile, InvalidTransform
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.judge import Status
from deepgmr.pipeline.registrar import Registrar, register, register_batch
from deepgmr.pipeline.trace import Trace

Matrix = np.ndarray


def rigid(seed: int, *, translation: float = 1.0) -> Matrix:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = translation * rng.normal(size=3)
    return matrix


def move(matrix: Matrix, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def turn_degrees(a: Matrix, b: Matrix) -> float:
    return float(np.degrees(Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).magnitude()))


def two_samples(seed: int, points: int = 700) -> tuple[np.ndarray, np.ndarray]:
    """Two independent samplings of one asymmetric shape."""
    shapes, _ = sample_shapes(1, 2 * points, generator=torch.Generator().manual_seed(seed), families=["airplane"])
    cloud = shapes[0].double().numpy()
    return cloud[:points], cloud[points:]


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray, Matrix, Registration]:
    """Two samplings, the target moved; the truth; the answer."""
    source, target = two_samples(5)
    truth = rigid(3)
    target = move(truth, target)
    return source, target, truth, register(source, target)


# -- exact problems ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(count=st.integers(3, 400), seed=st.integers(0, 10_000), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_a_moved_copy_is_found_exactly(count: int, seed: int, scale: float) -> None:
    source = scale * np.random.default_rng(seed).normal(size=(count, 3))
    truth = rigid(seed, translation=scale)
    answer = register(source, move(truth, source))
    gap = np.linalg.norm(move(answer.target_from_source, source) - move(truth, source), axis=1)
    assert gap.max() < 1e-9 * scale
    assert answer.target_from_source.dtype == np.float64


def test_another_sampling_of_the_surface_is_registered(pair) -> None:
    source, _target, truth, answer = pair
    assert answer.status is Status.OK and answer.trusted
    assert answer.confidence > 0.8
    assert answer.overlap > 0.8
    assert turn_degrees(answer.target_from_source, truth) < 2
    gap = np.linalg.norm(move(answer.target_from_source, source) - move(truth, source), axis=1)
    assert gap.mean() < 0.02


def test_moving_either_cloud_composes(pair) -> None:
    source, target, _, answer = pair
    first, second = rigid(11), rigid(12)
    moved = register(move(second, source), move(first, target))
    expected = first @ answer.target_from_source @ np.linalg.inv(second)
    gap = np.linalg.norm(move(moved.target_from_source @ second, source) - move(expected @ second, source), axis=1)
    assert gap.max() < 5e-3  # clouds of radius one; the polish ends within its own noise, not at the same bits


def test_swapping_the_clouds_inverts_the_motion(pair) -> None:
    source, target, _, answer = pair
    back = register(target, source).target_from_source
    assert turn_degrees(np.linalg.inv(back), answer.target_from_source) < 1
    assert np.abs(move(back @ answer.target_from_source, source) - source).max() < 0.02


def test_the_order_of_the_points_does_not_matter(pair) -> None:
    source, target, _, answer = pair
    rng = np.random.default_rng(0)
    shuffled = register(rng.permutation(source), rng.permutation(target))
    np.testing.assert_allclose(shuffled.target_from_source, answer.target_from_source, atol=1e-9)


def test_the_same_input_gives_the_same_bytes(pair) -> None:
    source, target, _, answer = pair
    again = register(source, target)
    assert again.target_from_source.tobytes() == answer.target_from_source.tobytes()
    assert again.covariance.tobytes() == answer.covariance.tobytes()
    assert again.confidence == answer.confidence


def test_units_scale_the_answer_and_nothing_else(pair) -> None:
    source, target, _, answer = pair
    scaled = register(1000 * source, 1000 * target)
    np.testing.assert_allclose(scaled.target_from_source[:3, :3], answer.target_from_source[:3, :3], atol=1e-6)
    np.testing.assert_allclose(
        scaled.target_from_source[:3, 3], 1000 * answer.target_from_source[:3, 3], rtol=1e-5, atol=1e-3
    )
    assert scaled.confidence == pytest.approx(answer.confidence, abs=1e-3)
    np.testing.assert_allclose(scaled.covariance[3:, 3:], 1e6 * answer.covariance[3:, 3:], rtol=1e-2)


def test_survey_coordinates_keep_their_millimetres() -> None:
    # Metres around (5e5, 5e6): float32 would round to half a metre.
    cloud, _ = two_samples(9)
    source = 2.0 * cloud + np.array([5.0e5, 5.0e6, 300.0])
    truth = rigid(4)
    truth[:3, 3] = np.array([5.0e5, 5.0e6, 300.0]) - truth[:3, :3] @ np.array([5.0e5, 5.0e6, 300.0]) + [3.0, -2.0, 1.0]
    answer = register(source, move(truth, source))
    gap = np.linalg.norm(move(answer.target_from_source, source) - move(truth, source), axis=1)
    assert gap.max() < 1e-4


def test_survey_coordinates_in_float32_are_noted(tmp_path: Path) -> None:
    offset = np.array([5.0e5, 5.0e6, 300.0])
    source, target = (20.0 * cloud for cloud in two_samples(9))
    np.save(tmp_path / "rounded.npy", (source + offset).astype(np.float32))
    rounded = (source + offset).astype(np.float32), torch.from_numpy(source + offset).float(), tmp_path / "rounded.npy"
    for cloud in rounded:
        (note,) = register(cloud, target + offset).notes
        assert "the source come in steps of 0.5" in note and "subtract an offset" in note
    assert register(source + offset, target + offset).notes == ()
    assert register(source.astype(np.float32), target.astype(np.float32)).notes == ()


def test_the_covariance_says_how_far_off_the_answer_is() -> None:
    errors, expected = [], []
    for seed in range(12):
        source, target = two_samples(5)
        rng = np.random.default_rng(seed)
        truth = rigid(seed)
        target = move(truth, target + 0.01 * rng.normal(size=target.shape))
        answer = register(source + 0.01 * rng.normal(size=source.shape), target)
        error = answer.target_from_source @ np.linalg.inv(truth)
        vector = np.concatenate([Rotation.from_matrix(error[:3, :3]).as_rotvec(), error[:3, 3]])
        errors.append(vector @ np.linalg.solve(answer.covariance, vector))
        expected.append(6.0)
        np.testing.assert_array_less(0, np.linalg.eigvalsh(answer.covariance))
    ratio = np.mean(errors) / np.mean(expected)
    assert 0.1 < ratio < 2.5  # of the squared error to the variance it was given


# -- what the caller knows -------------------------------------------------------------------------------------


def test_a_symmetric_shape_is_ambiguous_and_the_alternatives_hold_the_truth() -> None:
    truth = rigid(2)
    answer = register(cuboid(1500, 0), move(truth, cuboid(1500, 1)))
    assert answer.status is Status.AMBIGUOUS and not answer.trusted
    motions = [answer.target_from_source, *(other.target_from_source for other in answer.alternatives)]
    assert min(turn_degrees(motion, truth) for motion in motions) < 4
    assert len(motions) >= 4


def test_a_largest_rotation_settles_the_ambiguity() -> None:
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_rotvec([0.2, 0.4, -0.3]).as_matrix()
    source, target = cuboid(1500, 0), move(truth, cuboid(1500, 1))
    answer = register(source, target, max_rotation_degrees=60)
    assert turn_degrees(answer.target_from_source, truth) < 2
    assert all(turn_degrees(other.target_from_source, np.eye(4)) <= 60 for other in answer.alternatives)
    turned = rigid(8)
    again = register(source, move(turned, target), initial=turned, max_rotation_degrees=60)
    assert turn_degrees(again.target_from_source, turned @ truth) < 2


def test_a_true_initial_motion_is_kept_and_a_false_one_does_no_harm(pair) -> None:
    source, target, truth, _ = pair
    for initial in (truth, rigid(77)):
        assert turn_degrees(register(source, target, initial=initial).target_from_source, truth) < 2


def test_an_initial_motion_is_taken_in_every_form_and_refused_alike(pair, tmp_path: Path) -> None:
    source, target, truth, _ = pair
    np.savetxt(tmp_path / "T.txt", truth)
    np.savetxt(tmp_path / "grid.txt", np.diag([0.9996, 0.9996, 0.9996, 1.0]))
    tensor = torch.from_numpy(truth)
    forms = (truth, truth.tolist(), tensor, RigidTransform.from_matrix(tensor), tmp_path / "T.txt")
    answers = [register(source, target, initial=form, max_rotation_degrees=20) for form in forms]
    assert {answer.target_from_source.tobytes() for answer in answers} == {answers[0].target_from_source.tobytes()}
    assert turn_degrees(answers[0].target_from_source, truth) < 2
    for form in (tmp_path / "grid.txt", np.loadtxt(tmp_path / "grid.txt")):
        with pytest.raises(InvalidTransform, match=r"not a rotation .*scale 0\.9996"):
            register(source, target, initial=form)


def test_without_refinement_the_answer_is_coarser_but_right(pair) -> None:
    source, target, truth, _ = pair
    assert turn_degrees(register(source, target, refine=False).target_from_source, truth) < 5


# -- geometry without an answer --------------------------------------------------------------------------------


def sphere(rng: np.random.Generator) -> np.ndarray:
    points = rng.normal(size=(1500, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def two_planes(rng: np.random.Generator) -> np.ndarray:
    points = rng.uniform(-1, 1, (1500, 3))
    points[:750, 2] = 0
    points[750:, 1] = 0
    return points


def plane(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, (1500, 3)) * [1, 1, 0]


def line(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, (1500, 1)) * [[1.0, 2.0, -0.5]]


def cylinder(rng: np.random.Generator) -> np.ndarray:
    angle, height = rng.uniform(0, 2 * np.pi, 1500), rng.uniform(-1.5, 1.5, 1500)
    return np.stack([np.cos(angle), np.sin(angle), height], axis=1)


@pytest.mark.parametrize("shape", [sphere, two_planes, plane, line, cylinder])
def test_geometry_that_leaves_a_motion_free_is_not_trusted(shape) -> None:
    source, target = shape(np.random.default_rng(0)), shape(np.random.default_rng(1))
    answer = register(source, move(rigid(6), target))
    assert answer.status is Status.DEGENERATE and not answer.trusted
    assert np.isfinite(answer.target_from_source).all() and np.isfinite(answer.covariance).all()
    assert np.linalg.det(answer.target_from_source[:3, :3]) == pytest.approx(1)


def test_unrelated_clouds_are_not_trusted() -> None:
    one, _ = two_samples(1)
    other = np.random.default_rng(0).normal(size=(700, 3))
    answer = register(one, other)
    assert not answer.trusted
    assert answer.confidence < 0.5


# -- what goes in ------------------------------------------------------------------------------------------------


def test_every_kind_of_cloud_gives_the_same_answer(pair, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    source, target, _, answer = pair
    np.save(tmp_path / "source.npy", source)
    for given_source in (
        torch.from_numpy(source),
        source.tolist(),
        trimesh.PointCloud(source),
        tmp_path / "source.npy",
        str(tmp_path / "source.npy"),
    ):
        np.testing.assert_allclose(
            register(given_source, target).target_from_source, answer.target_from_source, atol=1e-12
        )


def test_meshes_are_sampled_by_the_seed(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    mesh = trimesh.util.concatenate(
        [trimesh.creation.box((1, 0.6, 0.2)), trimesh.creation.icosphere(radius=0.3).apply_translation((0.4, 0.2, 0.3))]
    )
    moved = mesh.copy()
    truth = rigid(3)
    moved.apply_transform(truth)
    first, second = register(mesh, moved, seed=1), register(mesh, moved, seed=2)
    assert turn_degrees(first.target_from_source, truth) < 1
    assert turn_degrees(second.target_from_source, truth) < 1
    for name, shape in (("a.ply", mesh), ("b.obj", moved)):
        shape.export(tmp_path / name)
    one, again, other = (register(tmp_path / "a.ply", tmp_path / "b.obj", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.covariance, again.covariance)
    np.testing.assert_array_equal(one.target_from_source, again.target_from_source)
    assert (one.target_from_source != other.target_from_source).any()


def test_a_batch_gives_the_answers_of_a_loop(pair) -> None:
    source, target, _, answer = pair
    batch = register_batch([(source, target), (target, source)])
    assert batch[0].target_from_source.tobytes() == answer.target_from_source.tobytes()
    assert batch[1].target_from_source.tobytes() == register(target, source).target_from_source.tobytes()


def test_answers_are_compared_by_identity_and_can_be_kept_in_sets(pair) -> None:
    source, target, _, answer = pair
    again = register(source, target)
    assert answer == answer and answer != again
    assert {answer, again, answer} == {answer, again}
    assert len({*answer.alternatives, *again.alternatives}) == 2 * len(answer.alternatives)


def test_progress_is_reported_in_order(pair) -> None:
    source, target, _, _ = pair
    seen: list[tuple[str, float]] = []
    register(source, target, progress=lambda stage, done: seen.append((stage, done)))
    shares = [done for _, done in seen]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_rotation_degrees": 0}, InvalidConfig, "max_rotation_degrees"),
        ({"max_rotation_degrees": 200}, InvalidConfig, "200"),
        ({"max_rotation_degrees": float("nan")}, InvalidConfig, "nan"),
        ({"trust": 1.5}, InvalidConfig, "1.5"),
        (
            {"source_origin": [0, 1]},
            InvalidConfig,
            r"source_origin must be three numbers, got an array of shape \(2,\)",
        ),
        ({"target_origin": "here"}, InvalidConfig, "target_origin must be three numbers, got str"),
        ({"target_origin": [0, np.nan, 1]}, InvalidConfig, "target_origin must be three finite numbers"),
        ({"source_origin": [0, np.inf, 1]}, InvalidConfig, "source_origin must be three finite numbers"),
        ({"source_origin": [0, 1e200, 1]}, InvalidConfig, "source_origin must be three finite numbers"),
        ({"initial": np.eye(3)}, InvalidTransform, r"\(3, 3\)"),
        ({"initial": np.diag([2.0, 2.0, 2.0, 1.0])}, InvalidTransform, "rotation"),
        ({"initial": np.diag([1.0, 1.0, -1.0, 1.0])}, InvalidTransform, "reflection"),
        ({"initial": np.diag([0.9996, 0.9996, 0.9996, 1.0])}, InvalidTransform, r"initial: .*scale 0\.9996"),
        ({"initial": np.eye(4) + np.eye(4)[[3, 0, 1, 2]].T}, InvalidTransform, "initial: the last row"),
        ({"initial": np.where(np.eye(4) > 0, np.nan, 0)}, InvalidTransform, "initial: 4 entries are NaN"),
        ({"initial": [["a"] * 4] * 4}, InvalidTransform, "initial: .*4x4 matrix of numbers, got list"),
        ({"initial": RigidTransform.identity((2,))}, InvalidTransform, r"initial: .*\(2, 4, 4\)"),
    ],
)
def test_bad_options_are_named(pair, options, error, words) -> None:
    with pytest.raises(error, match=words):
        register(pair[0], pair[1], **options)


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        (np.zeros((0, 3)), "0 usable points"),
        (np.zeros((2, 3)), "2 usable points"),
        (np.ones((50, 3)), "equal"),
        (np.zeros((50, 2)), r"\(50, 2\)"),
        ([["a", "b", "c"]] * 5, "numbers"),
        (np.where(np.arange(150).reshape(50, 3) == 4, np.nan, 1.0 * np.arange(150).reshape(50, 3)), "1 of 50"),
    ],
)
def test_bad_clouds_are_named_whichever_side_they_are_on(cloud, words) -> None:
    good = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(InvalidCloud, match="source.*" + words):
        register(cloud, good)
    with pytest.raises(InvalidCloud, match="target.*" + words):
        register(good, cloud)


def test_points_given_twice_change_little_and_two_places_are_too_few(pair) -> None:
    source, target, _, answer = pair
    again = register(np.repeat(source, 2, axis=0), np.repeat(target, 2, axis=0))
    np.testing.assert_allclose(again.target_from_source, answer.target_from_source, atol=1e-6)
    assert register(source, np.concatenate([np.zeros((20_000, 3)), target])).status in Status
    with pytest.raises(InvalidCloud, match="target: the 40 points lie in 2 places") as caught:
        register(source, np.repeat([[0.0, 0, 0], [1, 2, 3]], 20, axis=0))
    assert caught.value.role == "target"


def test_invalid_points_are_dropped_only_on_request() -> None:
    source = np.random.default_rng(0).normal(size=(60, 3))
    truth = rigid(1)
    spoilt = np.vstack([source, [[np.nan, 0, 0], [0, np.inf, 0]]])
    with pytest.raises(InvalidCloud, match="2 of 62"):
        register(spoilt, move(truth, source))
    answer = register(spoilt, move(truth, source), drop_invalid=True)
    np.testing.assert_allclose(answer.target_from_source, truth, atol=1e-9)


def test_millimetres_against_metres_are_named(pair) -> None:
    with pytest.raises(InvalidCloud, match="millimetres against metres"):
        register(1000 * pair[0], pair[1])


@pytest.mark.parametrize(("factor", "units"), [(10.0, "millimetres against centimetres"), (25.4, "against inches")])
def test_units_that_differ_are_the_advice(pair, factor: float, units: str) -> None:
    for answer, larger in (
        (register(factor * pair[0], pair[1]), "source"),
        (register(pair[0], factor * pair[1]), "target"),
    ):
        assert not answer.trusted
        assert answer.sentence in answer.notes and answer.sentence.startswith(f"the {larger} is about")
        assert units in answer.sentence


@pytest.mark.parametrize(("count", "sizes"), [(1, 1e9), (20, 1000.0), (20, 10.0)])
def test_points_far_outside_change_nothing(pair, count: int, sizes: float) -> None:
    source, target, _, answer = pair
    rng = np.random.default_rng(count)
    direction = rng.normal(size=(count, 3))
    stray = sizes * 2 * direction / np.linalg.norm(direction, axis=1, keepdims=True)  # the shape has radius one
    for clouds, roles in (
        ((np.concatenate([source, stray]), target), ["source"]),
        ((source, np.concatenate([stray, target])), ["target"]),
    ):
        spoilt = register(*clouds)
        assert spoilt.target_from_source.tobytes() == answer.target_from_source.tobytes()
        assert spoilt.confidence == answer.confidence
        (note,) = spoilt.notes
        assert note.startswith(f"{count} points of the {roles[0]}")


def test_a_missing_file_is_named(tmp_path: Path, pair) -> None:
    with pytest.raises(InvalidFile, match=r"nothing\.ply"):
        register(tmp_path / "nothing.ply", pair[1])


# -- settings, traces, prepared scans ------------------------------------------------------------------------------


def test_prepared_scans_give_the_answer_of_their_clouds(pair) -> None:
    source, target, _, answer = pair
    registrar = Registrar.load()
    scans = [registrar.prepare(cloud) for cloud in (source, target)]
    for _ in range(2):
        again = registrar.register(*scans)
        assert again.target_from_source.tobytes() == answer.target_from_source.tobytes()
        assert again.confidence == answer.confidence
    registrar.register(scans[0], 3 * target)  # another frame
    assert registrar.register(*scans).target_from_source.tobytes() == answer.target_from_source.tobytes()


def test_trust_decides_what_is_trusted_and_nothing_else(pair) -> None:
    source, target, _, answer = pair
    strict = register(source, target, trust=1.0)
    assert strict.confidence == answer.confidence < 1 and answer.trusted and not strict.trusted
    assert strict.target_from_source.tobytes() == answer.target_from_source.tobytes()


def test_a_trace_holds_what_was_done(pair) -> None:
    source, target, _, answer = pair
    trace = Trace()
    assert trace.to_dict() == {}
    again = register(source, target, trace=trace)
    assert again.target_from_source.tobytes() == answer.target_from_source.tobytes()
    search = trace.search
    assert search is not None and len(search.looks) == answer.stats.looks
    assert (
        sum(len(look.candidates.translation) for look in search.looks) == len(search.terms) == answer.stats.hypotheses
    )
    assert search.evidence == answer.evidence
    best = search.pair.undo(search.poses[0])
    np.testing.assert_array_equal(best, answer.target_from_source)
    content = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert set(content["looks"][0]["proposed"]) == {"learned", "as they are"}
    assert content["milliseconds"].keys() >= {"scan", "network", "refinement", "ranking", "polish", "judgement"}


def test_what_is_said_of_the_answer_is_said_after_the_polish(pair) -> None:
    source, target, _, _ = pair
    coarse, fine = register(source, target, refine=False), register(source, target)
    assert fine.evidence.misfit != coarse.evidence.misfit
    assert fine.score == fine.evidence.score != coarse.score


def test_another_front_end_than_the_bundles_is_noted(pair) -> None:
    source, target, _, answer = pair
    other = Registrar.load().replace(**{"scan.for_normals": 12}).register(source, target)
    assert any("under `scan`" in note for note in other.notes) and not answer.notes


def test_an_answer_is_plain_json(pair) -> None:
    content = json.loads(json.dumps(pair[3].to_dict(), allow_nan=False))
    assert content["registered"] is True and content["status"] == "ok"
    np.testing.assert_array_equal(content["target_from_source"], pair[3].target_from_source)
    assert content["stats"]["bundle"] == Registrar.load().bundle.id
    assert content["alternatives"] == [] or len(content["alternatives"][0]["target_from_source"]) == 4


def test_the_first_look_alone_is_fast_and_the_paper_has_a_preset(pair) -> None:
    source, target, truth, _ = pair
    fast = Registrar.load(preset="fast").register(source, target)
    assert fast.stats.looks == 1 and turn_degrees(fast.target_from_source, truth) < 2
    whole = two_samples(5, points=1024)[0]
    paper = Registrar.load(preset="paper").register(whole, move(truth, whole))
    assert paper.stats.hypotheses == 1 and paper.confidence <= 0.5  # nobody looked for a rival
    assert turn_degrees(paper.target_from_source, truth) < 1e-3


# -- real scans ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bunny", "room"])
def test_real_scans_both_ways(shared: Path, name: str) -> None:
    folder = shared / "scans" / "ply"
    truth = np.loadtxt(folder / f"{name}_target_from_source.txt")
    source, target = folder / f"{name}_source.ply", folder / f"{name}_target.ply"
    for answer, expected in (
        (register(source, target), truth),
        (register(target, source), np.linalg.inv(truth)),
    ):
        assert answer.status is Status.OK
        assert turn_degrees(answer.target_from_source, expected) < 1
        limit = {"bunny": 0.001, "room": 0.05}[name]  # metres; the room is six metres long
        assert np.linalg.norm(answer.target_from_source[:3, 3] - expected[:3, 3]) < limit
