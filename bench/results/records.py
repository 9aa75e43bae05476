"""The record of one run: what is stored, and all that analysis may read."""

import hashlib
import json
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, GetPydanticSchema, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from adapters.base import Frozen, Timeline

SCHEMA_VERSION: Literal[1] = 1

RecordStatus = Literal["succeeded", "failed", "timeout", "void", "unsupported"]
Trigger = Literal["api", "schedule", "event"]
RetryPolicy = Literal["equal", "shipped"]


class Sample(Frozen):
    """Which planned measurement a record answers. `number` counts its tries: void ones are repeated, visibly."""

    plan_id: str
    scenario: str
    index: int
    number: int = 1


class Scenario(Frozen):
    """What is measured: one cell of the comparison."""

    orchestrator: str
    target: str
    workload: str
    configuration: str
    steps: int
    variant: str = "s3"
    parameters: dict[str, str | int | float] = Field(default_factory=dict)
    fault: str = ""
    """What goes wrong on purpose: a name of `bench.faults.inject.FAULTS`, empty where nothing does."""
    observer: Literal["", "off"] = ""
    """`off`: no watch of pods and no look at the orchestrator's parts; what watching costs is the difference."""
    concurrent: int = Field(default=1, ge=1)
    """Runs that one sample submits at once."""
    trigger: Trigger = "api"
    """What starts a run: the harness through the orchestrator's API, or the orchestrator itself."""
    retries: RetryPolicy = "equal"
    """Three attempts without delay everywhere, or each orchestrator's own settings as it ships."""
    warm_up: bool = False
    """Run right after a deployment, so that the samples that follow are not the first under it."""

    @model_serializer(mode="wrap")
    def _as_sealed(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body = _without(inner(self), "fault", "observer", "warm_up")
        usual = {"concurrent": 1, "trigger": "api", "retries": "equal"}
        return {name: value for name, value in body.items() if name not in usual or value != usual[name]}

    @property
    def key(self) -> str:
        """A short, stable name: `kind/argo/pipeline-7/default`, with a digest where parameters are set."""
        base = f"{self.target}/{self.orchestrator}/{self.workload}-{self.steps}/{self.configuration}"
        if self.variant not in ("s3", "folder"):
            base += f"/{self.variant}"
        if self.parameters:
            text = json.dumps(self.parameters, sort_keys=True)
            base += "/" + hashlib.sha256(text.encode()).hexdigest()[:8]
        if self.fault:
            base += f"/fault={self.fault}"
        if self.observer:
            base += f"/observer={self.observer}"
        if self.concurrent > 1:
            base += f"/concurrent={self.concurrent}"
        if self.trigger != "api":
            base += f"/trigger={self.trigger}"
        if self.retries != "equal":
            base += f"/retries={self.retries}"
        if self.warm_up:
            base += "/warm-up"
        return base


def _without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """Fields younger than the first records stay out where they say nothing: a seal holds for what was stored."""
    return {name: value for name, value in body.items() if value or name not in names}


CLOCK_READS = 0.02
"""Seconds between reading the wall clock and the monotonic clock, at both ends of a run together."""


class ClientClock(Frozen):
    """The harness's own clock: wall nanoseconds since the epoch, and a monotonic makespan to check it by."""

    jitter_seconds: float
    submit_ns: int
    accepted_ns: int
    last_non_terminal_ns: int
    first_terminal_ns: int
    makespan_monotonic_ns: int

    @property
    def backwards(self) -> tuple[str, ...]:
        """What comes before its cause: such times measure nothing."""
        steps = (
            ("accepted", "submitted", self.accepted_ns - self.submit_ns),
            ("seen to have ended", "accepted", self.first_terminal_ns - self.accepted_ns),
            ("seen to have ended", "last seen at work", self.first_terminal_ns - self.last_non_terminal_ns),
        )
        found = [f"{what} {-gap / 1e9:.3f} s before it was {then}" for what, then, gap in steps if gap < 0]
        if self.makespan_monotonic_ns < 0:
            found.append(f"a makespan of {self.makespan_monotonic_ns / 1e9:.3f} s")
        return tuple(found)

    @property
    def errors(self) -> tuple[str, ...]:
        """`backwards`, or a wall clock and a monotonic clock that do not agree on the makespan: one was stepped.

        The parts of a run add up to what the wall clock says.
        """
        wall, makespan = (self.first_terminal_ns - self.submit_ns) / 1e9, self.makespan_monotonic_ns / 1e9
        if abs(wall - makespan) <= CLOCK_READS:
            return self.backwards
        return (
            *self.backwards,
            f"residual: the parts add up to {wall:.3f} s of a makespan of {makespan:.3f} s; "
            f"resolution explains {CLOCK_READS:.3f} s",
        )


class PodClock(Frozen):
    """A pod as Kubernetes tells it (1 s resolution) and as the watch delivered it (client clock, ns)."""

    name: str
    uid: str
    node: str = ""
    image_id: str = ""
    """The image of the step's container as the kubelet reports it."""
    created: float | None = None
    scheduled: float | None = None
    started: float | None = None
    finished: float | None = None
    exit_code: int | None = None
    phase: str = ""
    arrivals_ns: dict[str, int] = Field(default_factory=dict)
    """When the watch first told of `created`, `scheduled`, `running`, `terminated`, `deleted`."""
    restricted: bool | None = None
    read_only_root: bool | None = None


class Part(Frozen):
    """A piece of a run's time between two neighbouring boundaries.

    `seconds` is the difference of the boundaries' best estimates, `low` and `high` what their resolution allows.
    """

    name: str
    step: str | None = None
    index: int | None = None
    seconds: float
    low: float
    high: float
    clocks: str
    """From which clock to which, such as `client→kubernetes`."""


class Breakdown(Frozen):
    """Where the time of a run went. Seconds."""

    makespan: float
    """Submit to terminal state observed, client clock."""
    overhead: float | None = None
    """(max end − min start) − Σ over phases of the longest user time in the phase (SeBS-Flow, EuroSys '25)."""
    user: float | None = None
    parts: tuple[Part, ...] = ()
    residual: float | None = None
    """Monotonic makespan less the sum of the parts."""
    residual_bound: float | None = None
    """What the clocks' resolution explains."""
    errors: tuple[str, ...] = ()
    """Negative parts, missing boundaries, a residual beyond the bound: reported, never clamped."""


class Verification(Frozen):
    """Whether the run did what it should have."""

    ok: bool
    problems: tuple[str, ...] = ()
    model_sha256: str | None = None
    passed: bool | None = None
    promoted: bool | None = None
    served_sha256: str | None = None
    steps: tuple[str, ...] = ()
    attempts: int = 0


class Companion(Frozen):
    """One of the runs that a sample submitted at once."""

    run_id: str
    status: RecordStatus
    reason: str = ""
    client: ClientClock
    verification: Verification


class Pressure(Frozen):
    """The machine during the run: pressure stall (fraction of time, `some`) and stolen CPU time."""

    cpu_some: float | None = None
    io_some: float | None = None
    memory_some: float | None = None
    steal: float | None = None
    load_before: float | None = None


class Strike(Frozen):
    """A fault that the harness itself caused from outside."""

    at_ns: int
    """Just before the request that caused it left: client clock, nanoseconds since the epoch."""
    target: str
    """What was struck, such as `pod recommender-x7`."""


class Usage(Frozen):
    """What one part of an orchestrator used between two looks at it."""

    component: str
    role: str
    cpu_seconds: float
    seconds: float
    """Between the two readings of its CPU counter, which the kubelet renews every 10 s or so."""
    memory_bytes: int
    """At the later look: working set (Kubernetes), proportional set size (local)."""


class Window(Frozen):
    """What the orchestrator's own parts used in a stretch of time; the steps' pods and processes are not in it."""

    seconds: float
    """Between the two looks, harness clock."""
    parts: tuple[Usage, ...] = ()
    api_requests: int | None = None
    """Requests that the Kubernetes API server answered to anybody in that time; None without a cluster."""
    api_writes: int | None = None
    """Those of them that create, change or delete."""


class Resources(Frozen):
    """What the orchestrator's own parts used."""

    idle: Window | None = None
    """Deployed and without a run, measured after the last deployment (`bench run --idle`)."""
    run: Window | None = None
    """From before the submission until the end was seen."""


class LineageAnswer(Frozen):
    """One of the thirteen questions, as the orchestrator's own store answered it for this run."""

    question: str
    verdict: Literal["answered", "wrong", "absent"]
    facts: dict[str, str]
    """What it gave."""
    missing: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    """Facts that the ledger contradicts."""
    source: str
    query: str


class Environment(Frozen):
    """Where a run was measured. Different `blocking` values make results incomparable."""

    blocking: dict[str, str]
    informational: dict[str, str] = Field(default_factory=dict)

    @property
    def deciding(self) -> dict[str, str]:
        """All that makes results incomparable: `blocking`, the code of the steps where older rows have it elsewhere,
        and which Python the harness ran on, on this machine the steps too.
        """
        found: dict[str, str] = {}
        if code := self.informational.get("code") or self.informational.get("image_step"):
            found["code"] = code
        if python := self.informational.get("python"):
            found["python"] = ".".join(python.split(".")[:2])
        return {**found, **self.blocking}

    @property
    def digest(self) -> str:
        """sha256 over the deciding part."""
        return _digest(tuple(self.deciding.items()))


@lru_cache(maxsize=64)
def _digest(blocking: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(json.dumps(dict(blocking), sort_keys=True).encode()).hexdigest()


def canonical(body: object, allow_nan: bool = True) -> bytes:
    """Canonical JSON: sorted keys, no spaces. Raises `ValueError` for what is not a number, unless that is allowed."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=allow_nan)
    return text.encode()


class RunRecord(Frozen):
    """One line of `runs.jsonl`."""

    schema_version: Literal[1] = 1
    sample: Sample
    run_id: str
    scenario: Scenario
    knob: str | None = None
    task: str = "pod"
    status: RecordStatus
    reason: str = ""
    cold: bool = False
    """First run after the orchestrator or its configuration was switched."""
    client: ClientClock | None = None
    timeline: Timeline | None = None
    pods: tuple[PodClock, ...] = ()
    ledger: tuple[dict[str, Any], ...] = ()
    breakdown: Breakdown | None = None
    verification: Verification | None = None
    pressure: Pressure | None = None
    resources: Resources | None = None
    strike: Strike | None = None
    lineage: tuple[LineageAnswer, ...] = ()
    """Answers of the orchestrator's own store, where it was asked."""
    together: tuple[Companion, ...] = ()
    """The runs of a sample of several at once, in the order of their ids. `client` then spans all of them."""
    environment: Environment
    recorded_at: str
    """ISO 8601, UTC."""
    sha256: str = ""
    """Over the canonical JSON of everything above."""

    @model_serializer(mode="wrap")
    def _as_sealed(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(inner(self), "strike", "lineage", "resources", "together")

    @property
    def backwards(self) -> tuple[str, ...]:
        """Where the harness's own times go backwards: such a record is no sample."""
        own = self.client.backwards if self.client else ()
        others = (f"{one.run_id}: {text}" for one in self.together for text in one.client.backwards)
        return (*own, *others) if self.together else own

    @property
    def clock_errors(self) -> tuple[str, ...]:
        """What its clocks contradict each other in: as its breakdown found, and as its times say themselves."""
        own = self.client.errors if self.client else ()
        stored = self.breakdown.errors if self.breakdown else ()
        if not own and not self.together:
            return stored
        return tuple(dict.fromkeys((*own, *self.backwards, *stored)))

    def sealed(self) -> "RunRecord":
        """The same record with its content hash filled in."""
        return self.model_copy(update={"sha256": self.content_sha256()})

    def content_sha256(self) -> str:
        """sha256 over the canonical JSON (sorted keys, no spaces) of all fields but `sha256`."""
        return hashlib.sha256(canonical(self.model_dump(mode="json", exclude={"sha256"}))).hexdigest()


_OTHERS_LEFT_OUT = ConfigDict(extra="ignore")


class _Said(TypedDict, total=False):
    """Of a step's data, what the harness itself has put there."""

    __pydantic_config__ = _OTHERS_LEFT_OUT  # type: ignore[misc]

    effect: Any


class _LedgerRow(TypedDict, total=False):
    """Which attempt, what and when."""

    __pydantic_config__ = _OTHERS_LEFT_OUT  # type: ignore[misc]

    event: Any
    step: Any
    index: Any
    attempt: Any
    attempt_token: Any
    host: Any
    pod_name: Any
    pod_uid: Any
    process_start_ns: Any
    imports_done_ns: Any
    user_start_ns: Any
    user_end_ns: Any
    wall_ns: Any
    data: _Said


class Outline(RunRecord):
    """A record as the report reads it: without what its steps said of their data, which is most of its bytes."""

    ledger: tuple[Annotated[dict[str, Any], GetPydanticSchema(lambda _, of: of(_LedgerRow))], ...] = ()
