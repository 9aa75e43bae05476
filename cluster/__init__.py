"""The clusters that the orchestrators are measured on: our kind cluster, and any other to install on."""

from __future__ import annotations

from cluster.errors import ClusterError
from cluster.installations import Installed, installed
from cluster.lifecycle import Status, down, ensure_event_images, ensure_images, info, load, status, up
from cluster.stages import Progress, Report
from cluster.state import ClusterInfo
from cluster.vendor import MissingImages, VendorImage, vendor_images

__all__ = [
    "ClusterError",
    "ClusterInfo",
    "Installed",
    "MissingImages",
    "Progress",
    "Report",
    "Status",
    "VendorImage",
    "down",
    "ensure_event_images",
    "ensure_images",
    "info",
    "installed",
    "load",
    "status",
    "up",
    "vendor_images",
]
