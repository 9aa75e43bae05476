"""The short tables: one work and one policy in a cell, one environment in a table, what is newest."""

from collections.abc import Sequence
from typing import Any

import pytest

from bench.analysis.cells import cells, makespan
from bench.analysis.statistics import median
from bench.report import brief
from bench.report.contents import contents
from bench.report.readme import machines
from bench.results.records import Environment, Resources, RunRecord, Scenario, Usage, Window
from tests.unit.made_records import MadeRun, made, scenario

NEW, OLD = "sha256:new", "sha256:old"


def table(records: Sequence[RunRecord]) -> str:
    return brief.table(cells(records))


def failing(records: Sequence[RunRecord]) -> str:
    return brief.failing(cells(records))


def upkept(records: Sequence[RunRecord]) -> str:
    return brief.upkept(cells(records))


def started(records: Sequence[RunRecord]) -> str:
    return brief.started(cells(records))


def in_code(
    of: Scenario, code: str | None, day: int, numbers: range = range(3), **fields: Any
) -> list[RunRecord]:
    """Runs of a day: with the code among the blocking facts as new rows have it, or in none (None)."""
    blocking = {"cpu": "made up", "cores": "2", **({"code": code} if code else {})}
    return [
        made(
            of,
            number,
            environment=Environment(blocking=blocking),
            recorded_at=f"2026-11-{day}T12:00:00Z",
            **fields,
        )
        for number in numbers
    ]


def struck(of: Scenario, day: int = 20, number: int = 0, **fields: Any) -> RunRecord:
    """A run whose fault struck 2 s before its second attempt began (a chain's) or with none after it."""
    run = MadeRun(of, seed=number)
    step = {"chain": "probe", "pipeline": "train"}[of.workload]
    first = next(row for row in run.ledger if row["step"] == step)
    at = first["wall_ns"] - 2_000_000_000
    effect = {**first, "event": "effect", "wall_ns": at, "data": {"effect": "fault"}}
    return run.record(
        sample={"index": number},
        ledger=(effect, *run.ledger),
        recorded_at=f"2026-11-{day}T12:00:00Z",
        **fields,
    )


def tables(text: str) -> list[list[str]]:
    """The rows of each table, its heading's sentence first."""
    found: list[list[str]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("| orchestrator"):
            found.append([before, line])
        elif line.startswith("| ") and found:
            found[-1].append(line)
        elif line:
            before = line
    return found


def test_the_machine_and_what_is_not_measured_stand_beside_the_tables() -> None:
    records = in_code(scenario("argo"), NEW, 25)
    assert machines(records) == "Every run was on a single machine, of 2 cores (made up) and ? GiB."
    assert machines([]) == ""
    elsewhere = {"environment": Environment(blocking={"cpu": "B"}), "recorded_at": "2026-12-01"}
    moved = [record.model_copy(update=elsewhere) for record in records]
    several = "Every run was on a single machine, not always the same; the newest first: ? cores (B)"
    assert machines([*records, *moved]).startswith(several)
    lacking = brief.unmeasured(cells(records), []).splitlines()
    assert any(line.startswith("- fanout: on kind: ") and "argo" in line for line in lacking)
    pipeline = [line for line in lacking if line.startswith("- pipeline: ")]
    assert pipeline and "argo" not in pipeline[0] and "dagster" in pipeline[0]


def test_a_setting_is_called_what_the_newest_run_calls_it() -> None:
    older = in_code(scenario("argo"), NEW, 24, range(2), knob="x=an old name")
    newer = in_code(scenario("argo"), NEW, 25, range(2, 4), knob="x=a better name")
    (cell,) = cells([*newer, *older])
    assert cell.knob == "x=a better name"


def test_a_row_of_first_runs_alone_says_that_they_take_more() -> None:
    cold = in_code(scenario("argo"), NEW, 25, cold=True)
    assert brief.FIRST_ONLY in table(cold)
    assert brief.FIRST_ONLY not in table([*cold, *in_code(scenario("argo"), NEW, 25, range(3, 6))])


def test_a_cell_of_the_fault_table_has_one_work_and_one_policy() -> None:
    chain, whole = (
        scenario("argo", "chain", 1, fault="exception"),
        scenario("argo", "pipeline", 7, fault="exception"),
    )
    shipped = scenario("argo", "chain", 1, fault="exception", retries="shipped")
    records = [struck(chain, number=n) for n in range(3)]
    records += [struck(whole), struck(shipped, status="failed"), struck(shipped, number=1)]
    ((_, head, *rows),) = tables(failing(records))
    assert "| chain-1, `probe` raises | pipeline-7, `train` raises |" in head
    assert rows == [
        "| argo | pod | as shipped | 1 of 2; 2.00 s | — |",
        "| argo | pod | equal | 3 of 3; 2.00 s | 1 of 1; 2.00 s |",
    ]


def test_targets_have_fault_tables_of_their_own() -> None:
    kind, local = (
        scenario("argo", "chain", 1, fault="sigkill", target=target) for target in ("kind", "local")
    )
    found = tables(failing([struck(kind), struck(local, task="process")]))
    assert ["on **kind**" in found[0][0], "on **local**" in found[1][0]] == [True, True]
    assert [len(each) for each in found] == [3, 3]


def test_first_runs_after_a_switch_are_marked_where_there_are_no_others() -> None:
    records = [made(number=n, cold=n < 2) for n in range(3)]
    assert "| argo | default | — | 1 |" in table(records), "where there are others, those alone"
    cold = [made(number=n, cold=True) for n in range(3)]
    assert "| argo | default | — | 3 (3) |" in table(cold)
    assert "| argo | default | — | 3 |" in table([made(number=n) for n in range(3)])


def test_rows_of_other_code_are_below_with_the_floor_of_their_own() -> None:
    argo, kfp, pods = (scenario(name) for name in ("argo", "kfp", "pods"))
    old = [
        record
        for of, handoff in ((argo, 5.0), (kfp, 5.0), (pods, 3.0))
        for record in in_code(of, OLD, 20, handoff=handoff)
    ]
    new = [
        record
        for of, handoff in ((argo, 2.0), (pods, 0.5))
        for record in in_code(of, NEW, 25, range(10, 12), handoff=handoff)
    ]
    newest, older = tables(table([*old, *new]))
    assert [row.split(" | ")[:4] for row in newest[2:]] == [
        ["| argo", "default", "—", "2"],
        ["| pods (floor)", "default", "—", "2"],
    ]
    assert [row.split(" | ")[:4] for row in older[2:]] == [
        ["| kfp", "default", "—", "3"],
        ["| pods (floor)", "default", "—", "3"],
    ]
    assert "(2026-11-25)" in newest[0]
    assert "(older, 2026-11-20; other code than the newest pipelines: compare with the floor" in older[0]
    assert "; only rows that the table above lacks)" in older[0]
    of_kfp, of_pods = (
        [makespan(r) or 0 for r in old if r.scenario.orchestrator == name] for name in ("kfp", "pods")
    )
    ratio = median([a / b for a, b in zip(of_kfp, of_pods, strict=True)])
    assert f" | {ratio:.2f} [" in older[2]


def test_rows_without_a_code_have_the_floor_without_one() -> None:
    """Nothing contradicts a fact that is not stored, and yet it is another environment."""
    old = [r for name in ("kfp", "pods") for r in in_code(scenario(name), None, 20)]
    new = [r for name in ("argo", "pods") for r in in_code(scenario(name), NEW, 25, range(10, 12))]
    newest, older = tables(table([*old, *new]))
    assert [row.split(" | ")[3] for row in (*newest[2:], *older[2:])] == ["2", "2", "3", "3"]
    assert " at 50% |" in newest[2].split(" | ")[-1] and " at 75% |" in older[2].split(" | ")[-1]


@pytest.mark.parametrize("informational", [{}, {"code": OLD}])
def test_old_rows_keep_their_code_elsewhere_or_nowhere(informational: dict[str, str]) -> None:
    old = [
        record.model_copy(
            update={
                "environment": Environment(blocking=record.environment.blocking, informational=informational)
            }
        )
        for record in in_code(scenario("kfp"), None, 20)
    ]
    newest, older = tables(table([*old, *in_code(scenario("argo"), NEW, 25)]))
    assert newest[2].startswith("| argo |") and older[2].startswith("| kfp |")
    alike = [
        record.model_copy(
            update={"environment": Environment(blocking=record.environment.blocking | {"code": OLD})}
        )
        for record in in_code(scenario("argo"), None, 21)
    ]
    assert len(tables(table([*old, *alike]))) == (1 if informational else 2)


def test_a_scenario_measured_again_is_shown_once_and_floors_alone_are_no_table() -> None:
    again = [*in_code(scenario("argo"), OLD, 20), *in_code(scenario("argo"), NEW, 25, range(5, 7))]
    ((_, _, row),) = tables(table(again))
    assert row.startswith("| argo | default | — | 2 |")
    ((_, _, row),) = tables(table([*in_code(scenario("argo"), OLD, 20), *in_code(scenario("pods"), NEW, 25)]))
    assert row.startswith("| argo | default | — | 3 |")


def watched(
    of: Scenario, number: int, mebibytes: Sequence[float], code: str = NEW, day: int = 25
) -> RunRecord:
    """A run after a look at idle servers, and at a database that is not counted."""
    sizes = {**{f"server-{at}": size for at, size in enumerate(mebibytes)}, "store": 999.0}
    parts = tuple(
        Usage(
            component=name,
            role="database" if name == "store" else "api",
            cpu_seconds=0.6,
            seconds=60,
            memory_bytes=int(size * 2**20),
        )
        for name, size in sizes.items()
    )
    (run,) = in_code(
        of, code, day, range(number, number + 1), resources=Resources(idle=Window(seconds=60, parts=parts))
    )
    return run


def test_what_servers_hold_idle_is_over_all_work_and_each_is_shown_where_it_was_seen_last() -> None:
    chain = scenario("argo", "chain", 10)
    text = upkept(
        [
            watched(scenario("argo"), 0, (100, 50)),
            watched(chain, 1, (120, 50)),
            watched(scenario("argo", "chain", 1), 2, (900, 50), OLD, 20),
            watched(scenario("airflow"), 3, (700,), OLD, 20),
        ]
    )
    newest, older = tables(text)
    assert newest[2:] == ["| argo | 2 | 160 | 0.020 |"]
    assert older[2:] == ["| airflow | 1 | 700 | 0.010 |"]
    assert upkept(in_code(scenario("argo"), NEW, 25)) == ""
    nothing = in_code(scenario("kfp"), NEW, 26, resources=Resources(idle=Window(seconds=60)))
    said = upkept([*nothing, watched(scenario("airflow"), 3, (700,), OLD, 20)])
    assert "(2026-11-20; other code than the newest pipelines)" in said
    assert "the table above" not in said, "what has no servers has no table that others would be older than"


def test_faults_and_starts_of_other_code_are_tables_of_their_own() -> None:
    def of(code: str, record: RunRecord) -> RunRecord:
        blocking = {**record.environment.blocking, "code": code}
        return record.model_copy(update={"environment": Environment(blocking=blocking)})

    raised, killed = (scenario("argo", "chain", 1, fault=fault) for fault in ("exception", "sigkill"))
    records = [of(OLD, struck(raised)), of(OLD, struck(killed)), of(NEW, struck(killed, 25, 1))]
    in_report = contents(records)["retries"]
    assert [(t["fault"], t["days"], t["differs"], len(t["rows"])) for t in in_report] == [
        ("exception", None, [], 1),
        ("sigkill", "2026-11-25", [], 1),
        ("sigkill", "2026-11-20", ["code"], 1),
    ]
    newest, older = tables(failing(records))
    assert newest[1].endswith("| retries | chain-1, `probe` is killed |")
    assert older[1].endswith("| retries | chain-1, `probe` raises |")

    begun = {trigger: scenario("argo", "chain", 1, trigger=trigger) for trigger in ("api", "schedule")}
    before = [r for each in begun.values() for r in in_code(each, OLD, 20)]
    other = [
        r
        for trigger in ("api", "event")
        for r in in_code(scenario("kfp", "chain", 1, trigger=trigger), OLD, 20)
    ]
    after = [r for each in begun.values() for r in in_code(each, NEW, 25, range(2))]
    newest, older = tables(started([*before, *other, *after]))
    assert [newest[2].split(" | ")[0], older[2].split(" | ")[0]] == ["| argo", "| kfp"]
    assert newest[2].count("n = 2") == 2 and len(newest) == len(older) == 3
