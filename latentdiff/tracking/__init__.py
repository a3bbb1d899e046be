"""Metrics, audio, pictures and progress bars of a running training."""

from latentdiff.tracking.console import progress, tensorboard_hint
from latentdiff.tracking.metrics import METRICS_FILE, latest_metrics, read_metrics
from latentdiff.tracking.picture import encode_png
from latentdiff.tracking.tracker import Tracker

__all__ = [
    "METRICS_FILE",
    "Tracker",
    "encode_png",
    "latest_metrics",
    "progress",
    "read_metrics",
    "tensorboard_hint",
]
