"""The settings of a training: frozen dataclasses with defaults, presets by name, TOML in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepgmr.datasets.pairs.pool import POOLED
from deepgmr.datasets.pairs.protocols import PROTOCOLS
from deepgmr.errors import InvalidConfig
from deepgmr.networks.deepgmr import PRESETS as NETWORKS
from deepgmr.networks.deepgmr import NetworkConfig
from deepgmr.networks.overlap import OverlapConfig
from deepgmr.plain import from_plain, from_toml, to_plain

WORLDS = ("modelnet", "procedural")
LOSS_NAMES = (
    "distance",
    "pose",
    "kl",
    "kl_symmetric",
    "kl_variational",
    "agreement",
)  # defined in `deepgmr.training.tasks`
OVERLAP_LOSSES = ("matching", "kl", "partial")  # ... and in `deepgmr.training.overlap`


@dataclass(frozen=True)
class DataConfig:
    """Which pairs."""

    world: str = "modelnet"  # or "procedural": shapes drawn anew at every step, what a training without data gets
    protocol: str = "noisy"  # a key of `deepgmr.datasets.pairs.protocols.PROTOCOLS`
    categories: int = 40  # the first so many of ModelNet40
    queries: int = 512  # points whose responsibilities are computed, corresponding ones in both clouds; 0: all


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up and cosine decay, and an average of the weights."""

    steps: int = 7000
    batch: int = 32  # pairs a step, over all processes
    rate: float = 3e-3  # the highest learning rate
    final_rate: float = 1e-5
    warmup: int = 200  # steps
    weight_decay: float = 1e-3
    clip: float = 1.0  # largest gradient norm
    average: float = 0.999  # of the weights (EMA), a step; 0 for none
    precision: str = "bf16"  # or "fp32"


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what is learned; saved in every checkpoint."""

    name: str = "deepgmr"
    seed: int = 0
    start: str = ""  # bundled weights, by name, or a file to start from; empty: from scratch
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    losses: dict[str, float] = field(
        default_factory=lambda: {"distance": 1.0}
    )  # weight of each; the names are LOSS_NAMES

    def __post_init__(self) -> None:
        _check_losses(self.losses, LOSS_NAMES)
        if self.data.protocol not in PROTOCOLS:
            raise InvalidConfig(f"unknown protocol `{self.data.protocol}`; choose among {', '.join(PROTOCOLS)}")
        if self.data.world not in WORLDS:
            raise InvalidConfig(f"unknown world `{self.data.world}`; choose among {', '.join(WORLDS)}")
        if self.optimiser.precision not in ("bf16", "fp32"):
            raise InvalidConfig(f"precision is bf16 or fp32, got `{self.optimiser.precision}`")
        if self.optimiser.steps < 1 or self.optimiser.batch < 1:
            raise InvalidConfig("a training needs at least one step of one pair")


@dataclass(frozen=True)
class OverlapData:
    """Which pairs the overlap network sees: procedural ones, and those of posed scans of one's own where there are any."""

    own: float = 0.0  # share of pairs from one's own scans; where such are given and this is zero, a half
    shapes: float = (
        0.5  # of the others the share cut from shapes; the rest are scans of scenes, equally many of each kind
    )
    kinds: tuple[str, ...] = POOLED  # of scenes
    scenes: int = 1024  # pairs of each kind in the pool
    points: int = 6000  # of a scan in the pool, at most
    workers: int = 1  # processes that make pairs; with none, the training does it itself
    seed: int = 0  # of the pool


@dataclass(frozen=True)
class OverlapTraining:
    """Everything that decides what an overlap network learns; saved in every checkpoint."""

    name: str = "overlap"
    seed: int = 0
    start: str = ""  # as in `TrainingConfig`
    network: OverlapConfig = field(default_factory=OverlapConfig)
    data: OverlapData = field(default_factory=OverlapData)
    losses: dict[str, float] = field(
        default_factory=lambda: {"matching": 1.0}
    )  # weight of each; the names are OVERLAP_LOSSES
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(steps=18_000, batch=16, rate=1e-3, warmup=500, weight_decay=1e-2)
    )

    def __post_init__(self) -> None:
        if not 8 <= self.network.nodes <= 160:  # the smallest clouds that are drawn have no more points
            raise InvalidConfig(f"a training needs 8 to 160 nodes, got {self.network.nodes}")
        _check_losses(self.losses, OVERLAP_LOSSES)
        if not 0 <= self.data.shapes <= 1:
            raise InvalidConfig(f"shapes is a share, got {self.data.shapes}")
        if unknown := [kind for kind in self.data.kinds if kind not in POOLED]:
            raise InvalidConfig(f"unknown kinds of scenes {unknown}; choose among {', '.join(POOLED)}")
        if not self.data.kinds and self.data.shapes < 1:
            raise InvalidConfig("pairs of scenes are of some kind; name `data.kinds`, or set `data.shapes` to 1")
        if not 0 <= self.data.own < 1:
            raise InvalidConfig(f"own is a share below one, so that nothing is forgotten; got {self.data.own}")


def _check_losses(losses: Mapping[str, float], names: Sequence[str]) -> None:
    unknown = [name for name in losses if name not in names]
    if unknown or not losses:
        raise InvalidConfig(f"unknown losses {unknown}; choose among {', '.join(names)}")


AnyTraining = TrainingConfig | OverlapTraining

DEEPGMR_PRESETS: dict[str, TrainingConfig] = {
    # Half a minute on a core, to see one through: it learns two noisy copies of the same points, and no more.
    "tiny": TrainingConfig(
        name="tiny",
        network=NetworkConfig(components=16, encoder=(32, 64), decoder=(64,), pooled=64),
        data=DataConfig(queries=256),
        optimiser=OptimiserConfig(steps=200, batch=8, warmup=20, average=0.98, precision="fp32"),
    ),
    "deepgmr": TrainingConfig(optimiser=OptimiserConfig(steps=4000, rate=1.5e-3)),
    "deepgmr-unseen": TrainingConfig(name="deepgmr-unseen", data=DataConfig(categories=20)),
    "paper": TrainingConfig(
        name="paper",
        network=NETWORKS["paper"],
        data=DataConfig(queries=0),
        optimiser=OptimiserConfig(steps=30_000, rate=1e-3),
        losses={"pose": 1.0},
    ),
}

PRESETS: dict[str, AnyTraining] = {
    "overlap": OverlapTraining(),
    # On from the weights that come with the package, with posed scans of one's own among the procedural pairs.
    "overlap-own": OverlapTraining(
        name="overlap-own",
        start="overlap",
        data=OverlapData(own=0.5, scenes=256),
        optimiser=OptimiserConfig(steps=2000, batch=16, rate=1e-4, warmup=100, weight_decay=1e-2),
    ),
    **DEEPGMR_PRESETS,
}


def read_config(path: str | Path) -> AnyTraining:
    """A configuration from a TOML file; what it leaves out keeps its default. Raises `InvalidConfig`.

    With `preset` it starts from that preset, and is of its kind; without, it describes a DeepGMR.
    """
    try:
        values = from_toml(Path(path).read_text())
    except (OSError, UnicodeDecodeError, InvalidConfig) as error:
        raise InvalidConfig(f"cannot read {path}: {error}") from error
    preset = values.pop("preset", None)
    kind: type[AnyTraining] = TrainingConfig
    if preset is not None:
        if preset not in PRESETS:
            raise InvalidConfig(f"{path}: unknown preset `{preset}`; the presets are {', '.join(PRESETS)}")
        kind = type(PRESETS[preset])
        values = _merged(to_plain(PRESETS[preset]), values)
    try:
        return from_plain(kind, values)
    except InvalidConfig as error:
        raise InvalidConfig(f"{path}: {error}") from error


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        # The losses are replaced as a whole: a file that names its losses means those and no others.
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), dict) and key != "losses"
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
