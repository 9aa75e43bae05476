"""The comparison in one table: whose columns there are, what an entry says, and where it links to."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.cells import cells
from bench.faults.inject import FAULTS
from bench.report import brief, overview
from bench.report.build import build
from bench.report.contents import located
from bench.results.records import Environment, RunRecord, Scenario
from tests.unit.made_records import made, scenario
from tests.unit.test_brief import struck, watched
from tests.unit.test_lineage import asked, complete


def tables(records: list[RunRecord]) -> list[dict[str, Any]]:
    found = cells(records)
    return overview.tables(found, located(found))


def entries(records: list[RunRecord], asks: str) -> list[str]:
    """What a row of the first table says, column by column."""
    (row,) = [
        line for line in overview.markdown(tables(records)[0]).splitlines() if line.startswith(f"| {asks}")
    ]
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", entry.strip()) for entry in row.strip("|").split("|")[1:]]


def pipeline(*names: str, number: int = 0, **fields: Any) -> list[RunRecord]:
    return [made(scenario(name), number + n, **fields) for name in names for n in range(2)]


def failed(of: Scenario, number: int = 0, **fields: Any) -> RunRecord:
    return struck(of, number=number, status="failed", **fields)


def test_a_column_for_what_each_ships_of_each_kind_of_step() -> None:
    records = pipeline("argo", "airflow")
    records += [made(scenario("argo", configuration="tuned"))]
    records += [made(scenario("prefect"), task="call"), made(scenario("prefect", configuration="pods"))]
    records += [made(scenario("prefect", configuration="pods-tuned"))]
    (table,) = tables(records)
    assert [(c["orchestrator"], c["configuration"], c["task"]) for c in table["columns"]] == [
        ("airflow", "default", "pod"),
        ("argo", "default", "pod"),
        ("prefect", "pods", "pod"),
        ("prefect", "default", "call"),
    ]
    assert "|  | airflow: a pod | argo: a pod | prefect pods: a pod | prefect: a call |" in overview.markdown(
        table
    )


def test_the_floor_of_each_kind_of_step_is_a_column_too() -> None:
    records = [*pipeline("argo", handoff=5.0), *pipeline("pods", handoff=0.5)]
    records += [made(scenario("prefect"), task="call"), struck(scenario("argo", "chain", 1, fault="sigkill"))]
    (table,) = tables(records)
    assert [c["orchestrator"] for c in table["columns"]] == ["argo", "pods", "prefect"]
    text = overview.markdown(table)
    assert "| argo: a pod | no orchestrator: a pod | prefect: a call |" in text
    assert entries(records, "the same, in times")[1:] == ["1, n = 2", "—"]
    assert entries(records, "a step's process") == ["1 of 1, 2.00 s", "", "—"], "nobody there tries again"


def test_two_settings_of_one_kind_of_step_stand_in_one_order() -> None:
    """An orchestrator whose `default` has other steps may ship several of this kind."""
    records = [made(scenario("dagster", configuration=name), task="call") for name in ("b", "c", "a", "d")]
    records += [made(scenario("dagster"), task="process")]
    assert [c["configuration"] for c in tables(records)[0]["columns"]] == ["default", "a", "b", "c", "d"]


def test_where_what_a_default_step_is_has_changed_the_newest_counts() -> None:
    before = made(scenario("prefect"), recorded_at="2026-11-20T12:00:00Z")
    after = [made(scenario("prefect"), 1, task="call", recorded_at="2026-11-25T12:00:00Z")]
    after += [made(scenario("prefect", configuration="pods"), 2, recorded_at="2026-11-25T12:00:00Z")]
    found = [(c["configuration"], c["task"]) for c in tables([before, *after])[0]["columns"]]
    assert found == [("pods", "pod"), ("default", "call")]


def test_targets_are_tables_of_their_own_and_say_who_cannot_be_there() -> None:
    local = [made(scenario("airflow", target="local"), task="process")]
    refused = made(scenario("argo", target="local"), status="unsupported", reason="no cluster", client=None)
    kind, here = tables([*pipeline("argo"), *local, refused])
    assert (kind["target"], here["target"]) == ("kind", "local")
    assert overview.markdown(here).endswith("Not in this table: argo (no cluster).")
    assert "Not in" not in overview.markdown(kind)


def test_pipelines_that_failed_are_told_beside_the_median_and_where_there_is_none() -> None:
    records = [*pipeline("argo"), made(number=5, status="timeout"), made(scenario("kfp"), status="failed")]
    assert entries(records, "the pipeline's")[0].endswith("n = 2, 1 of 3 failed")
    assert overview.markdown(tables(records)[0]).endswith("Not in this table: kfp (1 of 1 pipelines failed).")
    one_thing = made(scenario("kfp", trigger="event"), status="unsupported", reason="no events", client=None)
    text = overview.markdown(tables([*pipeline("argo"), made(scenario("kfp")), one_thing])[0])
    assert "Not in" not in text, "it runs, and only that one thing cannot be"


def test_makespans_and_their_ratio_to_the_floor_have_n_and_interval() -> None:
    records = [*pipeline("argo", handoff=5.0), *pipeline("pods", handoff=0.5)]
    makespan, _ = entries(records, "the pipeline's 7 steps: makespan")
    assert re.fullmatch(r"[\d.]+ s \[[\d.]+, [\d.]+\] at 50%, n = 2", makespan)
    ratio, _ = entries(records, "the same, in times")
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\] at 50%, 2 pairs", ratio) and float(ratio.split()[0]) > 1
    assert not any("in times" in row["asks"] for row in tables(pipeline("argo"))[0]["rows"]), "no floor"
    apart = [*pipeline("argo", handoff=5.0), *pipeline("pods", number=7)]
    assert entries(apart, "the same, in times")[0].endswith("n = 2, not in the same blocks")


def test_the_floor_is_that_of_the_same_code() -> None:
    def coded(record: RunRecord, code: str) -> RunRecord:
        facts = Environment(blocking={**record.environment.blocking, "code": code})
        return record.model_copy(update={"environment": facts})

    own = [coded(record, "new") for record in [*pipeline("argo", handoff=5.0), *pipeline("pods")]]
    older = pipeline("pods", number=20, handoff=9.0)  # without a code, which contradicts none
    assert entries([*own, *older], "the same, in times")[0] == entries(own, "the same, in times")[0]


def test_failures_say_how_many_recovered_by_policy_and_after_how_long() -> None:
    chain = {
        policy: scenario("argo", "chain", 1, fault="sigkill", retries=policy)
        for policy in ("equal", "shipped")
    }
    records = [*pipeline("argo"), *(struck(chain["equal"], number=n) for n in range(3))]
    records += [failed(chain["shipped"], n) for n in range(2)]
    assert entries(records, "a step's process is killed") == ["3 of 3, 2.00 s"]
    assert entries(records, "as shipped, a step's process is killed") == ["0 of 2, 2.00 s"]
    whole = struck(scenario("argo", "pipeline", 7, fault="exception"))
    assert not any(row["asks"] == "a step raises" for row in tables([*records, whole])[0]["rows"]), (
        "a pipeline's step is another piece of work than the one step of the other rows"
    )


def test_the_runs_that_ended_last_are_shown_well_or_not() -> None:
    of = scenario("argo", "chain", 1, fault="sigkill")

    def on(cpu: str, day: int, record: RunRecord) -> RunRecord:
        facts = Environment(blocking={**record.environment.blocking, "cpu": cpu})
        return record.model_copy(update={"environment": facts, "recorded_at": f"2026-11-{day}T12:00:00Z"})

    recovered, lost = on("a", 20, struck(of)), on("a", 27, failed(of, 1))
    elsewhere, void = on("b", 25, failed(of, 2)), on("b", 28, made(of, 3, status="void"))
    (entry,) = entries([*pipeline("argo"), recovered, lost, elsewhere, void], "a step's process")
    assert entry.startswith("1 of 2")


def test_what_cannot_be_has_its_reason_below_and_what_is_not_stored_a_dash() -> None:
    crashed = scenario("argo", "chain", 1, fault="database-crashed")
    refused = made(crashed, status="unsupported", reason="no | database", client=None, ledger=())
    other = struck(scenario("airflow", "chain", 1, fault="sigkill"))
    records = [*pipeline("argo", "airflow"), refused, other]
    assert entries(records, "its PostgreSQL crashes") == ["—", "cannot (1)"]
    assert overview.markdown(tables(records)[0]).endswith("\n\n1. argo: no &#124; database")


def test_lineage_names_the_configuration_that_answers_more() -> None:
    def of(record: RunRecord, configuration: str) -> RunRecord:
        changed = record.scenario.model_copy(update={"configuration": configuration})
        return record.model_copy(update={"scenario": changed})

    little = asked(1, complete().model_copy(update={"attempts": complete().attempts[:1]}))
    records = [*pipeline("argo"), little]
    (alone,) = entries(records, "of 13 questions")
    assert re.fullmatch(r"\d+, n = 1", alone)
    (both,) = entries([*records, of(asked(2, complete()), "as|sets")], "of 13 questions")
    assert both == alone.replace(", ", " (12 with as&#124;sets), ")
    assert entries([*pipeline("argo"), asked(1, complete())], "facts of its data") == ["9 of 9, n = 1"]
    less = asked(1, complete().model_copy(update={"attempts": complete().attempts[:1]}))
    (kept,) = entries([*pipeline("argo"), less], "facts of its data")
    assert kept == "6 of 6 (9 asked), n = 1", "what it never had is not lost"


def test_memory_is_of_the_newest_environment_in_which_it_was_watched() -> None:
    records = [*pipeline("argo"), watched(scenario("argo"), 7, (100, 50))]
    records += [watched(scenario("argo"), 8, (900,), "sha256:old", 20)]
    assert entries(records, "memory of its servers") == ["150 MiB, n = 1"]


def test_what_was_measured_elsewhere_is_marked() -> None:
    def on(record: RunRecord, cpu: str, day: int) -> RunRecord:
        facts = Environment(blocking={**record.environment.blocking, "cpu": cpu})
        return record.model_copy(update={"environment": facts, "recorded_at": f"2026-11-{day}T12:00:00Z"})

    new = [on(record, "new", 25) for record in pipeline("argo")]
    old = [on(record, "old", 20) for record in pipeline("airflow", "argo", number=5)]
    assert [each.endswith("†") for each in entries([*new, *old], "the pipeline's")] == [True, False]
    fault = on(struck(scenario("argo", "chain", 1, fault="sigkill")), "old", 26)
    assert entries([*new, fault], "a step's process") == ["1 of 1, 2.00 s †"], (
        "what counts as the newest environment is where a pipeline was measured last"
    )


def test_what_another_version_of_it_did_is_marked() -> None:
    fault = struck(scenario("argo", "chain", 1, fault="sigkill"))
    assert entries([*pipeline("argo"), fault], "a step's process") == ["1 of 1, 2.00 s"]
    facts = Environment(blocking={**fault.environment.blocking, "argo_workflows": "v0"})
    older = fault.model_copy(update={"environment": facts})
    assert entries([*pipeline("argo", "airflow"), older], "a step's process") == ["—", "1 of 1, 2.00 s †"]


def test_every_fault_is_called_something_in_the_tables() -> None:
    assert set(overview.STRIKES) == set(brief.STRIKES) == set(FAULTS)


def test_links_lead_to_the_very_rows(tmp_path: Path) -> None:
    fault = scenario("argo", "chain", 1, fault="sigkill")
    records = [*pipeline("argo", "airflow", "pods"), *(struck(fault, number=n) for n in range(3))]
    build(records, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    section = (
        (tmp_path / "report.md").read_text().split("## The comparison in one table")[1].split("\n## ")[0]
    )
    linked = {
        line.split(" | ")[0].removeprefix("| "): [
            {
                (row["scenario"]["orchestrator"], row["scenario"].get("fault", ""))
                for row in rows[int(one) - 1 : int(last)]
            }
            for one, last in re.findall(r"\(rows\.md#lines-(\d+)-to-(\d+)\)", line)
        ]
        for line in section.splitlines()
    }
    assert linked["the pipeline's 7 steps: makespan"] == [
        {(name, "")} for name in ("airflow", "argo", "pods")
    ]
    assert linked["a step's process is killed"] == [{("argo", "sigkill")}]
    listed = (tmp_path / "rows.md").read_text()
    for first, last in re.findall(r"rows\.md#lines-(\d+)-to-(\d+)", section):
        (_, below) = listed.split(f"\n## Lines {first} to {last}\n")
        there = re.findall(r"^\| (run-\S+) \|", below.split("\n## ")[0], re.MULTILINE)
        assert there == [row["run_id"] for row in rows[int(first) - 1 : int(last)]]
    assert "[3 of 3](" in section and "[n = 2](" in section


@pytest.mark.parametrize("records", [[], [made(scenario("noop", "chain", 3))], pipeline("pods")])
def test_without_an_orchestrator_there_is_no_table(tmp_path: Path, records: list[RunRecord]) -> None:
    assert tables(records) == []
    build(records, tmp_path)
    assert "No orchestrator's pipeline is stored that succeeded" in (tmp_path / "report.md").read_text()
