"""Airflow on this machine."""

from typing import ClassVar

from adapters.base import Target
from tests.conformance.airflow_only import Backfill, OpenLineage
from tests.conformance.suite import LocalConformance


class TestAirflowLocal(LocalConformance):
    adapter = "airflow"


class TestAirflowBackfill(Backfill):
    target: ClassVar[Target] = Target.LOCAL


class TestAirflowOpenLineage(OpenLineage):
    target: ClassVar[Target] = Target.LOCAL
