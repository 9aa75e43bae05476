"""The folders are layers: each imports only what lies below it, so none can be read only with all the others."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = (
    *("core", "cluster", "adapters"),
    *("bench.errors", "bench.results", "bench.analysis", "bench.faults", "bench.lineage", "bench.measure"),
    *("bench.report", "bench.choice", "bench.commands", "bench.cli", "bench.__main__", "bench.suite"),
)
"""The lowest first."""


def height(name: str) -> int | None:
    """Where in the layers a dotted name lies; None for what is not ours."""
    return next((at for at, layer in enumerate(LAYERS) if f"{name}.".startswith(f"{layer}.")), None)


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{each.name}" for each in node.names)


def upward(root: Path) -> list[str]:
    """Modules that are in no layer, and imports of a layer above one's own."""
    found = []
    for path in sorted(
        path
        for package in ("core", "cluster", "adapters", "bench")
        for path in root.glob(f"{package}/**/*.py")
    ):
        module = path.relative_to(root).with_suffix("")
        own = height(".".join(module.parts))
        if own is None and module.parts != ("bench", "__init__"):
            found.append(f"{module} is in no layer")
        found += [f"{module} imports {name}" for name in imported(path) if (height(name) or 0) > (own or 0)]
    return found


def test_nothing_imports_what_lies_above_it() -> None:
    assert upward(ROOT) == []


def test_an_import_of_a_layer_above_is_found(tmp_path: Path) -> None:
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "bench" / "again.py").touch()
    (tmp_path / "bench" / "results" / "store.py").write_text(
        "def late():\n    from bench.report import build\n"
    )
    assert upward(tmp_path) == [
        "bench/again is in no layer",
        "bench/results/store imports bench.report.build",
    ]
