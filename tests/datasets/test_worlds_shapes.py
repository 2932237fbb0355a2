"""Procedural shapes against geometry known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import chisquare, kstest

from deepgmr.datasets.worlds import lofts, sections, shapes
from deepgmr.datasets.worlds.lofts import Assembly
from deepgmr.datasets.worlds.sections import CIRCLE, SQUARE, Draw
from deepgmr.datasets.worlds.shapes import FAMILIES, WEIGHTS, sample_shapes
from deepgmr.errors import InvalidConfig


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_clean_normalised_clouds(family: str, generator: torch.Generator) -> None:
    points, normals = sample_shapes(6, 256, generator=generator, families=[family])
    assert points.shape == normals.shape == (6, 256, 3)
    assert points.dtype == normals.dtype == torch.float32
    assert torch.isfinite(points).all()
    assert torch.allclose(points.mean(dim=1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(points.norm(dim=-1).amax(dim=1), torch.ones(6), atol=1e-5)
    assert torch.allclose(normals.norm(dim=-1), torch.ones(6, 256), atol=1e-4)
    assert (points.std(dim=1) > 1e-3).all()  # nothing collapses to a plane, a line or a point
    assert len(torch.unique(points[0], dim=0)) == 256
    # Two shapes of one family differ.
    assert cKDTree(points[0].numpy()).query(points[1].numpy())[0].mean() > 1e-3


def test_there_are_a_dozen_families_of_primitives_and_weights_for_all() -> None:
    assert len(FAMILIES) >= 30 and set(WEIGHTS) == set(FAMILIES) and min(WEIGHTS.values()) > 0


def test_one_generator_decides_everything() -> None:
    first, second, other = (
        sample_shapes(40, 64, generator=torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_half_of_the_points_is_a_sample_of_the_same_surface(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points come in random order: which half a point is in says nothing about where it is."""
    monkeypatch.setattr(shapes, "DEFORMED", 1.0)
    points, _ = sample_shapes(20, 2000, generator=generator, families=["union", "table", "torus"])
    for cloud in points.numpy():
        for axis in range(3):
            statistic = kstest(cloud[:1000, axis], cloud[1000:, axis])
            assert statistic.pvalue > 1e-4


def only(assembly: Assembly) -> lofts.Solids:
    return lofts.build([(assembly, np.arange(assembly.count))])


def sampled(
    assembly: Assembly, points: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals of an assembly of one shape, without deformation, in its own coordinates up to scale."""
    monkeypatch.setattr(shapes, "DEFORMED", 0.0)
    monkeypatch.setattr(shapes, "HOLLOW", 0.0)
    cloud, normals = shapes._sampled(only(assembly), 0, 1, points, Draw(generator))
    return cloud[0], normals[0]


def test_a_box_is_sampled_by_area_with_outward_normals(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = np.array([1.0, 0.5, 0.25])
    box = Assembly(1)
    box.prism(np.zeros(3), half, section=SQUARE)
    points, normals = sampled(box, 12_000, generator, monkeypatch)
    face = np.abs(normals).argmax(axis=1) * 2 + (normals[np.arange(len(normals)), np.abs(normals).argmax(1)] > 0)
    area = np.repeat([half[1] * half[2], half[0] * half[2], half[0] * half[1]], 2)
    assert chisquare(np.bincount(face, minlength=6), 12_000 * area / area.sum()).pvalue > 1e-3
    assert np.abs(np.abs(normals).max(axis=1) - 1).max() < 1e-5
    assert (np.einsum("ni,ni->n", points, normals) > 0).all()
    # Uniform within a face: the largest one, along its long side.
    top = points[face == 5]
    span = np.ptp(points[:, 0])
    assert kstest((top[:, 0] - points[:, 0].min()) / span, "uniform").pvalue > 1e-3


def test_a_ball_is_uniform_on_the_sphere(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    ball = Assembly(1)
    ball.loft(sections.ball(), np.zeros(3), np.ones(3), section=CIRCLE)
    points, normals = sampled(ball, 1500, generator, monkeypatch)
    radius = np.linalg.norm(points, axis=1)
    assert radius.min() > 0.94 * radius.max()  # facets of 15 degrees, and a mean that is not quite the centre
    assert kstest((points[:, 2] / radius + 1) / 2, "uniform").pvalue > 1e-3  # Archimedes
    assert (np.einsum("ni,ni->n", points, normals) / radius > 0.95).all()


def test_a_torus_has_outward_normals(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    torus = Assembly(1)
    torus.loft(sections.ring(np.array([0.5])), np.zeros(3), np.array([1.0, 1.0, 0.25]), solid=False)
    points, normals = sampled(torus, 3000, generator, monkeypatch)
    points = points / np.linalg.norm(points[:, :2], axis=1).max()
    core = points[:, :2] / np.linalg.norm(points[:, :2], axis=1, keepdims=True) * 0.75
    out = points - np.column_stack([core, np.zeros(len(core))])
    assert (np.einsum("ni,ni->n", out, normals) > 0.2).all()


def test_a_sweep_has_outward_normals_all_along(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    s = np.linspace(0, np.pi, sections.LEVELS - 2)
    spine = np.stack([np.cos(s), np.sin(s), 0.3 * s], axis=-1)[None].astype(np.float32)
    tube = Assembly(1)
    tube.sweep(spine, np.array([0.1]))
    solids = only(tube)
    a, b, c = (solids.vertices[solids.corners[:, i]] for i in range(3))
    normal, middle = np.cross(b - a, c - a), (a + b + c) / 3
    dense = np.array([[np.interp(t, s, spine[0, :, i]) for i in range(3)] for t in np.linspace(0, np.pi, 400)])
    nearest = dense[cKDTree(dense).query(middle)[1]]
    real = np.linalg.norm(normal, axis=1) > 1e-6
    outward = np.einsum("ni,ni->n", middle - nearest, normal)
    assert (outward[real] > -1e-6).mean() > 0.99
    monkeypatch.undo()


def test_points_inside_another_part_are_removed(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    union = Assembly(1)
    union.prism(np.zeros(3), np.ones(3), section=SQUARE)
    union.prism(np.array([1.0, 0, 0]), np.array([1.0, 0.5, 0.5]), section=CIRCLE)  # half of it is in the box
    union.loft(sections.ball(), np.zeros(3), np.full(3, 0.5))  # all of it is
    monkeypatch.setattr(shapes, "DEFORMED", 0.0)
    solids = only(union)
    draw = Draw(generator)
    for hollow, clean in ((0.0, True), (1.0, False)):
        monkeypatch.setattr(shapes, "HOLLOW", hollow)
        cloud, _ = shapes._sampled(solids, 0, 1, 3000, draw)
        cloud = cloud[0] - cloud[0].min(axis=0)  # the corner of the box is at (-1, -1, -1) whatever is hidden
        cloud = cloud * (2 / cloud[:, 1].max()) - 1
        inside = (np.abs(cloud) < 0.97).all(axis=1)
        assert bool(inside.mean() < 0.002) is clean


@pytest.mark.parametrize("section", [SQUARE, CIRCLE, sections.STARS[0], sections.CROSS])
def test_the_inside_of_a_prism_is_what_its_surface_encloses(section: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    prism = Assembly(1)
    turn = Draw(torch.Generator().manual_seed(1)).rotations(1)
    prism.prism(np.array([[0.1, 0.2, 0.3]]), np.array([[0.8, 0.5, 0.6]]), section=section, top=0.5, rotation=turn)
    solids = only(prism)
    points = rng.uniform(-1.2, 1.2, (400, 3)).astype(np.float32)
    found = solids.inside(points, np.zeros(400, np.int64))
    # The winding number by solid angles (van Oosterom and Strackee 1983): 1 inside, 0 outside.
    a, b, c = (solids.vertices[solids.corners[:, i]][None].astype(float) - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    top = np.einsum("nti,nti->nt", a, np.cross(b, c))
    bottom = la * lb * lc + sum(np.einsum("nti,nti->nt", u, v) * w for u, v, w in ((a, b, lc), (b, c, la), (c, a, lb)))
    winding = 2 * np.arctan2(top, bottom).sum(axis=1) / (4 * np.pi)
    assert (found == (winding > 0.5)).mean() > 0.99  # all but those within the thin skin
    assert 0.02 < found.mean() < 0.6


def test_deformations_carry_normals_and_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cofactors against finite differences: push two tangents through and take their cross product."""
    monkeypatch.setattr(shapes, "DEFORMED", 1.0)
    rng = np.random.default_rng(0)
    shapes_count, per = 12, 30
    points = rng.uniform(-1, 1, (shapes_count * per, 3))
    normals = rng.normal(size=points.shape)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    tangent = np.cross(normals, rng.normal(size=points.shape))
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    other = np.cross(normals, tangent)
    ends = np.arange(shapes_count + 1) * per
    deformation = shapes.Deformation(points, ends, Draw(torch.Generator().manual_seed(2)))
    assert len(deformation.rows) > 6

    def moved(where: np.ndarray) -> np.ndarray:
        where = where.copy()
        deformation.apply(where, normals.copy(), ends)
        # Deformed shapes are in units of their own size; undo that, so that areas can be compared.
        for i, row in enumerate(deformation.rows):
            where[ends[row] : ends[row + 1]] *= deformation.size[i]
        return where

    step = 1e-5
    u = (moved(points + step * tangent) - moved(points - step * tangent)) / (2 * step)
    v = (moved(points + step * other) - moved(points - step * other)) / (2 * step)
    expected = np.cross(u, v)
    area = np.linalg.norm(expected, axis=1)
    found = normals.copy()
    growth = deformation.apply(points.copy(), found, ends)
    assert np.allclose(growth, area, rtol=1e-3)
    assert np.allclose(found, expected / area[:, None], atol=1e-3)


def test_deformed_surfaces_are_still_sampled_by_area(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strongly tapered box: the share of points on its narrow half is that of its area."""
    monkeypatch.setattr(shapes, "DEFORMED", 1.0)
    box = Assembly(1)
    box.prism(np.zeros(3), np.array([0.4, 0.4, 1.0]), section=SQUARE)

    class Taper(shapes.Deformation):
        def __init__(self, middles: np.ndarray, ends: np.ndarray, draw: Draw) -> None:
            super().__init__(middles, ends, draw)
            self.rows = np.array([0])
            self.amounts = np.array([[-0.5], [0.0], [1e-3]], np.float32)
            self.axis = np.array([0])
            self.centre, self.size = np.zeros((1, 3), np.float32), np.ones(1, np.float32)

    monkeypatch.setattr(shapes, "Deformation", Taper)
    points, _ = shapes._sampled(only(box), 0, 1, 20_000, Draw(torch.Generator().manual_seed(0)))
    z = points[0, :, 2]
    along = 2 * (z - z.min()) / np.ptp(z) - 1  # -1 is the wide end
    # Perimeter grows as 1 - z/2, so a wall has area 1 + z/4 below 0 ...; caps are (1.5 * .8)^2 and (.5 * .8)^2.
    slope = np.sqrt(1 + (0.4 * 0.5) ** 2)
    walls = [4 * 0.8 * slope * 1.25, 4 * 0.8 * slope * 0.75]
    expected = (walls[0] + 1.2**2) / (sum(walls) + 1.2**2 + 0.4**2)
    assert (along < 0).mean() == pytest.approx(expected, abs=0.015)


def test_weights_decide_how_often_a_family_comes(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(FAMILIES, 0)

    def counting(name: str):
        def family(n: int, draw: Draw) -> Assembly:
            counts[name] += n
            return box(n, draw)

        return family

    box = FAMILIES["box"]
    for name in FAMILIES:
        monkeypatch.setitem(FAMILIES, name, counting(name))
    sample_shapes(3000, 2, generator=generator)
    weights = np.array(list(WEIGHTS.values()))
    assert chisquare(list(counts.values()), 3000 * weights / weights.sum()).pvalue > 1e-3


@pytest.mark.parametrize("arguments", [{"count": 0}, {"points": 0}, {"families": ["spaceship"]}, {"families": []}])
def test_bad_requests_are_named(arguments: dict, generator: torch.Generator) -> None:
    with pytest.raises(InvalidConfig):
        sample_shapes(**{"count": 2, "points": 8, "generator": generator, **arguments})
