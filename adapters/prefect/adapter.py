"""Prefect 3: start runs, read what it says of them."""

import time
from collections.abc import Sequence

import psutil

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
from adapters.local.target import connect_local
from adapters.prefect.api import Document, NotFound, PrefectApi
from adapters.prefect.records import is_complete, is_over, member_of, timeline_of
from adapters.prefect.runtime import CONFIGURATIONS, NAME, WORKER, PrefectRuntime
from core.config import load_config
from core.errors import BadInput

OUTCOMES = {
    "COMPLETED": Status.SUCCEEDED,
    "FAILED": Status.FAILED,
    "CRASHED": Status.FAILED,
    "CANCELLED": Status.CANCELLED,
}
DEPLOYMENT = "bench"
IN_PROCESS = "in-process"
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Environment variable of the processes of a flow run."""
POLL_SECONDS = 0.2
ARRIVAL_SECONDS = 30.0
"""How long nothing need arrive of the task runs, states and logs that are still missing."""
SETTLED_SECONDS = 3.0
"""What has not changed for this long is taken as all there is, where a run did not complete."""
CANCEL_SECONDS = 20.0


class PrefectDriver:
    """Runs are flow runs; their idempotency keys are the run ids."""

    def __init__(self, runtime: PrefectRuntime) -> None:
        self.runtime = runtime
        self.servers = runtime.servers
        self._deployments: dict[str, str] = {}
        self._flows: dict[str, str] = {}

    def prepare(self, request: RunRequest) -> None:
        """Find the deployment that `request` refers to, or make sure that its flow is known."""
        api = self.runtime.api()
        if request.configuration == IN_PROCESS:
            self._flows[request.workload] = api.post("/flows/", {"name": request.workload}).json()["id"]
        else:
            found = api.get(f"/deployments/name/{request.workload}/{DEPLOYMENT}")
            self._deployments[request.workload] = found["id"]

    def submit(self, request: RunRequest) -> RunHandle:
        """Create the flow run. A second submission of a run id finds the first one's."""
        body = {
            "name": request.run_id,
            "idempotency_key": request.run_id,
            "parameters": parameters_of(request),
        }
        in_process = request.configuration == IN_PROCESS
        if request.workload not in (self._flows if in_process else self._deployments):
            self.prepare(request)
        if in_process:
            return self._submit_in_process(request, body)
        path = f"/deployments/{self._deployments[request.workload]}/create_flow_run"
        submit_ns = time.time_ns()
        created = self.runtime.api().post(path, body).json()
        return _handle(request, created["id"], submit_ns)

    def _submit_in_process(self, request: RunRequest, body: Document) -> RunHandle:
        """Create the flow run and, the first time, the process that runs it."""
        api = self.runtime.api()
        submit_ns = time.time_ns()
        answer = api.post("/flow_runs/", {**body, "flow_id": self._flows[request.workload]})
        handle = _handle(request, answer.json()["id"], submit_ns)
        if answer.status_code == 201:
            env = {
                **self.runtime.env(),
                FLOW_RUN: handle.native_id,
                "PREFECT__FLOW_ENTRYPOINT": f"adapters.prefect.pipeline.{request.workload}",
            }
            python = self.runtime.where.python(NAME)
            self.servers.start(request.run_id, [python, "-m", "prefect.engine"], env, self.runtime.folder)
        return handle

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
        """What happened where the flow run has no process of this command; no worker looks after such a one."""
        if self.servers.running(handle.run_id):
            return ""
        return f"the flow's process ended; see {self.runtime.where.state.logs / f'{handle.run_id}.log'}"

    def cancel(self, run_id: str) -> bool:
        """End the flow run and its processes, then delete it; starts the server where it does not run."""
        if not self.runtime.is_installed():
            return False
        self.runtime.start_server()
        api = self.runtime.api()
        row = api.flow_run_of(run_id)
        if row is None:
            return False
        if not is_over(row):
            self._set_state(api, row["id"], "CANCELLING")
            self.servers.stop(run_id)
        self._ended(api, row["id"])
        self.servers.stop(run_id)
        try:
            api.delete(f"/flow_runs/{row['id']}")
        except NotFound:
            return False
        return True

    def _ended(self, api: PrefectApi, flow_run_id: str) -> None:
        """Wait for the end of a flow run and its processes; help where Prefect does not end them in time."""
        end = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < end:
            left = processes_of(flow_run_id)
            over = is_over(api.get(f"/flow_runs/{flow_run_id}"))
            if not left and (over or self.servers.running(WORKER) is None):
                break
            time.sleep(POLL_SECONDS)
        else:
            _kill(processes_of(flow_run_id))
        if not is_over(api.get(f"/flow_runs/{flow_run_id}")):
            self._set_state(api, flow_run_id, "CANCELLED")

    @staticmethod
    def _set_state(api: PrefectApi, flow_run_id: str, state: str) -> None:
        body = {"state": {"type": state, "message": "cancelled by bench"}, "force": state == "CANCELLED"}
        api.post(f"/flow_runs/{flow_run_id}/set_state", body)

    def timeline(self, handle: RunHandle) -> Timeline:
        """The task runs and their states; waits for those that arrive after the flow has ended."""
        api = self.runtime.api()
        flow_run = api.get(f"/flow_runs/{handle.native_id}")
        workload = api.get(f"/flows/{flow_run['flow_id']}")["name"]
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
        """What the step's task runs logged, printed lines among it; waits for the last line of each."""
        api = self.runtime.api()
        ids = [row["id"] for row in self._task_runs(api, handle) if _is_of(row, step)]
        end = time.monotonic() + ARRIVAL_SECONDS
        while ids:
            rows = api.rows(
                "/logs/filter",
                {"logs": {"task_run_id": {"any_": ids}}, "sort": "TIMESTAMP_ASC"},
            )
            finished = {row["task_run_id"] for row in rows if row["message"].startswith("Finished in state")}
            if finished >= set(ids) or time.monotonic() > end:
                return "".join(f"{row['message']}\n" for row in rows)
            time.sleep(POLL_SECONDS)
        return ""

    @staticmethod
    def _task_runs(api: PrefectApi, handle: RunHandle) -> list[Document]:
        body = {"flow_runs": {"id": {"any_": [handle.native_id]}}, "sort": "ID_DESC"}
        return api.rows("/task_runs/filter", body)


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


def processes_of(flow_run_id: str) -> list[psutil.Process]:
    """The processes that run a flow run, found by their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(FLOW_RUN) == flow_run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=5)


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
    """Prefect: flows of tasks, run in the processes of a worker."""

    name = NAME
    title = "Prefect"

    def targets(self) -> tuple[Target, ...]:
        """This machine; Kubernetes is not wired yet."""
        return (Target.LOCAL,)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """See `runtime.CONFIGURATIONS`."""
        return CONFIGURATIONS if target is Target.LOCAL else ()

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def runtime(self, target: Target) -> PrefectRuntime:
        """See `Adapter.runtime`."""
        if target is not Target.LOCAL:
            raise Unsupported("Prefect on Kubernetes is not wired yet", "bench run --target local")
        return PrefectRuntime(connect_local())

    def driver(self, target: Target) -> PrefectDriver:
        """See `Adapter.driver`."""
        return PrefectDriver(self.runtime(target))
