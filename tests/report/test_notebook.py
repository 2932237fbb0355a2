"""What a notebook shows: a picture and a few numbers, of anything that can be at the end of a cell."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
import torch
from matplotlib import image as reader

from deepgmr import GaussianMixture, Registration


def picture(text: str) -> np.ndarray:
    found = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert found
    return reader.imread(io.BytesIO(base64.b64decode(found[1])), format="png")


def test_an_answer_shows_itself(boxes: Registration) -> None:
    text = boxes._repr_html_()
    assert len(text) < 200_000
    image = picture(text)
    assert image.shape == (240, 360, 3) and 0.02 < (image < 0.97).any(-1).mean() < 0.9
    for words in (boxes.status.value, f"{boxes.confidence:.3f}", f"{100 * boxes.overlap:.0f} %"):
        assert words in text


def test_an_answer_needs_no_trace_for_that(boxes: Registration) -> None:
    assert "<img" in dataclasses.replace(boxes, search=None)._repr_html_()
    assert "<img" not in dataclasses.replace(boxes, search=None, sketch=None)._repr_html_()


def test_what_is_said_is_escaped(boxes: Registration) -> None:
    assert "<b>x" not in dataclasses.replace(boxes, sentence="<b>x")._repr_html_()


def test_a_mixture_shows_its_components() -> None:
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    text = GaussianMixture.fit(points, 5).mixture._repr_html_()
    assert 0.02 < (picture(text) < 0.97).any(-1).mean() < 0.95
    assert '<td style="text-align:left">5</td>' in text


@pytest.mark.parametrize(
    "mixture",
    [
        GaussianMixture(torch.ones(2, 1), torch.zeros(2, 1, 3), torch.eye(3).expand(2, 1, 3, 3)),
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]),
        GaussianMixture(torch.ones(1), torch.full((1, 3), torch.nan), torch.eye(3)[None]),
    ],
    ids=["batch", "plane", "nan"],
)
def test_a_mixture_that_cannot_be_drawn_is_told(mixture: GaussianMixture) -> None:
    text = mixture._repr_html_()
    assert "<img" not in text and "Gaussian mixture" in text
