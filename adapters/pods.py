"""The floors on a cluster: the same pods, each started by the harness as soon as the one before has ended; or one pod
with the same steps in it. No orchestrator."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from kubernetes.client.exceptions import ApiException

from adapters import podspec
from adapters.base import (
    Attempt,
    BenchError,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    Timeline,
)
from adapters.kube import Document, explained
from adapters.runtimes import NothingToInstall
from adapters.targets import PIPELINE_NAMESPACE, ClusterTarget, connect
from adapters.walk import Job, attempts_in, outputs_in, words
from adapters.workloads import GATED, SWEEP, Member, phases

SERVICE_ACCOUNT = "pipeline-pods"
NOT_THERE = "No module named 'adapters'"
"""What an image says that was made before runs were walked through in it."""

FILE_INPUTS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "preprocess": {"ratings": ("ingest", "ratings.parquet")},
    "train": {"train": ("preprocess", "train.npz")},
    "eval": {"model": ("train", "model.joblib"), "heldout": ("preprocess", "heldout.npz")},
    "register": {"model": ("train", "model.joblib"), "metrics": ("eval", "metrics.json")},
    "monitor": {"heldout": ("preprocess", "heldout.npz")},
}
"""Which file of which step a step reads."""

SCALAR_INPUTS: Mapping[str, tuple[str, ...]] = {
    "eval": ("model_sha256",),
    "register": ("dataset_uri", "dataset_sha256", "model_uri", "model_sha256", "score", "passed"),
    "promote": ("model_version", "score", "passed"),
    "monitor": ("model_sha256", "promoted"),
}


def over_now(status: Status, reason: str, last_ns: int) -> RunOutcome:
    """A floor's run that has ended this moment; `last_ns` is when it was last known not to have."""
    return RunOutcome(
        status=status,
        last_non_terminal_ns=last_ns,
        first_terminal_ns=time.time_ns(),
        first_terminal_monotonic_ns=time.monotonic_ns(),
        reason=reason,
        native_status=status.value,
    )


def timeline_of(run_id: str, attempts: Iterable[Attempt], resolution_seconds: float) -> Timeline:
    """A floor's run as its attempts tell it, in the order in which they began."""
    ordered = sorted(attempts, key=lambda a: (a.started or 0, a.step, a.index or 0))
    return Timeline(
        run_id=run_id,
        native_status="",
        resolution_seconds=resolution_seconds,
        started=min((a.started for a in ordered if a.started is not None), default=None),
        finished=max((a.finished for a in ordered if a.finished is not None), default=None),
        attempts=tuple(ordered),
    )


def name_of(run_id: str, member: Member) -> str:
    """Of a step's pod, or its process."""
    return f"{run_id}-{member.step}{'' if member.index is None else f'-{member.index}'}"


class PodsRuntime(NothingToInstall):
    """The cluster and its pipeline namespace are enough."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where = where

    def health(self) -> str:
        """Empty where the cluster answers."""
        self.where.kube.version()
        return ""


class PodsDriver:
    """Creates the pods of a phase, waits for them to end, goes on with the next."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where = where
        self.kube = where.kube
        self._requests: dict[str, RunRequest] = {}

    def prepare(self, request: RunRequest) -> None:
        """Nothing."""

    def submit(self, request: RunRequest) -> RunHandle:
        """Accepted at once; `wait` does the work."""
        self._requests[request.run_id] = request
        now = time.time_ns()
        return RunHandle(
            run_id=request.run_id, native_id=request.run_id, submit_ns=now, accepted_ns=time.time_ns()
        )

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Run the phases. A pod that fails ends the run: there is nobody here to try again."""
        request = self._requests[handle.run_id]
        end = time.monotonic() + deadline_seconds
        outputs: dict[str, str] = {}
        last_ns = handle.accepted_ns
        status, reason = Status.SUCCEEDED, ""
        candidates: list[dict[str, str]] = []
        for phase in phases(request.workload, request.steps):
            step = phase[0].step
            if step in GATED and outputs.get("passed") == "false":
                continue
            if step == "select":
                outputs["candidates"] = json.dumps(candidates)
            wanted = set()
            for member in phase:
                pod = self.pod(request, member, self._settings(request, member, outputs), outputs)
                with explained(f"creating {pod['metadata']['name']}"):
                    self.kube.core.create_namespaced_pod(PIPELINE_NAMESPACE, pod)
                wanted.add(pod["metadata"]["name"])
            failed: list[str] = []
            for found in self._ended(request.run_id, wanted, end):
                last_ns = time.time_ns()
                if found["status"]["phase"] == "Failed":
                    failed.append(found["metadata"]["name"])
            if wanted:
                status, reason = Status.TIMEOUT, f"still waiting for {', '.join(sorted(wanted))}"
                break
            if failed:
                status, reason = Status.FAILED, f"{', '.join(sorted(failed))} failed"
                break
            self._collect(request, phase, outputs, candidates)
        return over_now(status, reason, last_ns)

    def _ended(self, run_id: str, wanted: set[str], end: float) -> Iterator[Document]:
        """The pods of `wanted` as they end; each is taken out of the set. Stops at `end` (monotonic s)."""
        listing = self.kube.core.list_namespaced_pod
        where = {"namespace": PIPELINE_NAMESPACE, "label_selector": f"{podspec.RUN_LABEL}={run_id}"}

        def over(found: Document) -> bool:
            name, phase = found["metadata"]["name"], found.get("status", {}).get("phase")
            if name in wanted and phase in ("Succeeded", "Failed"):
                wanted.discard(name)
                return True
            return False

        while wanted and (left := end - time.monotonic()) > 0:
            with explained("watching pods"):
                listed = self.kube.listed(listing, **where)
                yield from (found for found in listed["items"] if over(found))
                if not wanted:
                    return
                version = listed["metadata"]["resourceVersion"]
                for _, found in self.kube.events(listing, version, max(1, int(left) + 1), **where):
                    if over(found):
                        yield found
                    if not wanted or time.monotonic() > end:
                        return

    @staticmethod
    def _settings(request: RunRequest, member: Member, outputs: Mapping[str, str]) -> dict[str, str]:
        settings = {name: str(value) for name, value in request.parameters.items()}
        if request.workload == "sweep":
            if member.index is not None:
                settings.update({key: str(value) for key, value in SWEEP[member.index].items()})
            elif member.step == "register":
                settings.update({key: outputs[key] for key in ("seed", "k")})
        return settings

    def _folder(self, run_id: str, step: str, index: int | None) -> str:
        return f"s3://artifacts/runs/{run_id}/{step}" + ("" if index is None else f"-{index}") + "/1"

    def pod(
        self,
        request: RunRequest,
        member: Member,
        settings: Mapping[str, str],
        outputs: Mapping[str, str],
    ) -> Document:
        """The pod of one step: image, mounts, requests and security are those of every orchestrator's pods."""
        step, index = member.step, member.index
        inputs = {}
        for name, (source, file) in FILE_INPUTS.get(step, {}).items():
            if request.workload == "sweep" and step == "register":
                continue
            at = None if source == "ingest" else index
            inputs[name] = f"{self._folder(request.run_id, source, at)}/{file}"
        scalars = ("candidates",) if step == "select" else SCALAR_INPUTS.get(step, ())
        suffix = "" if index is None else f"/{index}"
        for name in scalars:
            inputs[name] = outputs[name + suffix]
        args = [
            *words(request.run_id, Job(member, settings, inputs)),
            *("--results-dir", "/results", "--output-dir", self._folder(request.run_id, step, index)),
        ]
        labels = {podspec.RUN_LABEL: request.run_id, podspec.STEP_LABEL: step}
        return self._spec(name_of(request.run_id, member), labels, ["step"], args)

    def _spec(self, name: str, labels: Mapping[str, str], command: list[str], args: list[str]) -> Document:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": PIPELINE_NAMESPACE, "labels": dict(labels)},
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": SERVICE_ACCOUNT,
                "automountServiceAccountToken": False,
                "securityContext": podspec.POD_SECURITY,
                "volumes": podspec.volumes(),
                "containers": [
                    {
                        "name": "main",
                        "image": self.where.image("step"),
                        "command": command,
                        "args": args,
                        **podspec.container(self.where.step_digest),
                    }
                ],
            },
        }

    def _collect(
        self,
        request: RunRequest,
        phase: tuple[Member, ...],
        outputs: dict[str, str],
        candidates: list[dict[str, str]],
    ) -> None:
        """Read what the steps of a phase left, where a later step needs it."""
        if request.workload in ("chain", "fanout"):
            return
        for member in phase:
            name = name_of(request.run_id, member)
            with explained(f"reading what {name} left"):
                text = str(self.kube.core.read_namespaced_pod_log(name, PIPELINE_NAMESPACE))
            try:
                left = outputs_in(text)
            except ValueError as error:
                raise BenchError(f"{name}: {error}", "bench cluster status") from error
            suffix = "" if member.index is None else f"/{member.index}"
            outputs.update({key + suffix: value for key, value in left.items()})
            if member.step == "eval" and member.index is not None:
                sweep = {key: str(value) for key, value in SWEEP[member.index].items()}
                candidates.append(
                    {
                        "index": str(member.index),
                        **sweep,
                        **{key: left[key] for key in ("score", "passed")},
                        "model_uri": outputs[f"model_uri/{member.index}"],
                        "model_sha256": outputs[f"model_sha256/{member.index}"],
                    }
                )

    def cancel(self, run_id: str) -> bool:
        """Delete the run's pods; returns when they are gone."""
        where = {"namespace": PIPELINE_NAMESPACE, "label_selector": f"{podspec.RUN_LABEL}={run_id}"}
        listing = self.kube.core.list_namespaced_pod
        end = time.monotonic() + 60
        found = False
        with explained(f"removing {run_id}"):
            while True:
                listed = self.kube.listed(listing, **where)
                names = {item["metadata"]["name"] for item in listed["items"]}
                if not names:
                    return found
                if (left := end - time.monotonic()) <= 0:
                    break
                found = True
                for name in names:
                    try:
                        self.kube.core.delete_namespaced_pod(name, PIPELINE_NAMESPACE, grace_period_seconds=0)
                    except ApiException as error:
                        if error.status != 404:
                            raise
                version = listed["metadata"]["resourceVersion"]
                for kind, pod in self.kube.events(listing, version, int(left) + 1, **where):
                    if kind == "DELETED":
                        names.discard(pod["metadata"]["name"])
                    if not names:
                        return True
        raise BenchError(f"pods that do not go away: {', '.join(sorted(names))}", "bench cluster status")

    def timeline(self, handle: RunHandle) -> Timeline:
        """The pods' own times, as the kubelet reports them."""
        with explained(f"reading the pods of {handle.run_id}"):
            pods = self.kube.core.list_namespaced_pod(
                PIPELINE_NAMESPACE, label_selector=f"{podspec.RUN_LABEL}={handle.run_id}"
            ).items
        attempts = [_attempt(handle.run_id, pod) for pod in pods]
        return timeline_of(handle.run_id, attempts, 1.0)

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step's pods printed."""
        return self.where.logs(handle.run_id, step)


def _attempt(run_id: str, pod: Any) -> Attempt:
    rest = pod.metadata.name.removeprefix(f"{run_id}-")
    step = pod.metadata.labels[podspec.STEP_LABEL]
    index = rest.removeprefix(step).lstrip("-")
    ended = next((c.state.terminated for c in pod.status.container_statuses or []), None)
    return Attempt(
        step=step,
        index=int(index) if index else None,
        native_id=pod.metadata.uid,
        pod_name=pod.metadata.name,
        started=ended.started_at.timestamp() if ended else None,
        finished=ended.finished_at.timestamp() if ended else None,
        status=pod.status.phase,
    )


class OnePodDriver(PodsDriver):
    """Creates one pod, in which all steps of a run are calls in one process, or a process each."""

    def __init__(self, where: ClusterTarget, way: Literal["calls", "processes"]) -> None:
        super().__init__(where)
        self._way = way

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Create the pod and wait for its end."""
        end = time.monotonic() + deadline_seconds
        run_id = handle.run_id
        request = self._requests[run_id]
        command = ["python", "-m", "adapters.walk", self._way]
        pod = self._spec(run_id, {podspec.RUN_LABEL: run_id}, command, [request.model_dump_json()])
        with explained(f"creating {run_id}"):
            self.kube.core.create_namespaced_pod(PIPELINE_NAMESPACE, pod)
        ended = next(self._ended(run_id, {run_id}, end), None)
        last_ns = time.time_ns()
        status, reason = Status.SUCCEEDED, ""
        if ended is None:
            status, reason = Status.TIMEOUT, f"still waiting for {run_id}"
        elif ended["status"]["phase"] == "Failed":
            last = self._printed(run_id).strip().rpartition("\n")[2]
            if NOT_THERE in last:
                raise BenchError(
                    "the cluster's image of a step is that of an older bench", "bench cluster up", last[-300:]
                )
            status, reason = Status.FAILED, f"{run_id} failed: {last[-300:]}"
        return over_now(status, reason, last_ns)

    def _printed(self, run_id: str) -> str:
        """Nothing of a pod that never began, or is gone."""
        with explained(f"reading what {run_id} printed"):
            try:
                return str(self.kube.core.read_namespaced_pod_log(run_id, PIPELINE_NAMESPACE))
            except ApiException as error:
                if error.status in (400, 404):
                    return ""
                raise

    def timeline(self, handle: RunHandle) -> Timeline:
        """By the clock of whoever started the steps."""
        return timeline_of(handle.run_id, attempts_in(self._printed(handle.run_id)), 1e-6)

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the pod printed: all steps."""
        return self._printed(handle.run_id)


class PodsAdapter:
    """Bare pods."""

    name = "pods"
    title = "bare pods (floor)"

    def targets(self) -> tuple[Target, ...]:
        """Kubernetes only."""
        return (Target.KIND, Target.K8S)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """One."""
        return () if target is Target.LOCAL else (Configuration(name="default", task="pod"),)

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def runtime(self, target: Target) -> PodsRuntime:
        """See `Adapter.runtime`."""
        return PodsRuntime(connect(target))

    def driver(self, target: Target) -> PodsDriver:
        """See `Adapter.driver`."""
        return PodsDriver(connect(target))
