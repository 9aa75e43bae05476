"""Lineage: what a store knows, how it answers, and that answers are scored against the ledger alone."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import adapters
from adapters.airflow import lineage as airflow
from adapters.argo import lineage as argo
from adapters.base import Attempt, RunHandle, Timeline
from adapters.dagster import lineage as dagster
from adapters.dagster.names import STEPS
from adapters.kfp import lineage as kfp
from adapters.lineage import QUESTIONS, Answer, Kept, Known, answer, reader
from adapters.prefect import lineage as prefect
from adapters.prefect.variants import KEYS
from bench.analysis.cells import cells
from bench.lineage import questions
from bench.report import brief
from bench.report.build import build
from bench.report.contents import contents
from bench.results.records import RunRecord
from bench.results.store import Store
from tests.unit.made_records import MadeRun, made, scenario

HANDLE = RunHandle(run_id="run-1", native_id="ns/run-1", submit_ns=1, accepted_ns=2)
IMAGE = "sha256:" + "1" * 64
PARAMETERS = {"dataset_uri": "data://x", "n_books": "200", "seed": "42", "k": "5", "min_score_gate": "0.05"}
LEFT: Mapping[str, Mapping[str, str]] = {
    "ingest": {"ratings_uri": "s3://r", "dataset_uri": "data://x", "dataset_sha256": "d" * 64},
    "preprocess": {"train_uri": "s3://t", "heldout_uri": "s3://h"},
    "train": {"model_uri": "s3://m", "model_sha256": "a" * 64},
    "eval": {"metrics_uri": "s3://e", "score": "0.5", "passed": "true"},
    "register": {"model_version": "3"},
    "promote": {"promoted": "true", "served_sha256": "a" * 64},
    "monitor": {"drift": "0.1", "drifted": "false", "served_sha256": "a" * 64},
}


def ledger() -> list[dict[str, Any]]:
    """A run whose first attempt of `train` failed."""
    rows: list[dict[str, Any]] = []
    for number, (step, outputs) in enumerate(LEFT.items(), start=1):
        for attempt in (1, 2) if step == "train" else (1,):
            common = {"step": step, "attempt": attempt, "image_digest": IMAGE, "wall_ns": number * 10**9}
            rows.append(
                {**common, "event": "start", "data": {"inputs": {}, "config": {**PARAMETERS, "seed": 42}}}
            )
        rows.append({**common, "event": "finish", "data": {"outputs": dict(outputs)}})
    return rows


def complete() -> Known:
    """A store that knows all but how to export it."""
    attempts = []
    for number, (step, outputs) in enumerate(LEFT.items(), start=1):
        given = {"score": "0.5", "passed": "true"} if step == "promote" else {}
        if step == "train":
            attempts.append(Kept(step=step, attempt=1, succeeded=False))
        attempts.append(
            Kept(
                step=step,
                attempt=2 if step == "train" else 1,
                succeeded=True,
                inputs=given,
                outputs=outputs,
                finished=float(number),
                image=IMAGE,
            )
        )
    return Known(
        source="a store", query="all of it", parameters=PARAMETERS, attempts=tuple(attempts), run="run-1"
    )


TRUTH = questions.truth(ledger(), HANDLE, "code of this machine")


def verdicts(known: Known, after: Known | None = None) -> dict[str, str]:
    stores = iter([known, after or known])
    found = questions.asked(lambda: next(stores), lambda: None, lambda text: text, TRUTH)
    return {each.question: each.verdict for each in found}


def test_a_store_that_knows_all_answers_all() -> None:
    expected = dict.fromkeys(QUESTIONS, "answered") | {"openlineage": "absent"}
    assert verdicts(complete()) == expected


def test_an_empty_store_answers_nothing() -> None:
    assert set(verdicts(Known(source="none", query="none")).values()) == {"absent"}


def with_train(**changes: Any) -> Known:
    known = complete()
    attempts = [
        each.model_copy(update=changes) if each.step == "train" and each.succeeded else each
        for each in known.attempts
    ]
    return known.model_copy(update={"attempts": tuple(attempts)})


def test_a_false_edge_is_wrong_and_not_merely_absent() -> None:
    lie = with_train(outputs={"model_uri": "s3://m", "model_sha256": "b" * 64})
    found = verdicts(lie)
    assert {name for name, verdict in found.items() if verdict == "wrong"} == {"attempt", "alert"}


def test_an_attempt_that_is_not_the_one_is_wrong() -> None:
    assert verdicts(with_train(attempt=1))["attempt"] == "wrong"


def test_a_failed_attempt_that_is_not_kept_is_wrong() -> None:
    known = complete()
    kept = tuple(each for each in known.attempts if each.succeeded)
    assert verdicts(known.model_copy(update={"attempts": kept}))["failed"] == "wrong"


def test_what_a_failed_attempt_left_is_not_the_models() -> None:
    known = complete()
    orphan = {"model_uri": "s3://orphan", "model_sha256": "c" * 64}
    attempts = tuple(
        each if each.succeeded else each.model_copy(update={"outputs": orphan}) for each in known.attempts
    )
    found = verdicts(known.model_copy(update={"attempts": attempts}))
    assert (found["failed"], found["downstream"], found["attempt"]) == ("wrong", "answered", "answered")


def test_a_promotion_is_dated_by_another_clock_within_seconds() -> None:
    def at(seconds: float) -> Known:
        known = complete()
        attempts = tuple(
            each.model_copy(update={"finished": seconds}) if each.step == "promote" else each
            for each in known.attempts
        )
        return known.model_copy(update={"attempts": attempts})

    assert verdicts(at(6 + questions.SINCE_SECONDS - 1))["serving"] == "answered"
    assert verdicts(at(6 + questions.SINCE_SECONDS + 1))["serving"] == "wrong"


def test_what_goes_with_the_objects_is_not_durable() -> None:
    gone = Known(source="a store", query="all of it")
    found = verdicts(complete(), gone)
    assert (found["dataset"], found["durable"]) == ("answered", "absent")
    half = complete().model_copy(update={"parameters": {}})
    assert verdicts(complete(), half)["durable"] == "absent"
    assert verdicts(half, half)["durable"] == "answered", "what was never known cannot be lost"


def test_what_two_questions_call_alike_is_not_mixed_up() -> None:
    elsewhere = complete().model_copy(
        update={"parameters": {**PARAMETERS, "dataset_uri": "data://asked-for"}}
    )
    rows = ledger()
    for row in rows:
        if row["event"] == "start":
            row["data"]["config"]["dataset_uri"] = "data://asked-for"
    truth = questions.truth(rows, HANDLE, "code of this machine")

    def durable(known: Known) -> str:
        found = questions.asked(lambda: known, lambda: None, lambda text: text, truth)
        return next(each.verdict for each in found if each.question == "durable")

    assert durable(elsewhere) == "answered"
    assert durable(elsewhere.model_copy(update={"parameters": {}})) == "answered", (
        "the dataset's alone is right"
    )
    assert durable(complete()) == "wrong", "the parameter's is not the dataset's"


def test_every_orchestrator_has_a_reader_and_no_control_has() -> None:
    names = ("argo", "airflow", "prefect", "dagster", "kfp")
    assert all(reader(adapters.load(name)) for name in names)
    assert not any(reader(adapters.load(name)) for name in ("noop", "pods", "processes", "calls"))


def test_a_workflow_gives_what_its_nodes_and_arguments_hold() -> None:
    workflow = {
        "metadata": {"name": "run-1"},
        "spec": {"arguments": {"parameters": [{"name": "seed", "value": "7"}]}},
        "status": {
            "storedWorkflowTemplateSpec": {
                "arguments": {
                    "parameters": [{"name": "seed", "value": "42"}, {"name": "n-books", "value": "200"}]
                },
                "templates": [{"name": "train", "container": {"image": f"step@{IMAGE}"}}, {"name": "main"}],
            },
            "nodes": {
                "b": {
                    "id": "b",
                    "type": "Pod",
                    "templateName": "train",
                    "phase": "Succeeded",
                    "startedAt": "2026-01-01T00:00:02Z",
                    "finishedAt": "2026-01-01T00:00:03Z",
                    "inputs": {"parameters": [{"name": "train_uri", "value": "s3://t"}]},
                    "outputs": {"parameters": [{"name": "model_uri", "value": "s3://m"}]},
                },
                "a": {
                    "id": "a",
                    "type": "Pod",
                    "templateName": "train",
                    "phase": "Failed",
                    "startedAt": "2026-01-01T00:00:01Z",
                },
                "r": {"id": "r", "type": "Retry", "templateName": "train"},
            },
        },
    }
    known = argo.known_of(workflow)
    assert known.parameters == {"seed": "7", "n_books": "200"}
    assert [(each.attempt, each.succeeded, each.image) for each in known.attempts] == [
        (1, False, IMAGE),
        (2, True, IMAGE),
    ]
    assert (known.attempts[1].inputs, known.attempts[1].outputs) == (
        {"train_uri": "s3://t"},
        {"model_uri": "s3://m"},
    )


MODEL, RATINGS = (
    "s3://artifacts/runs/r/train/1/model.joblib",
    "s3://artifacts/runs/r/ingest/1/ratings.parquet",
)
KFP_SETTINGS = {"settings": {"seed": "42", "k": "5"}, "run_id": "r"}
KFP_STORED = {  # as a real backend gave it, shortened
    "executions": [
        {"id": 1, "type": "system.DAGExecution", "state": "FAILED", "updated_ms": 1, "properties": {
            "task_name": "", "inputs": KFP_SETTINGS}},
        {"id": 3, "type": "system.ContainerExecution", "state": "COMPLETE", "updated_ms": 3000, "properties": {
            "task_name": "evaluate", "image": "", "inputs": KFP_SETTINGS, "outputs": {"Output": True}}},
        {"id": 2, "type": "system.ContainerExecution", "state": "COMPLETE", "updated_ms": 2000, "properties": {
            "task_name": "train", "image": "", "inputs": KFP_SETTINGS, "outputs": {}}},
        {"id": 4, "type": "system.ContainerExecution", "state": "COMPLETE", "updated_ms": 4500, "properties": {
            "task_name": "register", "image": "", "outputs": {"Output": "1"}}},
    ],
    "artifacts": [
        {"id": 7, "uri": MODEL, "properties": {"model_uri": MODEL, "model_sha256": "ab67", "k": "5"}},
        {"id": 9, "uri": "s3://x", "properties": {"score": 0.310144, "passed": "true"}},
    ],
    "events": [
        {"execution": 2, "artifact": 7, "type": "OUTPUT"},
        {"execution": 3, "artifact": 7, "type": "INPUT"},
        {"execution": 3, "artifact": 9, "type": "OUTPUT"},
        {"execution": 3, "artifact": 99, "type": "OUTPUT"},
    ],
}  # fmt: skip
KFP_RUN = {
    "display_name": "r",
    "pipeline_spec": {
        "components": {"comp-train": {"executorLabel": "exec-train"}, "comp-condition-1": {"dag": {}}},
        "deploymentSpec": {"executors": {"exec-train": {"container": {"image": f"bench.local/kfp@{IMAGE}"}}}},
    },
}


def test_kfps_metadata_store_gives_executions_with_their_artifacts() -> None:
    known = kfp.known_of(KFP_STORED, KFP_RUN, "q")
    assert known.parameters == {"seed": "42", "k": "5"}
    assert [(each.step, each.succeeded) for each in known.attempts] == [
        ("train", True),
        ("eval", True),
        ("register", True),
    ]
    trained, scored, registered = known.attempts
    assert trained.image == IMAGE and trained.outputs["model_uri"] == MODEL
    assert scored.inputs["model_sha256"] == "ab67" and scored.outputs == {
        "score": "0.310144",
        "passed": "true",
    }
    assert (registered.outputs, registered.finished) == ({"model_version": "1"}, 4.5)


def test_a_store_without_attempts_says_nothing_of_failed_ones() -> None:
    known = kfp.known_of(KFP_STORED, KFP_RUN)
    assert answer("failed", known).facts == {}
    assert answer("attempt", known).facts == {"model_sha256": "ab67"}


def test_a_metric_may_be_rounded_to_six_decimals_and_no_further() -> None:
    def verdict(text: str) -> str:
        found = Answer(question="metrics", facts={"score": text})
        known = Known(source="a store", query="q")
        return questions.score(found, {"score": "0.310144426936"}, known).verdict

    assert (verdict("0.310144"), verdict("0.31014")) == ("answered", "wrong")


@pytest.mark.parametrize(
    "value",
    [
        {"op_args": [{"a": "1"}, {"b": 2.5}], "op_kwargs": {}},
        {"op_args": "({'a': '1'}, {'b': 2.5})"},
        {"op_args": ["{'a': '1', 'b': 2.5}"], "templates_dict": None},
    ],
)
def test_rendered_fields_are_read_in_each_form_that_airflow_keeps(value: Any) -> None:
    assert airflow.flat(value) == {"a": "1", "b": "2.5"}
    assert airflow.flat("{not python") == {}


def test_a_check_gives_its_numbers() -> None:
    evaluation = {
        "success": True,
        "metadataEntries": [{"label": "score", "floatValue": 0.5}, {"label": "path"}],
    }
    events = [
        {"__typename": "RunStartEvent"},
        {"__typename": "AssetCheckEvaluationEvent", "evaluation": evaluation},
    ]
    assert dagster.checks_of(events) == {"passed": "true", "score": "0.5"}


STEP_KEYS = {
    step: key for key, step in STEPS.items() if key not in ("best_candidate", "registered_candidate")
}
LOADED: Mapping[str, tuple[str, ...]] = {
    "preprocess": ("ingest",),
    "train": ("preprocess",),
    "eval": ("train", "preprocess"),
    "register": ("ingest", "train", "eval"),
    "promote": ("register", "eval"),
    "monitor": ("preprocess", "train", "promote"),
}
"""Whose outputs a step's asset loads, as the definitions have it."""


class DagsterServer:
    """One run, whose first attempt of `train` failed; its materializations have metadata or none."""

    def __init__(self, with_metadata: bool) -> None:
        self.with_metadata = with_metadata

    def _said(self, step: str) -> list[dict[str, str]]:
        parameters = (
            {f"parameters/{name}": text for name, text in PARAMETERS.items()} if step == "train" else {}
        )
        said = {**LEFT[step], **parameters} if self.with_metadata else {}
        return [{"label": name, "text": text} for name, text in said.items()]

    def ask_all(self, query: str, id: str) -> dict[str, Any]:
        events: list[dict[str, Any]] = []
        for step in LEFT:
            key = STEP_KEYS[step]
            events += [
                {"__typename": "LoadedInputEvent", "stepKey": key, "upstreamStepKey": STEP_KEYS[source]}
                for source in LOADED.get(step, ())
            ]
            events.append(
                {"__typename": "MaterializationEvent", "stepKey": key, "metadataEntries": self._said(step)}
            )
        run = {
            "__typename": "Run",
            "runConfig": {"resources": {"run": {"config": {"run_id": "run-1", "parameters": {}}}}},
            "tags": [{"key": "dagster/image", "value": f"step@{IMAGE}"}],
        }
        return {"answer": run, "log": {"events": events}}


def of_dagster(with_metadata: bool) -> Known:
    attempts = [
        Attempt(
            step=step,
            index=None,
            attempt=number,
            native_id=STEP_KEYS[step],
            finished=float(when),
            status=status,
        )
        for when, step in enumerate(LEFT, start=1)
        for number, status in ([(1, "up for retry"), (2, "success")] if step == "train" else [(1, "success")])
    ]
    driver: Any = SimpleNamespace(
        api=DagsterServer(with_metadata),
        timeline=lambda handle: Timeline(
            run_id="run-1", native_status="SUCCESS", resolution_seconds=0, attempts=tuple(attempts)
        ),
    )
    return dagster.known(driver, HANDLE)


def test_dagsters_metadata_answer_for_what_the_steps_left() -> None:
    assert verdicts(of_dagster(True)) == dict.fromkeys(QUESTIONS, "answered") | {"openlineage": "absent"}


def test_without_metadata_dagsters_materializations_name_assets_only() -> None:
    known = of_dagster(False)
    assert not any(each.inputs or each.outputs for each in known.attempts)
    assert known.parameters == {}


def materialization(step: str, *sources: str, task_run: str = "", **payload: Any) -> dict[str, Any]:
    """An event as Prefect's server gave it, shortened."""
    related = [
        *({"prefect.resource.role": "asset", "prefect.resource.id": KEYS[source]} for source in sources),
        {"prefect.resource.role": "flow-run", "prefect.resource.id": "prefect.flow-run.f"},
        {"prefect.resource.role": "task-run", "prefect.resource.id": f"prefect.task-run.{task_run or step}"},
    ]
    return {
        "event": prefect.MATERIALIZED,
        "resource": {"prefect.resource.id": KEYS[step]},
        "related": related,
        "payload": payload,
    }


SOURCES: Mapping[str, tuple[str, ...]] = {
    "ingest": (),
    "preprocess": ("ingest",),
    "train": ("preprocess",),
    "eval": ("preprocess", "train"),
    "register": ("ingest", "train", "eval"),
    "promote": ("register", "eval"),
}
"""What a step's asset is made from, as the flow hands it on."""


class PrefectServer:
    """One flow run; asset events come one look late."""

    def __init__(self, job_variables: Mapping[str, Any] | None) -> None:
        self.row = {"name": "run-1", "parameters": {"run_id": "run-1"}, "job_variables": job_variables}
        self.looks = 0

    def get(self, path: str) -> dict[str, Any]:
        return self.row

    def events(self, prefixes: list[str], about: list[str]) -> list[dict[str, Any]]:
        assert (prefixes, about) == ([prefect.MATERIALIZED], ["prefect.flow-run.ns/run-1"])
        self.looks += 1
        found = [
            materialization(
                step, *SOURCES[step], **LEFT[step], **({"parameters": PARAMETERS} if step == "train" else {})
            )
            for step in KEYS
        ]
        return found if self.looks > 1 else found[:-1]


def of_prefect(job_variables: Mapping[str, Any] | None) -> tuple[Known, int]:
    """What the reader makes of a run whose first attempt of `train` failed, and how often it looked for events."""
    attempts = [
        Attempt(step=step, index=None, attempt=number, native_id=step, finished=float(when), status=status)
        for when, step in enumerate(LEFT, start=1)
        for number, status in ([(1, "Retrying"), (2, "Completed")] if step == "train" else [(1, "Completed")])
    ]
    server = PrefectServer(job_variables)
    driver: Any = SimpleNamespace(
        runtime=SimpleNamespace(api=lambda: server),
        timeline=lambda handle: Timeline(
            run_id="run-1", native_status="Completed", resolution_seconds=0, attempts=tuple(attempts)
        ),
    )
    return prefect.known(driver, HANDLE), server.looks


def test_prefects_asset_events_answer_for_what_the_steps_left() -> None:
    known, looks = of_prefect({"env": {"BENCH_ASSETS": "1"}})
    assert looks == 2, "what is still on its way is waited for"
    absent = {"code": "absent", "alert": "absent", "openlineage": "absent"}
    assert verdicts(known) == dict.fromkeys(QUESTIONS, "answered") | absent
    assert answer("alert", known).facts == {"model_sha256": "a" * 64, "dataset_sha256": "d" * 64}


@pytest.mark.parametrize("variables", [None, {}, {"env": {"BENCH_APPROVAL": "1"}}])
def test_prefects_events_are_asked_only_where_there_are_assets(variables: Mapping[str, Any] | None) -> None:
    known, looks = of_prefect(variables)
    assert looks == 0
    assert not any(each.inputs or each.outputs for each in known.attempts)


def test_an_edge_to_an_asset_that_was_made_twice_is_not_guessed() -> None:
    events = [
        materialization("preprocess", train_uri="s3://t"),
        materialization("train", "preprocess", task_run="first", model_sha256="a"),
        materialization("train", "preprocess", task_run="second", model_sha256="b"),
        materialization("eval", "preprocess", "train", score="0.5"),
    ]
    made = prefect.made_of(events)
    assert made["second"].left == {"model_sha256": "b"}
    assert made["second"].given == {"train_uri": "s3://t"}
    assert made["eval"].given == {"train_uri": "s3://t"}


def asked(number: int, known: Known) -> RunRecord:
    stores = iter([known, known])
    record = MadeRun(scenario("argo", fault="exception"), seed=number).record()
    answers = questions.asked(lambda: next(stores), lambda: None, lambda text: text, TRUTH)
    return record.model_copy(update={"lineage": answers, "breakdown": None})


def test_the_report_says_what_was_answered_and_what_was_missing(tmp_path: Path) -> None:
    partial = complete().model_copy(update={"attempts": complete().attempts[:-1]})
    records = [asked(0, partial), asked(1, partial)]
    shown = contents(records)["lineage"]["columns"][0]["shown"]
    assert (shown["dataset"], shown["openlineage"]) == ("answered", "absent")
    assert shown["alert"] == "in part (no drifted)"
    assert shown["durable"] == "answered (9 of 9 facts)"
    build(records, tmp_path)
    assert (
        "| 11 from an alert to model and data | in part (no drifted) |"
        in (tmp_path / "report.md").read_text()
    )
    mixed = contents([asked(0, partial), asked(1, complete())])["lineage"]["columns"][0]["shown"]
    assert mixed["alert"] == "answered 1, absent 1"


def test_answers_to_an_older_query_are_left_out_and_counted(tmp_path: Path) -> None:
    """What a reader did not ask for yet is no lack of the store; the run's own ids make no other query."""
    uuid = "43736291-bf80-486b-a4fa-522970f72f8b"
    old, *new = (asked(number, complete()) for number in range(3))
    records = [
        record.model_copy(
            update={
                "recorded_at": f"2026-11-2{day}T12:00:00Z",
                "lineage": tuple(
                    answer.model_copy(update={"query": f"GET runs/{run}: {what}"})
                    for answer in record.lineage
                ),
            }
        )
        for record, day, run, what in (
            (old, 1, uuid, "config"),
            (new[0], 2, new[0].run_id, "config, tags"),
            (new[1], 3, uuid, "config, tags"),
        )
    ]
    (column,) = contents(records)["lineage"]["columns"]
    assert (column["n"], column["older"], column["query"]) == (2, 1, "GET runs/RUN: config, tags")
    build(records, tmp_path)
    assert "n = 2 (1 asked in an older way left out)" in (tmp_path / "report.md").read_text()


def test_the_short_table_says_how_much_question_12_kept(tmp_path: Path) -> None:
    """A store that had little and lost none of it has answered: the reader sees how little."""
    little = complete().model_copy(update={"attempts": complete().attempts[:1]})
    record = asked(2, little)
    durable = next(each for each in record.lineage if each.question == "durable")
    assert durable.verdict == "answered" and len(durable.facts) < 9
    text = brief.lineage(cells([asked(1, complete())]))
    assert "| argo | pod | 1 | 12 | 0 | 9 of 9 |" in text
    few = len(durable.facts)
    assert f"| 0 | {few} of {few} (9 asked) |" in brief.lineage(cells([record]))
    build([record], tmp_path)
    assert "however little that was" in (tmp_path / "report.md").read_text()


def test_records_with_and_without_answers_keep_their_seals(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in (asked(0, complete()), made(scenario("argo"), 1)):
        stored = store.append(record)
        assert stored.sha256 == stored.content_sha256()
    assert "lineage" not in made(scenario("argo")).model_dump()
    assert len(Store(tmp_path).records()[0].lineage) == len(QUESTIONS)
