"""A machine whose workers some clouds take down, in a module that those workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.bulk.node import Node


class Poisoned(Node):
    """A registrar in whose process some clouds do harm."""

    def prepare(self, cloud: Any, **how: Any) -> Any:
        if str(cloud).endswith("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if str(cloud).endswith("hang"):
            time.sleep(3600)
        if str(cloud).endswith("memory"):
            np.ones(1 << 55)
        fuse = Path(f"{cloud}.fuse")
        if fuse.exists():  # once, what asked for it goes down: with Ray the actor
            fuse.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
        return super().prepare(cloud, **how)
