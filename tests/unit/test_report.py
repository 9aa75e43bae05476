"""The report says what is stored, the same way every time, and compares only like with like."""

import json
import os
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from adapters.base import BenchError
from bench.analysis import upkeep
from bench.analysis.cells import cells, floor_of, makespan
from bench.analysis.statistics import median
from bench.report import harness, published, readme
from bench.report.build import build
from bench.report.contents import contents
from bench.report.curves import LINE, TOP, _spread, ticks
from bench.report.numbers import seconds
from bench.results.records import (
    Companion,
    Environment,
    Pressure,
    Resources,
    RunRecord,
    Sample,
    Scenario,
    Usage,
    Verification,
    Window,
)
from tests.unit.made_records import MadeRun, made, scenario
from tests.unit.test_faults import struck

KNOB = "DEFAULT_REQUEUE_TIME=1s"


def study(n: int = 6) -> list[RunRecord]:
    of = [
        (scenario("argo", "chain", 3), 9.0, None),
        (scenario("argo", "chain", 3, configuration="tuned"), 1.5, KNOB),
        (scenario("pods", "chain", 3), 0.3, None),
        (scenario("noop", "chain", 3), 0.0, None),
    ]
    return [made(s, i, handoff=h, knob=k) for i in range(n) for s, h, k in of]


def written(records: list[RunRecord], folder: Path) -> str:
    build(records, folder)
    return (folder / "report.md").read_text(encoding="utf-8")


def row(table: dict[str, Any], orchestrator: str, configuration: str = "default") -> dict[str, Any]:
    return next(
        r for r in table["rows"] if (r["orchestrator"], r["configuration"]) == (orchestrator, configuration)
    )


def test_the_same_records_give_the_same_bytes_in_any_order_zone_and_hash_seed(tmp_path: Path) -> None:
    chains = [made(scenario("argo", "chain", length), n) for length in (10, 20) for n in range(2)]
    records = [*study(4), *chains, made(status="failed", reason="why"), made(number=1, status="void")]
    timing = {"n": 3, "median": 0.02, "q1": 0.01, "q3": 0.03}
    own: dict[str, Any] = {
        "recorded_at": "2026-09-21T12:00:00Z",
        "cpu": "made up",
        "cores": 2,
        "python": "3.11.7",
    }
    own["note"] = "others ran beside"
    own["benchmarks"] = {"test_one_sample": {"": timing}, "test_step": {"ledger_seconds": timing}}
    (tmp_path / harness.FILE).write_text(json.dumps(own))
    raw = tmp_path / "in.jsonl"
    raw.write_text("".join(r.model_dump_json() + "\n" for r in records))
    code = (
        "import sys, pathlib; from bench.report import harness; from bench.report.build import build;"
        "from bench.results.records import RunRecord;"
        "lines = pathlib.Path(sys.argv[1]).read_text().splitlines();"
        "import random; random.Random(int(sys.argv[3])).shuffle(lines);"
        "records = [RunRecord.model_validate_json(line) for line in lines];"
        "build(records, pathlib.Path(sys.argv[2]), own=harness.load(pathlib.Path(sys.argv[1]).parent))"
    )
    for number, zone in enumerate(["UTC", "Pacific/Chatham"]):
        environment = {**os.environ, "TZ": zone, "PYTHONHASHSEED": str(number), "LC_ALL": "C"}
        arguments = [str(raw), str(tmp_path / str(number)), str(number)]
        subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)
    first = {path.name: path.read_bytes() for path in (tmp_path / "0").iterdir()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "1").iterdir()}
    assert first == second
    names = ("report.md", "report.html", "report.json", "tables.md", "rows.md", "runs.jsonl")
    assert set(first) == set(names)
    assert build(records, tmp_path / "0", own=own) == [tmp_path / "0" / name for name in names]
    assert {path.name: path.read_bytes() for path in (tmp_path / "0").iterdir()} == first


def test_limits_and_bias_come_before_any_number(tmp_path: Path) -> None:
    text = written(study(2), tmp_path)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0] == "## Read this first"
    first_table = text.index("\n|")
    for words in (
        "Who made this",
        "truncated to whole seconds",
        "One kind cluster on one machine",
        "Fibonacci",
    ):
        assert text.index(words) < first_table


def test_a_table_has_its_floor_control_and_a_row_for_what_is_not_stored() -> None:
    (table,) = contents(study(6))["tables"]
    assert [(r["orchestrator"], r["role"]) for r in table["rows"]] == [
        ("pods", "floor"), ("noop", "control"), ("argo", "orchestrator"), ("argo", "orchestrator"),
    ]  # fmt: skip
    assert [each["orchestrator"] for each in table["missing"]] == ["kfp", "airflow", "prefect", "dagster"]
    ratio = row(table, "argo")["ratio"]
    assert (ratio["paired"], ratio["n"]) == (True, 6)
    assert ratio["value"] > row(table, "argo", "tuned")["ratio"]["value"] > 1


def test_cells_without_a_stored_result_say_so(tmp_path: Path) -> None:
    text = written([r for r in study(2) if r.scenario.orchestrator != "pods"], tmp_path)
    assert "| kfp | | 0 | no stored result |" in text
    assert "The floor (`pods`) is not measured here" in text
    assert "No runs are stored." in written([], tmp_path / "empty")


def test_rows_link_to_their_raw_rows(tmp_path: Path) -> None:
    build(random.Random(1).sample(study(4), 16), tmp_path)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    (table,) = json.loads((tmp_path / "report.json").read_text())["tables"]
    for found in table["rows"]:
        raw = found["raw"]
        there = [json.loads(line)["run_id"] for line in lines[raw["first_line"] - 1 : raw["last_line"]]]
        assert there == raw["run_ids"]
        assert len(there) == 4
    heading = f"lines-{raw['first_line']}-to-{raw['last_line']}"
    assert f"](rows.md#{heading})" in (tmp_path / "report.md").read_text()


def test_the_raw_rows_are_the_stored_records(tmp_path: Path) -> None:
    records = [record.sealed() for record in study(2)]
    build(records, tmp_path)
    read = [
        RunRecord.model_validate_json(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()
    ]
    assert sorted(read, key=lambda r: r.run_id) == sorted(records, key=lambda r: r.run_id)


def test_default_against_tuned_names_the_knob_and_tests_the_difference(tmp_path: Path) -> None:
    (found,) = contents(study(6))["tuning"]
    difference = found["difference"]
    assert found["knob"] == KNOB
    assert (found["paired"], difference["n"]) == (True, (6, 6))
    assert (difference["exact"], difference["size"]) == (True, "large")
    assert difference["p"] == pytest.approx(2 / 64)
    assert difference["p_holm"] == difference["p"]
    assert difference["shift"] < 0
    assert "0.0312 (exact, 1 test)" in written(study(6), tmp_path)


def of_plan(plan: str, records: list[RunRecord]) -> list[RunRecord]:
    """The same as another plan measured them."""
    return [
        record.model_copy(
            update={
                "run_id": f"{record.run_id}-{plan}",
                "sample": record.sample.model_copy(update={"plan_id": plan}),
            }
        )
        for record in records
    ]


def test_only_plans_that_measured_both_tell_two_configurations_or_orchestrators_apart() -> None:
    """A plan of a slow day has the default alone: that it was slow is not what the knob takes away."""
    both = study(6)
    default = [record for record in both if record.scenario.configuration == "default"]
    slow_day = of_plan("slow", [made(r.scenario, 50 + i, handoff=90.0) for i, r in enumerate(default)])
    assert contents([*both, *slow_day])["tuning"] == contents(both)["tuning"]
    two = of_each(6, {"argo": 9.0, "airflow": 9.0})
    alone = of_plan("slow", of_each(8, {"argo": 90.0}))
    assert contents([*two, *alone])["against"] == contents(two)["against"]
    shown = row(contents([*two, *alone])["tables"][0], "argo")
    assert len(shown["makespans"]) == 14, "the table of all has both days"


def test_runs_of_shared_plans_are_pooled_only_where_each_has_as_many_of_both() -> None:
    """Of a fast day five of the one and one of the other, of a slow day the reverse: the day is no difference."""

    def day(plan: str, handoff: float, counts: dict[str, int]) -> list[RunRecord]:
        made_up = [
            made(scenario(name, "chain", 3), n + 40 * (plan == "slow"), handoff)
            for name, count in counts.items()
            for n in range(count)
        ]
        return of_plan(plan, made_up)

    uneven = [*day("fast", 1.0, {"argo": 5, "airflow": 1}), *day("slow", 20.0, {"argo": 1, "airflow": 5})]
    (row,) = contents(uneven)["against"][0]["rows"]
    assert row["paired"] and row["difference"]["n"] == (2, 2)
    even = [*day("fast", 1.0, {"argo": 3, "airflow": 3}), *day("slow", 20.0, {"argo": 2, "airflow": 2})]
    (row,) = contents(even)["against"][0]["rows"]
    assert not row["paired"] and row["difference"]["n"] == (5, 5)


def test_the_floor_of_a_row_is_the_one_of_its_own_blocks() -> None:
    """One that lacks a fact is of any environment: it is not taken where there is one of the same blocks."""
    mine = [
        made(scenario(name, "chain", 3), i, h) for i in range(4) for name, h in (("argo", 9.0), ("pods", 0.3))
    ]
    facts = {"blocking": {"cpu": "made up"}, "informational": {}}
    other = of_plan(
        "old",
        [
            made(scenario("pods", "chain", 3), 9 + i, 30.0).model_copy(
                update={"environment": Environment(**facts)}
            )
            for i in range(4)
        ],
    )
    of = {cell.key.orchestrator: cell for cell in cells(mine)}
    (old,) = cells(other)
    assert floor_of(of["argo"], [old, of["pods"]]) is of["pods"] is floor_of(of["argo"], [of["pods"], old])
    assert floor_of(of["argo"], [old]) is old


def test_too_few_runs_have_no_p(tmp_path: Path) -> None:
    (found,) = contents(study(3))["tuning"]
    assert (found["difference"]["p"], found["difference"]["p_holm"]) == (None, None)
    assert "cannot tell: n=3 in pairs: too few" in written(study(3), tmp_path)


def test_a_tuned_configuration_that_so_many_tests_cannot_tell_is_said_to_be_just_that(tmp_path: Path) -> None:
    """4 against 4 once and twice: 2 of 70 is below 0.05, twice that is not."""

    def blocks_apart(records: list[RunRecord]) -> list[RunRecord]:
        return [
            record.model_copy(update={"sample": record.sample.model_copy(update={"index": 100 + number})})
            for number, record in enumerate(records)
        ]

    (alone,) = contents(blocks_apart(study(4)))["tuning"]
    assert alone["difference"]["verdict"] == "faster, effect large"
    other = scenario("argo", "chain", 3, configuration="other")
    both = blocks_apart([*study(4), *(made(other, i, handoff=3.0, knob="x=1") for i in range(4))])
    for entry in contents(both)["tuning"]:
        found = entry["difference"]
        assert found["verdict"].startswith("cannot tell: n too small for this many comparisons (n=4 and 4: ")
        assert found["smallest_p_holm"] == pytest.approx(4 / 70)
    assert "smallest p 0.029 × 2 = 0.057" in written(both, tmp_path)


def test_what_a_configuration_changes_is_told_by_its_name_and_nothing_is_said_of_nothing(
    tmp_path: Path,
) -> None:
    usual = [
        ("default", "call", 1.0),
        ("tuned", "call", 0.5),
        ("pods", "pod", 4.0),
        ("pods-tuned", "pod", 2.0),
    ]
    records = [
        made(scenario("prefect", "chain", 3, configuration=name), i, handoff, task=task)
        for name, task, handoff in usual
        for i in range(6)
    ]
    gone = [
        made(
            scenario("kfp", "chain", 3, configuration=name), status="unsupported", client=None, breakdown=None
        )
        for name in ("default", "tuned")
    ]
    found = contents([*records, *gone])["tuning"]
    assert {(row["orchestrator"], row["base"], row["configuration"], row["task"]) for row in found} == {
        ("prefect", "default", "tuned", "call"),
        ("prefect", "pods", "pods-tuned", "pod"),
    }
    assert all(row["difference"]["verdict"] == "faster, effect large" for row in found)
    text = written([*records, *gone], tmp_path)
    assert "| pods-tuned: knob not stored | pods: " in text and "no stored result for one of them" not in text
    one = contents([*records, *gone, made(scenario("kfp", "chain", 3, configuration="default"), 1)])["tuning"]
    assert [row["difference"] for row in one if row["orchestrator"] == "kfp"] == [None], "one side measured"


def of_each(n: int, names: dict[str, float], **fields: Any) -> list[RunRecord]:
    """`n` runs of each orchestrator, in blocks of their own of one plan; handoff seconds by name."""
    return [
        MadeRun(scenario(name, "chain", 3), i, handoff).record(sample={"index": 100 * block + i}, **fields)
        for block, (name, handoff) in enumerate(names.items(), 1)
        for i in range(n)
    ]


def test_orchestrators_are_set_against_each_other_two_by_two_as_shipped(tmp_path: Path) -> None:
    records = of_each(6, {"argo": 9.0, "airflow": 4.0, "pods": 0.3, "noop": 0.0})
    tuned = [made(scenario("argo", "chain", 3, configuration="tuned"), i, 0.5) for i in range(6)]
    prefect = [
        made(scenario("prefect", "chain", 3, configuration=name), i, handoff, task=task)
        for name, task, handoff in (
            ("default", "call", 0.1),
            ("pods", "pod", 20.0),
            ("pods-tuned", "pod", 1.0),
        )
        for i in range(6)
    ]
    (table,) = contents([*records, *tuned, *prefect])["against"]
    sides = [
        tuple((row[side]["orchestrator"], row[side]["configuration"]) for side in ("first", "second"))
        for row in table["rows"]
    ]
    argo, airflow, pods = ("argo", "default"), ("airflow", "default"), ("prefect", "pods")
    assert sides == [(airflow, argo), (airflow, pods), (argo, pods)], (
        "the fastest first, floors and tuned not"
    )
    for entry in table["rows"]:
        found = entry["difference"]
        assert (entry["paired"], found["tests"], found["n"]) == (False, 3, (6, 6))
        assert found["p_holm"] == pytest.approx(3 * 2 / 924) and found["verdict"] == "slower, effect large"
    text = written([*records, *tuned, *prefect], tmp_path)
    assert "### kind, one pod per step: chain-3 against each other (environment E1)" in text
    assert re.search(r"\| airflow \(\S+ s\) \| prefect pods \(\S+ s\) \| 6, 6 \|", text)
    page = (tmp_path / "report.html").read_text()
    assert page.index("<h3>Every run</h3>") < page.index('<h2 id="orchestrators-against-each-other">')
    assert contents(of_each(6, {"argo": 9.0, "pods": 0.3}))["against"] == []


def test_two_in_the_same_blocks_are_compared_within_them_where_pairs_can_tell() -> None:
    def both(n: int) -> list[RunRecord]:
        """A machine that gets slower from block to block by far more than the two differ."""
        return [made(scenario(name, "chain", 3), i, i * 10.0 + more) for i in range(n) for name, more in two]

    two = [("argo", 0.0), ("airflow", 8.0)]
    (table,) = contents(both(8))["against"]
    (found,) = table["rows"]
    assert found["paired"] and found["difference"]["n"] == (8, 8)
    assert found["difference"]["p"] == pytest.approx(2 / 256)
    assert found["difference"]["verdict"] == "slower, effect large"
    (few,) = contents(both(5))["against"][0]["rows"]
    assert not few["paired"] and few["difference"]["p"] is not None, (
        "5 pairs can tell nothing, 5 and 5 runs can"
    )
    (fewer,) = contents(both(3))["against"][0]["rows"]
    assert fewer["paired"] and fewer["difference"]["verdict"].startswith("cannot tell: n=3 in pairs: too few")


def test_orchestrators_of_different_environments_are_not_set_against_each_other() -> None:
    argo, airflow = of_each(6, {"argo": 9.0}), of_each(6, {"airflow": 4.0})
    assert contents([*argo, *elsewhere(airflow, cpu="another")])["against"] == []
    assert len(contents([*argo, *airflow])["against"]) == 1


def test_orchestrators_that_share_no_plan_are_not_set_against_each_other(tmp_path: Path) -> None:
    """How fast the machine was on the one's day would be the other's difference."""
    records = of_each(6, {"argo": 9.0, "airflow": 4.0})
    of_its_own = [
        r.model_copy(update={"sample": r.sample.model_copy(update={"plan_id": r.scenario.orchestrator})})
        for r in records
    ]
    (row,) = contents(of_its_own)["against"][0]["rows"]
    assert row["not_compared"].startswith("in no plan together") and row["difference"] is None
    assert "not compared: in no plan together" in written(of_its_own, tmp_path)
    (row,) = contents(records)["against"][0]["rows"]
    assert row["difference"]


def test_holm_counts_all_tests_of_the_environment() -> None:
    more = [
        made(scenario("argo", "chain", 3, configuration="other"), i, handoff=3.0, knob="x=1")
        for i in range(6)
    ]
    found = contents([*study(6), *more])["tuning"]
    assert [row["difference"]["tests"] for row in found] == [2, 2]
    assert all(row["difference"]["p_holm"] == pytest.approx(2 * 2 / 924) for row in found)


def elsewhere(records: list[RunRecord], **facts: str) -> list[RunRecord]:
    return [
        r.model_copy(
            update={
                "environment": Environment(blocking={**r.environment.blocking, **facts}),
                "run_id": r.run_id + "-elsewhere",
                "sample": r.sample.model_copy(update={"plan_id": "elsewhere"}),
            }
        )
        for r in records
    ]


def test_different_environments_are_never_in_one_table() -> None:
    records = study(3)
    found = contents([*records, *elsewhere(records, cpu="another")])
    assert [(table["environment"], len(table["rows"])) for table in found["tables"]] == [("E1", 4), ("E2", 4)]
    for table in found["tables"]:
        assert {r["n"] for r in table["rows"]} == {3}
    cpus = {environment["facts"]["cpu"] for environment in found["environments"]}
    assert cpus == {"another", "made up"}
    assert len(found["tuning"]) == 2


def dated(records: list[RunRecord], day: str) -> list[RunRecord]:
    return [record.model_copy(update={"recorded_at": f"{day}T12:00:00Z"}) for record in records]


def test_an_environment_is_named_by_what_differs_from_the_newest(tmp_path: Path) -> None:
    older = elsewhere(study(2), cpu="older", code="sha256:" + "a" * 64)
    newer = elsewhere(study(2), cpu="newer", code="sha256:" + "b" * 64)
    records = [*dated(older, "2026-09-20"), *dated(newer, "2026-09-22")]
    first, second = contents(records)["tables"]
    assert (first["environment"], second["environment"]) == ("E1", "E2"), "the newest first"
    assert first["rows"][0]["days"] == ["2026-09-22"] and not first["differs"]
    assert first["title"].endswith("chain-3 (E1, the newest)")
    assert second["title"].endswith("chain-3 (E2: other code, cpu than E1)")
    code = f"code sha256:{'a' * 12}…, in E1 sha256:{'b' * 12}…"
    assert second["differs"] == f"{code}; cpu older, in E1 newer"
    assert f"What differs: {code}; cpu older, in E1 newer." in written(records, tmp_path)
    (alone,) = contents(study(2))["tables"]
    assert alone["title"] == "kind, one pod per step: chain-3" and not alone["differs"]


def test_what_another_environment_has_is_said_and_no_row(tmp_path: Path) -> None:
    kfp = [made(scenario("kfp", "chain", 3)), made(scenario("prefect", "chain", 3), task="process")]
    records = [*dated(study(2), "2026-09-22"), *dated(elsewhere(kfp, cpu="another"), "2026-09-20")]
    text = written(records, tmp_path)
    assert "Not in this table: kfp (in E2), prefect (one process per step in E2)." in text
    assert "| airflow | | 0 | no stored result |" in text


def test_each_blocking_fact_stands_once_with_the_environments_that_have_it(tmp_path: Path) -> None:
    text = written([*study(2), *elsewhere(study(2), cpu="another")], tmp_path)
    assert "| cores | 2 | all |" in text
    assert len(re.findall(r"^\| cpu \| (?:another|made up) \| E[12] \|$", text, re.MULTILINE)) == 2


def test_tables_stand_in_the_order_of_the_headline() -> None:
    of = [
        ("calls", "pipeline", 7, "local", "call"), ("processes", "chain", 1, "local", "process"),
        ("processes", "pipeline", 7, "local", "process"), ("prefect", "pipeline", 7, "kind", "call"),
        ("argo", "chain", 40, "kind", "pod"), ("argo", "chain", 3, "kind", "pod"),
        ("argo", "pipeline", 7, "kind", "pod"),
    ]  # fmt: skip
    records = [made(scenario(o, w, s, target=target), task=task) for o, w, s, target, task in of]
    assert [table["title"] for table in contents(records)["tables"]] == [
        "kind, one pod per step: pipeline-7", "kind, one pod per step: chain-3", "kind, one pod per step: chain-40",
        "kind, one call per step: pipeline-7", "local, one process per step: pipeline-7",
        "local, one process per step: chain-1", "local, one call per step: pipeline-7",
    ]  # fmt: skip


def test_a_table_in_which_nothing_could_run_is_left_out_and_its_reason_kept(tmp_path: Path) -> None:
    refused = made(scenario("argo", target="local"), status="unsupported", reason="no cluster", client=None)
    ran = [made(scenario("airflow", target="local"), n, task="process") for n in range(2)]
    found = contents([refused, *ran])
    assert [table["task"] for table in found["tables"]] == ["process"]
    assert {"orchestrator": "argo", "see": "unsupported"} in found["tables"][0]["missing"]
    assert [entry["reason"] for entry in found["unsupported"]] == ["no cluster"]
    assert "no cluster" in written([refused, *ran], tmp_path)


def test_a_row_has_its_days_and_the_pressure_of_its_time_and_a_table_its_commits(tmp_path: Path) -> None:
    records = [
        *dated([made(pressure=Pressure(cpu_some=0.1))], "2026-09-20"),
        *dated([made(number=1, pressure=Pressure(cpu_some=0.4))], "2026-09-22"),
    ]
    text = written(records, tmp_path)
    assert "| 2026-09-20 to 2026-09-22, 25 % | [lines" in text
    assert "Measured at commit 0000000." in text
    assert "bench results show RUN_ID --results DIR" in text


def test_an_orchestrators_own_version_makes_a_row_of_its_own_not_a_table(tmp_path: Path) -> None:
    records = study(3)
    newer = elsewhere([r for r in records if r.scenario.orchestrator == "argo"], argo_workflows="v3.7.4")
    (table,) = contents([*records, *newer])["tables"]
    argo = [r for r in table["rows"] if (r["orchestrator"], r["configuration"]) == ("argo", "default")]
    assert [r["apart"] for r in argo] == [["argo_workflows=v3.7.3"], ["argo_workflows=v3.7.4"]]
    assert {r["n"] for r in argo} == {3}
    assert "argo\\_workflows=v3.7.4" in written([*records, *newer], tmp_path)


def test_a_control_measured_on_another_machine_is_in_no_table_but_among_the_controls(tmp_path: Path) -> None:
    records = study(2)
    noop = elsewhere([r for r in records if r.scenario.orchestrator == "noop"], cpu="another")
    rest = [r for r in records if r.scenario.orchestrator != "noop"]
    found = contents([*rest, *noop])
    assert [[r["orchestrator"] for r in table["rows"]] for table in found["tables"]] == [
        ["pods", "argo", "argo"]
    ]
    assert [(each["work"], each["n"]) for each in found["controls"]] == [("chain-3", 2)]
    text = written([*rest, *noop], tmp_path / "apart")
    assert "The harness alone (`noop`) is not measured here." in text
    alone = written(noop, tmp_path / "alone")
    assert "No run with steps is stored." in alone and "kind, chain-3: " in alone


def test_the_control_is_a_line_under_each_table_and_no_row(tmp_path: Path) -> None:
    text = written(study(2), tmp_path)
    assert not re.search(r"^\| noop ", text, re.MULTILINE)
    assert re.search(r"^The harness alone \(`noop`\): \d.*s, n = 2\.$", text, re.MULTILINE)


def test_task_kinds_and_targets_have_tables_of_their_own() -> None:
    process = [made(scenario("prefect", "chain", 3), i, task="process") for i in range(2)]
    local = [made(scenario("prefect", "chain", 3, target="local"), i, task="process") for i in range(2)]
    tables = contents([*study(2), *process, *local])["tables"]
    assert sorted((t["target"], t["task"]) for t in tables) == [
        ("kind", "pod"), ("kind", "process"), ("local", "process"),
    ]  # fmt: skip
    pods = next(t for t in tables if t["task"] == "pod")
    assert {"orchestrator": "prefect", "see": "one process per step"} in pods["missing"]


def test_failures_void_and_unsupported_are_rows_with_reasons(tmp_path: Path) -> None:
    of = scenario("argo", "chain", 3)
    wrong = Verification(ok=False, problems=("model digest differs",))
    records = [
        *study(3),
        made(of, 7, status="failed", reason="exit | 137\nOOM"),
        made(of, 8, status="timeout", reason="deadline"),
        made(of, 9, status="void", reason="pressure 0.4"),
        made(of, 10, verification=wrong),
        made(scenario("kfp", "chain", 3), 0, status="unsupported", reason="needs <images>", client=None),
    ]
    found = contents(records)
    assert [entry["status"] for entry in found["failures"]] == ["failed", "timeout", "succeeded"]
    assert found["failures"][2]["reason"] == "model digest differs"
    assert found["failures"][1]["censored_at"] is not None
    assert [entry["reason"] for entry in found["voids"]] == ["pressure 0.4"]
    (table,) = found["tables"]
    argo = row(table, "argo")
    assert (argo["n"], argo["ended"], argo["failed"], argo["void"]) == (3, 6, 3, 1)
    text = written(records, tmp_path)
    assert "exit &#124; 137 OOM" in text
    assert "unsupported: needs &#60;images&#62;" in text
    assert "kfp" not in [each["orchestrator"] for each in table["missing"]]
    for line in text.splitlines():
        if line.startswith("| argo | default") and "](rows.md#" in line:
            assert line.count(" | ") == 9 and "; 1 void |" in line
            break
    else:
        pytest.fail("no row of argo's in the comparison")


def test_a_run_that_ended_before_the_target_told_its_facts_is_in_its_scenarios_row() -> None:
    """As seen on kind: a void first try, without the cluster's facts, and sorted before all others."""
    short = Environment(blocking={"cpu": "made up", "cores": "2"})
    early = [
        made(
            scenario(name, "chain", 3), 90 + i, status="void", reason="killed", environment=short
        ).model_copy(update={"run_id": f"{name}-early", "sample": Sample(plan_id="a", scenario="", index=0)})
        for i, name in enumerate(("pods", "argo"))
    ]
    (table,) = contents([*early, *study(3)])["tables"]
    assert [(r["orchestrator"], r["n"], r["void"], r["apart"]) for r in table["rows"]] == [
        ("pods", 3, 1, []), ("noop", 3, 0, []), ("argo", 3, 1, []), ("argo", 3, 0, []),
    ]  # fmt: skip
    assert row(table, "argo")["ratio"]["n"] == 3


def test_what_became_of_the_stored_runs_adds_up(tmp_path: Path) -> None:
    of = scenario("argo", "chain", 3)
    late = made(of, 11)
    assert late.client is not None
    records = [
        *study(3),
        made(scenario("argo", "chain", 3, observer="off"), 0),
        made(of, 7, status="failed", reason="exit 137"),
        made(of, 8, status="timeout", reason="deadline"),
        made(of, 9, status="void", reason="pressure"),
        made(of, 10, verification=Verification(ok=False, problems=("wrong",))),
        late.model_copy(update={"client": late.client.model_copy(update={"makespan_monotonic_ns": -1})}),
        made(scenario("kfp", "chain", 3), 0, status="unsupported", reason="no", client=None),
        struck(number=0),
        struck(recovers=False, number=1),
        struck(recovers=False, number=2).model_copy(update={"status": "void"}),
    ]
    found = contents(records)
    assert found["ended"] == {
        "compared": 12, "apart": 1, "recovered": 1, "lost": 1, "unsupported": 1, "void": 2, "backwards": 1,
        "failed": 3, "first": 0,
    }  # fmt: skip
    assert sum(found["ended"].values()) == found["runs"] == len(records)
    text = written(records, tmp_path)
    assert "13 succeeded, were verified, and are the samples below: 12 in the comparison" in text
    assert "2 under an injected fault: 1 recovered, 1 did not" in text
    assert (
        "3 unprovoked failures and timeouts, 2 void, 1 unsupported, 1 with clocks that go backwards" in text
    )
    assert len(found["failures"]) == 3 and "1 run failed under an injected fault" in text


def test_failures_under_a_fault_are_not_called_none(tmp_path: Path) -> None:
    text = written([*study(2), struck(recovers=False)], tmp_path)
    assert "Unprovoked: none.\n\n1 run failed under an injected fault: *When something fails*." in text
    assert "injected fault: *When" not in written(study(2), tmp_path / "none")


def test_a_clock_that_goes_backwards_makes_no_sample_of_several_or_of_a_fault() -> None:
    back = {"makespan_monotonic_ns": -1_000_000_000}
    hit = struck()
    assert hit.client is not None
    hit = hit.model_copy(update={"client": hit.client.model_copy(update=back)})
    several = made(scenario("argo", "chain", 3, concurrent=2), 1)
    assert several.client is not None
    clock = several.client.model_copy(update=back)
    one = Companion(run_id="one", status="succeeded", client=clock, verification=Verification(ok=True))
    several = several.model_copy(update={"together": (one,)})
    found = contents([*study(2), hit, several])
    assert found["ended"]["backwards"] == 2
    assert found["retries"][0]["rows"][0]["n"] == 0
    assert [entry["errors"] for entry in found["contradictions"]] == [
        ["a makespan of -1.000 s"],
        ["one: a makespan of -1.000 s"],
    ]


def test_contradictory_clocks_are_listed_and_count_for_the_makespan_only() -> None:
    run = MadeRun(scenario("argo", "chain", 3), seed=99)
    for event in run.ledger[2:4]:
        event["process_start_ns"] -= 50_000_000_000
    bad = run.record(sample={"index": 99})
    assert bad.breakdown is not None
    assert bad.breakdown.errors
    found = contents([*study(3), bad])
    (table,) = found["tables"]
    argo = row(table, "argo")
    assert (argo["n"], argo["flawed"], argo["overhead"]["n"]) == (4, 1, 3)
    assert [entry["run_id"] for entry in found["contradictions"]] == [bad.run_id]
    entry = next(b for b in found["breakdowns"] if b["scenario"] == "kind/argo/chain-3/default")
    assert (entry["n"], entry["left_out"]) == (3, 1)


def test_the_overheads_share_is_measured_only_at_the_length_that_ran() -> None:
    runs = []
    for number in range(2):
        run = MadeRun(scenario("argo", "fanout", 4), seed=number)
        for event in run.ledger:
            if event["event"] == "finish":
                event["user_end_ns"] = event["user_start_ns"] + 30_000_000_000
        run.last_look = max(e["user_end_ns"] or 0 for e in run.ledger)
        run.first_terminal = run.last_look + 1000
        run.makespan = run.first_terminal - run.submit
        run.attempts = []
        runs.append(run.record(sample={"index": number}))
    (entry,) = contents(runs)["shares"]
    assert [(x["length"], x["basis"]) for x in entry["lengths"]] == [
        ("1 s", "computed"), ("30 s", "measured"), ("1 min", "computed"), ("10 min", "computed"),
        ("60 min", "computed"),
    ]  # fmt: skip
    cost = entry["besides_user"]
    assert cost == pytest.approx(median([run.client.makespan_monotonic_ns / 1e9 - 30 for run in runs]))
    assert entry["lengths"][4]["share"] == pytest.approx(cost / (cost + 3600))
    shares = [x["share"] for x in entry["lengths"]]
    assert shares == sorted(shares, reverse=True)


def test_a_run_of_one_step_costs_its_wait_and_has_no_overhead_in_a_window(tmp_path: Path) -> None:
    """The window from the first user code to the last is that step's own: its zero would say that a run is free."""
    runs = [made(scenario("argo", "chain", 1), number, handoff=8.0) for number in range(3)]
    found = contents(runs)
    (entry,), (table,) = found["shares"], found["tables"]
    assert entry["as_run"] > 0.9 and entry["besides_user"] > 8
    assert row(table, "argo")["overhead"] is None
    assert "what comes before and after is in the makespan only" in written(runs, tmp_path)


def test_cold_runs_are_set_against_the_others_and_count_nowhere_else() -> None:
    """A floor has nothing to warm up: its first run is like the others."""
    records = [r.model_copy(update={"cold": r.sample.index == 0}) for r in study(4)]
    found = contents(records)
    own = {r.scenario.key for r in records if r.scenario.orchestrator == "argo"}
    assert {entry["scenario"] for entry in found["cold"]} == own
    assert all((entry["cold"]["n"], entry["warm"]["n"]) == (1, 3) for entry in found["cold"])
    (table,) = found["tables"]
    assert {(entry["orchestrator"], entry["n"], entry["cold"]) for entry in table["rows"]} == {
        ("argo", 3, 0),
        ("pods", 4, 1),
        ("noop", 4, 1),
    }
    assert found["ended"]["compared"] == len(records) - found["ended"]["first"] == len(records) - len(own)
    only = contents([r.model_copy(update={"cold": True}) for r in study(4)])
    assert row(only["tables"][0], "argo")["n"] == 4 and only["cold"] == []


def test_first_runs_are_not_set_against_later_ones(tmp_path: Path) -> None:
    """Nor joined with them in one line: what a deployment adds is no property of a setting or of a length."""
    cold = [r.model_copy(update={"cold": r.scenario.configuration == "default"}) for r in study(6)]
    rival = [made(scenario("dagster", "chain", 3), n, handoff=5.0) for n in range(6)]
    longer = [made(scenario("argo", "chain", 9), n) for n in range(6)]
    found = contents([*cold, *rival, *longer])
    (tuned,) = found["tuning"]
    assert tuned["difference"] is None and tuned["not_compared"].startswith("first runs after a switch")
    ((versus,),) = (table["rows"] for table in found["against"])
    assert versus["difference"] is None and versus["not_compared"] == tuned["not_compared"]
    assert found["curves"] == []
    assert (
        written([*cold, *rival], tmp_path).count("not compared: first runs after a switch on one side") == 2
    )
    shorter = [made(scenario("argo", "chain", 2), 30 + n, cold=True) for n in range(6)]
    (line,) = contents([*cold, *longer, *shorter])["curves"]
    assert line["all_cold"] and [each["steps"] for each in line["lengths"]] == [2, 3]


@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_first_run_that_fails_stays_in_its_row_however_many_first_runs_succeed(first: int) -> None:
    of = scenario("argo", "chain", 3)
    failed = [made(of, n, cold=n < 1, status="failed") for n in range(2)]
    runs = [
        *failed,
        *(made(of, 10 + n) for n in range(2)),
        *(made(of, 20 + n, cold=True) for n in range(first)),
    ]
    later = row(contents(runs)["tables"][0], "argo")
    assert (later["n"], later["failed"], later["ended"]) == (2, 2, 4 + first)
    assert later["success"]["value"] == pytest.approx((2 + first) / (4 + first)), "nor worse than it was"
    assert len(contents(runs)["failures"]) == 2, "none is dropped"


def test_first_runs_are_set_against_others_of_their_own_plan_alone() -> None:
    of = scenario("argo", "chain", 3)
    mine = [made(of, n, cold=n == 0) for n in range(4)]
    slow = of_plan("slow", [made(of, 30 + n, handoff=90.0, cold=True) for n in range(3)])
    (entry,) = contents([*mine, *slow])["cold"]
    assert (entry["cold"]["n"], entry["warm"]["n"]) == (1, 3) and abs(entry["shift"]) < 3
    (apart,) = contents([*slow, *mine[1:]])["cold"]
    assert apart["cold"]["n"] == 3 and apart["warm"] is apart["shift"] is None, "no plan has both"


def test_a_warm_up_is_counted_as_a_first_run_and_nowhere_else() -> None:
    ups = [made(scenario("argo", "chain", 1, warm_up=True), n, handoff=8.0, cold=True) for n in range(2)]
    samples = [made(scenario("argo", "chain", 1), 10 + n) for n in range(3)]
    found = contents([*ups, *samples])
    (entry,) = found["cold"]
    assert (entry["scenario"], entry["cold"]["n"], entry["warm"]["n"]) == ("kind/argo/chain-1/default", 2, 3)
    assert entry["shift"] > 5
    assert row(found["tables"][0], "argo")["n"] == 3
    (alone,) = contents(ups)["cold"]
    assert (alone["scenario"], alone["warm"], alone["shift"]) == (
        "kind/argo/chain-1/default/warm-up",
        None,
        None,
    )


def test_p95_has_an_interval_in_the_report_only_from_72_runs(tmp_path: Path) -> None:
    of = scenario("pods", "chain", 1)
    assert "n=72)" in written([made(of, i) for i in range(72)], tmp_path / "many")
    few = written([made(of, i) for i in range(71)], tmp_path / "few")
    assert "n=71)" not in few and "only from n = 72:\nno row here has as many" in few


def test_proxies_are_those_in_use() -> None:
    assert any("Fibonacci" in text for text in contents(study(1))["proxies"])
    assert not any("promote" in text for text in contents(study(1))["proxies"])
    assert any("promote" in text for text in contents([made()])["proxies"])
    volume = made(scenario("argo", variant="volume"))
    assert any("does not survive a second node" in text for text in contents([volume])["proxies"])
    assert contents([made(scenario("noop"))])["proxies"] == []


def test_a_folder_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write the report"):
        build(study(1), tmp_path / "file" / "report")


def test_what_an_orchestrator_uses_is_in_the_report_with_n_and_parts(tmp_path: Path) -> None:
    def window(cpu: float, requests: int) -> Window:
        part = Usage(component="controller", role="", cpu_seconds=cpu, seconds=10, memory_bytes=64 << 20)
        return Window(seconds=10, parts=(part,), api_requests=requests, api_writes=1)

    used = Resources(idle=window(0.1, 5), run=window(2.0, 90))
    unread = Resources(run=Window(seconds=2, api_requests=90, api_writes=1))
    records = [made(scenario(), n, resources=used) for n in range(2)]
    records.append(made(scenario(), 2, resources=unread))
    (row,) = contents(records)["upkeep"]
    assert (row["n"], row["idle_n"]) == (3, 1), "runs after one deployment share one idle window"
    assert (row["idle_cores"], row["run_cores"]) == (pytest.approx(0.01), pytest.approx(0.2))
    assert (
        "| 0.010 cores (1) | 64 MiB | 0.5 | 0.200 cores | 64 MiB | — | — | 90 | 1 | 7 | 7 | controller |"
        in written(records, tmp_path)
    )
    assert "No stored run was looked at." in written([made(scenario())], tmp_path / "none")


def test_a_sum_is_of_all_parts_and_a_database_stands_apart() -> None:
    def part(name: str, role: str = "server") -> Usage:
        return Usage(component=name, role=role, cpu_seconds=1.0, seconds=10, memory_bytes=1 << 20)

    def ran(of: Scenario, *parts: Usage) -> RunRecord:
        return made(of, resources=Resources(run=Window(seconds=10, parts=parts)))

    whole = ran(scenario("airflow"), part("api"), part("scheduler"), part("postgres", "database"))
    brief = ran(scenario("airflow", "chain", 1), part("scheduler"))
    partial, full = sorted(contents([whole, brief])["upkeep"], key=lambda entry: str(entry["work"]))
    assert (full["run_cores"], full["database_cores"]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert full["parts"] == partial["parts"] == ["api", "scheduler"]
    assert (partial["run_cores"], partial["run_memory"], partial["database_cores"]) == (None, None, None)


def test_steps_called_in_one_process_are_one_process() -> None:
    """Reading when a process began is a subtraction of two clocks: it comes out a little different each time."""
    record = made(scenario("prefect"))
    rows = [
        {**event, "host": "vm", "process_start_ns": 10**18 + 400 * number}
        for number, event in enumerate(record.ledger)
    ]
    assert upkeep.processes(record.model_copy(update={"ledger": tuple(rows)})) == 1
    assert upkeep.processes(record) == 7


def test_published_figures_stand_beside_the_same_chain_on_local_and_no_other(tmp_path: Path) -> None:
    ours = [made(scenario("airflow", "chain", 40, target="local"), n) for n in range(5)]
    others = [
        made(scenario("airflow", "chain", 40)),
        made(scenario("airflow", "chain", 40, target="local", parameters={"fibo": "33"}), 9),
        made(scenario("airflow", "chain", 10, target="local")),
    ]
    longer = [
        made(scenario("prefect", "chain", 10, target="local", parameters={"fibo": "33"}), n) for n in range(2)
    ]
    found = contents([*ours, *others, *longer])["published"]
    by_setting = {(row["orchestrator"], row["configuration"]): row for row in found if row["steps"] == 40}
    (ten,) = [row for row in found if (row["steps"], row["orchestrator"]) == (10, "prefect")]
    assert (ten["n"], ten["fibo"]) == (2, 33)
    assert ten["makespan"]["value"] == pytest.approx(median([makespan(r) or 0 for r in longer]) / 10)
    row = by_setting["airflow", "default"]
    assert (row["n"], row["milliseconds"]) == (5, 1011)
    middle = median([makespan(record) or 0 for record in ours]) / 40
    assert row["makespan"]["value"] == pytest.approx(middle)
    assert 0 < row["own_clock"]["value"] < middle, "the run's fixed cost is in one of them only"
    assert by_setting["prefect", "in-process"]["own_clock"] is None
    assert "| 3.4 ms | no stored result | no stored result | 0 |" in written(ours, tmp_path)


def planned(plan: str, numbers: range, handoff: float = 1.5, **facts: str) -> list[RunRecord]:
    """Runs under a plan of their own, of steps whose code is known."""
    runs = [MadeRun(scenario(), seed=number, handoff=handoff) for number in numbers]
    day = f"2026-09-{1 + numbers.start // 10:02d}T12:00:00Z"
    found = [run.record(sample={"index": i, "plan_id": plan}, recorded_at=day) for i, run in enumerate(runs)]
    facts = {"code": "sha256:one", **facts}
    return [
        r.model_copy(update={"environment": Environment(blocking={**r.environment.blocking, **facts})})
        for r in found
    ]


def test_why_published_figures_differ_is_said_from_the_stored_parts(tmp_path: Path) -> None:
    ours = [made(scenario("airflow", "chain", 40, target="local"), n, knob="SLEEP=1") for n in range(3)]
    (row,) = [row for row in contents(ours)["published"] if row["parts"]]
    (entry,) = contents(ours)["breakdowns"]
    large = sorted((part for part in entry["parts"] if part["share"] >= 0.1), key=lambda p: -p["median"])
    assert [part["name"] for part in row["parts"]] == [part["name"] for part in large] != []
    first = large[0]
    whole = median([makespan(record) or 0 for record in ours])
    said = (
        f"- airflow, as shipped (SLEEP=1), 40 × fibo(10): of {seconds(whole)}, *{first['name']}* (from a step's end "
        f"until the next is begun) takes {seconds(first['median'])} ({first['share'] * 100:.0f} %)"
    )
    assert said in written(ours, tmp_path)
    newer = dated([made(scenario("airflow", "chain", 40, target="local"), 9)], "2026-09-30")
    (row,) = [row for row in contents([*ours, *elsewhere(newer, cpu="newer")])["published"] if row["parts"]]
    assert row["n"] == 1, "of several environments the newest"


def test_where_the_time_goes_is_one_table_for_each_target_and_work(tmp_path: Path) -> None:
    process = [made(scenario("prefect", "chain", 3), n, task="process") for n in range(2)]
    records = [*study(2), *process, *(made(scenario("argo"), n) for n in range(2))]
    found = contents(records)
    assert [(table["title"], len(table["rows"])) for table in found["spent"]] == [
        ("kind: pipeline-7", 1), ("kind: chain-3", 4),
    ]  # fmt: skip
    chain = found["spent"][1]
    assert [row["orchestrator"] for row in chain["rows"]] == ["pods", "argo", "argo", "prefect"]
    assert chain["columns"] == [
        "accept", "queue", "create", "start", "imports", "prepare", "user", "handoff", "finish",
    ]  # fmt: skip
    argo = chain["rows"][1]
    whole = argo["parts"]["handoff"]
    assert whole["at_least"] <= whole["median"] <= whole["at_most"], "the clocks' bounds are in the JSON"
    its = [makespan(record) or 0 for record in records if record.scenario.key == argo["scenario"]]
    assert argo["makespan"]["value"] == median(its)
    text = written(records, tmp_path)
    assert text.count("\n### kind: ") == 2
    bare = [seconds(whole[name]).removesuffix(" s") for name in ("median", "shortest", "longest")]
    assert f"| {bare[0]} ({bare[1]} to {bare[2]}) |" in text, "a large part with the range of its runs"
    assert f"| {seconds(argo['parts']['accept']['median']).removesuffix(' s')} |" in text, (
        "a small one without"
    )
    assert "- *handoff*: from a step's end" in text and "- *spread*" not in text


def test_of_several_environments_the_newest_run_is_drawn(tmp_path: Path) -> None:
    older, newer = made(), made(number=1)
    records = [*dated(elsewhere([newer], cpu="newer"), "2026-09-30"), *dated([older], "2026-09-20")]
    written(records, tmp_path)
    drawn = (tmp_path / "timelines-kind.svg").read_text()
    assert newer.run_id in drawn.replace("&#160;", " ") and older.run_id not in drawn


def test_the_same_scenario_under_two_plans_is_compared_with_itself(tmp_path: Path) -> None:
    alike = [*planned("one", range(6)), *planned("two", range(10, 16)), *planned("few", range(20, 22))]
    (row,) = contents(alike)["again"]
    assert (row["plans"], row["first"]["n"], row["second"]["n"]) == (["one", "two"], 6, 6)
    assert row["difference"]["p_holm"] > 0.05 and row["difference"]["verdict"] == "no difference seen"
    (lied,) = contents([*planned("one", range(6)), *planned("two", range(10, 16), handoff=4.0)])["again"]
    assert lied["difference"]["p_holm"] < 0.05 and lied["difference"]["shift"] > 0
    assert lied["difference"]["verdict"] == "slower, effect large"
    assert "## The same thing again (A/A)" in written(alike, tmp_path)
    assert contents(study(3))["again"] == []


def test_a_second_plan_of_other_code_or_another_machine_is_no_a_a_and_names_what_differs(
    tmp_path: Path,
) -> None:
    first, same = planned("one", range(6)), planned("later", range(10, 16))
    other = planned("two", range(20, 26), code="sha256:two", kernel="6.8")
    again = planned("three", range(30, 36), code="sha256:two", kernel="6.8")
    unknown = [
        r.model_copy(update={"environment": Environment(blocking={"cpu": "made up"})})
        for plan, numbers in (("four", range(40, 46)), ("five", range(50, 56)))
        for r in planned(plan, numbers)
    ]
    rows = contents([*first, *same, *other, *again, *unknown])["again"]
    found = {tuple(row["plans"]): row["not_compared"] for row in rows}
    assert found == {
        ("one", "later"): "",
        ("two", "three"): "",
        ("four", "five"): "the steps' code is not recorded",
        ("one", "two"): "not the same code, kernel",
        ("one", "four"): "not the same argo_workflows, code, cores, kubernetes",
    }
    assert [row["difference"] is None for row in rows] == [bool(row["not_compared"]) for row in rows]
    assert {row["difference"]["tests"] for row in rows if row["difference"]} == {2}
    text = written([*first, *other], tmp_path)
    assert "not compared: not the same code, kernel" in text and "those compared (0)" in text


def test_a_difference_of_a_a_that_so_many_rows_cannot_tell_is_not_called_none() -> None:
    """5 against 3, apart: 2 of 56 is below 0.05, twice that is not."""
    plans = [
        planned("one", range(5)),
        planned("two", range(10, 13), 4.0),
        planned("three", range(20, 23), 4.0),
    ]
    (alone,) = contents([*plans[0], *plans[1]])["again"]
    assert alone["difference"]["verdict"] == "slower, effect large"
    for row in contents([record for plan in plans for record in plan])["again"]:
        verdict = row["difference"]["verdict"]
        assert verdict.startswith("cannot tell: n too small for this many comparisons (n=5 and 3: ")


def test_what_the_same_twice_says_of_other_differences_stands_first(tmp_path: Path) -> None:
    first = planned("one", range(5), 9.0)
    text = written([*first, *planned("two", range(10, 15), 9.0)], tmp_path / "alike")
    assert (
        "A/A between plans (a scenario measured again under the same conditions): none of the 1 with" in text
    )
    assert "The median that moved most is that of kind/argo/pipeline-7/default by " in text
    few = [*planned("one", range(3), 9.0), *planned("two", range(10, 13), 4.0)]
    assert "conditions): none could be tested: too few runs." in written(few, tmp_path / "few")
    text = written([*first, *planned("two", range(10, 15), 4.0)], tmp_path / "apart")
    assert "1 of the 1 with enough runs came out different at p ≤ 0.05, each test by itself" in text
    assert "where chance alone makes at most 0.1 of them: kind/argo/pipeline-7/default by -" in text
    many = [r for at in range(1, 20) for r in planned(f"p{at}", range(at * 10, at * 10 + 5), 9.0)]
    shielded = written([*first, *many, *planned("two", range(900, 905), 4.0)], tmp_path / "many")
    assert "1 of the 20 with enough runs came out different" in shielded, "no adjustment makes a control pass"
    assert "No orchestrator is among them" not in text
    assert "how far chance alone goes is not known" in written(first, tmp_path / "once")


def test_the_halves_of_a_plan_are_an_a_a_of_deployments_minutes_apart(tmp_path: Path) -> None:
    """A machine that gets slower all the time makes the halves no different, and a lie in one of them shows."""
    drift = [made(scenario(), n, handoff=1.0 + n) for n in range(16)]
    lie = [made(scenario("airflow"), n, handoff=1.0 + 20 * (n % 2)) for n in range(10)]
    few = [made(scenario("dagster"), n) for n in range(7)]
    mine, other = contents([*drift, *lie, *few])["halves"]
    assert (mine["scenario"], other["scenario"]) == (
        "kind/airflow/pipeline-7/default",
        "kind/argo/pipeline-7/default",
    )
    assert mine["difference"]["p"] == pytest.approx(2 / 252) and mine["difference"]["shift"] > 50
    assert other["difference"]["p"] > 0.05 and (other["first"]["n"], other["second"]["n"]) == (8, 8)
    text = written([*drift, *lie, *few], tmp_path)
    assert "A/A within plans (a scenario's even blocks against its odd): 1 of the 2 with enough runs" in text


def test_what_watching_costs_is_a_paired_ratio_and_in_no_other_table(tmp_path: Path) -> None:
    def block(number: int) -> list[RunRecord]:
        on = MadeRun(scenario(), seed=number, handoff=2.5)
        off = MadeRun(scenario(observer="off"), seed=number, handoff=1.5)
        return [run.record(sample={"index": number}) for run in (on, off)]

    records = [record for number in range(6) for record in block(number)]
    content = contents(records)
    (row,) = content["observer"]
    assert (row["scenario"], row["pairs"]) == ("kind/argo/pipeline-7/default", 6)
    assert row["ratio"]["value"] > 1
    assert [r["n"] for table in content["tables"] for r in table["rows"]] == [6]
    assert content["measured_total"] == 6
    assert "watched ÷ not watched" in written(records, tmp_path)

    # The first of a block is cold, whichever of the two it is: no pair of those is alike.
    def one_cold(records: list[RunRecord]) -> list[RunRecord]:
        return [r.model_copy(update={"cold": r.scenario.observer == "off"}) for r in records]

    assert contents(one_cold(records))["observer"] == []
    floor = [
        MadeRun(scenario("pods", observer=observer), n).record(sample={"index": n})
        for n in range(6)
        for observer in ("", "off")
    ]
    assert [row["pairs"] for row in contents(one_cold(floor))["observer"]] == [6], "nothing to warm up"


def test_what_a_step_waits_for_the_ledger_is_taken_from_its_rows(tmp_path: Path) -> None:
    """In a made-up run the entry is stamped when the user code starts: here it is sent 10 ms before."""
    record = made(scenario())
    rows = [
        {**row, "wall_ns": row["wall_ns"] - 10_000_000} if row["event"] == "start" else row
        for row in record.ledger
    ]
    (found,) = contents([record.model_copy(update={"ledger": tuple(rows)})])["ledger"]
    assert (found["target"], found["entries"]) == ("kind", 7)
    assert (found["median"], found["p95"]) == (pytest.approx(0.01), pytest.approx(0.01))
    assert "| kind | 7 | 10.0 ms | 10.0 ms |" in written(
        [record.model_copy(update={"ledger": tuple(rows)})], tmp_path
    )


@pytest.mark.parametrize("longest", [0.004, 0.9, 1.0, 19.9, 20.0, 61.3, 152.0, 999.0])
def test_a_scale_has_few_round_ticks(longest: float) -> None:
    found = ticks(longest)
    assert found[0] == 0 and 3 <= len(found) <= 6 and longest / 2 < found[-1] <= longest
    assert len({float(f"{b - a:.6g}") for a, b in pairwise(found)}) == 1


def test_stand_in_images_are_named_beside_the_row_and_among_the_proxies(tmp_path: Path) -> None:
    image = "docker.io/library/mysql:8.4 sha256:1 (stand-in: MariaDB 10.11 in place of MySQL)"
    facts = {"cpu": "made up", "cores": "2", "kubernetes": "v1.34.4", "image_mysql": image}
    text = written(
        [made(scenario("kfp"), environment=Environment(blocking=facts)), made(scenario())], tmp_path
    )
    assert "| kfp (stand-in images: see *Proxies in use*) | default |" in text
    assert (
        "- kfp ran with a stand-in for docker.io/library/mysql:8.4: MariaDB 10.11 in place of MySQL." in text
    )
    assert "| argo | default |" in text
    copy = tmp_path / "README.md"
    copy.write_text(f"{readme.BEGIN}\n{readme.END}\n")
    kfp = made(scenario("kfp"), environment=Environment(blocking=facts))
    readme.write(copy, [kfp], tmp_path, tmp_path / "results")
    assert "| kfp (stand-in images): a pod |" in copy.read_text()
    assert "| kfp (stand-in images) |" in (tmp_path / "tables.md").read_text()


def test_chains_of_two_lengths_give_the_cost_of_a_step(tmp_path: Path) -> None:
    records = [made(scenario("argo", "chain", length), n) for length in (3, 10) for n in range(3)]
    (row,) = contents(records)["curves"]
    assert [(entry["steps"], entry["n"]) for entry in row["lengths"]] == [(3, 3), (10, 3)]
    middle = {
        length: median([makespan(r) or 0 for r in records if r.scenario.steps == length])
        for length in (3, 10)
    }
    assert row["marginal"]["value"] == pytest.approx((middle[10] - middle[3]) / 7, rel=0.1)
    text = written(records, tmp_path)
    assert "## The cost of a step\n\nA straight line" in text
    assert re.search(
        r"\| 3 \(3\), 10 \(3\) \| [^|]* nominal 95 %, bootstrap[^|]* \| [^|]* nominal 95 %, bootstrap \|",
        text,
    )
    assert contents(records[:3])["curves"] == []
    assert row["in_one_plan"] and "; of several plans" not in text
    other = [
        r.model_copy(update={"sample": r.sample.model_copy(update={"plan_id": "another"})})
        for r in records[3:]
    ]
    assert "10 (3); of several plans |" in written([*records[:3], *other], tmp_path / "apart")


def test_a_cost_that_may_be_none_or_comes_out_below_it_is_said_to_be_so(tmp_path: Path) -> None:
    def run(length: int, number: int, handoff: float) -> RunRecord:
        return made(scenario("argo", "chain", length), number, handoff)

    clear = [run(length, n, 1.5) for length in (3, 10) for n in range(5)]
    assert contents(clear)["curves"][0]["marginal"]["caution"] == ""
    flat = [run(length, n, 60.0 / length - 2.0 + n) for length in (3, 10) for n in range(5)]
    (row,) = contents(flat)["curves"]
    assert row["marginal"]["caution"] == "not told apart from 0: polling or chance dominates"
    assert f"; {row['marginal']['caution']} |" in written(flat, tmp_path)
    steep = [run(length, n, 1.0 * length) for length in (3, 10) for n in range(5)]
    (row,) = contents(steep)["curves"]
    assert row["fixed"]["value"] < 0
    assert row["fixed"]["caution"] == "below 0, which no cost is: polling or chance dominates"
    one_run = contents([run(3, 0, 3.0), run(10, 0, 10.0)])["curves"][0]["fixed"]
    assert one_run["interval"] is None and one_run["caution"].startswith("below 0")


def test_the_cost_of_a_step_is_drawn_with_every_run_its_line_and_its_name(tmp_path: Path) -> None:
    kinds = [("argo", "default", 2.0), ("argo", "tuned", 1.5), ("pods", "default", 0.3)]
    records = [
        made(scenario(name, "chain", length, configuration=configuration), n, handoff=handoff)
        for name, configuration, handoff in kinds
        for length in (3, 10)
        for n in range(4)
    ]
    local = [made(scenario("airflow", "chain", length, target="local"), 0) for length in (1, 5)]
    written([*records, *local], tmp_path)
    page = (tmp_path / "report.html").read_text()
    charts = re.findall(r"<figure>(?:(?!</figure>).)*?<svg class=\"curves\".*?</figure>", page, re.DOTALL)
    assert len(charts) == 2, "a chart for each target"
    kind = next(chart for chart in charts if "kind, one pod per step" in chart)
    assert (kind.count("<title>"), kind.count('class="fit"')) == (len(records), 3)
    assert "argo tuned, 10 steps: " in kind
    label = re.search(r'aria-label="([^"]*)"', kind)
    rows = [row for row in contents(records)["curves"] if row["target"] == "kind"]
    for entry in rows:
        name = f"{entry['orchestrator']} {entry['configuration']}: "
        assert label and name in label[1] and f">{name}" in kind
        assert len(entry["points"]) == 8
    shapes = re.findall(r'<g class="ink\d"><path class="lead"[^>]*><path [^>]*d="([^"]*)"', kind)
    assert len(set(shapes)) == 3, "told apart without colour"
    written(records[:4], tmp_path / "one length")
    assert '<svg class="curves"' not in (tmp_path / "one length" / "report.html").read_text()


@pytest.mark.parametrize("ends", [[50.0], [30.0, 30.0, 31.0, 200.0], [315.0, 316.0, 316.0], [26.0] * 15])
def test_names_at_the_ends_of_lines_do_not_touch(ends: list[float]) -> None:
    placed = _spread(ends, 316.0)
    assert all(b - a >= LINE for a, b in pairwise(sorted(placed)))
    assert min(placed) >= TOP and max(placed) <= 316
    assert sorted(range(len(ends)), key=lambda i: ends[i]) == sorted(
        range(len(ends)), key=lambda i: placed[i]
    )


def test_milliseconds_are_never_in_powers_of_ten() -> None:
    interval = {"low": 1.0239, "high": 1.051, "level": 0.9375}
    assert published.shown({"value": 1.0378, "interval": interval}) == "1038 ms [1024, 1051] 93.8 %"
    interval = {"low": 0.2549, "high": 0.34, "level": 0.9375}
    assert published.shown({"value": 0.324, "interval": interval}) == "324 ms [255, 340] 93.8 %"
