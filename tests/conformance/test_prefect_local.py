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
            reason="a step is a call in the flow's process, which dies with it and takes along what it had not "
            "sent of its task run. With an automation that schedules crashed flow runs again, runner and worker "
            "each report the crash, the second while the new attempt starts, and Prefect's records lack the "
            "first attempt of the step",
        ),
    )
