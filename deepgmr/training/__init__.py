"""Training: a frozen configuration in, checkpoints out. Stops and resumes anywhere, on one process or many.

train(read_config("config.toml"), data="ModelNet40/", out="runs/deepgmr")
"""

from __future__ import annotations

from deepgmr.training.config import (
    DEEPGMR_PRESETS,
    PRESETS,
    DataConfig,
    OptimiserConfig,
    OverlapData,
    OverlapTraining,
    TrainingConfig,
    read_config,
)
from deepgmr.training.loop import Result, described, train
from deepgmr.training.overlap import OverlapTask
from deepgmr.training.progress import TrainingProgress
from deepgmr.training.tasks import LOSSES, PairTask, Task
from deepgmr.training.together import Group, here

__all__ = [
    "DEEPGMR_PRESETS",
    "DataConfig",
    "Group",
    "LOSSES",
    "OptimiserConfig",
    "OverlapData",
    "OverlapTask",
    "OverlapTraining",
    "PRESETS",
    "PairTask",
    "Result",
    "Task",
    "TrainingConfig",
    "TrainingProgress",
    "described",
    "here",
    "read_config",
    "train",
]
