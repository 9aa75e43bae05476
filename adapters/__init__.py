"""Adapters: one per orchestrator, found lazily through entry points, so that a missing extra names itself."""

from importlib.metadata import entry_points

from adapters.base import Adapter, UnknownAdapter

GROUP = "orchestrator_bench.adapters"


def names() -> list[str]:
    """Every adapter that is installed, sorted; nothing is imported."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load(name: str) -> Adapter:
    """The adapter called `name`.

    Raises `UnknownAdapter` with the known names, or with the extra to install where its SDK is missing.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise UnknownAdapter(f"unknown orchestrator '{name}'", f"one of: {', '.join(names())}")
    try:
        factory = points[0].load()
    except ModuleNotFoundError as missing:
        raise UnknownAdapter(
            f"orchestrator '{name}' needs the module '{missing.name}', which is not installed",
            f"uv sync --extra bench --extra {name}",
        ) from missing
    adapter: Adapter = factory()
    return adapter
