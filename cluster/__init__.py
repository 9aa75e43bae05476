"""The kind cluster that the orchestrators are measured on: bring it up, look at it, take it down."""

from __future__ import annotations

from cluster.errors import ClusterError
from cluster.lifecycle import Status, down, ensure_images, info, load, status, up
from cluster.stages import Progress, Report
from cluster.state import ClusterInfo
from cluster.vendor import MissingImages, VendorImage, vendor_images

__all__ = [
    "ClusterError",
    "ClusterInfo",
    "MissingImages",
    "Progress",
    "Report",
    "Status",
    "VendorImage",
    "down",
    "ensure_images",
    "info",
    "load",
    "status",
    "up",
    "vendor_images",
]
