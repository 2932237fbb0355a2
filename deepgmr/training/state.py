"""The state of a training between two steps, the step, and the files it lives in.

Every random number of step s is drawn from a generator seeded by (seed, s), so a run killed at any moment and resumed
from its last checkpoint repeats the same steps bit for bit, and there is no random state to save. Of several processes
the first alone reads and writes the folder, and tells the others what it found there.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deepgmr.errors import InvalidCheckpoint, InvalidConfig
from deepgmr.io import checkpoint
from deepgmr.io.disk import replacing, writing
from deepgmr.plain import from_plain, to_plain
from deepgmr.training.config import AnyTraining, OptimiserConfig
from deepgmr.training.tasks import Task, to_device
from deepgmr.training.together import Group, launch, processes_mean, started_again


class Run:
    """The state of a training between two steps, and the step."""

    def __init__(
        self, config: AnyTraining, task: Task, out: Path, device: torch.device, *, group: Group | None = None
    ) -> None:
        self.config, self.task, self.out, self.device = config, task, out, device
        self.group = group or Group()
        if self.group.processes > task.most_processes:
            raise InvalidConfig(
                f"a batch of {config.optimiser.batch} pairs is work for at most {task.most_processes} processes, got "
                f"{self.group.processes}; start fewer, or raise `optimiser.batch`"
            )
        self.path = out / "checkpoint.safetensors"
        self.step = 0
        self.seconds = 0.0
        self.sums: dict[str, float] = {}  # of the numbers of the steps since the last row of the history ...
        self.summed = 0  # ... and how many steps those are
        self.history: list[dict[str, float]] = []
        self.model = task.build(self._generator(-1)).to(device)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.parameters = [parameter for _, parameter in self.model.named_parameters()]
        self.average = AveragedModel(self.model, multi_avg_fn=_averaging(config.optimiser.average)).eval()
        self.shared: nn.Module = self.model if self.group.processes == 1 else DistributedDataParallel(self.model)
        decayed = [p for p in self.parameters if p.ndim > 1]  # biases and normalisations are not pulled to zero
        other = [p for p in self.parameters if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": config.optimiser.weight_decay},
            {"params": other, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.optimiser.rate, betas=(0.9, 0.99))

    # -- one step ----------------------------------------------------------------------------------------------

    def advance(self) -> dict[str, float]:
        """One step; returns the numbers of this step, averaged over the processes."""
        began = time.monotonic()
        batch = self.task.make_batch(self._generator(self.step), rank=self.group.rank, processes=self.group.processes)
        batch = to_device(batch, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.optimiser.precision == "bf16"):
            loss, numbers = self.task.loss(self.shared, batch)
        self.optimiser.zero_grad(set_to_none=False)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.optimiser.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of step {self.step} is not finite, so it was not taken; resume from the last checkpoint "
                'with a lower rate or precision = "fp32"'
            )
        # Not a scheduler of torch's: a rate that follows from the step alone has no state to save and to get wrong.
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config.optimiser, self.step)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.step += 1
        self.seconds += time.monotonic() - began
        values = torch.stack([loss.detach(), *(value.detach() for value in numbers.values()), norm.detach()]).double()
        found = dict(zip(["loss", *numbers, "gradient"], processes_mean(values).tolist(), strict=True))
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in found.items()}
        self.summed += 1
        return found

    def means(self) -> dict[str, float]:
        """The means of the numbers of the steps since this was last asked."""
        found = {name: value / self.summed for name, value in self.sums.items()}
        self.sums, self.summed = {}, 0
        return found

    def _generator(self, step: int) -> torch.Generator:
        # Neighbouring seeds give unrelated streams: the Mersenne twister's state is filled by a scrambling recurrence.
        return torch.Generator().manual_seed((self.config.seed * 0x9E3779B1 + step + 1) % 2**63)

    # -- files -------------------------------------------------------------------------------------------------

    def begin(self, *, resume: bool) -> None:
        """Go on from the checkpoint in the folder, if there is one and that is wanted, or this launch's own.

        Raises `InvalidConfig` for a training that is not to be gone on with or another one, `InvalidCheckpoint`.
        """
        found = self.group.from_first(lambda: self._found(resume), self.device)
        if found is None:
            return
        saved, self.history = found
        try:
            self.model.load_state_dict(saved.part("model"))
            self.average.module.load_state_dict(saved.part("ema"))
            self.average.n_averaged.fill_(int(saved.state["step"]))
            state = saved.part("optimizer")
            begun = int(saved.state["step"]) > 0  # before the first step the optimiser has no state
            for name, parameter in zip(self.names, self.parameters, strict=True) if begun else ():
                self.optimiser.state[parameter] = {
                    key: state[f"{name}.{key}"].to(parameter.device if key != "step" else "cpu")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
            self.step, self.seconds = int(saved.state["step"]), float(saved.state["seconds"])
            self.sums, self.summed = dict(saved.state.get("sums", {})), int(saved.state.get("summed", 0))
        except (KeyError, RuntimeError) as error:
            raise InvalidCheckpoint(f"{self.path} is a checkpoint, but not one to resume from: {error}") from error

    def _found(self, resume: bool) -> tuple[checkpoint.Checkpoint, list[dict[str, float]]] | None:
        """The checkpoint and the rows of the history up to it, by which the file is cut; the folder, if there is none."""
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        history = self.out / "history.jsonl"
        if not self.path.exists():
            if history.is_file():  # of one that was killed before its first checkpoint
                _write_history(self.out, [])
            return None
        saved = checkpoint.read(self.path)
        own = started_again() or (launch() != "" and saved.state.get("launch") == launch())
        if not (resume or own):
            raise InvalidConfig(f"{self.out} already holds a training; resume it (--resume) or choose another folder")
        different = _differing(self.config, saved.provenance.get("training", {}))
        if different:
            raise InvalidConfig(
                f"{self.path} was trained with another configuration; differing: {', '.join(different)}"
            )
        rows = [row for row in _read_history(self.out) if row["step"] <= int(saved.state.get("step", 0))]
        _write_history(self.out, rows)
        return saved, rows

    def save(self) -> None:
        """Everything needed to go on, in one file that is replaced atomically."""
        if not self.group.first:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.average.module.state_dict().items()}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
            "summed": self.summed,
            "launch": launch(),
        }
        kind, network = checkpoint.describe(self.model)
        checkpoint.write(self.path, checkpoint.Checkpoint(kind, network, self._provenance(), state, tensors))

    def publish(self, name: str | None = None) -> None:
        """The averaged weights of the last `save` alone, small enough to ship."""
        if not self.group.first:
            return
        saved = checkpoint.read(self.path)
        tensors = {f"model.{name}": value for name, value in saved.part("ema").items()}
        target = self.out / f"{name or self.config.name}.safetensors"
        checkpoint.write(target, replace(saved, state={}, tensors=tensors))

    def log(self, row: dict[str, float]) -> None:
        self.history.append(row)
        if self.group.first:
            path = self.out / "history.jsonl"
            with writing(path), path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _provenance(self) -> dict[str, Any]:
        return {
            "training": to_plain(self.config),
            "steps": self.step,
            "pairs": self.step * self.config.optimiser.batch,
            "seconds": round(self.seconds, 1),
            "torch": str(torch.__version__),
        }


def _averaging(largest: float) -> Callable[..., None]:
    """An exponential average of the weights that forgets the first steps sooner than the later ones."""

    def update(averages: Any, weights: Any, count: Tensor) -> None:
        decay = min(largest, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averages, weights, count)

    return update


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Linear from 0 over the warm-up, then half a cosine down to the final rate."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    share = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_rate + (config.rate - config.final_rate) * 0.5 * (1 + math.cos(math.pi * share))


def _differing(config: AnyTraining, saved: dict[str, Any]) -> list[str]:
    """The parts of a configuration that another, saved one has otherwise; what it did not know yet has its default."""
    effective = to_plain(config)
    with contextlib.suppress(InvalidConfig):
        saved = to_plain(from_plain(type(config), saved))
    return sorted(key for key in effective if saved.get(key) != effective[key])


def _read_history(out: Path) -> list[dict[str, float]]:
    path = out / "history.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # a kill may cut the last line short
            rows.append(json.loads(line))
    return rows


def _write_history(out: Path, rows: list[dict[str, float]]) -> None:
    with replacing(out / "history.jsonl") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
