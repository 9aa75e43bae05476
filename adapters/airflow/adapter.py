"""Apache Airflow 3.3: start runs through its public API, read what it says of them."""

import re
import time
from collections.abc import Mapping, Sequence

from adapters.airflow.api import AirflowApi, Json, run_path, seconds
from adapters.airflow.cluster import ClusterAirflow
from adapters.airflow.dags import KPO, dag_of, one_run, run_of
from adapters.airflow.documents import LAUNCHER_TEMPLATE
from adapters.airflow.local import LocalAirflow
from adapters.airflow.openlineage import OPENLINEAGE, TRANSPORT
from adapters.airflow.runtime import Airflow
from adapters.base import (
    Attempt,
    BenchError,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    TargetUnreachable,
    Timeline,
    Unsupported,
)
from adapters.cron import due_of
from adapters.local.target import connect_local
from adapters.targets import connect
from core.config import STEPS

IDLE = "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"
BATCH = "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_PODS_CREATION_BATCH_SIZE"
DOCS = "https://airflow.apache.org/docs"
IDLE_DOCS = f"{DOCS}/apache-airflow/3.3.2/configurations-ref.html#scheduler-idle-sleep-time"
BATCH_DOCS = (
    f"{DOCS}/apache-airflow-providers-cncf-kubernetes/10.25.0/configurations-ref.html"
    "#worker-pods-creation-batch-size"
)
KPO_DOCS = f"{DOCS}/apache-airflow-providers-cncf-kubernetes/10.25.0/operators.html"
OPENLINEAGE_DOCS = f"{DOCS}/apache-airflow-providers-openlineage/2.20.3/configurations-ref.html#transport"
CONFIGURATIONS: Mapping[Target, tuple[Configuration, ...]] = {
    Target.LOCAL: (
        Configuration(name="default", task="process", knob=IDLE, value="1 (shipped)"),
        Configuration(name="tuned", task="process", knob=IDLE, value="0.1", source=IDLE_DOCS),
        Configuration(
            name=OPENLINEAGE, task="process", knob=TRANSPORT, value="file, a folder", source=OPENLINEAGE_DOCS
        ),
    ),
    Target.KIND: (
        Configuration(name="default", knob=IDLE, value="1 (shipped)"),
        Configuration(name="tuned", knob=IDLE, value="0.1", source=IDLE_DOCS),
        Configuration(name="tuned-batch", knob=BATCH, value="16", source=BATCH_DOCS),
        Configuration(name=KPO, knob="a task is", value="a KubernetesPodOperator", source=KPO_DOCS),
        Configuration(
            name=OPENLINEAGE, knob=TRANSPORT, value="file, the object store", source=OPENLINEAGE_DOCS
        ),
    ),
}
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "tuned": {IDLE: "0.1"},
    "tuned-batch": {BATCH: "16"},
    KPO: {"AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": f"/settings/{LAUNCHER_TEMPLATE}"},
    OPENLINEAGE: {},
}
"""What a configuration changes in the scheduler's environment; `openlineage` changes that of all."""
TERMINAL = {"success": Status.SUCCEEDED, "failed": Status.FAILED, "deleted": Status.CANCELLED}
"""What states of a run mean; `deleted` is ours, for one that is not there any more."""
NOT_RUN = ("skipped", "upstream_failed", "removed")
"""States of task instances that no process ever ran."""
LOOK_SECONDS = 0.2
"""Between two looks at a run that is waited for."""
SETTLE_SECONDS = 10.0
"""How long a task has waited for a person before it is told that it does.

An answer that comes before the scheduler knows that the process that asked has ended is lost: the scheduler takes the
end for that of the process that goes on, and the task asks again (https://github.com/apache/airflow/issues/67287).
"""
ANSWER_SECONDS = 60.0
"""How long the API server may be away while a run is waited for."""
RESOLUTION_SECONDS = 1e-6
WAITING = "awaiting_input"
"""State of a task that waits for a person."""
APPROVE = "Approve"
"""How Airflow's `ApprovalOperator` calls the answer that lets a run go on."""
INDEXED = re.compile(r"(probe)_(\d+)")


class AirflowDriver:
    """A run is a DAG run whose id is the run id; one that Airflow starts itself is the run of a DAG of that name."""

    def __init__(self, airflow: Airflow) -> None:
        self.airflow = airflow

    @property
    def _api(self) -> AirflowApi:
        return self.airflow.api

    def prepare(self, request: RunRequest) -> None:
        """Make sure that Airflow has parsed the DAG (a chain's length is part of it), and log in."""
        self._prepare(*dag_of(request))

    def _prepare(self, dag_id: str, call: str) -> None:
        self._api.log_in()
        self.airflow.add_dag(dag_id, call)

    def submit(self, request: RunRequest) -> RunHandle:
        """Trigger a DAG run. Airflow refuses a second one with the same id (409)."""
        dag_id, _ = dag_of(request)
        body = {
            "dag_run_id": request.run_id,
            "logical_date": None,
            "conf": dict(request.parameters),
        }
        submit_ns = time.time_ns()
        found = self._api.find("POST", f"/dags/{dag_id}/dagRuns", 409, json=body)
        accepted_ns = time.time_ns()
        if found is None:
            self._api.get(run_path(dag_id, request.run_id))
        return RunHandle(
            run_id=request.run_id,
            native_id=f"{dag_id}/{request.run_id}",
            submit_ns=submit_ns,
            accepted_ns=accepted_ns,
        )

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Ask for the run's state every 0.2 s until it is terminal or time is up.

        Raises `TargetUnreachable` where the API server stays away for longer than a minute.
        """
        path, last_ns = run_path(*native(handle)), handle.accepted_ns
        end = time.monotonic() + deadline_seconds
        while True:
            asked_ns = time.time_ns()
            run = self._found(path)
            seen_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
            state = run["state"] if run else "deleted"
            status, reason = TERMINAL.get(state), ""
            if status is None and time.monotonic() > end:
                status, reason = Status.TIMEOUT, f"still {state} after {deadline_seconds:.0f} s"
            if status is not None:
                return RunOutcome(
                    status=status,
                    last_non_terminal_ns=last_ns,
                    first_terminal_ns=seen_ns,
                    first_terminal_monotonic_ns=monotonic_ns,
                    reason=self._why(handle) if status is Status.FAILED else reason,
                    native_status=state,
                )
            last_ns = asked_ns
            time.sleep(LOOK_SECONDS)

    def _found(self, path: str) -> Json | None:
        """What is at `path`; asked again for a minute where the API server is away."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return self._api.find("GET", path)
            except TargetUnreachable:
                if time.monotonic() > end:
                    raise
            time.sleep(LOOK_SECONDS)

    def _why(self, handle: RunHandle) -> str:
        failed = [task for task in self._tasks(*native(handle)) if task["state"] == "failed"]
        return "; ".join(f"{task['task_id']} failed, attempt {task['try_number']}" for task in failed)

    def cancel(self, run_id: str) -> bool:
        """End the run's tasks and delete it (see `Airflow.remove_run`); a DAG that was made for it goes too."""
        if not self.airflow.deployed():
            return False
        with self.airflow.answering():
            found = self._runs(run_id)
            for run in found:
                self.airflow.remove_run(run["dag_id"], run["dag_run_id"])
            removed = self.airflow.remove_dag(one_run(run_id))
        return bool(found) or removed

    def _runs(self, run_id: str) -> list[Json]:
        """The DAG runs with our id: there is one at most."""
        named: list[Json] = self._api.get("/dags/~/dagRuns", run_id_prefix_pattern=run_id)["dag_runs"]
        return [run for run in named if run["dag_run_id"] == run_id] or self._runs_of(one_run(run_id))

    def _runs_of(self, dag_id: str) -> list[Json]:
        found = self._api.find("GET", f"/dags/{dag_id}/dagRuns")
        return list(found["dag_runs"]) if found else []

    # Runs that Airflow starts itself

    def schedule(self, request: RunRequest) -> None:
        """Give the run a DAG with a cron schedule.

        Raises `BenchError` where the minute has come before Airflow knew of it.
        """
        due = due_of(request)
        dag_id, call = dag_of(request)
        self._prepare(dag_id, call)
        planned = seconds(self._api.get(f"/dags/{dag_id}")["next_dagrun_run_after"])
        if planned != due or time.time() >= due:
            self.cancel(request.run_id)
            raise BenchError(
                f"airflow was too late to start {request.run_id} when it is due", "a later minute"
            )

    def scheduled(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """The run of the DAG that `schedule` made."""
        due = due_of(request)
        due_ns = due * 10**9
        native_id = self._started(request.run_id, due + deadline_seconds)
        return RunHandle(run_id=request.run_id, native_id=native_id, submit_ns=due_ns, accepted_ns=due_ns)

    def listen(self, request: RunRequest) -> None:
        """Give the run a DAG that is scheduled on an asset of its own."""
        self._prepare(*dag_of(request, listening=True))

    def publish(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """Say that the asset has changed; the event brings the parameters."""
        end = time.time() + deadline_seconds
        event = {"asset_id": self._asset(request.run_id), "extra": {"params": dict(request.parameters)}}
        submit_ns = time.time_ns()
        taken = self._api.find("POST", "/assets/events", json=event)
        accepted_ns = time.time_ns()
        if taken is None:
            raise BenchError(f"airflow did not take the event of {request.run_id}", "listen first")
        native_id = self._started(request.run_id, end)
        return RunHandle(
            run_id=request.run_id, native_id=native_id, submit_ns=submit_ns, accepted_ns=accepted_ns
        )

    def _asset(self, run_id: str) -> int:
        """The number of the asset whose events start the run. Raises `BenchError` where no DAG is scheduled on it."""
        found = self._api.get("/assets", dag_ids=one_run(run_id))["assets"]
        if not found:
            raise BenchError(f"nothing listens for {run_id}", "listen first")
        return int(found[0]["id"])

    def _started(self, run_id: str, end: float) -> str:
        """The native id of the run that Airflow has started; waited for until `end` (s since the epoch)."""
        dag_id = one_run(run_id)
        while not (found := self._runs_of(dag_id)):
            if time.time() > end:
                raise BenchError(f"airflow has started no run of {dag_id}", "bench doctor")
            time.sleep(LOOK_SECONDS)
        return f"{dag_id}/{found[0]['dag_run_id']}"

    # Approvals

    def waits(self, handle: RunHandle, deadline_seconds: float) -> bool:
        """Whether a task of the run comes to wait for a person in time; see `SETTLE_SECONDS`."""
        end = time.monotonic() + deadline_seconds
        while not self._waiting(*native(handle)):
            if time.monotonic() > end:
                return False
            time.sleep(LOOK_SECONDS)
        time.sleep(SETTLE_SECONDS)
        return True

    def approve(self, run_id: str) -> None:
        """Answer as a person would."""
        waiting = [
            task for run in self._runs(run_id) for task in self._waiting(run["dag_id"], run["dag_run_id"])
        ]
        if not waiting:
            raise BenchError(f"nothing of {run_id} waits for an approval", "a run with a step that waits")
        for task in waiting:
            path = f"{run_path(task['dag_id'], task['dag_run_id'])}/taskInstances/{task['task_id']}"
            answer = {"chosen_options": [APPROVE]}
            self._api.find("PATCH", f"{path}/{task['map_index']}/hitlDetails", json=answer)

    def _waiting(self, dag_id: str, dag_run_id: str) -> list[Json]:
        """The run's tasks that wait for a person."""
        asked = self._api.get(f"{run_path(dag_id, dag_run_id)}/hitlDetails", response_received=False)
        tasks = (each["task_instance"] for each in asked["hitl_details"])
        return [task for task in tasks if task["state"] == WAITING]

    # What is known of a run

    def timeline(self, handle: RunHandle) -> Timeline:
        """The run's task instances; the earlier tries of those that were tried more than once."""
        dag_id, run_id = native(handle)
        run = self._api.get(run_path(dag_id, run_id))
        tries: list[Json] = []
        for task in self._tasks(dag_id, run_id):
            tries += self._tries(dag_id, run_id, task) if task["try_number"] > 1 else [task]
        return timeline_of(run, tries, self.airflow.tasks_are_pods)

    def _tasks(self, dag_id: str, run_id: str) -> list[Json]:
        return self._api.all(f"{run_path(dag_id, run_id)}/taskInstances", "task_instances")

    def _tries(self, dag_id: str, run_id: str, task: Json) -> list[Json]:
        found: list[Json] = self._api.get(f"{_task_path(dag_id, run_id, task)}/tries")["task_instances"]
        return found

    def logs(self, handle: RunHandle, step: str) -> str:
        """What all attempts of the step printed."""
        dag_id, run_id = native(handle)
        lines: list[str] = []
        for task in self._tasks(dag_id, run_id):
            if step_of(task)[0] == step:
                for attempt in range(1, task["try_number"] + 1):
                    lines += self.airflow.log(dag_id, run_id, task, attempt)
        return "".join(f"{line}\n" for line in lines)


def native(handle: RunHandle) -> tuple[str, str]:
    """DAG id and run id."""
    dag_id, _, run_id = handle.native_id.partition("/")
    return dag_id, run_id


def _task_path(dag_id: str, run_id: str, task: Json) -> str:
    path = f"{run_path(dag_id, run_id)}/taskInstances/{task['task_id']}"
    return path if task["map_index"] < 0 else f"{path}/{task['map_index']}"


def step_of(task: Mapping[str, object]) -> tuple[str, int | None]:
    """The step a task instance is, and its index: from the map index, or from the name `probe_3`."""
    name = str(task["task_id"]).rpartition(".")[2]
    if indexed := INDEXED.fullmatch(name):
        return indexed[1], int(indexed[2])
    map_index = int(str(task["map_index"]))
    return name, map_index if map_index >= 0 else None


def pod_of(run_id: str, task: Json) -> str | None:
    """The pod of a try's step: the task's host, or what its KubernetesPodOperator calls the pod that it starts."""
    if task.get("operator") != "KubernetesPodOperator":
        return task["hostname"] or None
    step = str(task["task_id"]).rpartition(".")[2]
    parts = [run_id, step, *([task["map_index"]] if task["map_index"] >= 0 else []), task["try_number"]]
    return re.sub(r"[^a-z0-9-]+", "-", "-".join(map(str, parts)).lower())


def timeline_of(run: Json, tries: Sequence[Json], in_pods: bool = False) -> Timeline:
    """A DAG run and the tries of its task instances as a timeline; helper tasks such as a branch left out.

    `in_pods`: whether tasks run in pods.
    """
    run_id = run_of(run["dag_id"], run["dag_run_id"])
    ran = [each for each in tries if each["start_date"] and each["state"] not in NOT_RUN]
    attempts = [
        Attempt(
            step=step,
            index=index,
            attempt=each["try_number"],
            native_id=each["task_id"] if each["map_index"] < 0 else f"{each['task_id']}[{each['map_index']}]",
            pod_name=pod_of(run_id, each) if in_pods else None,
            started=seconds(each["start_date"]),
            finished=seconds(each["end_date"]),
            status=each["state"] or "",
        )
        for each in ran
        for step, index in [step_of(each)]
        if step in STEPS
    ]
    return Timeline(
        run_id=run_id,
        native_status=run["state"],
        resolution_seconds=RESOLUTION_SECONDS,
        started=seconds(run["start_date"]),
        finished=seconds(run["end_date"]),
        attempts=tuple(sorted(attempts, key=lambda a: (a.started or 0.0, a.index or 0, a.attempt))),
        skipped=tuple(sorted({step_of(each)[0] for each in tries if each["state"] == "skipped"})),
    )


class AirflowAdapter:
    """Apache Airflow: a scheduler, and processes or pods that its executor starts, one for each task."""

    name = "airflow"
    title = "Apache Airflow"

    def targets(self) -> tuple[Target, ...]:
        """This machine (processes), and kind (pods)."""
        return tuple(CONFIGURATIONS)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """`tuned` lets an idle scheduler sleep 0.1 s instead of 1 s; `tuned-batch` makes 16 pods a loop, not one."""
        return CONFIGURATIONS.get(target, ())

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def _settings(self, target: Target) -> Mapping[str, Mapping[str, str]]:
        return {each.name: SETTINGS[each.name] for each in self.configurations(target)}

    def runtime(self, target: Target) -> LocalAirflow | ClusterAirflow:
        """See `Adapter.runtime`."""
        if target is Target.LOCAL:
            return LocalAirflow(connect_local(), self._settings(target))
        if target is Target.KIND:
            return ClusterAirflow(connect(target), self._settings(target))
        raise Unsupported(f"Airflow on {target.value} is not wired yet", "bench run --target kind")

    def driver(self, target: Target) -> AirflowDriver:
        """See `Adapter.driver`."""
        return AirflowDriver(self.runtime(target))
