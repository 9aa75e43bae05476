"""Argo Workflows, through hera."""

from adapters.base import Adapter


def adapter() -> Adapter:
    """The adapter; importing it needs the `argo` extra."""
    from adapters.argo.adapter import ArgoAdapter

    return ArgoAdapter()
