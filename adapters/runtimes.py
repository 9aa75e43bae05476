"""A runtime for adapters that install nothing."""

from collections.abc import Mapping

from adapters.base import Component


class NothingToInstall:
    """For controls: what they need is there already."""

    def deploy(self, configuration: str) -> None:
        """Nothing."""

    def undeploy(self) -> None:
        """Nothing."""

    def scale(self, on: bool) -> None:
        """Nothing."""

    def health(self) -> str:
        """Always healthy."""
        return ""

    def components(self) -> tuple[Component, ...]:
        """None."""
        return ()

    def versions(self) -> Mapping[str, str]:
        """None."""
        return {}
