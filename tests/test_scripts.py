"""The commands in scripts/: each explains itself, and the ones that measure `register` add up."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deepgmr.datasets.pairs.protocols import make_pairs
from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.datasets.worlds.shapes import sample_shapes

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.syspath_prepend(str(SCRIPTS))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_profile_accounts_for_all_of_the_time() -> None:
    profile = runpy.run_path(str(SCRIPTS / "profile_register.py"))
    generator = torch.Generator().manual_seed(0)
    shapes, _ = sample_shapes(2, 1024, generator=generator)
    pairs = make_pairs(shapes, "resampled", generator=generator)
    suite = PairSuite(
        name="tiny",
        kind="modelnet",
        sources=[cloud.numpy() for cloud in pairs.source],
        targets=[cloud.numpy() for cloud in pairs.target],
        transforms=pairs.target_from_source.matrix.double().numpy(),
        names=("a", "b"),
    )
    column = profile["profile"](suite)
    steps = [column[step] for step in profile["STEPS"]]
    assert sum(steps) + column["other"] == pytest.approx(column["all"])
    assert min(steps) >= 0 and column["other"] > 0
    assert column["components"] > 0 and column["refinement"] > 0 and column["polish"] > 0
    from deepgmr.pipeline import registrar as registration
    from deepgmr.pipeline import search  # the timers are gone again

    assert registration.polish.__module__ == "deepgmr.pipeline.refine"
    assert search.rank.__module__ == "deepgmr.pipeline.search.ranking"
    assert np.isfinite(list(column.values())).all()
