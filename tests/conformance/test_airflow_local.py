"""Airflow on this machine."""

from typing import ClassVar

import pytest

from adapters.base import Target
from tests.conformance.airflow_only import Backfill, OpenLineage
from tests.conformance.suite import LocalConformance


class TestAirflowLocal(LocalConformance):
    adapter = "airflow"


@pytest.mark.variant
class TestAirflowBackfill(Backfill):
    target: ClassVar[Target] = Target.LOCAL


@pytest.mark.variant
class TestAirflowOpenLineage(OpenLineage):
    target: ClassVar[Target] = Target.LOCAL
