"""Prefect on this machine."""

from typing import ClassVar

from adapters.base import Gap
from tests.conformance.suite import LocalConformance


class TestPrefectLocal(LocalConformance):
    adapter: ClassVar[str] = "prefect"
    configuration: ClassVar[str] = "tuned"
    gaps: ClassVar[tuple[Gap, ...]] = (
        Gap(
            capability="killed_process_is_retried",
            kind="notyet",
            reason="a step is a call in the flow's process, which dies with it: the flow run ends as Crashed; "
            "an automation that starts crashed runs again is not wired yet",
        ),
    )
