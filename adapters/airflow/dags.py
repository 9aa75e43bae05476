"""Which DAG a run needs, and the file that makes it."""

import re

from adapters.base import BenchError, RunRequest
from adapters.cron import cron_of

DAGS = {"recommender": "recommender()", "recommender_sweep": "recommender_sweep()"}
"""Those that are there from the start, and the calls that make them."""
ONE_RUN = "run."
"""The id of a DAG that is made for a single run begins so; the run's id follows."""
KPO = "kpo"
"""The configuration whose DAGs have steps that are KubernetesPodOperators, and the module that makes them."""


def dag_of(request: RunRequest, listening: bool = False) -> tuple[str, str]:
    """The DAG that `request` needs: its id, and the call in `pipeline` (or `kpo`) that makes it.

    A run that Airflow starts itself (by a schedule; by an asset's event where it is `listening`) has a DAG of its own.
    Raises `BenchError` for a workload that there is not, or that has nothing to approve.
    """
    given: list[str] = []
    match request.workload:
        case "pipeline":
            dag_id = factory = "recommender"
        case "sweep":
            dag_id = factory = "recommender_sweep"
        case "chain" | "fanout" as shape:
            dag_id, factory = f"probe_{shape}_{request.steps}", f"probe_{shape}"
            given.append(str(request.steps))
        case other:
            raise BenchError(f"airflow has no workload '{other}'", "pipeline, chain, fanout or sweep")
    if request.configuration == KPO:
        dag_id, factory = f"{KPO}_{dag_id}", f"{KPO}.{factory}"
    shipped = dag_id
    if request.approval:
        if request.workload != "pipeline":
            raise BenchError(f"nothing of a {request.workload} is promoted", "approval of a pipeline")
        dag_id += "_approve"
        given.append("approval=True")
    if request.retries_as_shipped:
        dag_id += "_as_shipped"
        given.append("default_args={}")
    if listening or request.due is not None:
        dag_id = one_run(request.run_id)
        params: dict[str, object] = {"run_id": request.run_id}
        schedule = f"[Asset({request.run_id!r})]"
        if request.due is not None:
            params |= request.parameters
            schedule = repr(cron_of(request))
        given += [f"schedule={schedule}", f"params={params}"]
    if dag_id != shipped:
        given.append(f"dag_id={dag_id!r}")
    return dag_id, f"{factory}({', '.join(given)})"


def dag_text(call: str) -> str:
    """The file of the DAG that `call` gives."""
    factory = call.partition("(")[0]
    ours = "adapters.airflow import kpo" if "." in factory else f"adapters.airflow.pipeline import {factory}"
    sdk = "from airflow.sdk import Asset\n\n" if "Asset(" in call else ""
    return f"{sdk}from {ours}\n\ndag = {call}\n"


def one_run(run_id: str) -> str:
    """The id of the DAG that is made for this run alone."""
    return f"{ONE_RUN}{run_id}"


def run_of(dag_id: str, dag_run_id: str) -> str:
    """Our id of a DAG run: the one that the DAG was made for, or Airflow's.

    One of Airflow's making (`backfill__2026-01-01T00:00:00+00:00`) has dashes for what an id of ours may not have.
    """
    if dag_id.startswith(ONE_RUN):
        return dag_id.removeprefix(ONE_RUN)
    return re.sub(r"[^A-Za-z0-9._-]", "-", dag_run_id)
