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
    Unsupported,
)
from adapters.cron import due_of
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
from adapters.prefect.triggers import automation_for, deployment_for, event_of
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
        self._deployments[request.workload, name] = self._deployment(request)["id"]

    def _deployment(self, request: RunRequest) -> Document:
        """The deployment that runs of this workload and configuration are made of."""
        name = self.runtime.deployment(request.configuration)
        found: Document = self.runtime.api().get(f"/deployments/name/{request.workload}/{name}")
        return found

    def submit(self, request: RunRequest) -> RunHandle:
        """Create the flow run. A second submission of a run id finds the first one's."""
        body = {**flow_run_body(request), "job_variables": self.runtime.job_variables(request)}
        key = request.workload, self.runtime.deployment(request.configuration)
        if key not in self._deployments:
            self.prepare(request)
        path = f"/deployments/{self._deployments[key]}/create_flow_run"
        submit_ns = time.time_ns()
        created = self.runtime.api().post(path, body).json()
        return _handle(request, created["id"], submit_ns, time.time_ns())

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

    def schedule(self, request: RunRequest) -> None:
        """Make a deployment for the run, with a schedule; returns when the flow run waits for its time.

        Raises `BenchError` where the scheduler has not made one before it is due.
        """
        self._make_deployment(request)
        self._find(request, due_of(request))

    def scheduled(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """The flow run, as soon as it is due and the worker has taken it."""
        due = due_of(request)
        while True:
            row = self._find(request, due + deadline_seconds)
            if row["state_type"] != "SCHEDULED" and time.time() >= due:
                return _handle(request, row["id"], due * 10**9, due * 10**9)
            if time.time() > due + deadline_seconds:
                raise BenchError(f"no worker has taken {request.run_id}, which was due", "bench doctor")
            time.sleep(POLL_SECONDS)

    def listen(self, request: RunRequest) -> None:
        """Make a deployment for the run, and an automation which runs it when the data event comes."""
        api = self.runtime.api()
        made = self._make_deployment(request)
        if not api.named("automations", request.run_id):
            api.post("/automations/", automation_for(request.run_id, made["id"], parameters_of(request)))

    def publish(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """Send the event with the run's parameters; returns when there is a flow run."""
        event = event_of(request.run_id, parameters_of(request))
        submit_ns = time.time_ns()
        self.runtime.api().post("/events", [event])
        accepted_ns = time.time_ns()
        row = self._find(request, time.time() + deadline_seconds)
        return _handle(request, row["id"], submit_ns, accepted_ns)

    def _make_deployment(self, request: RunRequest) -> Document:
        """A deployment for one run: a schedule can neither name nor label what it makes, an automation not name it."""
        body = deployment_for(
            self._deployment(request),
            request,
            parameters_of(request),
            self.runtime.job_variables(request),
        )
        made: Document = self.runtime.api().post("/deployments/", body).json()
        return made

    def _find(self, request: RunRequest, end: float) -> Document:
        """The flow run that Prefect makes by itself. Raises `BenchError` where there is none at `end` (epoch)."""
        while (row := self.runtime.api().flow_run_of(request.run_id)) is None:
            if time.time() > end:
                raise BenchError(f"Prefect has made no flow run for {request.run_id}", "bench doctor")
            time.sleep(POLL_SECONDS)
        return row

    def waits(self, handle: RunHandle, deadline_seconds: float) -> bool:
        """Wait until the flow run is suspended; False where it ends before, or does not come to that in time."""
        end = time.monotonic() + deadline_seconds
        while True:
            row = self.runtime.api().get(f"/flow_runs/{handle.native_id}")
            if row["state_type"] == "PAUSED":
                return True
            if is_over(row) or time.monotonic() > end:
                return False
            time.sleep(POLL_SECONDS)

    def approve(self, run_id: str) -> None:
        """Resume the flow run: a worker starts it anew, and it goes on where it was."""
        api = self.runtime.api()
        row = api.flow_run_of(run_id)
        if row is None:
            raise BenchError(f"there is no run {run_id} to approve", "bench run starts one")
        answer = api.post(f"/flow_runs/{row['id']}/resume", {}).json()
        if answer["status"] != "ACCEPT":
            reason = answer["details"].get("reason")
            raise BenchError(f"{run_id} could not be approved: {reason}", "bench doctor")

    def cancel(self, run_id: str) -> bool:
        """Remove what would start the run; end and delete its flow runs; starts the server if need be."""
        if not self.runtime.is_installed():
            return False
        self.runtime.wake()
        api = self.runtime.api()
        row, made = self._forget(api, run_id)
        if row is None:
            return made
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

    @staticmethod
    def _forget(api: PrefectApi, run_id: str) -> tuple[Document | None, bool]:
        """Remove automation and deployment of a run, with what has not begun.

        Returns the flow run that is left, and whether there was anything.
        """
        automations = api.named("automations", run_id)
        for each in automations:
            api.delete(f"/automations/{each['id']}")
        row = api.flow_run_of(run_id)
        deployments = api.named("deployments", run_id)
        for each in deployments:
            api.delete(f"/deployments/{each['id']}")
        if row is not None and deployments:
            row = next(
                iter(api.rows("/flow_runs/filter", {"flow_runs": {"id": {"any_": [row["id"]]}}})), None
            )
        return row, bool(automations or deployments)

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
        if request.approval:
            raise Unsupported("only a run of a deployment can be suspended", "bench run -c tuned")
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
        handle = _handle(request, answer.json()["id"], submit_ns, time.time_ns())
        if answer.status_code == 201:
            self.local.start_flow(request, handle.native_id)
        return handle

    def _deployment(self, request: RunRequest) -> Document:
        if request.configuration == IN_PROCESS:
            raise Unsupported("without a worker Prefect starts nothing by itself", "bench run -c tuned")
        return super()._deployment(request)

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


def _handle(request: RunRequest, flow_run_id: str, submit_ns: int, accepted_ns: int) -> RunHandle:
    return RunHandle(
        run_id=request.run_id, native_id=flow_run_id, submit_ns=submit_ns, accepted_ns=accepted_ns
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
