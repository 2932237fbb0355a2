"""A machine whose workers some clouds take down, in a module that those workers can import."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from deepgmr.bulk.node import Node


class Poisoned(Node):
    """A registrar in whose process some clouds do harm."""

    def prepare(self, cloud: Any, **how: Any) -> Any:
        if str(cloud).endswith("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if str(cloud).endswith("hang"):
            time.sleep(3600)
        return super().prepare(cloud, **how)
