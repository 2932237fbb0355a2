"""`python -m deepgmr` is `deepgmr`."""

from __future__ import annotations

import sys

from deepgmr.cli import main

sys.exit(main())
