"""Watching a run from outside: its pods as the watch delivers them, its ledger, the machine's pressure."""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
from kubernetes import client

from adapters import podspec
from adapters.base import BenchError, Component, Target, TargetUnreachable
from adapters.installation import quiet
from adapters.kube import Document, Kube, epoch_seconds, explained
from adapters.local.target import connect_local
from adapters.targets import PIPELINE_NAMESPACE, SYSTEM_NAMESPACE, connect
from bench.measure import clocks
from bench.measure.resources import Look, of_cluster, of_servers
from bench.results.records import PodClock, Pressure
from core.codedigest import code_digest

LEDGER_SERVICE = "http:ledger:8080"
SERVING_SERVICE = "http:recommender:8080"
CRASH = "kill -9 $(grep -las '^postgres: checkpointer' /proc/[0-9]*/cmdline | cut -d/ -f3)"
"""What a shell in PostgreSQL's container does to have the server take itself for crashed."""


class Watcher(Protocol):
    """Sees the pods of one run."""

    def pods(self) -> tuple[PodClock, ...]:
        """What was seen so far, in order of creation."""


class Scene(Protocol):
    """Where runs happen, for those who watch."""

    def watch(self, run_id: str) -> "Any":
        """A context manager that yields a `Watcher`."""

    def ledger(self, run_id: str) -> list[dict[str, Any]]:
        """The run's ledger events in order, lineage left out."""

    def facts(self) -> dict[str, str]:
        """What is known of the place."""

    def forget(self, run_id: str) -> None:
        """Remove what the cluster keeps of a run that is over: its pods, Jobs and Workflows, not a database's rows."""

    def told(self, text: str) -> str:
        """A text as results may have it."""

    def refuse_foreign(self, namespaces: Iterable[str]) -> None:
        """Raises `Unsupported` where one of the namespaces that an orchestrator would use is somebody else's."""

    def quiet(self, but: str) -> None:
        """Stop the servers of every orchestrator but one: they would take CPU from what is measured."""

    def look(self, components: Iterable[Component]) -> Look:
        """What these parts of an orchestrator have used so far."""


@dataclass
class _Seen:
    last: Document
    arrivals: dict[str, int] = field(default_factory=dict)


class PodWatcher:
    """Collects the pods of one run in a thread of its own, from a watch that is opened before the run starts."""

    def __init__(self, kube: Kube, run_id: str) -> None:
        self._kube = kube
        self._selector = f"{podspec.RUN_LABEL}={run_id}"
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{run_id}", daemon=True)

    def start(self) -> None:
        """Returns once the watch is open. Raises `BenchError` where it does not open."""
        self._thread.start()
        opened = self._ready.wait(30)
        self.check()
        if not opened:
            raise BenchError("the watch of the run's pods did not open within 30 s", "bench cluster status")

    def check(self) -> None:
        """Raises `BenchError` where the watch broke: what arrived meanwhile has no arrival time."""
        if self.error is not None:
            what = f"{type(self.error).__name__}: {self.error}"
            raise BenchError(f"the watch of the run's pods broke ({what})", "bench cluster status")

    def stop(self) -> None:
        """Take a last look, so that what arrived late is not lost; the thread ends with its watch."""
        self._stop.set()
        self._look()

    def _where(self) -> dict[str, str]:
        return {"namespace": PIPELINE_NAMESPACE, "label_selector": self._selector}

    def _look(self) -> str:
        with explained("watching the run's pods"):
            listed = self._kube.listed(self._kube.core.list_namespaced_pod, **self._where())
        for pod in listed["items"]:
            self._note("LISTED", pod)
        return str(listed["metadata"]["resourceVersion"])

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                version = self._look()
                self._ready.set()
                for kind, pod in self._kube.events(
                    self._kube.core.list_namespaced_pod, version, 60, **self._where()
                ):
                    self._note(kind, pod)
                    if self._stop.is_set():
                        return
            except Exception as error:  # noqa: BLE001 - a thread's error must reach the record
                self.error = error
                self._ready.set()
                if self._stop.wait(1):
                    return

    def _note(self, kind: str, pod: Document) -> None:
        now = time.time_ns()
        uid = pod["metadata"]["uid"]
        with self._lock:
            seen = self._seen.setdefault(uid, _Seen(pod))
            for name in _reached(pod):
                seen.arrivals.setdefault(name, now)
            if kind == "DELETED":
                seen.arrivals.setdefault("deleted", now)
            seen.last = pod
            self._lock.notify_all()

    def wait_for(self, state: str, seconds: float) -> bool:
        """Wait until some pod of the run has reached `state` (as in `PodClock.arrivals_ns`); False if none did."""
        with self._lock:
            return self._lock.wait_for(
                lambda: any(state in seen.arrivals for seen in self._seen.values()), seconds
            )

    def pods(self) -> tuple[PodClock, ...]:
        """What was seen so far, in order of creation."""
        with self._lock:
            clocks = [pod_clock(seen.last, seen.arrivals) for seen in self._seen.values()]
        return tuple(sorted(clocks, key=lambda pod: (pod.arrivals_ns.get("created", 0), pod.name)))


def _main(pod: Document) -> Document:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((s for s in statuses if s["name"] == "main"), statuses[0] if statuses else {})


def _condition(pod: Document, name: str) -> str | None:
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == name and condition["status"] == "True":
            return str(condition["lastTransitionTime"])
    return None


def _reached(pod: Document) -> Iterator[str]:
    yield "created"
    if _condition(pod, "PodScheduled"):
        yield "scheduled"
    state = _main(pod).get("state", {})
    if "running" in state or "terminated" in state:
        yield "running"
    if "terminated" in state:
        yield "terminated"


def pod_clock(pod: Document, arrivals: dict[str, int]) -> PodClock:
    """A pod object and the arrival times of its states as a record."""
    main = _main(pod)
    state = main.get("state", {})
    ended = state.get("terminated") or {}
    started = ended.get("startedAt") or (state.get("running") or {}).get("startedAt")
    return PodClock(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        node=pod["spec"].get("nodeName", ""),
        image_id=main.get("imageID", ""),
        created=epoch_seconds(pod["metadata"]["creationTimestamp"]),
        scheduled=epoch_seconds(_condition(pod, "PodScheduled")),
        started=epoch_seconds(started),
        finished=epoch_seconds(ended.get("finishedAt")),
        exit_code=ended.get("exitCode"),
        phase=pod.get("status", {}).get("phase", ""),
        arrivals_ns=dict(arrivals),
        restricted=podspec.is_restricted(pod),
        read_only_root=podspec.has_read_only_root(pod),
    )


class ClusterScene:
    """A Kubernetes cluster with our services on it."""

    def __init__(self, target: Target) -> None:
        self.where = connect(target)
        self._clocks: dict[str, str] = {}

    @contextmanager
    def watch(self, run_id: str) -> Iterator[PodWatcher]:
        """Watch the run's pods while the block lasts.

        Raises `BenchError` where the watch could not be kept up.
        """
        watcher = PodWatcher(self.where.kube, run_id)
        try:
            watcher.start()
            yield watcher
        finally:
            watcher.stop()
        watcher.check()

    def ledger(self, run_id: str) -> list[dict[str, Any]]:
        """The run's ledger events in order, lineage left out."""
        return [row for row in self.events(run_id) if row["event"] != "lineage"]

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """All of the run's ledger events in order."""
        text = self.where.kube.service_get(SYSTEM_NAMESPACE, LEDGER_SERVICE, "events", {"run_id": run_id})
        return [json.loads(line) for line in text.splitlines() if line]

    def refuse_foreign(self, namespaces: Iterable[str]) -> None:
        """See `Scene`."""
        for name in set(namespaces):
            identity = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self.where.kube.refuse_foreign(identity)

    def quiet(self, but: str) -> None:
        """Scale the servers of the others to zero, also those that an earlier command left."""
        quiet(self.where.kube, but)

    def look(self, components: Iterable[Component]) -> Look:
        """See `Scene`."""
        return of_cluster(self.where.kube, components)

    def forget(self, run_id: str) -> None:
        """See `Scene`. Raises `BenchError` where Kubernetes refuses."""
        kube, which = self.where.kube, f"{podspec.RUN_LABEL}={run_id}"
        identity = {"name": run_id, "namespace": PIPELINE_NAMESPACE}
        kube.remove([{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": identity}])
        with explained(f"removing the objects of {run_id}"):
            client.BatchV1Api(kube.api).delete_collection_namespaced_job(
                PIPELINE_NAMESPACE, label_selector=which, propagation_policy="Background"
            )
            kube.core.delete_collection_namespaced_pod(PIPELINE_NAMESPACE, label_selector=which)

    def told(self, text: str) -> str:
        """The text itself."""
        return text

    def delete_pod(self, name: str) -> None:
        """Delete a pod of the pipelines without grace. Raises `BenchError` where it is not there."""
        with explained(f"deleting pod {name}"):
            self.where.kube.core.delete_namespaced_pod(name, PIPELINE_NAMESPACE, grace_period_seconds=0)

    def delete_servers(self, components: Sequence[Component]) -> list[str]:
        """Delete all pods of these parts of an orchestrator without grace; their names.

        Raises `BenchError` where there is none, or Kubernetes refuses.
        """
        core = self.where.kube.core
        pods = self._pods_of(components)
        with explained("deleting the orchestrator's servers"):
            for namespace, name in pods:
                core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
        return [name for _, name in pods]

    def crash(self, components: Sequence[Component]) -> list[str]:
        """Kill a process of these PostgreSQL servers with SIGKILL: each ends all connections, then recovers.

        The server itself stays. Ended with its container it would be away for as long as the kubelet likes, longer each
        time; deleted with its pod, a second server could be on the data before the first is gone. Returns the names of
        the pods. Raises `BenchError` where there is none, or Kubernetes refuses.
        """
        pods = self._pods_of(components)
        for namespace, name in pods:
            with explained(f"killing a process in pod {name}"):
                talk = self.where.kube.talk(namespace, name, ["sh", "-c", CRASH])
                talk.run_forever(timeout=10)
                said = talk.read_stderr().strip()
            if said:
                raise BenchError(f"PostgreSQL in pod {name} could not be crashed: {said}", "bench doctor")
        return [name for _, name in pods]

    def _pods_of(self, components: Iterable[Component]) -> list[tuple[str, str]]:
        """Namespace and name of each pod of these parts. Raises `BenchError` where there is none."""
        with explained("looking for the orchestrator's servers"):
            pods = [
                (pod.metadata.namespace, pod.metadata.name)
                for each in components
                for pod in self.where.kube.core.list_namespaced_pod(
                    each.namespace, label_selector=each.selector
                ).items
            ]
        if not pods:
            raise BenchError("no pod of the orchestrator's servers is there to be struck", "bench doctor")
        return pods

    def served(self) -> dict[str, Any] | None:
        """Which model the service in the cluster serves; None before the first promotion."""
        try:
            text = self.where.kube.service_get(PIPELINE_NAMESPACE, SERVING_SERVICE, "model", {})
        except BenchError as error:
            if "404" in error.message:
                return None
            raise
        answer: dict[str, Any] = json.loads(text)
        return answer

    def facts(self) -> dict[str, str]:
        """Versions of the cluster, digests of its images; on nodes of their own, how far their clocks are from ours."""
        images = {f"image_{key}": ref.rsplit("@", 1)[-1] for key, ref in self.where.images.items()}
        if self.where.target is Target.K8S and not self._clocks:
            self._clocks = {"node_clocks": clocks.offsets(self.where)}  # once a command, after its first run
        return {**self.where.facts, **images, **self._clocks}


class LedgerWatcher:
    """Where there are no pods, the ledger tells how far a run is."""

    def __init__(self, scene: "LocalScene", run_id: str) -> None:
        self._scene, self._run_id = scene, run_id

    def pods(self) -> tuple[PodClock, ...]:
        """None."""
        return ()

    def wait_for(self, state: str, seconds: float) -> bool:
        """Wait until a step of the run has started, whatever `state` is; False if none did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if any(event["event"] == "start" for event in self._scene.ledger(self._run_id)):
                return True
            time.sleep(0.2)
        return False


def without_paths(text: str, root: Path) -> str:
    """The text with the state folder's own place left out: it is nobody's business in a result."""
    return text.replace(str(root), "$BENCH_HOME/local")


class LocalScene:
    """This machine, with our services on loopback."""

    def __init__(self) -> None:
        self.where = connect_local()

    @contextmanager
    def watch(self, run_id: str) -> Iterator[LedgerWatcher]:
        """No pods to watch."""
        yield LedgerWatcher(self, run_id)

    def ledger(self, run_id: str) -> list[dict[str, Any]]:
        """The run's ledger events in order, lineage left out."""
        return [row for row in self.events(run_id) if row["event"] != "lineage"]

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """All of the run's ledger events in order."""
        text = self._get(f"{self.where.ledger_url}/events", {"run_id": run_id}).text
        return [json.loads(line) for line in without_paths(text, self.where.state.root).splitlines() if line]

    def served(self) -> dict[str, Any] | None:
        """Which model the local service serves; None before the first promotion."""
        answer = self._get(f"{self.where.serving_url}/model", {})
        if answer.status_code == 404:
            return None
        model: dict[str, Any] = answer.json()
        return model

    def facts(self) -> dict[str, str]:
        """What all local orchestrators share, and the code that the steps run."""
        return {**self.where.versions(), "code": code_digest()}

    def forget(self, run_id: str) -> None:
        """Nothing: the run's processes are gone already, and there are no objects of it."""

    def told(self, text: str) -> str:
        """Without the place of the state folder, as in the ledger's rows."""
        return without_paths(text, self.where.state.root)

    def look(self, components: Iterable[Component]) -> Look:
        """See `Scene`."""
        return of_servers(self.where.servers, components)

    def refuse_foreign(self, namespaces: Iterable[str]) -> None:
        """Nothing: there are no namespaces."""

    def quiet(self, but: str) -> None:
        """Nothing: servers end with the command that started them, and the runner stops those of its own."""

    @staticmethod
    def _get(url: str, params: dict[str, str]) -> httpx.Response:
        try:
            return httpx.get(url, params=params, timeout=30, trust_env=False)
        except httpx.HTTPError as error:
            raise TargetUnreachable(f"{url}: {error or type(error).__name__}", "bench doctor") from error


class _Blind:
    def pods(self) -> tuple[PodClock, ...]:
        return ()


class EmptyScene:
    """Nothing to see: the no-op control."""

    @contextmanager
    def watch(self, run_id: str) -> Iterator[_Blind]:
        """Sees nothing."""
        yield _Blind()

    def ledger(self, run_id: str) -> list[dict[str, Any]]:
        """None."""
        return []

    def facts(self) -> dict[str, str]:
        """None."""
        return {}

    def forget(self, run_id: str) -> None:
        """Nothing."""

    def told(self, text: str) -> str:
        """The text itself."""
        return text

    def refuse_foreign(self, namespaces: Iterable[str]) -> None:
        """Nothing."""

    def quiet(self, but: str) -> None:
        """Nothing."""

    def look(self, components: Iterable[Component]) -> Look:
        """Nothing."""
        return Look(time.time())


def scene_of(target: Target, stepless: bool = False) -> Scene:
    """The scene of a target; an empty one where nothing is run.

    Raises `TargetUnreachable` where it does not answer, `Unsupported` where it cannot be.
    """
    if stepless:
        return EmptyScene()
    return LocalScene() if target is Target.LOCAL else ClusterScene(target)


FEWEST_TICKS = 50
"""Of the CPU clock, of all cores together (half a second of one): a share of fewer is mostly rounding."""


@dataclass(frozen=True)
class Gauge:
    """The machine's counters at one moment."""

    at: float
    stalls: dict[str, float]
    steal: float
    jiffies: float
    load: float

    @classmethod
    def read(cls) -> "Gauge":
        """Pressure stall totals (s), stolen and total CPU time, load; what the kernel does not tell is left out."""
        stalls = {}
        for name in ("cpu", "io", "memory"):
            try:
                line = Path(f"/proc/pressure/{name}").read_text().splitlines()[0]
            except (OSError, IndexError):
                continue
            stalls[name] = int(line.rsplit("total=", 1)[1]) / 1e6
        cpu = [float(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        load = float(Path("/proc/loadavg").read_text().split()[0])
        return cls(time.monotonic(), stalls, cpu[7] if len(cpu) > 7 else 0.0, sum(cpu[:8]), load)

    def since(self, before: "Gauge") -> Pressure:
        """The shares of time between two readings."""
        elapsed = max(self.at - before.at, 1e-9)
        share = {name: (self.stalls[name] - before.stalls[name]) / elapsed for name in self.stalls}
        ticks = self.jiffies - before.jiffies
        return Pressure(
            cpu_some=share.get("cpu"),
            io_some=share.get("io"),
            memory_some=share.get("memory"),
            steal=(self.steal - before.steal) / ticks if ticks >= FEWEST_TICKS else None,
            load_before=before.load,
        )
