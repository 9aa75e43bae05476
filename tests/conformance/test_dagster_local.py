"""Dagster on this machine."""

from typing import ClassVar

from adapters.base import Gap
from tests.conformance.suite import LocalConformance

NO_APPROVAL = Gap(
    "approval_waits",
    "never",
    "a run does not wait for a person: in 1.13.27 nothing writes the one status of a waiting run, SUSPENDED "
    "(https://github.com/dagster-io/dagster/blob/1.13.27/python_modules/dagster/dagster/_core/storage/dagster_run.py"
    "#L73-L77), and it is asked for since 2022 (https://github.com/dagster-io/dagster/issues/8067)",
)


class TestDagsterLocal(LocalConformance):
    adapter: ClassVar[str] = "dagster"
    gaps: ClassVar[tuple[Gap, ...]] = (NO_APPROVAL,)
