"""What `bench cluster install` left on which context, as the state folder has it: told without Kubernetes' client."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cluster.errors import ClusterError
from cluster.state import paths


@dataclass(frozen=True)
class Installed:
    """An installation: where it is, and what it runs."""

    context: str
    kubeconfig: str
    """A file, or several as in $KUBECONFIG."""
    storage_class: str
    images: dict[str, str]
    """References by digest, by the keys of `pins.REPOSITORIES`."""
    code: str = ""
    """Digest of the steps' code in them; empty in what older versions left."""


def installed(context: str = "") -> Installed:
    """What `install` left on a context: the one given, $BENCH_CONTEXT, or the only one there is.

    Raises ClusterError with what to type where there is none.
    """
    context = context or os.environ.get("BENCH_CONTEXT", "")
    found = [known for file in sorted(folder().glob("*.json")) if (known := read(file)) is not None]
    chosen = [each for each in found if each.context == context] if context else found
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(each.context for each in found)
    if chosen:
        raise ClusterError("More than one cluster has an installation.", remedy=f"--context, one of: {names}")
    which = f"the context {context!r}" if context else "any cluster of somebody else's"
    raise ClusterError(
        f"Nothing is installed on {which}" + (f"; it is on: {names}." if names else "."),
        kept="nothing was changed.",
        remedy=f"bench cluster install --context {context or 'NAME'} --registry HOST/PREFIX",
    )


def folder() -> Path:
    """Where it is kept what was installed on which context."""
    return paths().root / "contexts"


def file_of(context: str) -> Path:
    """What is kept of an installation."""
    return folder() / f"{quote(context, safe='')}.json"


def discovery_of(context: str) -> Path:
    """What the context's API server can do, as its client has found out."""
    return folder() / f"{quote(context, safe='')}.discovery"


def read(file: Path) -> Installed | None:
    """None where there is none, or it cannot be read."""
    try:
        return Installed(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
