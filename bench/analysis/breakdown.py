"""Where the time of one run went: boundaries from three clocks, each an interval, and the parts between them.

The chain of a run is

    submit → accepted → [first pod created → pod created → container started → process start → imports done
    → user start → user end] for every phase → terminal visible

along one member of each phase: the one whose user code ends last. Where the phase before has a member with
the same index (a sweep's candidates go at their own pace), the chain stays with that index, since it is that
candidate's own previous step which it waited for. Where a pod runs several steps (as calls, or as processes), its
creation and start are boundaries of the first of them only.

A boundary is known to lie in an interval, by the clock that told it:

- client: submit and accepted are exact; the terminal state lies between the last look that did not show it
  and the first that did.
- Kubernetes: truncated to seconds, so [t, t + 1]; a watch arrival bounds it above. A container's `startedAt`
  is noted after the runtime forked its process (runc forks on `create`; containerd takes the time when
  `start` has returned: over a second later on a busy machine), so its bounds reach back to the pod's creation.
- ledger: exact, but for the process start, which the kernel keeps in ticks: [t, t + PROCESS_TICK].

A part's `seconds` is the difference of best estimates, so that parts add up: the midpoint of an interval, or its
end where a watch tells of the moment at once (a pod's creation, the terminal state: the API server sends them as it
stores them). `low` and `high` are what the two intervals allow. A part with `high < 0` cannot be explained by
resolution: an error of the record, but for the first pod of a scheduled run, which may be made before the run is
due (Prefect's worker does). Nothing is clamped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from adapters.base import Attempt, Timeline
from adapters.workloads import GATED, Member, phases
from bench.analysis.statistics import added
from bench.results.records import CLOCK_READS, Breakdown, ClientClock, Part, PodClock, Scenario

KUBERNETES_RESOLUTION = 1.0
"""Seconds: `metav1.Time` is truncated to whole seconds."""
PROCESS_TICK = 0.01
"""Seconds: field 22 of /proc/PID/stat counts ticks of 10 ms."""
PROMPT = 1.0
"""Seconds after the last moment at which a pod can have been created, within which its watch event was prompt."""

_SECOND = 1_000_000_000
Key = tuple[str, int | None]


@dataclass(frozen=True)
class Boundary:
    """An instant that lies in [earliest, latest], wall nanoseconds, by one clock.

    What the clock tells of may have happened up to `lag` nanoseconds before it was noted: that widens the
    bounds of the parts, and leaves the best estimate where the clock says. `seen`: a watch told of it at once,
    so that its end is the best estimate.
    """

    earliest: int
    latest: int
    clock: str
    lag: int = 0
    seen: bool = False

    @property
    def twice_best(self) -> int:
        return 2 * self.latest if self.seen else self.earliest + self.latest


@dataclass(frozen=True)
class Passage:
    """One attempt of one step: what the ledger and Kubernetes know of it. Wall nanoseconds."""

    member: Member
    attempt: int
    token: str
    pod: PodClock | None = None
    process_start: int | None = None
    imports_done: int | None = None
    user_start: int | None = None
    user_end: int | None = None
    succeeded: bool = False
    ended: bool = False
    """Succeeded or failed: a start alone means it was killed, or has not ended."""
    guest: bool = False
    """Not the first attempt in its pod: the pod is older than what the step waited for, and no boundary of its."""

    @property
    def key(self) -> Key:
        return self.member.step, self.member.index


@dataclass(frozen=True)
class _Link:
    """A boundary of the chain and the name of the part that ends with it. None where it was not observed."""

    part: str
    member: Member | None
    boundary: Boundary | None
    missing: str = ""
    ahead: bool = False
    """It may precede the boundary before: who knows a schedule can make a pod before the run is due."""


def label(step: str | None, index: int | None = None) -> str:
    """How a step is named in text: `train`, or `train[2]`."""
    if step is None:
        return ""
    return step if index is None else f"{step}[{index}]"


def passages(
    timeline: Timeline | None, pods: Sequence[PodClock], ledger: Sequence[Mapping[str, Any]]
) -> list[Passage]:
    """Every attempt that the ledger knows, and those that only the orchestrator or Kubernetes knows.

    In the order of their starts; a pod that never reached the ledger is an attempt of the step that the
    orchestrator's timeline gives it to.
    """
    by_uid = {pod.uid: pod for pod in pods if pod.uid}
    by_name = {pod.name: pod for pod in pods}
    tokens: dict[str, list[Mapping[str, Any]]] = {}
    for event in ledger:
        token = event.get("attempt_token")
        if token and event.get("event") in ("start", "finish", "failed"):
            tokens.setdefault(str(token), []).append(event)
    found: list[Passage] = []
    seen: set[str] = set()
    for token, events in tokens.items():
        merged: dict[str, Any] = {}
        for event in events:
            merged.update({name: value for name, value in event.items() if value is not None})
        pod = by_uid.get(str(merged.get("pod_uid", ""))) or by_name.get(str(merged.get("pod_name", "")))
        if pod is not None:
            seen.add(pod.name)
        kinds = {event["event"] for event in events}
        failed = [event for event in events if event["event"] == "failed"]
        user_end = merged.get("user_end_ns")
        if user_end is None and failed:
            user_end = failed[-1].get("wall_ns")
        found.append(
            Passage(
                member=Member(str(merged.get("step", "")), merged.get("index")),
                attempt=int(merged.get("attempt", 1)),
                token=token,
                pod=pod,
                process_start=merged.get("process_start_ns"),
                imports_done=merged.get("imports_done_ns"),
                user_start=merged.get("user_start_ns"),
                user_end=user_end,
                succeeded="finish" in kinds,
                ended=bool(kinds & {"finish", "failed"}),
            )
        )
    found = _with_guests(found)
    for attempt in timeline.attempts if timeline else ():
        pod = by_name.get(attempt.pod_name or "")
        if pod is not None and pod.name not in seen:
            seen.add(pod.name)
            found.append(Passage(Member(attempt.step, attempt.index), attempt.attempt, token="", pod=pod))
    return sorted(found, key=_order)


def _with_guests(found: Sequence[Passage]) -> list[Passage]:
    """The same passages, with those marked that came into a pod that an earlier one was in."""
    first: dict[str, Passage] = {}
    for passage in sorted(found, key=lambda p: (p.user_start is None, p.user_start or 0, _order(p))):
        if passage.pod is not None:
            first.setdefault(passage.pod.uid, passage)
    return [
        replace(passage, guest=passage.pod is not None and first[passage.pod.uid] is not passage)
        for passage in found
    ]


def _order(passage: Passage) -> tuple[int, str, int, int, str]:
    # Calls share one process, whose start is read anew, and a little differently, for each.
    began = passage.imports_done or passage.process_start
    if began is None and passage.pod is not None and passage.pod.created is not None:
        began = round(passage.pod.created * _SECOND)
    index = -1 if passage.member.index is None else passage.member.index
    return began or 0, passage.member.step, index, passage.attempt, passage.token


def breakdown(
    scenario: Scenario,
    client: ClientClock,
    timeline: Timeline | None,
    pods: Sequence[PodClock],
    ledger: Sequence[Mapping[str, Any]],
    task: str = "pod",
) -> Breakdown:
    """The parts of a run, in order, and every error of its record. Seconds.

    Without pods the chain goes to the process start instead of the pod's creation. Where a step is a mere
    `call` (see `task`) its process is older than the run, and the chain goes straight to user start.

    `residual` is the monotonic makespan less the sum of the parts, which runs on the wall clock between the same
    two moments. `residual_bound` is CLOCK_READS; more means that the wall clock was stepped during the run, and
    no part that crosses the step can be trusted.
    """
    makespan = client.makespan_monotonic_ns / _SECOND
    errors = list(client.errors)
    done = passages(timeline, pods, ledger)
    links = [
        _Link("submit", None, _exact(client.submit_ns, "client")),
        _Link("accept", None, _exact(client.accepted_ns, "client")),
    ]
    stepless = scenario.orchestrator == "noop"
    overhead = user = None
    if not stepless:
        overhead, user = _overhead(scenario, timeline, ledger, done, errors)
        links += _steps(scenario, timeline, ledger, done, errors, calls=task == "call")
        errors += _contradictions(timeline, done)
    terminal = Boundary(
        min(client.last_non_terminal_ns, client.first_terminal_ns),
        max(client.last_non_terminal_ns, client.first_terminal_ns),
        "client",
        seen=True,
    )
    links.append(_Link("finish", None, terminal))
    parts = _parts(links, errors)
    return Breakdown(
        makespan=makespan,
        overhead=overhead,
        user=user,
        parts=tuple(parts),
        residual=makespan - added(part.seconds for part in parts),
        residual_bound=CLOCK_READS,
        errors=tuple(errors),
    )


def _exact(at: int | None, clock: str) -> Boundary | None:
    return None if at is None else Boundary(at, at, clock)


def _kubernetes(at: float | None, arrival: int | None) -> tuple[Boundary | None, bool]:
    """The interval, and whether the watch told of it before Kubernetes says it happened."""
    if at is None:
        return None, False
    earliest = round(at * _SECOND)
    latest = earliest + round(KUBERNETES_RESOLUTION * _SECOND)
    if arrival is None:
        return Boundary(earliest, latest, "kubernetes"), False
    if arrival < earliest:
        return Boundary(earliest, latest, "kubernetes"), True
    return Boundary(earliest, min(latest, arrival), "kubernetes"), False


def _created(passage: Passage, errors: list[str] | None = None, calls: bool = False) -> Boundary | None:
    """When the attempt's pod was created; where there are no pods, when its process or its call started."""
    pod = passage.pod
    if pod is None or passage.guest:
        return _exact(passage.user_start, "ledger") if calls else _process(passage)
    boundary, early = _kubernetes(pod.created, pod.arrivals_ns.get("created"))
    if early and errors is not None:
        errors.append(f"{pod.name}: the watch told of its creation before Kubernetes says it was created")
    arrival = pod.arrivals_ns.get("created")
    if boundary is not None and arrival is not None and arrival - boundary.latest < PROMPT * _SECOND:
        return replace(boundary, seen=True)
    return boundary


def _process(passage: Passage) -> Boundary | None:
    at = passage.process_start
    return None if at is None else Boundary(at, at + round(PROCESS_TICK * _SECOND), "ledger")


def _skipped(scenario: Scenario, timeline: Timeline | None, ledger: Sequence[Mapping[str, Any]]) -> set[str]:
    """Steps left out because the gate did not pass, by the orchestrator's word or by eval's own output."""
    left_out = set(timeline.skipped) if timeline else set()
    for event in ledger:
        outputs = (event.get("data") or {}).get("outputs") or {}
        decider = "select" if scenario.workload == "sweep" else "eval"
        if event.get("event") == "finish" and event.get("step") == decider:
            passed = str(outputs.get("passed", "true")).lower()
            left_out |= set(GATED) if passed == "false" else set()
    return left_out


def _chosen(attempts: Sequence[Passage]) -> Passage | None:
    """The attempt that the run went on from: the last one that succeeded, else the last one."""
    succeeded = [a for a in attempts if a.succeeded]
    if succeeded:
        return max(succeeded, key=lambda a: a.user_end or 0)
    return attempts[-1] if attempts else None


def _attempts(done: Sequence[Passage]) -> dict[Key, list[Passage]]:
    grouped: dict[Key, list[Passage]] = {}
    for passage in done:
        grouped.setdefault(passage.key, []).append(passage)
    return grouped


def _expected(
    scenario: Scenario,
    timeline: Timeline | None,
    ledger: Sequence[Mapping[str, Any]],
    grouped: Mapping[Key, Any],
) -> list[tuple[Member, ...]]:
    """The phases that this run should have gone through."""
    left_out = _skipped(scenario, timeline, ledger)
    expected = []
    for phase in phases(scenario.workload, scenario.steps):
        members = tuple(m for m in phase if m.step not in left_out or (m.step, m.index) in grouped)
        if members:
            expected.append(members)
    return expected


def _overhead(
    scenario: Scenario,
    timeline: Timeline | None,
    ledger: Sequence[Mapping[str, Any]],
    done: Sequence[Passage],
    errors: list[str],
) -> tuple[float | None, float | None]:
    """(max user end − min user start) − Σ over phases of the longest user time, and that sum. Seconds.

    SeBS-Flow, EuroSys '25. The user time of a step is that of the attempt the run went on from, so time
    lost in failed attempts counts as overhead. None where a step's user times are not known.
    """
    grouped = _attempts(done)
    total = 0
    known = True
    for phase in _expected(scenario, timeline, ledger, grouped):
        times = []
        for member in phase:
            chosen = _chosen(grouped.get((member.step, member.index), []))
            if chosen is None or chosen.user_start is None or chosen.user_end is None:
                known = False
                continue
            if chosen.user_end < chosen.user_start:
                errors.append(f"{label(*chosen.key)}: user code ends before it starts")
            times.append(chosen.user_end - chosen.user_start)
        total += max(times, default=0)
    starts = [p.user_start for p in done if p.user_start is not None]
    ends = [p.user_end for p in done if p.user_end is not None]
    if not known or not starts or not ends:
        return None, None
    return (max(ends) - min(starts) - total) / _SECOND, total / _SECOND


def _chain(
    expected: Sequence[tuple[Member, ...]], grouped: Mapping[Key, Sequence[Passage]]
) -> list[tuple[Member, bool]]:
    """One member for each phase, and whether it follows its own lane's previous step."""
    chain: list[tuple[Member, bool]] = []
    following: Member | None = None
    for phase in reversed(expected):
        lanes = [m for m in phase if following and m.index is not None and m.index == following.index]
        if len(phase) > 1 and lanes:
            chain[-1] = (chain[-1][0], True)
            following = lanes[0]
        else:

            def end(member: Member) -> int:
                chosen = _chosen(grouped.get((member.step, member.index), []))
                return (chosen.user_end or 0) if chosen else 0

            following = max(phase, key=end)
        chain.append((following, False))
    return chain[::-1]


def _first_created(
    members: Sequence[Member], grouped: Mapping[Key, Sequence[Passage]], calls: bool
) -> Boundary | None:
    found = [
        boundary
        for member in members
        for passage in grouped.get((member.step, member.index), [])
        if (boundary := _created(passage, calls=calls)) is not None
    ]
    return min(found, key=lambda b: b.twice_best, default=None)


def _steps(
    scenario: Scenario,
    timeline: Timeline | None,
    ledger: Sequence[Mapping[str, Any]],
    done: Sequence[Passage],
    errors: list[str],
    calls: bool,
) -> list[_Link]:
    grouped = _attempts(done)
    expected = _expected(scenario, timeline, ledger, grouped)
    known = {(m.step, m.index) for phase in expected for m in phase}
    errors.extend(
        f"{label(*key)}: ran, but is no step of {scenario.workload}" for key in grouped if key not in known
    )
    links: list[_Link] = []
    for phase, (member, in_lane) in zip(expected, _chain(expected, grouped), strict=True):
        errors.extend(
            f"{label(other.step, other.index)}: did not finish, by the ledger"
            for other in phase
            if other != member and not any(a.succeeded for a in grouped.get((other.step, other.index), []))
        )
        ahead = scenario.trigger == "schedule" and not links
        links += _member_links(
            phase, member, in_lane, grouped, errors, first=not links, ahead=ahead, calls=calls
        )
    return links


def _member_links(
    phase: Sequence[Member],
    member: Member,
    in_lane: bool,
    grouped: Mapping[Key, Sequence[Passage]],
    errors: list[str],
    first: bool,
    ahead: bool,
    calls: bool,
) -> list[_Link]:
    """The boundaries of one phase, from its first pod's creation to the end of its user code."""
    name = label(member.step, member.index)
    wait = "queue" if first else "handoff"
    attempts = grouped.get((member.step, member.index), [])
    chosen = _chosen(attempts)
    if chosen is None:
        return [_Link(wait + "+" + "+".join(_INSIDE), member, None, f"{name}: no attempt in the ledger")]
    if not chosen.succeeded:
        errors.append(f"{name}: did not finish, by the ledger")
    links: list[_Link] = []
    part = wait
    if len(phase) > 1 and not in_lane:
        first_of_phase, first_of_member = (
            _first_created(phase, grouped, calls),
            _first_created([member], grouped, calls),
        )
        if first_of_phase is not None and first_of_phase != first_of_member:
            links.append(_Link(part, member, first_of_phase))
            part = "spread"
    if attempts[0] is not chosen:
        links.append(
            _Link(
                part,
                member,
                _created(attempts[0], errors, calls),
                f"{name}: the first attempt's pod was not observed",
            )
        )
        part = "retries"
    if chosen.pod is not None and not chosen.guest:
        pod = chosen.pod
        started, early = _kubernetes(pod.started, pod.arrivals_ns.get("running"))
        created = _created(chosen, errors)
        if started is not None and created is not None:
            started = replace(started, lag=max(0, started.earliest - created.earliest))
        if early:
            errors.append(f"{pod.name}: the watch told that it ran before Kubernetes says it started")
        links.append(_Link(part, member, created, f"{name}: its pod's creation was not observed", ahead))
        links.append(_Link("create", member, started, f"{name}: its container's start was not observed"))
        part = "start"
    elif chosen.pod is None and chosen.token and _has_pods(grouped):
        links.append(_Link(f"{part}+create", member, None, f"{name}: its pod was not observed"))
        part = "start"
    if not calls:
        links += [
            _Link(part, member, _process(chosen), f"{name}: its process start is not in the ledger"),
            _Link(
                "imports",
                member,
                _exact(chosen.imports_done, "ledger"),
                f"{name}: its end of imports is not in the ledger",
            ),
        ]
        part = "prepare"
    links += [
        _Link(
            part,
            member,
            _exact(chosen.user_start, "ledger"),
            f"{name}: its user code's start is not in the ledger",
        ),
        _Link(
            "user",
            member,
            _exact(chosen.user_end, "ledger"),
            f"{name}: its user code's end is not in the ledger",
        ),
    ]
    return links


_INSIDE = ("create", "start", "imports", "prepare", "user")


def _has_pods(grouped: Mapping[Key, Sequence[Passage]]) -> bool:
    return any(passage.pod is not None for attempts in grouped.values() for passage in attempts)


def _parts(links: Sequence[_Link], errors: list[str]) -> list[Part]:
    """Parts between neighbouring boundaries that are known; those around a missing one are merged by name."""
    known: list[tuple[str, Member | None, Boundary, bool]] = []
    names: list[str] = []
    for link in links:
        names.append(link.part)
        if link.boundary is None:
            if link.missing:
                errors.append(link.missing)
            continue
        name = "+".join(dict.fromkeys("+".join(names).split("+")))
        known.append((name, link.member, link.boundary, link.ahead))
        names = []
    parts: list[Part] = []
    for (_, _, before, _), (name, member, after, ahead) in pairwise(known):
        low = after.earliest - after.lag - before.latest
        high = after.latest - (before.earliest - before.lag)
        part = Part(
            name=name,
            step=member.step if member else None,
            index=member.index if member else None,
            seconds=(after.twice_best - before.twice_best) / 2 / _SECOND,
            low=low / _SECOND,
            high=high / _SECOND,
            clocks=before.clock if before.clock == after.clock else f"{before.clock}→{after.clock}",
        )
        if high < 0 and not ahead:
            where = f" of {label(part.step, part.index)}" if part.step else ""
            errors.append(f"{name}{where}: negative, {part.low:.3f} to {part.high:.3f} s ({part.clocks})")
        parts.append(part)
    return parts


def _contradictions(timeline: Timeline | None, done: Sequence[Passage]) -> list[str]:
    """Where the orchestrator's own timeline cannot be true, by the ledger, beyond its resolution.

    A step's user code cannot have begun before the orchestrator started it, nor have gone on after it ended.
    """
    if timeline is None:
        return []
    slack = round(timeline.resolution_seconds * _SECOND)
    by_pod = {p.pod.name: p for p in done if p.pod is not None}
    by_attempt = {(*p.key, p.attempt): p for p in done}
    found = []
    for attempt in timeline.attempts:
        passage = _counterpart(attempt, by_pod, by_attempt)
        if passage is None:
            continue
        name = label(attempt.step, attempt.index)
        if passage.key != (attempt.step, attempt.index):
            found.append(f"timeline: {name} is {label(*passage.key)}, by the ledger")
            continue
        if attempt.started is not None and passage.user_start is not None:
            late = round(attempt.started * _SECOND) - passage.user_start
            if late > 0:
                found.append(f"timeline: {name} started {late / _SECOND:.3f} s after its user code did")
        if attempt.finished is not None and passage.user_end is not None and passage.ended:
            early = passage.user_end - round(attempt.finished * _SECOND) - slack
            if early > 0:
                found.append(f"timeline: {name} finished {early / _SECOND:.3f} s before its user code did")
    return found


def _counterpart(
    attempt: Attempt, by_pod: Mapping[str, Passage], by_attempt: Mapping[tuple[str, int | None, int], Passage]
) -> Passage | None:
    if attempt.pod_name:
        return by_pod.get(attempt.pod_name)
    return by_attempt.get((attempt.step, attempt.index, attempt.attempt))
