"""Dagster on this machine."""

from typing import ClassVar

from tests.conformance.suite import LocalConformance


class TestDagsterLocal(LocalConformance):
    adapter: ClassVar[str] = "dagster"
