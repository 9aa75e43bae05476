"""What is measured so far: every cell of the table says how many, or that there are none, or why there can be none."""

from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.analysis.cells import ORCHESTRATORS, cells
from bench.report import capabilities, coverage
from bench.report.build import build
from bench.report.capabilities import Conformance, Verdict
from bench.report.contents import contents
from bench.report.coverage import AT_ONCE, IDLE, STARTED
from bench.results.records import Environment, Resources, RunRecord, Strike, Usage, Window
from bench.results.store import Store
from tests.unit.made_records import EPOCH, MadeRun, made, scenario
from tests.unit.test_lineage import asked, complete
from tests.unit.test_together import several


def table(records: list[RunRecord], *verdicts: Conformance) -> dict[str, Any]:
    return coverage.table(cells(records), ORCHESTRATORS, verdicts)


def verdict(adapter: str, target: str, **outcomes: Verdict) -> Conformance:
    return Conformance(
        adapter=adapter,
        target=target,
        configuration="default",
        adapter_sha256="0",
        recorded_at="2026-09-21T12:00:00Z",
        environment=Environment(blocking={}),
        verdicts=outcomes,
    )


def text(found: dict[str, Any], orchestrator: str, column: str, configuration: str = "default") -> str:
    number = next(n for n, head in enumerate(found["columns"]) if head.partition(":")[0] == column)
    (row,) = [
        row
        for row in found["rows"]
        if (row["orchestrator"], row["configuration"]) == (orchestrator, configuration)
    ]
    shown: str = row["entries"][number]["text"]
    return shown


def test_every_orchestrator_has_a_row_on_every_target_that_is_stored() -> None:
    found = table([made(), made(scenario("calls", target="local"), task="call"), made(scenario("noop"))])
    assert [(row["target"], row["orchestrator"]) for row in found["rows"]] == [
        *(("kind", name) for name in sorted(ORCHESTRATORS)),
        ("local", "calls"),
        *(("local", name) for name in sorted(ORCHESTRATORS)),
    ]
    assert text(found, "argo", "pipeline") != "—"


def test_kinds_of_run_are_counted_apart() -> None:
    idle = Window(
        seconds=10, parts=(Usage(component="c", role="", cpu_seconds=1, seconds=10, memory_bytes=1),)
    )
    records = [
        *(made(scenario("argo", "chain", 1), n) for n in range(3)),
        *(made(scenario("argo", "chain", 40), n) for n in range(2)),
        *(several(4, number) for number in range(2)),
        made(scenario("argo", "chain", 1, trigger="event"), 70),
        made(scenario("argo", "fanout", 4), resources=Resources(idle=idle)),
        made(scenario("argo", "sweep", 4), 1, status="failed", reason="why"),
    ]
    found = table(records)
    names = ("pipeline", "chain", "fanout", AT_ONCE, STARTED, IDLE)
    shown = [text(found, "argo", name) for name in names]
    assert shown == ["—", "3 · — · 2", "1", "2 · —", "— · 1", "1"]
    assert text(found, "argo", "sweep") == "—", "a failed run is no sample"


def test_struck_runs_count_where_they_failed_too_and_asked_ones_under_lineage() -> None:
    struck = MadeRun(scenario("argo", "chain", 1, fault="pod-deleted")).record(
        strike=Strike(at_ns=EPOCH, target="pod x"), status="failed", reason="gone"
    )
    found = table([asked(0, complete()), struck])
    assert text(found, "argo", "faults, equal retries") == "— · — · — · 1 · — · — · — · —"
    assert text(found, "argo", "faults, retries as shipped") == "—"
    assert text(found, "argo", "lineage") == "1"


def test_environments_are_added_up_with_a_plus_and_never_silently() -> None:
    def on(cpu: str, day: str, count: int) -> list[RunRecord]:
        runs = (MadeRun(scenario(), seed=n + 10 * int(day)) for n in range(count))
        environment = Environment(blocking={"cpu": cpu})
        return [run.record(environment=environment, recorded_at=f"2026-09-{day}T12:00:00Z") for run in runs]

    assert text(table([*on("a", "22", 3), *on("b", "20", 1)]), "argo", "pipeline") == "1+3", (
        "the oldest first"
    )


def test_why_there_can_be_none_comes_from_the_suite_or_from_an_unsupported_row() -> None:
    never = Verdict(outcome="never", reason="no server")
    refused = made(scenario("argo", target="local"), status="unsupported", reason="no cluster", client=None)
    ran = made(scenario("kfp", target="local"), task="process")
    of = scenario("prefect", "sweep", 4, target="local")
    one = made(of, task="call", status="unsupported", reason="no sweep", client=None)
    found = table(
        [refused, ran, one, made(scenario("prefect", target="local"), task="call")],
        verdict(
            "kfp", "local", schedule_fires=never, event_triggers=Verdict(outcome="yes"), gate_passes=never
        ),
    )
    assert text(found, "kfp", "pipeline") == "1", "what is stored counts, whatever the suite says"
    assert found["notes"] == ["argo, local: no cluster", "kfp, local: no server", "prefect, local: no sweep"]
    assert text(found, "kfp", STARTED) == "no (2) · —"
    assert text(found, "prefect", "sweep") == "no (3)"
    (argo,) = [row for row in found["rows"] if row["orchestrator"] == "argo"]
    assert {entry["text"] for entry in argo["entries"]} == {"no (1)"}, "on the whole target"


def test_a_floor_has_no_gap_where_there_is_nothing_of_its_own() -> None:
    found = table([made(scenario("pods"))])
    assert text(found, "pods", "pipeline") == "1" and text(found, "pods", "fanout") == "—"
    assert text(found, "pods", "lineage") == text(found, "pods", STARTED) == ""


def test_a_sample_that_some_runs_did_not_survive_is_an_answer() -> None:
    lost = several(16, 5).model_copy(update={"status": "failed"})
    found = table([several(4, 0), lost])
    assert text(found, "argo", AT_ONCE) == "1 · 1"
    assert not any("argo" in gap for gap in found["gaps"][AT_ONCE])


def test_what_one_configuration_lacks_another_does_not_make_up_for() -> None:
    """Of what is compared: the default, and another kind of step; not a tuned one, which has faults from its base."""
    runs = [
        made(scenario("prefect", "fanout", 10, configuration=name), number, task=task)
        for number, (name, task) in enumerate(
            (("default", "call"), ("assets", "call"), ("pods-tuned", "pod"))
        )
    ]
    pods = made(scenario("prefect", configuration="pods"), 9, task="pod")
    (gap,) = table([*runs, pods])["gaps"]["fanout"]
    assert "prefect pods" in gap
    assert not {"prefect", "prefect assets", "prefect pods-tuned"} & set(gap.partition(": ")[2].split(", "))


def test_what_is_not_measured_is_said_under_the_tables(tmp_path: Path) -> None:
    records = [made(scenario("argo", "chain", 1, trigger="schedule"), 3), *(several(4, n) for n in range(2))]
    build(
        records,
        tmp_path,
        verdicts=[verdict("kfp", "kind", event_triggers=Verdict(outcome="never", reason="no"))],
    )
    report = (tmp_path / "report.md").read_text()
    assert "\nNot measured on kind: argo (16); airflow, dagster, kfp, prefect (4, 16).\n" in report
    starts = "argo (event); kfp (schedule); airflow, dagster, prefect (schedule, event)"
    assert f"\nNot measured on kind: {starts}.\n" in report
    assert "## What is measured so far\n" in report
    order = [line for line in report.splitlines() if line.startswith("## ")]
    assert order[:6] == [
        "## Read this first", "## The comparison in one table", "## What is measured so far", "## Comparison",
        "## Orchestrators against each other", "## Where the time goes",
    ]  # fmt: skip
    assert contents([])["coverage"]["rows"] == []


@pytest.mark.parametrize("beside", [True, False], ids=["stored beside the runs", "published"])
def test_the_command_reads_the_suites_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    published = tmp_path / "published"
    monkeypatch.setattr(cli, "PUBLISHED", published)
    with Store.locked(tmp_path / "results") as store:
        store.append(made(scenario("kfp", target="local"), task="process").sealed())
    known = verdict("kfp", "local", fanout=Verdict(outcome="never", reason="two at a time"))
    capabilities.save(tmp_path / "results" if beside else published, known)
    cli._rebuild(tmp_path / "results", tmp_path / "out", None)
    assert "\n1. kfp, local: two at a time\n" in (tmp_path / "out" / "report.md").read_text()
