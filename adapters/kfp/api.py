"""Kubeflow Pipelines' REST API, version 2, and the driver that uses it."""

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from adapters.base import (
    BenchError,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    TargetUnreachable,
    Timeline,
)
from adapters.cron import cron_of
from adapters.installation import Installation
from adapters.kfp import records
from adapters.kube import Document, epoch_seconds, explained
from adapters.local import envs
from adapters.local.state import local_state
from adapters.podspec import RUN_LABEL
from adapters.targets import PIPELINE_NAMESPACE, ClusterTarget
from cluster.state import PROJECT, write_atomic

NAMESPACE = "kubeflow"
API, API_PORT = "ml-pipeline", 8888
SERVICE_ACCOUNT = "pipeline-kfp"
ARTIFACTS = "s3://artifacts/runs"
RUN_ID_LABEL = "pipeline/runid"
"""KFP's own label of a run's Workflow and pods: the run's id in KFP."""
WORKFLOWS = {
    "group": "argoproj.io",
    "version": "v1alpha1",
    "namespace": PIPELINE_NAMESPACE,
    "plural": "workflows",
}
SCHEDULES = {
    "group": "kubeflow.org",
    "version": "v1beta1",
    "namespace": PIPELINE_NAMESPACE,
    "plural": "scheduledworkflows",
}
RUN_NAME_ANNOTATION = "pipelines.kubeflow.org/run_name"
"""KFP's own annotation of a run's Workflow: the run's name. Pods have their run's label from it."""
USED_IMAGES = "images"
"""A ConfigMap: which images the servers run."""
STEP_IMAGE = "bench.local/step-image"
"""Its annotation: which image the steps run."""
SDK = "kfp"
"""The extra of the project with the SDK whose backend this is."""
ENDINGS = {"SUCCEEDED": Status.SUCCEEDED, "FAILED": Status.FAILED, "CANCELED": Status.CANCELLED}
LOOK_SECONDS = 0.2
TRIES, AGAIN_SECONDS = 3, 0.5
GONE_SECONDS = 120.0
Json = dict[str, Any]


class KfpApi:
    """One keep-alive connection, without authentication, as a single-user installation is shipped."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/apis/v2beta1", timeout=60, trust_env=False)

    def call(self, method: str, path: str, **more: Any) -> Json | None:
        """The answer, None for 404. What only reads is asked again where the connection breaks.

        Raises `TargetUnreachable` where the server does not answer, `BenchError` where it refuses.
        """
        for left in reversed(range(TRIES if method == "GET" else 1)):
            try:
                answer = self._client.request(method, path, **more)
                break
            except httpx.HTTPError as error:
                if not left:
                    raise TargetUnreachable(
                        f"the API server of kfp does not answer ({type(error).__name__})",
                        "bench cluster status",
                    ) from error
                time.sleep(AGAIN_SECONDS)
        if answer.status_code == 404:
            return None
        if answer.status_code >= 300:
            raise BenchError(f"kfp refused {method} {path}: {answer.text[:300]}", "bench doctor")
        found: Json = answer.json() if answer.content else {}
        return found

    def named(self, run_id: str) -> Json | None:
        """The run of this name; KFP itself lets many have one name."""
        return self._first("runs", "display_name", run_id)

    def recurring(self, run_id: str) -> Json | None:
        """The recurring run of this name, which is what KFP calls a schedule."""
        return self._first("recurringRuns", "display_name", run_id)

    def started_by(self, recurring: Json) -> Json | None:
        """The run that a recurring run has started; KFP names it after itself."""
        return self._first("runs", "recurring_run_id", recurring["recurring_run_id"])

    def _first(self, kind: str, key: str, value: str) -> Json | None:
        predicate = {"operation": "EQUALS", "key": key, "string_value": value}
        asked = {"filter": json.dumps({"predicates": [predicate]})}
        found = self.call("GET", f"/{kind.lower()}", params=asked) or {}
        return next(iter(found.get(kind) or ()), None)

    def run(self, native_id: str) -> Json | None:
        """A run by KFP's id of it."""
        return self.call("GET", f"/runs/{native_id}")


class KfpClusterDriver:
    """Runs are made from a compiled pipeline by the API; their names are the run ids."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where, self.kube = where, where.kube
        self.servers = Installation(where, NAMESPACE, "kfp")
        self._api: KfpApi | None = None
        self._definitions: dict[str, Json] = {}
        self._new: set[str] = set()

    @property
    def api(self) -> KfpApi:
        """The API server, through the cluster's own."""
        if self._api is None:
            self._api = KfpApi(self.servers.url(API, API_PORT))
        return self._api

    def prepare(self, request: RunRequest) -> None:
        """Compile the definition with the SDK, unless that was done; see whether there is a run of that name."""
        self._definition(request)
        if self.api.named(request.run_id) is None:
            self._new.add(request.run_id)

    def _definition(self, request: RunRequest) -> Json:
        name = definition_name(request)
        if name not in self._definitions:
            self._definitions[name] = self._compiled(request)
        return self._definitions[name]

    def _step_image(self) -> str:
        """The image that the deployed backend's steps run. Raises `BenchError` where kfp is not deployed."""
        with explained("reading which image kfp's steps run"):
            found = self.kube.core.read_namespaced_config_map(USED_IMAGES, NAMESPACE)
        return str(found.metadata.annotations[STEP_IMAGE])

    def _compiled(self, request: RunRequest) -> Json:
        image = self._step_image()
        state = local_state()
        source = b"".join(
            (PROJECT / "adapters" / name).read_bytes()
            for name in ("workloads.py", "kfp/pipeline.py", "kfp/compile_pipeline.py")
        )
        key = hashlib.sha256(source + image.encode()).hexdigest()[:16]
        kept = state.root / "kfp-compiled" / f"{definition_name(request)}-{key}.json"
        if not kept.exists():
            write_atomic(kept, compile_with(envs.ensure(state, SDK), request, image))
        found: Json = json.loads(kept.read_text(encoding="utf-8"))
        return found

    def submit(self, request: RunRequest) -> RunHandle:
        """Create the run. A second submission of a run id finds the first one's run by its name.

        What `prepare` has just looked for and not found is not looked for again: that would be measured.
        """
        submit_ns = time.time_ns()
        body = self._described(request)
        found = None if request.run_id in self._new else self.api.named(request.run_id)
        self._new.discard(request.run_id)
        if found is None:
            found = self.api.call("POST", "/runs", json=body) or {}
        return RunHandle(
            run_id=request.run_id,
            native_id=found["run_id"],
            submit_ns=submit_ns,
            accepted_ns=time.time_ns(),
        )

    def _described(self, request: RunRequest) -> Json:
        """The run as the API takes it, once or on a schedule."""
        definition = self._definition(request)
        settings = {name: str(value) for name, value in request.parameters.items()}
        return {
            "display_name": request.run_id,
            "pipeline_spec": definition["pipeline_spec"],
            "runtime_config": {
                "parameters": {"run_id": request.run_id, "settings": settings, **definition["arguments"]},
                "pipeline_root": f"{ARTIFACTS}/{request.run_id}",
            },
            "service_account": SERVICE_ACCOUNT,
        }

    def schedule(self, request: RunRequest) -> None:
        """Make a recurring run; returns when KFP's controller has noted it. Its expressions begin with seconds.

        Raises `BenchError` where it has not done so before the minute begins.
        """
        due = request.due or 0
        body = {
            **self._described(request),
            "trigger": {"cron_schedule": {"cron": f"0 {cron_of(request)}"}},
            "max_concurrency": 1,
            "no_catchup": True,
            "mode": "ENABLE",
        }
        made = self.api.call("POST", "/recurringruns", json=body) or {}
        name = self._name_runs_of(made["recurring_run_id"], request.run_id)
        listed = self.kube.custom.list_namespaced_custom_object
        with explained(f"waiting until kfp knows when {request.run_id} is due"):
            for _, found in self.kube.follow(listed, name, due - time.time(), **SCHEDULES):
                trigger = (found.get("status") or {}).get("trigger") or {}
                if epoch_seconds(trigger.get("nextTriggeredTime")) == due:
                    return
        raise BenchError(f"kfp did not take {request.run_id} on its schedule in time", "bench cluster status")

    def _name_runs_of(self, recurring: str, run_id: str) -> str:
        """Have what a recurring run starts carry our name, as KFP writes it into other runs; its resource's name."""
        with explained(f"naming the runs of {run_id}"):
            there = self.kube.custom.list_namespaced_custom_object(**SCHEDULES)["items"]
            (found,) = (each for each in there if each["metadata"]["uid"] == recurring)
            name = str(found["metadata"]["name"])
            workflow = named_workflow(found["spec"]["workflow"]["spec"], run_id)
            self.kube.custom.patch_namespaced_custom_object(
                **SCHEDULES, name=name, body={"spec": {"workflow": {"spec": workflow}}}
            )
        return name

    def scheduled(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """The run that the recurring run has started, as soon as the API knows it."""
        due = request.due or 0
        recurring = self.api.recurring(request.run_id)
        time.sleep(max(0.0, due - time.time()))
        while recurring is not None and time.time() < due + deadline_seconds:
            if found := self.api.started_by(recurring):
                return RunHandle(
                    run_id=request.run_id,
                    native_id=found["run_id"],
                    submit_ns=due * 10**9,
                    accepted_ns=due * 10**9,
                )
            time.sleep(LOOK_SECONDS)
        raise BenchError(f"no schedule of kfp has started {request.run_id}", "bench cluster status")

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Ask for the run's state, which the persistence agent reports, until it is terminal."""
        end = time.monotonic() + deadline_seconds
        last_ns = handle.accepted_ns
        status, state, reason = None, "", ""
        while status is None:
            asked_ns = time.time_ns()
            found = self.api.run(handle.native_id)
            now, monotonic = time.time_ns(), time.monotonic_ns()
            state = str((found or {}).get("state", ""))
            if found is None:
                status, reason = Status.CANCELLED, "the run was deleted while it ran"
            elif state in ENDINGS:
                status = ENDINGS[state]
            elif time.monotonic() > end:
                status, reason = Status.TIMEOUT, f"still {state or 'unknown'} after {deadline_seconds:.0f} s"
            else:
                last_ns = asked_ns
                time.sleep(LOOK_SECONDS)
        if status is Status.FAILED:
            reason = records.why(self._workflow(handle.native_id))
        return RunOutcome(
            status=status,
            last_non_terminal_ns=last_ns,
            first_terminal_ns=now,
            first_terminal_monotonic_ns=monotonic,
            reason=reason,
            native_status=state,
        )

    def _workflow(self, native_id: str) -> Document:
        """The Workflow behind a run; empty where it is gone."""
        with explained(f"reading the Workflow of {native_id}"):
            listed = self.kube.listed(
                self.kube.custom.list_namespaced_custom_object,
                label_selector=f"{RUN_ID_LABEL}={native_id}",
                **WORKFLOWS,
            )
        found: Document = next(iter(listed["items"]), {"metadata": {"name": ""}})
        return found

    def cancel(self, run_id: str) -> bool:
        """Delete the run or recurring run, Workflow and, with that, pods; starts the API server where it is off."""
        if not self.servers.exists() or API not in self.servers.deployments():
            return False
        stopped = bool(self.servers.health([API]))
        if stopped:
            self.servers.scale(True, API)
        try:
            return self._cancel(run_id)
        finally:
            if stopped:
                self.servers.scale(False, API)

    def _cancel(self, run_id: str) -> bool:
        found = self.api.named(run_id)
        recurring = None if found else self.api.recurring(run_id)
        if recurring is not None:
            self.api.call("DELETE", f"/recurringruns/{recurring['recurring_run_id']}")
            found = self.api.started_by(recurring)
        if found is not None:
            self._remove_workflow(found["run_id"])
            self.api.call("DELETE", f"/runs/{found['run_id']}")
        elif recurring is None:
            return False
        self._pods_gone(run_id)
        return True

    def _remove_workflow(self, native_id: str) -> None:
        name = self._workflow(native_id)["metadata"]["name"]
        if name:
            document = {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Workflow",
                "metadata": {"name": name, "namespace": PIPELINE_NAMESPACE},
            }
            self.kube.remove([document])

    def _pods_gone(self, run_id: str) -> None:
        end = time.monotonic() + GONE_SECONDS
        while time.monotonic() < end:
            with explained(f"removing {run_id}"):
                left = self.kube.core.list_namespaced_pod(
                    PIPELINE_NAMESPACE, label_selector=f"{RUN_LABEL}={run_id}"
                ).items
            if not left:
                return
            time.sleep(0.2)
        raise BenchError(f"the pods of {run_id} did not go away", "bench cluster status")

    def timeline(self, handle: RunHandle) -> Timeline:
        """The run's state by the API, its steps by the Workflow under it: the API gives no attempts' pods."""
        run = self.api.run(handle.native_id) or {}
        return records.timeline_of(handle.run_id, run, self._workflow(handle.native_id))

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step's pods printed, as long as they exist."""
        pods = [each.pod_name for each in self.timeline(handle).attempts if each.step == step]
        with explained(f"reading the logs of {step}"):
            return "".join(
                str(self.kube.core.read_namespaced_pod_log(pod, PIPELINE_NAMESPACE, container="main"))
                for pod in pods
            )


def named_workflow(workflow: str, run_id: str) -> str:
    """A Workflow (JSON) with a run's name, which KFP gives to runs made by its API and not to scheduled ones."""
    found = json.loads(workflow)
    found["metadata"].setdefault("annotations", {})[RUN_NAME_ANNOTATION] = run_id
    return json.dumps(found)


def definition_name(request: RunRequest) -> str:
    """What tells one definition from another."""
    return f"{request.workload}-{request.steps}" + ("-as-shipped" if request.retries_as_shipped else "")


def compile_with(python: Path, request: RunRequest, image: str) -> str:
    """What the SDK makes of a workload. Raises `BenchError` with its last words."""
    retries = {"STEP_RETRIES": "0"} if request.retries_as_shipped else {}
    done = subprocess.run(
        [str(python), "-m", "adapters.kfp.compile_pipeline", request.workload, str(request.steps)],
        cwd=PROJECT,
        env={**os.environ, "STEP_IMAGE": image, "VIRTUAL_ENV": "", **retries},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"the SDK did not compile {request.workload}: {done.stderr[-500:]}", "bench doctor")
    return done.stdout
