"""Pictures: the right size, not blank, nearer points before farther ones, the same bytes each time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as reader

from deepgmr import Registration
from deepgmr.errors import InvalidFile, InvalidInput
from deepgmr.report.raster import SOURCE, TARGET, Camera, draw, png
from deepgmr.report.scene import view_axes


def test_a_png_is_read_back(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    found = reader.imread(io.BytesIO(png(image)), format="png")
    np.testing.assert_array_equal(np.rint(255 * found).astype(np.uint8), image)


def test_before_and_after_side_by_side(sampled: Registration, tmp_path: Path) -> None:
    sampled.picture(tmp_path / "a.png", width=600, height=300)
    image = reader.imread(tmp_path / "a.png")
    assert image.shape == (300, 600, 3)
    for half in (image[:, :294], image[:, -294:]):
        drawn = (half < 0.97).any(-1)
        assert 0.02 < drawn.mean() < 0.9
        red, blue = half[..., 0] > half[..., 2] + 0.2, half[..., 2] > half[..., 0] + 0.2
        assert red.sum() > 500 and blue.sum() > 500
    sampled.picture(tmp_path / "b.png", width=600, height=300)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nearer_points_hide_farther_ones() -> None:
    _, _, out = view_axes(0.4, 0.6)
    points = np.stack([-out, out])
    camera = Camera(0.4, 0.6, (0.0, 0.0, 0.0), 4.0)
    for order in ([0, 1], [1, 0]):
        image = draw(points[order], np.array([SOURCE, TARGET])[order], camera, 40, 30, radius=3)
        np.testing.assert_allclose(image[15, 20] / 255, TARGET, atol=0.01)


@pytest.mark.parametrize("name", ["a.jpg", "a", "nowhere/a.png"])
def test_what_cannot_be_written_is_named(sampled: Registration, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidFile, match=name.replace(".", r"\.")):
        sampled.picture(tmp_path / name)


def test_a_picture_has_a_size(sampled: Registration, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="64 to 8192 pixels"):
        sampled.picture(tmp_path / "a.png", width=3)
