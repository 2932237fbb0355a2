"""Several processes at one training, on one machine or many: who this one is, and what all of them agree on.

torchrun starts them and starts them again (`torch.distributed.run`); without it there is one, and nothing here costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from deepgmr.errors import DeepGMRError, InvalidConfig

Found = TypeVar("Found")

_PATIENCE = timedelta(
    hours=1
)  # within which all must come to meet: making the first data takes some longer than others


@dataclass(frozen=True)
class Group:
    """This process among all: `rank` of `processes`."""

    rank: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things are this process's: as many as another's, or one more or less."""
        return range(self.rank * count // self.processes, (self.rank + 1) * count // self.processes)

    def most(self, number: int, device: torch.device) -> int:
        """The largest of the processes' numbers."""
        if self.processes == 1:
            return number
        told = torch.tensor([number], device=device)
        distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
        return int(told.item())

    def from_first(self, make: Callable[[], Found], device: torch.device) -> Found:
        """What the first process makes, in all of them; what it raises of this package's errors, they all raise."""
        if self.processes == 1:
            return make()
        told: list[Found | DeepGMRError | None] = [None]
        if self.first:
            try:
                told = [make()]
            except DeepGMRError as error:
                told = [error]
        distributed.broadcast_object_list(told, device=device)
        if isinstance(told[0], DeepGMRError):
            raise told[0]
        return told[0]  # type: ignore[return-value]


def here() -> Group:
    """This process, as torchrun or another launcher describes it. Raises `InvalidConfig` where it says nonsense."""
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        group = Group(*map(int, texts))
    except ValueError:
        group = Group(0, 0)
    if not 0 <= group.rank < group.processes:
        raise InvalidConfig(f"RANK={texts[0]} of WORLD_SIZE={texts[1]} is no process of a group; let torchrun set them")
    return group


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Within, the processes that torchrun started can meet; at the end they wait for one another."""
    group = here()
    if group.processes == 1 or distributed.is_initialized():
        yield group
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE, **_meeting(group))
    yield group  # what fails within ends the process, and torchrun the others: to wait for them would be to hang
    distributed.barrier()  # none leaves before the first has written its files
    distributed.destroy_process_group()


def _meeting(group: Group) -> dict[str, Any]:
    """Where the processes meet, if not where torch would have them: on one machine in a place of each attempt's own.

    torchrun (2.13) has all attempts share a store, in which those of the next find the addresses of those that ended. Of
    several machines no count of the attempts is common to all; there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has it make a
    store for each.
    """
    told = os.environ.get
    if told("TORCHELASTIC_USE_AGENT_STORE") != "True" or told("GROUP_WORLD_SIZE") != "1":
        return {}
    place = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    attempt = distributed.PrefixStore(f"attempt {told('TORCHELASTIC_RESTART_COUNT')}", place)
    return {"store": attempt, "rank": group.rank, "world_size": group.processes}


def device_of(name: str | None) -> torch.device:
    """A device by name, or a graphics card if there is one: this process's own where there are several."""
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    own = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(own)) if device.type == "cuda" and device.index is None and own else device


def launch() -> str:
    """What names this launch of torchrun, however often it starts its processes again; empty without, or without a name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if name == "none" else name


def started_again() -> bool:
    """Whether torchrun started this process in place of one that failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def processes_mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; no gradient flows through it.

    Gradients are averaged over processes, whatever their shares of a batch: a sum over this process's pairs, divided by
    this mean of the number of pairs, is the mean over all pairs once it is averaged.
    """
    value = value.detach()
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    value = value.clone()
    distributed.all_reduce(value)
    return value / distributed.get_world_size()
