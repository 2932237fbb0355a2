"""What each part of the overlap network and of the search around it is worth, and what more training buys.

    python scripts/ablation_overlap.py parts --pairs 40 --train 1500 --data runs/overlap/pool --out runs/ablation
    python scripts/ablation_overlap.py curve runs/overlap/overlap-*.safetensors --pairs 40

`parts` trains three networks for equally few steps (whole, without cross-attention, with one scale of patches) and
compares them without any search; then takes the bundled network and leaves out the search, the network, the overlap
head, or ranks by inliers. `curve` measures recall against training pairs on weights that `--keep-every` kept. All pairs
are procedural and other than those of the training; right means right up to the symmetry of the shape, as in
`scripts/calibrate.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from calibrate import Case, cases

from deepgmr.io.checkpoint import load
from deepgmr.networks import OverlapNetwork
from deepgmr.pipeline import registrar as registration
from deepgmr.pipeline.registrar import EFFORTS, Effort, register
from deepgmr.pipeline.search import Ranking
from deepgmr.training import PRESETS, OverlapTraining, train

KINDS = ("resampled", "crop70", "crop50", "crop70 resampled", "crop50 resampled", "seen", "room", "street", "tabletop")
SEED = 7  # not calibration's
NETWORK = (Effort(learned=True, scales=None, refined=8),)
SEARCH = tuple(replace(effort, learned=False, scales=effort.scales or (24, 64)) for effort in EFFORTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    parts = what.add_parser("parts", help="leave out one part at a time")
    parts.add_argument("--train", type=int, default=0, metavar="STEPS", help="of each short training; 0: none")
    parts.add_argument("--data", type=Path, help="the pool of scenes, as `deepgmr train --data` takes it")
    parts.add_argument("--out", type=Path, default=Path("runs/ablation"), help="for the short trainings")
    curve = what.add_parser("curve", help="recall against training pairs")
    curve.add_argument("weights", nargs="+", type=Path)
    for one in (parts, curve):
        one.add_argument("--pairs", type=int, default=40, help="of each kind")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [case for case in cases(given.pairs, SEED) if case.kind in KINDS]
    print("| | " + " | ".join(KINDS) + " | mean | ms |\n| --- |" + " ---: |" * (len(KINDS) + 2))
    if given.what == "curve":
        for network in sorted((network_of(path) for path in given.weights), key=pairs_seen):
            show(f"{pairs_seen(network):,} pairs", pairs, efforts=NETWORK, network=network)
        return
    if given.train:
        for name, network in trained(given.train, given.out, given.data).items():
            show(f"{name}, {given.train} steps, network only", pairs, efforts=NETWORK, network=network)
    show("all", pairs)
    show("network only", pairs, efforts=NETWORK)
    show("search only", pairs, efforts=SEARCH)
    blind = network_of(Path("overlap"))
    blind.config = replace(blind.config, overlap=False)
    show("network only, no overlap head", pairs, efforts=NETWORK, network=blind)
    show("all, ranked by inliers", pairs, inliers=True)


def trained(steps: int, out: Path, data: Path | None) -> dict[str, OverlapNetwork]:
    """Networks of equally short trainings."""
    base = PRESETS["overlap"]
    if not isinstance(base, OverlapTraining):
        raise TypeError("the preset `overlap` trains another network")
    shapes = {
        "whole": base.network,
        "no cross-attention": replace(base.network, cross=False),
        "one patch scale": replace(base.network, scales=1),
    }
    networks = {}
    for name, shape in shapes.items():
        config = replace(
            base,
            name=name.replace(" ", "-"),
            network=shape,
            optimiser=replace(base.optimiser, steps=steps, warmup=min(base.optimiser.warmup, steps // 5)),
        )
        folder = out / config.name
        train(config, out=folder, data=data or out / "pool", resume=True)
        networks[name] = network_of(folder / f"{config.name}.safetensors")
    return networks


def network_of(path: Path) -> OverlapNetwork:
    network = load(path)
    if not isinstance(network, OverlapNetwork):
        raise TypeError(f"{path} holds a {type(network).__name__}, not an overlap network")
    return network


def pairs_seen(network: OverlapNetwork) -> int:
    provenance = network.provenance
    return int(provenance["pairs"]) if isinstance(provenance, dict) else 0


def show(
    name: str,
    pairs: list[Case],
    *,
    efforts: tuple[Effort, ...] = EFFORTS,
    network: OverlapNetwork | None = None,
    inliers: bool = False,
) -> None:
    """One row: the share of right answers of each kind, their mean, and the median time."""
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    times = []
    with settings(efforts, network, inliers):
        for case in pairs:
            start = time.perf_counter()
            answer = register(case.source, case.target, max_rotation_degrees=case.limit)
            times.append(time.perf_counter() - start)
            right[case.kind].append(case.judge(answer.target_from_source))
    shares = [float(np.mean(right[kind])) for kind in KINDS]
    cells = " | ".join(f"{share:.3f}" for share in shares)
    print(f"| {name} | {cells} | {np.mean(shares):.3f} | {1e3 * np.median(times):.0f} |", flush=True)


@contextmanager
def settings(efforts: tuple[Effort, ...], network: OverlapNetwork | None, inliers: bool) -> Iterator[None]:
    """Within, `register` looks as told."""
    with ExitStack() as changed:
        changed.enter_context(patch.object(registration, "EFFORTS", efforts))
        if network is not None:
            changed.enter_context(patch.object(registration, "_network", lambda: network))
        if inliers:
            counted = property(lambda ranking: 20 * (ranking.source_overlap + ranking.target_overlap))
            changed.enter_context(patch.object(Ranking, "plausibility", counted))
        yield


if __name__ == "__main__":
    main()
