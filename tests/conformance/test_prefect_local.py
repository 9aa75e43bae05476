"""Prefect on this machine."""

from typing import ClassVar

from adapters.base import Gap, Status, Target
from tests.conformance.prefect_assets import PrefectAssets
from tests.conformance.suite import Bench, LocalConformance


class TestPrefectLocal(LocalConformance):
    adapter: ClassVar[str] = "prefect"
    configuration: ClassVar[str] = "tuned"
    always_whole: ClassVar[bool] = True
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


class TestPrefectAssetsLocal(PrefectAssets):
    target: ClassVar[Target] = Target.LOCAL

    def test_another_configuration_has_none(self, bench: Bench) -> None:
        request = bench.request("pipeline").model_copy(update={"configuration": "default"})
        ran = bench.finish(bench.start(bench.known(request)))
        assert ran.outcome.status is Status.SUCCEEDED, ran.outcome.reason
        about = [f"prefect.flow-run.{ran.handle.native_id}"]
        assert bench.runtime.api().events(["prefect.asset."], about) == []
