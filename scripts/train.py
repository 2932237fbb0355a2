"""Train a network: `python scripts/train.py --preset deepgmr --data ModelNet40/ --out runs/deepgmr`.

On several GPUs, processes or machines: `torchrun --nproc-per-node 4 scripts/train.py ...`, see docs/howto/training.md.
Needs torch, numpy, scipy, h5py and safetensors only; `deepgmr train` is the same with the package's terminal.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from deepgmr.errors import DeepGMRError
from deepgmr.training import PRESETS, TrainingProgress, described, here, read_config, train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("config", nargs="?", help="a TOML file")
    what.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--start", metavar="NAME_OR_FILE", help="weights to start from; by default from scratch")
    parser.add_argument(
        "--data", help="ModelNet40 in its official HDF5 layout, or posed scans for `overlap` [default: procedural]"
    )
    parser.add_argument("--pool", help="where `overlap` keeps its procedural scenes [default: OUT/pool]")
    parser.add_argument("--out", required=True, help="folder for checkpoints, history and the weights")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="save and stop after so long")
    parser.add_argument("--keep-every", type=int, default=0, metavar="STEPS", help="keep the weights of every so many")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    parser.add_argument("--tensorboard", action="store_true", help="write scalars and pictures to --out/tensorboard")
    given = parser.parse_args()
    try:
        config = PRESETS[given.preset] if given.preset else read_config(given.config)
        if given.start is not None:
            config = replace(config, start=given.start)
        with TrainingProgress(config.optimiser.steps) as progress:
            if here().first:  # of several processes
                progress.say(described(config, given.data, out=given.out, pool=given.pool, device=given.device))
            result = train(
                config,
                out=given.out,
                data=given.data,
                pool=given.pool,
                resume=given.resume,
                time_limit=given.time_limit,
                device=given.device,
                keep_every=given.keep_every,
                tensorboard=given.tensorboard,
                progress=progress,
                announce=progress.say,
                stage=progress.stage,
            )
    except DeepGMRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if here().first:
        print(f"{'finished' if result.finished else 'stopped'} at step {result.step}: {result.checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
