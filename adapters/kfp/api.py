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
from adapters.installation import Installation
from adapters.kfp import records
from adapters.kube import Document, explained
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
        predicate = {"operation": "EQUALS", "key": "display_name", "string_value": run_id}
        found = self.call("GET", "/runs", params={"filter": json.dumps({"predicates": [predicate]})}) or {}
        return next(iter(found.get("runs") or ()), None)

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
        definition = self._definition(request)
        settings = {name: str(value) for name, value in request.parameters.items()}
        body = {
            "display_name": request.run_id,
            "pipeline_spec": definition["pipeline_spec"],
            "runtime_config": {
                "parameters": {"run_id": request.run_id, "settings": settings, **definition["arguments"]},
                "pipeline_root": f"{ARTIFACTS}/{request.run_id}",
            },
            "service_account": SERVICE_ACCOUNT,
        }
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
        """Delete the run, its Workflow and, with that, its pods; starts the API server for it where it is off."""
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
        if found is None:
            return False
        self._remove_workflow(found["run_id"])
        self.api.call("DELETE", f"/runs/{found['run_id']}")
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
