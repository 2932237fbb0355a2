"""Neighbours and frames: sorting as truth, the greedy choice, survey coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deepgmr.errors import InvalidCloud
from deepgmr.geometry import neighbours
from deepgmr.geometry.frames import unit_frame
from deepgmr.geometry.neighbours import farthest_points, gather_points, nearest_neighbours
from deepgmr.geometry.transform import RigidTransform


def _moved(clouds: Tensor, generator: torch.Generator) -> Tensor:
    motion = RigidTransform.random(clouds.shape[:-2], generator=generator, max_translation=2.0)
    return unit_frame(motion.apply(clouds))[0]


# -- frames and neighbours -----------------------------------------------------------------------------------------


def test_unit_frame_undoes_exactly_and_keeps_millimetres_at_survey_coordinates(generator: torch.Generator) -> None:
    local = torch.rand(3, 50, 3, generator=generator, dtype=torch.float64)
    offset = torch.tensor([5e5, 5e6, 100.0], dtype=torch.float64)
    unit, centre, scale = unit_frame(local + offset)
    back = unit.double() * scale[:, None, None] + centre.unsqueeze(1)
    assert (back - (local + offset)).abs().max() < 1e-6
    assert torch.allclose(unit.square().sum(-1).mean(-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(unit, unit_frame(local)[0], atol=1e-6)


def test_unit_frame_of_coincident_points_is_finite() -> None:
    unit, _, scale = unit_frame(torch.full((1, 4, 3), 7.0))
    assert (unit == 0).all()
    assert scale.item() == 1


def test_both_neighbour_searches_find_what_sorting_finds(generator: torch.Generator) -> None:
    points, queries = torch.rand(2, 60, 3, generator=generator), torch.rand(2, 17, 3, generator=generator)
    distance = np.linalg.norm(queries.numpy()[:, :, None] - points.numpy()[:, None], axis=-1)
    expected = np.argsort(distance, axis=-1)[..., :7]
    for found in (
        nearest_neighbours(points, 7, queries=queries),
        neighbours._search_matrices(points, queries, 7),
    ):
        assert (found.indices.numpy() == expected).all()
        np.testing.assert_allclose(found.distances.numpy(), np.sort(distance, axis=-1)[..., :7], atol=1e-5)


def test_neighbour_search_in_chunks_is_the_same(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(2, 40, 3, generator=generator)
    whole = neighbours._search_matrices(points, points, 5).indices
    monkeypatch.setitem(neighbours.CHUNK, "cpu", 100)
    assert (neighbours._search_matrices(points, points, 5).indices == whole).all()


def test_too_many_neighbours_is_an_error_that_names_both_numbers() -> None:
    with pytest.raises(InvalidCloud, match=r"30 neighbours .* 10 points"):
        nearest_neighbours(torch.rand(1, 10, 3), 30)


def test_farthest_points_are_the_greedy_choice_in_any_order(generator: torch.Generator) -> None:
    points = torch.rand(2, 80, 3, generator=generator)
    chosen = farthest_points(points, 12)
    for cloud, rows in zip(points.double().numpy(), chosen.numpy(), strict=True):
        assert rows[0] == np.linalg.norm(cloud - cloud.mean(0), axis=1).argmax()
        for count in range(1, 12):
            nearest = np.linalg.norm(cloud[:, None] - cloud[rows[:count]], axis=-1).min(1)
            assert nearest[rows[count]] >= nearest.max() - 1e-6
    order = torch.randperm(80, generator=generator)
    again = farthest_points(points[:, order], 12)
    assert torch.equal(gather_points(points[:, order], again), gather_points(points, chosen))


def test_farthest_points_refuses_more_than_there_are() -> None:
    with pytest.raises(InvalidCloud, match="cannot choose 11 of 10"):
        farthest_points(torch.rand(1, 10, 3), 11)
