"""Prefect 3: start runs, read what it says of them."""

import time
from collections.abc import Iterable

from adapters.base import (
    BenchError,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    Timeline,
)
from adapters.local.target import connect_local
from adapters.prefect import cluster, local
from adapters.prefect.api import Document, NotFound, PrefectApi
from adapters.prefect.cluster import ClusterRuntime
from adapters.prefect.local import LocalRuntime
from adapters.prefect.records import (
    is_apart,
    is_complete,
    is_over,
    member_of,
    pods_of,
    timeline_apart,
    timeline_of,
)
from adapters.prefect.runtime import NAME, Site
from adapters.targets import connect
from core.config import load_config
from core.errors import BadInput

OUTCOMES = {
    "COMPLETED": Status.SUCCEEDED,
    "FAILED": Status.FAILED,
    "CRASHED": Status.FAILED,
    "CANCELLED": Status.CANCELLED,
}
IN_PROCESS = "in-process"
POLL_SECONDS = 0.2
ARRIVAL_SECONDS = 30.0
"""How long nothing need arrive of the task runs, states and logs that are still missing."""
SETTLED_SECONDS = 3.0
"""What has not changed for this long is taken as all there is, where a run did not complete."""
CANCEL_SECONDS = 20.0


class PrefectDriver:
    """Runs are flow runs; their idempotency keys are the run ids."""

    def __init__(self, runtime: Site) -> None:
        self.runtime = runtime
        self._deployments: dict[tuple[str, str], str] = {}

    def prepare(self, request: RunRequest) -> None:
        """Find the deployment that `request` refers to."""
        name = self.runtime.deployment(request.configuration)
        found = self.runtime.api().get(f"/deployments/name/{request.workload}/{name}")
        self._deployments[request.workload, name] = found["id"]

    def submit(self, request: RunRequest) -> RunHandle:
        """Create the flow run. A second submission of a run id finds the first one's."""
        body = {**flow_run_body(request), "job_variables": self.runtime.job_variables(request.run_id)}
        key = request.workload, self.runtime.deployment(request.configuration)
        if key not in self._deployments:
            self.prepare(request)
        path = f"/deployments/{self._deployments[key]}/create_flow_run"
        submit_ns = time.time_ns()
        created = self.runtime.api().post(path, body).json()
        return _handle(request, created["id"], submit_ns)

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Ask for the flow run's state until it is terminal or the deadline has passed."""
        api = self.runtime.api()
        end = time.monotonic() + deadline_seconds
        last_ns, row = handle.accepted_ns, None
        while True:
            lost = self._lost_its_process(handle)
            try:
                row = api.get(f"/flow_runs/{handle.native_id}")
            except NotFound:
                return _outcome(Status.CANCELLED, last_ns, "the flow run was deleted while it ran", row)
            if is_over(row):
                status = OUTCOMES[row["state_type"]]
                reason = "" if status is Status.SUCCEEDED else why(row)
                return _outcome(status, last_ns, reason, row)
            if lost and row["deployment_id"] is None:
                return _outcome(Status.FAILED, last_ns, lost, row)
            last_ns = time.time_ns()
            if time.monotonic() > end:
                reason = f"still {row['state_name']} after {deadline_seconds:.0f} s"
                return _outcome(Status.TIMEOUT, last_ns, reason, row)
            time.sleep(POLL_SECONDS)

    def _lost_its_process(self, handle: RunHandle) -> str:
        """What happened to the process of a flow run that no worker looks after."""
        return ""

    def cancel(self, run_id: str) -> bool:
        """End the flow runs and their processes or pods, then delete them; starts the server if need be."""
        if not self.runtime.is_installed():
            return False
        self.runtime.wake()
        api = self.runtime.api()
        row = api.flow_run_of(run_id)
        if row is None:
            return False
        if not is_over(row):
            self._set_states(api, [row, *api.children_of(row["id"])], "CANCELLING")
        self._hang_up(run_id)
        self._ended(api, run_id, row["id"])
        rows = [*api.children_of(row["id"]), row]
        try:
            for each in rows:
                api.delete(f"/flow_runs/{each['id']}")
        except NotFound:
            return False
        return True

    def _hang_up(self, run_id: str) -> None:
        """End what this command itself has started for the run."""

    def _ended(self, api: PrefectApi, run_id: str, native_id: str) -> None:
        """Wait for the end of a flow run and what runs it; help where Prefect does not end them in time."""
        end = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < end:
            left = self.runtime.is_left(run_id, native_id)
            over = is_over(api.get(f"/flow_runs/{native_id}"))
            if not left and (over or not self.runtime.cancels()):
                break
            time.sleep(POLL_SECONDS)
        self.runtime.end(run_id, native_id)
        rows = [api.get(f"/flow_runs/{native_id}"), *api.children_of(native_id)]
        if unfinished := [row for row in rows if not is_over(row)]:
            self._set_states(api, unfinished, "CANCELLED")
            self.runtime.end(run_id, native_id)

    @staticmethod
    def _set_states(api: PrefectApi, rows: Iterable[Document], state: str) -> None:
        body = {"state": {"type": state, "message": "cancelled by bench"}, "force": state == "CANCELLED"}
        for row in rows:
            if not is_over(row):
                api.post(f"/flow_runs/{row['id']}/set_state", body)

    def timeline(self, handle: RunHandle) -> Timeline:
        """The task runs and their states; waits for those that arrive after the flow has ended."""
        api = self.runtime.api()
        flow_run = api.get(f"/flow_runs/{handle.native_id}")
        workload = api.get(f"/flows/{flow_run['flow_id']}")["name"]
        if is_apart(flow_run):
            children = api.children_of(handle.native_id)
            return timeline_apart(handle.run_id, flow_run, workload, children, self._pods(api, children))
        patience = ARRIVAL_SECONDS if flow_run["state_type"] == "COMPLETED" else SETTLED_SECONDS
        seen: list[tuple[str, str]] = []
        changed = time.monotonic()
        while True:
            before = time.monotonic()
            rows = self._task_runs(api, handle)
            states = {
                row["id"]: api.get("/task_run_states/", task_run_id=row["id"])
                for row in rows
                if row["run_count"] > 1
            }
            now = time.monotonic()
            if (look := [(row["id"], row["state_id"]) for row in rows]) != seen:
                seen, changed = look, now
            if is_complete(flow_run, workload, rows, states) or now > changed + patience:
                return timeline_of(handle.run_id, flow_run, workload, rows, states)
            time.sleep(max(POLL_SECONDS, now - before))

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step's task runs (or flow runs) logged, printed lines among it; waits for the last line of each."""
        api = self.runtime.api()
        apart = is_apart(api.get(f"/flow_runs/{handle.native_id}"))
        rows = api.children_of(handle.native_id) if apart else self._task_runs(api, handle)
        owner = "flow_run_id" if apart else "task_run_id"
        ids = [row["id"] for row in rows if _is_of(row, step)]
        end = time.monotonic() + ARRIVAL_SECONDS
        while ids:
            rows = api.rows(
                "/logs/filter",
                {"logs": {owner: {"any_": ids}}, "sort": "TIMESTAMP_ASC"},
            )
            finished = {row[owner] for row in rows if row["message"].startswith("Finished in state")}
            if finished >= set(ids) or time.monotonic() > end:
                return "".join(f"{row['message']}\n" for row in rows)
            time.sleep(POLL_SECONDS)
        return ""

    @staticmethod
    def _pods(api: PrefectApi, flow_runs: Iterable[Document]) -> dict[str, str]:
        """The pods of flow runs, by the worker's events of them."""
        ids = [f"prefect.flow-run.{row['id']}" for row in flow_runs]
        return pods_of(api.events(["prefect.kubernetes.pod."], ids))

    @staticmethod
    def _task_runs(api: PrefectApi, handle: RunHandle) -> list[Document]:
        body = {"flow_runs": {"id": {"any_": [handle.native_id]}}, "sort": "ID_DESC"}
        return api.rows("/task_runs/filter", body)


class LocalDriver(PrefectDriver):
    """On this machine, where a flow can also run without worker and deployment."""

    def __init__(self, runtime: LocalRuntime) -> None:
        super().__init__(runtime)
        self.local = runtime
        self._flows: dict[str, str] = {}

    def prepare(self, request: RunRequest) -> None:
        """Find the deployment that `request` refers to, or make sure that its flow is known."""
        if request.configuration != IN_PROCESS:
            super().prepare(request)
            return
        made = self.runtime.api().post("/flows/", {"name": request.workload})
        self._flows[request.workload] = made.json()["id"]

    def submit(self, request: RunRequest) -> RunHandle:
        """Create the flow run and, where no worker does and it is the first time, the process that runs it."""
        if request.configuration != IN_PROCESS:
            return super().submit(request)
        if request.workload not in self._flows:
            self.prepare(request)
        body = {**flow_run_body(request), "flow_id": self._flows[request.workload]}
        submit_ns = time.time_ns()
        answer = self.runtime.api().post("/flow_runs/", body)
        handle = _handle(request, answer.json()["id"], submit_ns)
        if answer.status_code == 201:
            self.local.start_flow(request.run_id, handle.native_id, request.workload)
        return handle

    def _lost_its_process(self, handle: RunHandle) -> str:
        if self.local.servers.running(handle.run_id):
            return ""
        return f"the flow's process ended; see {self.local.where.state.logs / f'{handle.run_id}.log'}"

    def _hang_up(self, run_id: str) -> None:
        self.local.servers.stop(run_id)


def flow_run_body(request: RunRequest) -> Document:
    """What a flow run is made of, with or without a deployment."""
    return {
        "name": request.run_id,
        "idempotency_key": request.run_id,
        "parameters": parameters_of(request),
    }


def parameters_of(request: RunRequest) -> Document:
    """The flow's parameters. Raises `BenchError` for one that the pipeline's configuration does not have."""
    try:
        config = load_config("{}", [f"{name}={value}" for name, value in request.parameters.items()])
    except BadInput as error:
        raise BenchError(error.what, error.next_step) from error
    parameters = {
        "run_id": request.run_id,
        "config": config.model_dump(mode="json", exclude_unset=True),
    }
    return parameters | ({"steps": request.steps} if request.workload in ("chain", "fanout") else {})


def why(flow_run: Document) -> str:
    """How Prefect explains the end of a flow run."""
    message = (flow_run.get("state") or {}).get("message") or ""
    return f"{flow_run['state_name']}: {message}"


def _is_of(task_run: Document, step: str) -> bool:
    member = member_of(task_run)
    return member is not None and member.step == step


def _handle(request: RunRequest, flow_run_id: str, submit_ns: int) -> RunHandle:
    return RunHandle(
        run_id=request.run_id, native_id=flow_run_id, submit_ns=submit_ns, accepted_ns=time.time_ns()
    )


def _outcome(status: Status, last_ns: int, reason: str, row: Document | None) -> RunOutcome:
    return RunOutcome(
        status=status,
        last_non_terminal_ns=last_ns,
        first_terminal_ns=time.time_ns(),
        first_terminal_monotonic_ns=time.monotonic_ns(),
        reason=reason,
        native_status=str(row["state_name"]) if row else "",
    )


class PrefectAdapter:
    """Prefect: flows of tasks, run by a worker in processes or in Kubernetes Jobs."""

    name = NAME
    title = "Prefect"

    def targets(self) -> tuple[Target, ...]:
        """This machine, and any cluster."""
        return (Target.LOCAL, Target.KIND, Target.K8S)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """See `local.CONFIGURATIONS` and `cluster.CONFIGURATIONS`."""
        return local.CONFIGURATIONS if target is Target.LOCAL else cluster.CONFIGURATIONS

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def runtime(self, target: Target) -> Site:
        """See `Adapter.runtime`."""
        return LocalRuntime(connect_local()) if target is Target.LOCAL else ClusterRuntime(connect(target))

    def driver(self, target: Target) -> PrefectDriver:
        """See `Adapter.driver`."""
        if target is Target.LOCAL:
            return LocalDriver(LocalRuntime(connect_local()))
        return PrefectDriver(ClusterRuntime(connect(target)))
