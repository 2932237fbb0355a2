"""Scans of a moving sensor, one after the other: its poses, and the loops of its way."""

from deepgmr.odometry.fix import Fix, Loop, Tracking
from deepgmr.odometry.settings import OdometrySettings
from deepgmr.odometry.stream import Odometry

__all__ = ["Fix", "Loop", "Odometry", "OdometrySettings", "Tracking"]
