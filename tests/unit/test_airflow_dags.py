"""Which DAG a run of Airflow needs; no server."""

import pytest

from adapters.airflow.dags import dag_of, dag_text, run_of
from adapters.base import BenchError, RunRequest
from core.entry import RUN_ID

DUE = 1764101100
"""2025-11-25, 20:05 UTC."""


def request(workload: str = "chain", **more: object) -> RunRequest:
    return RunRequest.model_validate(
        {"run_id": "r-1", "workload": workload, "configuration": "default", "steps": 40, **more}
    )


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ("pipeline", ("recommender", "recommender()")),
        ("chain", ("probe_chain_40", "probe_chain(40)")),
        ("fanout", ("probe_fanout_40", "probe_fanout(40)")),
        ("sweep", ("recommender_sweep", "recommender_sweep()")),
    ],
)
def test_each_workload_has_its_dag(workload: str, expected: tuple[str, str]) -> None:
    assert dag_of(request(workload)) == expected


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(BenchError, match="no workload 'tree'"):
        dag_of(request("tree"))


def test_a_variant_is_a_dag_of_its_own() -> None:
    assert dag_of(request("pipeline", approval=True)) == (
        "recommender_approve",
        "recommender(approval=True, dag_id='recommender_approve')",
    )
    assert dag_of(request(retries_as_shipped=True)) == (
        "probe_chain_40_as_shipped",
        "probe_chain(40, default_args={}, dag_id='probe_chain_40_as_shipped')",
    )


def test_only_a_pipeline_has_something_to_approve() -> None:
    with pytest.raises(BenchError, match="nothing of a chain is promoted"):
        dag_of(request(approval=True))


def test_a_scheduled_run_has_a_dag_that_knows_run_and_parameters() -> None:
    assert dag_of(request(due=DUE, parameters={"fibo": 12})) == (
        "run.r-1",
        "probe_chain(40, schedule='5 20 25 11 *', params={'run_id': 'r-1', 'fibo': 12}, dag_id='run.r-1')",
    )


def test_a_listening_dag_leaves_the_parameters_to_the_event() -> None:
    assert dag_of(request(parameters={"fibo": 12}), listening=True) == (
        "run.r-1",
        "probe_chain(40, schedule=[Asset('r-1')], params={'run_id': 'r-1'}, dag_id='run.r-1')",
    )


def test_steps_that_are_operators_have_dags_of_their_own() -> None:
    assert dag_of(request(configuration="kpo")) == (
        "kpo_probe_chain_40",
        "kpo.probe_chain(40)",
    )


@pytest.mark.parametrize(
    ("call", "imports"),
    [
        ("recommender()", ["from adapters.airflow.pipeline import recommender"]),
        (
            "probe_chain(1, schedule=[Asset('r')])",
            ["from airflow.sdk import Asset", "", "from adapters.airflow.pipeline import probe_chain"],
        ),
        ("kpo.recommender()", ["from adapters.airflow import kpo"]),
    ],
)
def test_a_file_imports_what_it_calls(call: str, imports: list[str]) -> None:
    assert dag_text(call).splitlines() == [*imports, "", f"dag = {call}"]


def test_our_id_is_in_the_dag_where_airflow_chose_the_runs() -> None:
    assert run_of("run.r-1", "scheduled__2026-01-01T00:00:00+00:00") == "r-1"
    assert run_of("recommender", "r-1") == "r-1"


def test_a_run_that_a_backfill_made_has_an_id_that_steps_take() -> None:
    ours = run_of("nightly", "backfill__2026-01-01T02:00:00+00:00")
    assert ours == "backfill__2026-01-01T02-00-00-00-00"
    assert RUN_ID.fullmatch(ours)
