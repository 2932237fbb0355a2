"""errors.py: what an error knows beside its message."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from deepgmr.errors import InvalidCloud
from deepgmr.pipeline.clouds import as_points


@pytest.mark.parametrize(("name", "role"), [("source", "source"), ("target", "target"), ("cloud", None)])
@pytest.mark.parametrize("cloud", [np.ones((5, 3)), np.ones((5, 2)), np.zeros(5, dtype=[("x", "f4")]), [[1, 2], [3]]])
def test_an_error_about_a_cloud_knows_which_one(cloud: object, name: str, role: str | None) -> None:
    with pytest.raises(InvalidCloud, match=f"^{name}: ") as caught:
        as_points(cloud, name=name)
    assert caught.value.role == role
    again = pickle.loads(pickle.dumps(caught.value))  # as a process pool hands it over
    assert (str(again), again.role) == (str(caught.value), role)
