"""Airflow on this machine."""

from tests.conformance.suite import LocalConformance


class TestAirflowLocal(LocalConformance):
    adapter = "airflow"
