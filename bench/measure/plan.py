"""The plan of a `bench run`: which samples, in which order; stored, so that an interrupted run goes on."""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from adapters.base import Frozen
from bench.analysis.statistics import median
from bench.results.records import ClientClock, RunRecord, Sample, Scenario
from bench.results.store import Store
from cluster.state import write_atomic

PLANS = "plans"
JOURNAL = "journal.jsonl"
IDLE_WAITS = 2
"""A deployment that is watched idle is first left alone for as long."""
INTERRUPTED_SECONDS = 1800.0
"""A longer time between two runs of a plan: its command was ended there, and went on later."""
EVENT_JITTER_SECONDS = 35.0
"""An event's longest pause is at least this: Dagster's sensors look every 30 s as shipped."""


class Slot(Frozen):
    """One planned measurement: a scenario's sample `index`, and the pause before it."""

    scenario: int
    index: int
    jitter_seconds: float


class Limits(Frozen):
    """Under which a plan's runs count, and how they are spread: stated beforehand, the same for all of them."""

    model_config = ConfigDict(allow_inf_nan=False)

    deadline_seconds: float = 1800.0
    max_steal: float = 1.0
    jitter_seconds: float = 0.0
    idle_seconds: float = 0.0


NO_LIMITS = Limits()
"""No run is void for what others take, and none waits before it is submitted."""


class Plan(Frozen):
    """What was stated before the run."""

    plan_id: str
    request_sha256: str
    created: str
    seed: int
    n: int
    scenarios: tuple[Scenario, ...]
    slots: tuple[Slot, ...]
    pilot: str = ""
    """The plan whose discarded runs said how many samples this one needs."""
    limits: Limits = NO_LIMITS
    context: str = ""
    """Of a kubeconfig: on which cluster of somebody else's it is carried out."""
    precision: float | None = None
    """What its pilot was asked for, as a share of the median; None where n was said."""

    def run_id(self, slot: Slot, number: int) -> str:
        """A name that Kubernetes accepts and that is never used twice."""
        return f"b{self.plan_id}-{slot.scenario}-{slot.index}-{number}"

    def warm_up(self, scenario: Scenario) -> int | None:
        """The number of the run that follows a deployment for this scenario; None where there is none."""
        wanted = scenario.orchestrator, scenario.configuration
        for number, other in enumerate(self.scenarios):
            if other.warm_up and (other.orchestrator, other.configuration) == wanted:
                return number
        return None

    def sample(self, slot: Slot, number: int) -> Sample:
        """What a record of this slot answers."""
        scenario = self.scenarios[slot.scenario]
        return Sample(plan_id=self.plan_id, scenario=scenario.key, index=slot.index, number=number)


@dataclass(frozen=True)
class Earlier:
    """What earlier runs took: medians, in seconds."""

    makespans: Mapping[str, float]
    """By scenario key."""
    between: Mapping[tuple[str, str, bool], float]
    """From a run's end to the next submission, without the planned pause and the watch of an idle deployment: by
    target, orchestrator, and whether that was deployed, or its configuration changed, in between."""


@dataclass(frozen=True)
class Expectation:
    """How long slots will take, by earlier runs and the planned pauses.

    Warm-ups are counted where one has been measured before.
    """

    seconds: float
    """Of the slots whose scenario has been measured before, and of what comes between runs where that has."""
    unknown: int
    """Slots of scenarios that have not."""
    gaps_known: bool = True
    """Whether it is known what comes between runs everywhere: deployments, warm-ups, and what is cleared away."""

    @property
    def whole(self) -> bool:
        """Whether nothing is missing in `seconds`."""
        return self.gaps_known and not self.unknown


class Started(Frozen):
    """A journal line: written before a run is submitted, so that a crash leaves no run unknown.

    A second line with `ended` says that it was recorded and nothing of it is left on the orchestrator.
    """

    plan_id: str
    slot: Slot
    number: int
    run_id: str
    members: tuple[str, ...] = ()
    """Ids of the runs that were submitted at once, where the sample is several."""
    ended: bool = False

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Of all that may be on the orchestrator."""
        return self.members or (self.run_id,)


def request_digest(
    scenarios: Sequence[Scenario],
    n: int,
    seed: int | None,
    limits: Limits = NO_LIMITS,
    context: str = "",
) -> str:
    """sha256 of what was asked for: the same request finds its unfinished plan again."""
    body = {
        "scenarios": [s.model_dump(mode="json") for s in scenarios],
        "n": n,
        "seed": seed,
        "limits": limits.model_dump(mode="json"),
        **({"context": context} if context else {}),
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def make(
    scenarios: Sequence[Scenario],
    n: int,
    seed: int | None,
    limits: Limits = NO_LIMITS,
    context: str = "",
) -> Plan:
    """A split-plot order: in each of `n` blocks the orchestrators in random order, within each its configurations,
    and within each of these its scenarios. A warm-up has no turn of its own: a deployment brings it.

    Pauses before submission are uniform over `limits.jitter_seconds`, so that an orchestrator that works on a time
    grid is met at every phase of it.
    """
    chosen = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    source = random.Random(chosen)
    slots = []
    for index in range(n):
        for number in _block(scenarios, source):
            longest = longest_pause(scenarios[number], limits.jitter_seconds)
            pause = source.uniform(0, longest) if longest else 0.0
            slots.append(Slot(scenario=number, index=index, jitter_seconds=round(pause, 3)))
    return Plan(
        plan_id=os.urandom(4).hex(),
        request_sha256=request_digest(scenarios, n, seed, limits, context),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seed=chosen,
        n=n,
        scenarios=tuple(scenarios),
        slots=tuple(slots),
        limits=limits,
        context=context,
    )


def _block(scenarios: Sequence[Scenario], source: random.Random) -> list[int]:
    """Each scenario's number once: those of an orchestrator, and of a configuration of it, next to each other."""
    groups: dict[str, dict[str, list[int]]] = {}
    for number, scenario in enumerate(scenarios):
        if not scenario.warm_up:
            own = groups.setdefault(scenario.orchestrator, {})
            own.setdefault(scenario.configuration, []).append(number)

    return [
        number
        for own in source.sample(list(groups.values()), len(groups))
        for numbers in source.sample(list(own.values()), len(own))
        for number in source.sample(numbers, len(numbers))
    ]


def warm_ups(scenarios: Iterable[Scenario]) -> list[Scenario]:
    """The run that follows a deployment, for each configuration: a step that does nearly nothing."""
    return [
        Scenario(
            orchestrator=of.orchestrator,
            target=of.target,
            configuration=of.configuration,
            variant=of.variant,
            workload="chain",
            steps=1,
            warm_up=True,
        )
        for of in {(each.orchestrator, each.configuration): each for each in scenarios}.values()
    ]


def longest_pause(scenario: Scenario, jitter_seconds: float) -> float:
    """Before a submission, or before an event leaves: longer than the longest look at a fixed period. Seconds.

    None before a schedule, which has its own time.
    """
    if scenario.orchestrator == "noop" or scenario.trigger == "schedule" or not jitter_seconds:
        return 0.0
    return max(jitter_seconds, EVENT_JITTER_SECONDS) if scenario.trigger == "event" else jitter_seconds


def save(folder: Path, plan: Plan) -> None:
    """Write the plan under `folder`; whole or not at all."""
    write_atomic(folder / PLANS / f"{plan.plan_id}.json", plan.model_dump_json(indent=1))


def unfinished(folder: Path, store: Store, digest: str) -> Plan | None:
    """The newest stored plan of the same request that still lacks samples."""
    return newest(
        plan for plan in stored(folder) if plan.request_sha256 == digest and lacks_samples(plan, store)
    )


def newest(plans: Iterable[Plan]) -> Plan | None:
    """The one made last, or None."""
    return max(plans, key=lambda plan: plan.created, default=None)


def stored(folder: Path) -> Iterator[Plan]:
    """All plans under `folder`, in no order; those of another version are passed over."""
    for path in (folder / PLANS).glob("*.json"):
        try:
            yield Plan.model_validate_json(path.read_bytes())
        except ValidationError:
            continue


def missing(plan: Plan, store: Store) -> Iterator[Slot]:
    """The slots that no stored record answers yet, in the plan's order; none of a scenario that cannot be run."""
    done, refused = store.done(plan.plan_id), store.refused(plan.plan_id)
    for slot in plan.slots:
        key = plan.scenarios[slot.scenario].key
        if (key, slot.index) not in done and key not in refused:
            yield slot


def lacks_samples(plan: Plan, store: Store) -> bool:
    """Whether any slot is missing."""
    return any(True for _ in missing(plan, store))


def learned(earlier: Iterable[RunRecord]) -> Earlier:
    """What stored runs took, and what came between those of one plan that followed each other; in any order, and a run
    that is there twice counts once.
    """
    makespans: dict[str, list[float]] = {}
    plans: dict[str, list[tuple[ClientClock, RunRecord]]] = {}
    for record in {record.run_id: record for record in earlier}.values():
        if record.client is not None:
            makespans.setdefault(record.scenario.key, []).append(record.client.makespan_monotonic_ns / 1e9)
            plans.setdefault(record.sample.plan_id, []).append((record.client, record))
    between: dict[tuple[str, str, bool], list[float]] = {}
    for runs in plans.values():
        runs.sort(key=lambda run: run[0].submit_ns)
        for (before, left), (client, record) in pairwise(runs):
            of = record.scenario
            gap = (client.submit_ns - before.first_terminal_ns) / 1e9 - client.jitter_seconds
            deployed = _place(left.scenario) != _place(of)
            if deployed and record.resources and record.resources.idle:
                gap -= IDLE_WAITS * record.resources.idle.seconds
            if gap < INTERRUPTED_SECONDS:
                between.setdefault((of.target, of.orchestrator, deployed), []).append(max(0.0, gap))
    return Earlier(
        {key: median(values) for key, values in makespans.items()},
        {place: median(values) for place, values in between.items()},
    )


def _place(scenario: Scenario) -> tuple[str, str]:
    """What is deployed for it."""
    return scenario.orchestrator, scenario.configuration


def expected(plan: Plan, slots: Iterable[Slot], earlier: Earlier) -> Expectation:
    """What carrying out `slots` will take, as far as `earlier` runs tell."""
    seconds, unknown, gaps_known = 0.0, 0, True
    deployed: tuple[str, str] | None = None
    for slot in slots:
        scenario = plan.scenarios[slot.scenario]
        first = None
        if deployed != _place(scenario):
            first = plan.warm_up(scenario)
            seconds += IDLE_WAITS * plan.limits.idle_seconds
        for run in (scenario,) if first is None else (plan.scenarios[first], scenario):
            makespan = earlier.makespans.get(run.key)
            gap = earlier.between.get((run.target, run.orchestrator, deployed != _place(run)))
            seconds += slot.jitter_seconds + (makespan or 0.0) + (gap or 0.0)
            unknown += makespan is None and not run.warm_up
            gaps_known &= gap is not None and not (makespan is None and run.warm_up)
            deployed = _place(run)
    return Expectation(seconds, unknown, gaps_known)


def note_start(folder: Path, started: Started) -> None:
    """Append to the journal and make it durable."""
    line = started.model_dump_json() + "\n"
    handle = os.open(folder / JOURNAL, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = "\n" + line  # a line torn by a crash stays a line of its own
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def note_end(folder: Path, started: Started) -> None:
    """Say in the journal that nothing is left to do for a run."""
    note_start(folder, started.model_copy(update={"ended": True}))


def left_behind(folder: Path) -> list[Started]:
    """Runs that were started and not ended: what a killed harness left, recorded or not."""
    try:
        lines = (folder / JOURNAL).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    left: dict[str, Started] = {}
    for line in lines:
        try:
            started = Started.model_validate_json(line)
        except ValidationError:
            continue  # torn by a crash before its run was submitted
        if started.ended:
            left.pop(started.run_id, None)
        else:
            left[started.run_id] = started
    return list(left.values())


def load(folder: Path, plan_id: str) -> Plan | None:
    """A stored plan, or None."""
    try:
        return Plan.model_validate_json((folder / PLANS / f"{plan_id}.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
