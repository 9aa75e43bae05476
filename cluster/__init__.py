"""The kind cluster that the orchestrators are measured on: bring it up, look at it, take it down."""

from __future__ import annotations

from cluster.errors import ClusterError
from cluster.lifecycle import Status, down, ensure_images, info, load, status, up
from cluster.stages import Progress, Report
from cluster.state import ClusterInfo

__all__ = [
    "ClusterError",
    "ClusterInfo",
    "Progress",
    "Report",
    "Status",
    "down",
    "ensure_images",
    "info",
    "load",
    "status",
    "up",
]
