"""The same DAGs for a team whose steps are images: each step is a pod that a KubernetesPodOperator starts.

What a step leaves comes back as one XCom, which the operator's sidecar takes out of the pod. The step image is the
Variable `step_image`; the connection `kubernetes_default` names the sidecar's.
"""

import json
from collections.abc import Mapping
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, chain, get_current_context, task, task_group
from jinja2 import pass_context

from adapters import podspec
from adapters.airflow.pipeline import approve, define, gate, known
from adapters.workloads import PIPELINE, SWEEP
from core.config import PipelineConfig

SERVICE_ACCOUNT = "pipeline-airflow"
RUN_ID = "{{ setting('run_id') }}"
HERE = "{{ ti.map_index }}"
IMAGE = "{{ var.value.step_image }}"
DIGEST = "{{ var.value.step_image.partition('@')[2] }}"

RUN_AND_LEAVE = """
import json, pathlib, sys
from core.entry import main
code = main()
left = {file.name: file.read_text() for file in pathlib.Path("/results").iterdir()}
pathlib.Path("/airflow/xcom/return.json").write_text(json.dumps(left))
sys.exit(code)
"""
"""The program `step`, and then all its outputs in the one file that the sidecar reads.

In the same process: as process 1 of its container, it is the step that gets a SIGTERM.
"""

INPUTS: Mapping[str, Mapping[str, str]] = {
    "preprocess": {"ratings_uri": "ingest"},
    "train": {"train_uri": "preprocess"},
    "eval": {"heldout_uri": "preprocess", "model_uri": "train", "model_sha256": "train"},
    "register": {
        **dict.fromkeys(("dataset_uri", "dataset_sha256"), "ingest"),
        **dict.fromkeys(("model_uri", "model_sha256"), "train"),
        **dict.fromkeys(("metrics_uri", "score", "passed"), "eval"),
    },
    "promote": {"model_version": "register", "score": "eval", "passed": "eval"},
    "monitor": {"heldout_uri": "preprocess", "model_sha256": "train", "promoted": "promote"},
}
"""What a step is given, and the step that left it."""


@pass_context
def setting(context: Mapping[str, Any], name: str) -> Any:
    """A param of the run, or its id, as the command line of `step` takes it."""
    value = known(context)[name]
    return "null" if value is None else value


def define_pods(dag_id: str, **more: Any) -> DAG:
    """A DAG as all of ours are, whose templates can ask for settings."""
    return define(dag_id, user_defined_macros={"setting": setting, "sweep": SWEEP}, **more)


def left(task_id: str, name: str, here: bool = False) -> str:
    """An output of an earlier step; of the same candidate, where several are `here` side by side."""
    which = ", map_indexes=ti.map_index" if here else ""
    return f"{{{{ ti.xcom_pull('{task_id}'{which})['{name}'] }}}}"


def arguments(
    step: str, inputs: Mapping[str, str], settings: Mapping[str, str] | None = None, index: str = ""
) -> list[str]:
    """The command line of `step`; `settings` replace some of the run's params."""
    chosen = {name: f"{{{{ setting('{name}') }}}}" for name in PipelineConfig.model_fields}
    chosen |= settings or {}
    return [
        *(step, "--run-id", RUN_ID, "--results-dir", "/results"),
        *(("--index", index) if index else ()),
        *(word for name, value in chosen.items() for word in ("--set", f"{name}={value}")),
        *(word for name, value in inputs.items() for word in ("--input", f"{name}={value}")),
    ]


def pod(step: str, index: str = "") -> dict[str, Any]:
    """What makes a KubernetesPodOperator start a step's pod as every orchestrator's is."""
    spec = {
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": podspec.POD_SECURITY,
        "containers": [{"name": "base", **podspec.container(DIGEST)}],
        "volumes": podspec.volumes(),
    }
    return {
        "pod_template_dict": {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec},
        "name": "-".join([RUN_ID, step, *([index] if index else []), "{{ ti.try_number }}"]),
        "random_name_suffix": False,
        "labels": {podspec.RUN_LABEL: RUN_ID, podspec.STEP_LABEL: step},
        "image": IMAGE,
        "cmds": ["python", "-c", RUN_AND_LEAVE],
        "do_xcom_push": True,
        "xcom_sidecar_container_security_context": podspec.CONTAINER_SECURITY,
        "on_finish_action": "keep_pod",
    }


def run(
    step: str,
    inputs: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
    index: str = "",
    **more: Any,
) -> KubernetesPodOperator:
    """A step as a task."""
    return KubernetesPodOperator(
        **{"task_id": step, **pod(step, index), **more}, arguments=arguments(step, inputs, settings, index)
    )


def recommender(dag_id: str = "kpo_recommender", approval: bool = False, **more: Any) -> DAG:
    """The seven steps; where the gate does not pass, or the `approval` is refused, those after it are skipped."""
    with define_pods(dag_id, **more) as dag:
        tasks = {
            step: run(step, {name: left(source, name) for name, source in INPUTS.get(step, {}).items()})
            for step in PIPELINE
        }
        chain(*(tasks[step] for step in PIPELINE[:4]), gate(tasks["eval"].output), tasks["register"])
        chain(tasks["register"], *([approve()] if approval else []), tasks["promote"], tasks["monitor"])
    return dag


@task
def candidates() -> str:
    """What is known of each candidate of a sweep, as `select` takes it (JSON)."""
    ti, indexes = get_current_context()["ti"], list(range(len(SWEEP)))
    of_all = (ti.xcom_pull(f"candidate.{step}", map_indexes=indexes) for step in ("train", "eval"))
    return json.dumps([{**trained, **scored} for trained, scored in zip(*of_all, strict=True)])


def recommender_sweep(dag_id: str = "kpo_recommender_sweep", **more: Any) -> DAG:
    """Four candidates side by side as a mapped task group; the best is registered if it passed."""
    own = {name: f"{{{{ sweep[ti.map_index]['{name}'] }}}}" for name in ("seed", "k")}

    @task_group
    def candidate(index: int) -> None:
        chain(
            *(
                run(
                    step,
                    {
                        name: left(source, name)
                        if source == "ingest"
                        else left(f"candidate.{source}", name, True)
                        for name, source in INPUTS[step].items()
                    },
                    own,
                    HERE,
                )
                for step in ("preprocess", "train", "eval")
            )
        )

    with define_pods(dag_id, **more) as dag:
        best = run("select", {"candidates": "{{ ti.xcom_pull('candidates') }}"})
        given = {name: left("ingest", name) for name in ("dataset_uri", "dataset_sha256")}
        chosen = {name: left("select", name) for name in ("model_uri", "model_sha256", "score", "passed")}
        registered = run("register", {**given, **chosen}, {name: left("select", name) for name in own})
        chain(run("ingest", {}), candidate.expand(index=list(range(len(SWEEP)))), candidates(), best)
        chain(gate(best.output), registered)
    return dag


def probe_chain(length: int, dag_id: str = "", **more: Any) -> DAG:
    """`length` small steps, one after another."""
    with define_pods(dag_id or f"kpo_probe_chain_{length}", **more) as dag:
        chain(*(run("probe", {}, index=str(index), task_id=f"probe_{index}") for index in range(length)))
    return dag


def probe_fanout(width: int, dag_id: str = "", **more: Any) -> DAG:
    """One small step mapped over `width` indices."""
    with define_pods(dag_id or f"kpo_probe_fanout_{width}", **more) as dag:
        mapped = KubernetesPodOperator.partial(task_id="probe", **pod("probe", HERE))
        mapped.expand(arguments=[arguments("probe", {}, index=str(index)) for index in range(width)])
    return dag
