"""What each choice in a network buys: short trainings of equal length, every row changing one thing of the first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from deepgmr import metrics
from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.datasets.suites.named import read_named
from deepgmr.errors import InvalidConfig
from deepgmr.evaluation.ablation import KINDS, compare, network_of, network_only, with_network
from deepgmr.evaluation.networks import network_of as deepgmr_of
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks import PRESETS as NETWORKS
from deepgmr.networks import DeepGMR
from deepgmr.training import DEEPGMR_PRESETS, PRESETS, OverlapTraining, PairTask, TrainingConfig, train
from deepgmr.training import Result as Trained

STUDY = "trainings"


def markdown(result: Result) -> str:
    """A row a training."""
    told = result["provenance"]
    formats = {"mean distance": ".4f", "CPU ms a pair": ".1f", "ms": ".0f"}
    return f"### `{told['network']}`, {told['steps']:,} steps\n\n{as_table(result['rows'], formats)}"


# -- DeepGMR -----------------------------------------------------------------------------------------------------


def deepgmr(
    data: str | Path,
    suite: str | Path | PairSuite,
    *,
    steps: int = 200,
    only: str = "",
    base: TrainingConfig | None = None,
    watch: Watch | None = None,
) -> Result:
    """Trainings on ModelNet40 in its official layout, scored on noisy fixed pairs, of the rows whose name has `only`."""
    watch, scored = watch or Watch(), suite if isinstance(suite, PairSuite) else read_named(suite)
    base = base or DEEPGMR_PRESETS["deepgmr-unseen"]
    base = replace(
        base,
        start="",
        data=replace(base.data, categories=40),
        optimiser=replace(base.optimiser, steps=steps, warmup=steps // 10),
    )
    chosen = {name: config for name, config in deepgmr_rows(base).items() if only in name}
    if not chosen:
        raise InvalidConfig(f"no training has `{only}` in its name; there are {', '.join(deepgmr_rows(base))}")
    clouds = PairTask.from_modelnet(base, data).clouds
    result: Result = {"study": STUDY, "provenance": provenance(network="deepgmr", steps=steps), "rows": []}
    for number, (name, config) in enumerate(chosen.items()):
        watch.progress(name, number / len(chosen))
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            checkpoint = train(config, out=folder, task=PairTask(config, clouds)).checkpoint
            seconds = time.process_time() - start
            model = deepgmr_of(checkpoint)
        size = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
        cost = {"CPU ms a pair": 1e3 * seconds / (steps * config.optimiser.batch)}
        result["rows"].append({"training": name} | recall_of(model, scored) | size | cost)
        watch.keep(result)
    return result


def deepgmr_rows(base: TrainingConfig) -> dict[str, TrainingConfig]:
    """The trainings by the name of what they change."""
    network = base.network
    changed = {"moments, J = 32, mean distance (base)": base}
    for features in ("rri", "xyz", "tnet"):
        changed[f"features: {features}"] = replace(base, network=replace(network, features=features))
    ordered = replace(network, features="rri", order="distance")
    changed["features: rri, in the order of the 2020 code"] = replace(base, network=ordered)
    for components in (8, 16, 64):
        changed[f"J = {components}"] = replace(base, network=replace(network, components=components))
    changed["no landmarks"] = replace(base, network=replace(network, landmarks=0))
    changed["loss: pose (the paper's)"] = replace(base, losses={"pose": 1.0})
    changed["loss: KL (same index, both ways)"] = replace(base, losses={"kl_symmetric": 1.0})
    changed["loss: pose + KL"] = replace(base, losses={"pose": 1.0, "kl_symmetric": 0.1})
    changed["loss: mean distance + KL"] = replace(base, losses={"distance": 1.0, "kl_symmetric": 0.1})
    changed["the paper's network, features and loss"] = replace(base, network=NETWORKS["paper"], losses={"pose": 1.0})
    return changed


@torch.no_grad()
def recall_of(model: DeepGMR, suite: PairSuite) -> dict[str, float]:
    """Mean distance and recall of the network alone on a suite."""
    errors = []
    for source, target, truth in zip(suite.sources, suite.targets, suite.transforms, strict=True):
        points = torch.as_tensor(source).float()
        answer = model(points[None], torch.as_tensor(target).float()[None]).motion[0]
        right = RigidTransform.from_matrix(torch.as_tensor(truth)).to(points.dtype)
        errors.append(metrics.mean_point_distance(points, answer, right))
    error = torch.stack(errors)
    return {
        "mean distance": float(error.mean()),
        "recall@.2": float(metrics.recall(error, 0.2)),
        "recall@.05": float(metrics.recall(error, 0.05)),
    }


# -- the overlap network -----------------------------------------------------------------------------------------


def overlap(
    out: str | Path,
    *,
    steps: int = 1500,
    data: str | Path | None = None,
    pairs: int = 40,
    kinds: Sequence[str] = KINDS,
    start: str = "",
    base: OverlapTraining | None = None,
    watch: Watch | None = None,
) -> Result:
    """Trainings on procedural pairs, each network alone in `register`; checkpoints and the pool of scenes lie in `out`.

    From scratch, or from the weights `start`, whose shape then is every row's: those that change the losses. Interrupted
    trainings go on where they were. `top` is the share of held-out nodes whose best match is right, the mean over
    kinds.
    """
    out = Path(out)
    registrars, matched = {}, {}
    for name, config in overlap_rows(steps, base, start=start).items():
        folder = out / config.name
        done = train(config, out=folder, pool=data or out / "pool", resume=True)
        registrars[name] = network_only(with_network(network_of(folder / f"{config.name}.safetensors")))
        matched[name] = {"top": _held_out(done, "top")}
    found = compare(registrars, pairs=pairs, kinds=kinds, watch=watch)
    rows = [row | matched[row["variant"]] for row in found["rows"]]
    return {
        "study": STUDY,
        "provenance": provenance(network="overlap", steps=steps, start=start, pairs_a_kind=pairs),
        "rows": rows,
    }


def _held_out(training: Trained, name: str) -> float:
    """The mean over kinds of a number of the last validation."""
    return fmean(value for key, value in training.history[-1].items() if key.startswith(f"validation {name} "))


def overlap_rows(steps: int, base: OverlapTraining | None = None, *, start: str = "") -> Mapping[str, OverlapTraining]:
    """The trainings by the name of what they change."""
    preset = base or PRESETS["overlap"]
    gently = PRESETS["overlap-own"].optimiser if start and base is None else preset.optimiser
    assert isinstance(preset, OverlapTraining)
    shapes = {
        "whole": preset.network,
        "no cross-attention": replace(preset.network, cross=False),
        "one patch scale": replace(preset.network, scales=1),
    }
    losses = {
        "with KL": preset.losses | {"kl": 0.02},
        "with the partial divergence": preset.losses | {"partial": 0.5},
    }
    optimiser = replace(gently, steps=steps, warmup=min(gently.warmup, steps // 5))
    preset = replace(preset, start=start, optimiser=optimiser)
    rows = {name: replace(preset, network=shape) for name, shape in shapes.items() if name == "whole" or not start}
    rows |= {name: replace(preset, losses=chosen) for name, chosen in losses.items()}
    return {name: replace(config, name=name.replace(" ", "-")) for name, config in rows.items()}
