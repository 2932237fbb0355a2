"""Training: a frozen configuration in, checkpoints out. Stops and resumes anywhere, on one process or many.

train(read_config("config.toml"), data="ModelNet40/", out="runs/deepgmr")
"""

from __future__ import annotations

from deepgmr.training.config import PRESETS, DataConfig, OptimiserConfig, TrainingConfig, read_config
from deepgmr.training.loop import Result, train
from deepgmr.training.progress import TrainingProgress
from deepgmr.training.tasks import LOSSES, PairTask, Task

__all__ = [
    "DataConfig",
    "LOSSES",
    "OptimiserConfig",
    "PRESETS",
    "PairTask",
    "Result",
    "Task",
    "TrainingConfig",
    "TrainingProgress",
    "read_config",
    "train",
]
