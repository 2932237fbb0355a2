"""Many scans, in no order and in any poses, into one frame."""

from deepgmr.alignment.answer import Alignment, Link
from deepgmr.alignment.joint import align
from deepgmr.alignment.settings import AlignmentSettings

__all__ = ["Alignment", "AlignmentSettings", "Link", "align"]
