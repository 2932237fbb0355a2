"""Training the overlap network: what a batch holds is true, it repeats itself, and the loss is the right one."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from deepgmr.datasets.pairs import pool
from deepgmr.datasets.worlds.scenes import KINDS
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform
from deepgmr.io import checkpoint
from deepgmr.networks import OverlapConfig, OverlapNetwork, OverlapPrediction
from deepgmr.training import OptimiserConfig, OverlapData, OverlapTask, OverlapTraining, node_pairs, read_config, train
from deepgmr.training.node_pairs import BatchMaker, OverlapBatch, same_place, shape_pairs
from deepgmr.training.overlap import matching_loss, top_match

TINY = OverlapTraining(
    network=OverlapConfig(width=16, heads=2, blocks=1, nodes=32),
    data=OverlapData(shapes=1.0, workers=0),
    optimiser=OptimiserConfig(steps=4, batch=16, warmup=2, precision="fp32"),
)


def equal(first: OverlapBatch, second: OverlapBatch) -> bool:
    return torch.equal(first.same, second.same) and torch.equal(first.source.patches, second.source.patches)


def test_a_batch_follows_from_its_step_alone_and_half_of_it_returns(tmp_path: Path) -> None:
    def batch(step: int, **options: int) -> OverlapBatch:
        generator = torch.Generator().manual_seed(step)
        return OverlapTask(TINY, tmp_path).make_batch(generator, **({"rank": 0, "processes": 1} | options))

    first = batch(3)
    assert first.same.shape == (16, 32, 32) and equal(first, batch(3))
    assert not equal(first, batch(4))
    again = batch(3 + node_pairs.AGAIN)
    assert torch.equal(again.same[8:], first.same[:8])
    wide = replace(TINY, optimiser=replace(TINY.optimiser, batch=32))
    task = OverlapTask(wide, tmp_path)
    generator = torch.Generator().manual_seed(3)
    shares = [task.make_batch(generator, rank=rank, processes=2).same for rank in (0, 1)]
    whole = task.make_batch(generator, rank=0, processes=1).same
    assert torch.equal(torch.cat([shares[0][:8], shares[1][:8], shares[0][8:], shares[1][8:]]), whole)
    with pytest.raises(InvalidConfig, match="multiple of 16"):
        OverlapTask(replace(TINY, optimiser=replace(TINY.optimiser, batch=24)), tmp_path)


def test_workers_make_the_same_batches(tmp_path: Path) -> None:
    """In a process of its own, as a training is: workers import the main module."""
    code = (
        "import torch\n"
        "from dataclasses import replace\n"
        "from deepgmr.training import *\n"
        "def main():\n"
        "    base = PRESETS['overlap']\n"
        "    sums = []\n"
        "    for workers in (0, 1):\n"
        "        config = replace(base, data=replace(base.data, shapes=1.0, workers=workers))\n"
        f"        task = OverlapTask(config, {str(tmp_path)!r})\n"
        "        steps = (torch.Generator().manual_seed(step) for step in range(2))\n"
        "        batches = [task.make_batch(g, rank=0, processes=1) for g in steps]\n"
        "        sums.append([float(b.source.patches.double().sum() + b.same.double().sum()) for b in batches])\n"
        "    assert sums[0] == sums[1], sums\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    script = tmp_path / "workers.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("poor", [1, 10**6])
def test_pairs_of_fewer_components_than_nodes_are_drawn_again(monkeypatch: pytest.MonkeyPatch, poor: int) -> None:
    drawn = []

    def draw(count: int, generator: torch.Generator):  # type: ignore[no-untyped-def]
        pairs = shape_pairs(count, generator)
        drawn.append(pairs if len(drawn) >= poor else replace(pairs, source=pairs.source[:, :20], source_index=None))
        return drawn[-1]

    monkeypatch.setattr(node_pairs, "shape_pairs", draw)
    maker = BatchMaker(TINY, "nowhere")
    if poor == 1:
        assert maker.group(11, 0).same.shape == (8, 32, 32)
        assert len(drawn) == 2
    else:
        with pytest.raises(InvalidConfig, match=r"`network.nodes` is 32, .* `shape` have fewer"):
            maker.group(11, 0)


def test_labels_agree_with_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made again by hand from the clouds of one group."""
    kept = {}

    def keep(count: int, generator: torch.Generator):  # type: ignore[no-untyped-def]
        kept["pairs"] = shape_pairs(count, generator)
        return kept["pairs"]

    monkeypatch.setattr(node_pairs, "shape_pairs", keep)
    batch = BatchMaker(TINY, "nowhere").group(11, 0)
    pairs = kept["pairs"]
    motion = pairs.target_from_source
    for i in range(3):
        x, y = pairs.source[i].double().numpy(), pairs.target[i].double().numpy()
        spacing = max(np.median(cKDTree(c).query(c, 2)[0][:, 1]) for c in (x, y))
        nodes, others = (
            node.points[i].double().numpy() * spacing + cloud.mean(0)  # of the clouds, in their own frames
            for node, cloud in ((batch.source, x), (batch.target, y))
        )
        assert cKDTree(x).query(nodes)[0].max() < 1e-3 * spacing  # nodes are components
        moved = motion[i].apply(torch.from_numpy(nodes).float()).double().numpy()
        gap = max(np.median(cKDTree(n).query(n, 2)[0][:, 1]) for n in (nodes, others))
        distance = np.linalg.norm(moved[:, None] - others, axis=-1)
        value = batch.same[i].float().numpy()
        assert (value[distance > 1.51 * gap] == 0).all()
        assert (value <= np.exp(-2 * (distance / gap) ** 2) + 2e-3).all()
        assert (value[distance < 1.49 * gap] > 0).mean() > 0.99


def test_the_same_place_is_near_and_faces_the_same_way() -> None:
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    up, side = torch.tensor([[0.0, 0, 1]]).expand(3, 3), torch.tensor([[0.0, 1, 0]]).expand(3, 3)
    value = same_place(line, up, line, -up)
    assert torch.allclose(value.diagonal(), torch.ones(3))
    assert value[0, 1] == pytest.approx(np.exp(-2)) and value[0, 2] == 0
    assert same_place(line, up, line, side)[0, 0] == pytest.approx(np.exp(-2))


def test_the_matching_loss_is_a_cross_entropy(generator: torch.Generator) -> None:
    similarity = torch.randn(2, 5, 7, generator=generator)
    target = torch.randint(7, (2, 5), generator=generator)
    same = torch.nn.functional.one_hot(target, 7).float()
    expected = torch.nn.functional.cross_entropy(similarity.flatten(0, 1), target.flatten())
    assert matching_loss(similarity, same) == pytest.approx(float(expected), rel=1e-5)
    same[0] = 0  # nodes without a counterpart do not count
    alone = torch.nn.functional.cross_entropy(similarity[1], target[1])
    assert matching_loss(similarity, same) == pytest.approx(float(alone), rel=1e-5)
    assert matching_loss(similarity, torch.zeros_like(same)) == 0


def test_the_share_of_right_matches_is_counted() -> None:
    same = torch.eye(4)[None]
    same[0, 3] = 0  # no counterpart
    similarity = torch.eye(4)[None].clone()
    similarity[0, 0] = torch.tensor([0.0, 1, 0, 0])
    batch = OverlapBatch(None, None, same)  # type: ignore[arg-type]
    prediction = OverlapPrediction(similarity)
    assert top_match(prediction, batch).tolist() == pytest.approx([2 / 3])


def test_pairs_are_many_kinds_and_their_motion_is_true() -> None:
    sizes, shares = set(), []
    for seed in range(12):
        pairs = shape_pairs(2, torch.Generator().manual_seed(seed))
        sizes.add(pairs.source.shape[1])
        shares.append(float(pairs.overlap.mean()))
        assert min(pairs.source.shape[1], pairs.target.shape[1]) >= 128
        moved = pairs.target_from_source.apply(pairs.source)
        near = torch.cdist(moved, pairs.target).amin(-1) < 0.12
        assert near.float().mean() > 0.5 * shares[-1] - 0.2
    assert len(sizes) > 8 and min(shares) < 0.8


def test_training_runs_resumes_and_loads(tmp_path: Path) -> None:
    result = train(TINY, out=tmp_path / "a", log_every=2, validate_every=100)
    assert result.finished
    model = checkpoint.load(tmp_path / "a" / "overlap.safetensors")
    assert isinstance(model, OverlapNetwork) and model.config == TINY.network
    train(TINY, out=tmp_path / "b", time_limit=0.0)
    resumed = train(TINY, out=tmp_path / "b", resume=True, validate_every=100)
    ours, theirs = (checkpoint.read(r.checkpoint).tensors for r in (result, resumed))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_time_limit_holds_while_the_scenes_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CHUNK", 8)
    monkeypatch.setattr(node_pairs, "KEPT", 4)
    made = []
    scene_pairs = pool.scene_pairs

    def slowly(*arguments, **options):  # type: ignore[no-untyped-def]
        made.append(options["kind"])
        time.sleep(0.3)
        return scene_pairs(*arguments, **options)

    monkeypatch.setattr(pool, "scene_pairs", slowly)
    data = OverlapData(shapes=0.6, kinds=KINDS, scenes=8, points=300, workers=0)
    config = replace(TINY, data=data, optimiser=replace(TINY.optimiser, steps=1))
    said: list[str] = []
    stopped = train(config, out=tmp_path, time_limit=0.2, announce=said.append)
    assert (stopped.step, stopped.finished) == (0, False) and stopped.checkpoint.exists()
    assert said[0] == "starting from scratch, with random weights" and "what is made is kept" in said[1]
    assert len(made) == 1
    finished = train(config, out=tmp_path, resume=True, announce=said.append)
    assert finished.finished and len(made) == len(set(made)) == 4  # nothing was made twice
    assert len(said) == 3


def test_helpers_make_the_same_pool(tmp_path: Path) -> None:
    config = replace(TINY, data=OverlapData(shapes=0.5, kinds=("view", "piece"), scenes=128, points=200))
    rows = torch.tensor([0, 127])
    for folder, helpers in (("alone", 0), ("helped", 2)):
        BatchMaker(config, tmp_path / folder).prepare(helpers=helpers)
    for kind in config.data.kinds:
        alone, helped = (
            pool.fill_pool(tmp_path / folder, kind, 128, 200).pairs(rows) for folder in ("alone", "helped")
        )
        assert torch.equal(alone.source, helped.source)
    names = [sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("alone", "helped")]
    assert names[0] == names[1] and len(names[0]) == 10  # nothing is half-written


@pytest.mark.slow
def test_a_little_training_lowers_the_loss_on_shapes_and_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CHUNK", 16)
    monkeypatch.setattr(node_pairs, "KEPT", 8)
    config = replace(
        TINY,
        data=OverlapData(shapes=0.6, kinds=("room", "fragments low"), scenes=16, points=600, workers=0),
        optimiser=replace(TINY.optimiser, steps=40, rate=5e-3),
    )
    rows: list[dict[str, float]] = []
    train(config, out=tmp_path, log_every=20, progress=lambda row: rows.append(dict(row)))
    assert rows[-1]["matching"] < rows[0]["matching"]
    assert {"validation top shape", "validation top room", "validation top fragments low"} <= rows[-1].keys()


def test_presets_from_a_file_keep_their_kind(tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text('preset = "overlap"\n[optimiser]\nsteps = 7\n')
    config = read_config(file)
    assert isinstance(config, OverlapTraining) and config.optimiser.steps == 7
    file.write_text('preset = "overlap"\n[losses]\nmatching = 1.0\npartial = 0.5\n')
    assert read_config(file).losses == {"matching": 1.0, "partial": 0.5}
    for wrong, named in (
        ("[losses]\ndistance = 1.0", "losses"),
        ('[data]\nkinds = ["attic"]', "attic"),
        ("[data]\nkinds = []", "data.kinds"),
    ):
        file.write_text(f'preset = "overlap"\n{wrong}\n')
        with pytest.raises(InvalidConfig, match=named):
            read_config(file)
    file.write_text('preset = "overlap"\n[data]\nkinds = []\nshapes = 1.0\n')
    assert read_config(file).data == OverlapData(kinds=(), shapes=1.0)


def test_training_needs_no_registration_library() -> None:
    """Where graphics cards are, small_gicp, open3d and trimesh often are not."""
    code = (
        "import sys\n"
        "for name in ('small_gicp', 'open3d', 'trimesh', 'typer', 'rich'): sys.modules[name] = None\n"
        "import deepgmr.training, deepgmr.training.overlap\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_motion_is_not_needed_to_know_the_labels(generator: torch.Generator) -> None:
    points = torch.rand(6, 3, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(6, 3, generator=generator), dim=-1)
    motion = RigidTransform.random(generator=generator, max_translation=1.0, dtype=torch.float32)
    one = same_place(points, normals, points + 0.01, normals)
    two = same_place(motion.apply(points), motion.rotate(normals), motion.apply(points + 0.01), motion.rotate(normals))
    assert torch.allclose(one, two, atol=1e-4)
