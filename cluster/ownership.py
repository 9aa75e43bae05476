"""What on a cluster is ours: the API server keeps with each object who applied it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLATFORM_MANAGER = "bench-cluster"
ADAPTERS_MANAGER = "orchestrator-bench"


def is_ours(document: Mapping[str, Any]) -> bool:
    """Whether one of us has applied the object, given as plain JSON."""
    managers = {each.get("manager") for each in document["metadata"].get("managedFields") or ()}
    return not managers.isdisjoint({PLATFORM_MANAGER, ADAPTERS_MANAGER})
