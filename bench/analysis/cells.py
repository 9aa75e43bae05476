"""Stored records grouped into the cells of the comparison, with the numbers every table takes from them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from adapters.workloads import WORKLOADS
from bench.analysis.statistics import Estimate, median, median_estimate, paired_ratio
from bench.results.records import RunRecord, Scenario

FLOORS = {"pod": "pods", "process": "processes", "call": "calls"}
"""The floor of each task kind: the same steps with no orchestrator."""
CONTROLS = ("noop", *FLOORS.values())
TARGETS = ("kind", "k8s", "local")
"""In the order of the report: the headline's first."""

PARTS = ("accept", "queue", "spread", "retries", "create", "start", "imports", "prepare", "user")
PART_ORDER = (*PARTS, "handoff", "finish")
"""The parts of a run in the order they first occur."""


STAND_IN = " (stand-in: "
"""How an adapter's version says that an image is not the vendor's; what it is instead follows."""


ORCHESTRATORS = ("argo", "kfp", "airflow", "prefect", "dagster")
"""What the comparison is about: each has a row in every table, if only to say that nothing is stored."""


BUSY = 0.5
"""A row above this median CPU pressure is marked: half of the time something waited for a CPU."""


@dataclass(frozen=True, order=True)
class CellKey:
    """What makes runs one cell: the scenario, what a step is, and the environment they ran in."""

    target: str
    task: str
    workload: str
    steps: int
    variant: str
    parameters: tuple[tuple[str, str], ...]
    orchestrator: str
    configuration: str
    environment: str
    """The environment's digest."""
    fault: str = ""
    observer: str = ""
    concurrent: int = 1
    trigger: str = "api"
    retries: str = "equal"
    first: bool = False
    """First runs after a deployment or a switch, warm-ups among them, of a scenario that has others too."""

    @property
    def undisturbed(self) -> bool:
        """Started by the harness, alone and watched, nothing goes wrong on purpose: what the comparison is made of."""
        usual = self.concurrent == 1 and self.trigger == "api" and self.retries == "equal"
        return usual and not self.fault and not self.observer and not self.first

    @property
    def place(self) -> tuple[object, ...]:
        """Where its table stands: by target and kind of step, the headline first, then by work."""
        tasks, workloads = list(FLOORS), list(WORKLOADS)
        return (
            TARGETS.index(self.target) if self.target in TARGETS else len(TARGETS),
            tasks.index(self.task) if self.task in tasks else len(tasks),
            workloads.index(self.workload) if self.workload in workloads else len(workloads),
            self.steps,
            self.variant,
            self.parameters,
        )

    @property
    def sized(self) -> str:
        """The workload and how many steps it has: `pipeline-7`, `chain-10`."""
        return f"{self.workload}-{self.steps}"

    @property
    def title(self) -> str:
        """The work: `pipeline-7`, `chain-3, fibo=33`, `pipeline-7, through volume`."""
        given = "".join(f", {name}={value}" for name, value in self.parameters)
        through = "" if self.variant in ("s3", "folder") else f", through {self.variant}"
        return f"{self.sized}{given}{through}"

    @property
    def work(self) -> tuple[object, ...]:
        """What two cells must share to be compared: target and work, not who does it."""
        return (
            self.target,
            self.workload,
            self.steps,
            self.variant,
            self.parameters,
            self.fault,
            self.observer,
            self.concurrent,
            self.trigger,
            self.retries,
            self.first,
        )


@dataclass(frozen=True)
class Cell:
    """All records of one cell, in a fixed order."""

    key: CellKey
    records: tuple[RunRecord, ...]
    firsts: int = 0
    """First runs after a switch that succeeded and are a cell of their own."""

    @property
    def scenario(self) -> Scenario:
        return self.records[0].scenario

    @cached_property
    def knob(self) -> str | None:
        """What its configuration changes, as the newest run says it."""
        said = [(record.recorded_at, record.knob) for record in self.records if record.knob]
        return max(said)[1] if said else None

    @cached_property
    def blocking(self) -> dict[str, str]:
        """The facts that its runs were measured under; a run that ended before all were known has fewer."""
        return max((record.environment.deciding for record in self.measured or self.records), key=len)

    @cached_property
    def stand_ins(self) -> tuple[str, ...]:
        """`NAME: what ran in its place`, for each image of the vendor's that something else stood in for."""
        marked = [value for value in self.blocking.values() if STAND_IN in value]
        return tuple(
            sorted(
                f"{value.split(' ', 1)[0]}: {value.split(STAND_IN, 1)[1].removesuffix(')')}"
                for value in marked
            )
        )

    @property
    def who(self) -> dict[str, Any]:
        """Whose row it is, as plain data."""
        return {
            "orchestrator": self.key.orchestrator,
            "configuration": self.key.configuration,
            "knob": self.knob,
            "stand_ins": list(self.stand_ins),
            "task": self.key.task,
            "environment_sha256": self.key.environment,
        }

    @property
    def days(self) -> list[str]:
        """On which its samples were recorded, its other records where it has none."""
        return sorted({record.recorded_at[:10] for record in self.measured or self.records})

    @property
    def last(self) -> str:
        """When its last run was recorded."""
        return max(record.recorded_at for record in self.records)

    @cached_property
    def measured(self) -> tuple[RunRecord, ...]:
        """Runs that succeeded and did what they should have: the samples of this cell."""
        return tuple(record for record in self.records if is_measured(record))

    @cached_property
    def failed(self) -> tuple[RunRecord, ...]:
        """Failures, timeouts (censored), and runs that ended well but did not do what they should have."""
        return tuple(r for r in self.records if r.status in ("failed", "timeout") or _is_wrong(r))

    @property
    def answered(self) -> int:
        """How many samples ended, well or not."""
        return len(self.measured) + len(self.failed)

    @property
    def ended(self) -> int:
        """How many samples of it ended, well or not, with first runs that have a cell of their own."""
        return self.answered + self.firsts

    @cached_property
    def void(self) -> tuple[RunRecord, ...]:
        return tuple(record for record in self.records if record.status == "void")

    @cached_property
    def unsupported(self) -> tuple[RunRecord, ...]:
        return tuple(record for record in self.records if record.status == "unsupported")

    @property
    def refused(self) -> bool:
        """Nothing is stored but that it cannot be, and perhaps void tries of before that was known."""
        return bool(self.unsupported) and len(self.unsupported) + len(self.void) == len(self.records)

    @cached_property
    def flawed(self) -> tuple[RunRecord, ...]:
        """Samples whose clocks contradict each other: they count for the makespan, not for the parts."""
        return tuple(r for r in self.measured if r.breakdown is None or r.clock_errors)

    @cached_property
    def cold(self) -> int:
        return sum(record.cold for record in self.measured)

    @property
    def all_cold(self) -> bool:
        """An orchestrator's cell in which each sample was the first after a switch. A floor has nothing to warm up."""
        return self.key.orchestrator not in CONTROLS and self.cold == len(self.measured) > 0

    @property
    def plans(self) -> frozenset[str]:
        """Under which its samples were taken."""
        return frozenset(record.sample.plan_id for record in self.measured)

    def of_plans(self, plans: frozenset[str]) -> "Cell":
        """The same cell with only what these plans stored."""
        return replace(self, records=tuple(r for r in self.records if r.sample.plan_id in plans))

    @property
    def is_plain_pipeline(self) -> bool:
        """The whole pipeline, nothing wrong on purpose, not only first runs after a switch."""
        return self.key.workload == "pipeline" and self.key.undisturbed and not self.all_cold

    def values(self, of: Callable[[RunRecord], float | None]) -> list[float]:
        """A number of every sample that has it."""
        if of not in self._values:
            self._values[of] = [value for record in self.measured if (value := of(record)) is not None]
        return list(self._values[of])

    @cached_property
    def _values(self) -> dict[Callable[[RunRecord], float | None], list[float]]:
        """Those asked for so far: the tables ask for the same few again and again."""
        return {}

    def estimate(self, of: Callable[[RunRecord], float | None]) -> Estimate | None:
        """Its median over the samples with its interval; None where no sample has it."""
        values = self.values(of)
        return median_estimate(values) if values else None


def estimated(cell: Cell | None, of: Callable[[RunRecord], float | None]) -> dict[str, Any] | None:
    """`Cell.estimate` as plain data."""
    found = cell.estimate(of) if cell else None
    return asdict(found) if found else None


def is_measured(record: RunRecord) -> bool:
    """Succeeded, with a client clock that does not go backwards, and not found wrong by verification."""
    return record.status == "succeeded" and not _is_wrong(record) and not record.backwards


def _is_wrong(record: RunRecord) -> bool:
    """Said to have succeeded, but not by verification, or without a client clock."""
    right = record.client is not None and (record.verification is None or record.verification.ok)
    return record.status == "succeeded" and not right


def makespan(record: RunRecord) -> float | None:
    """Seconds from submit to the terminal state observed, monotonic clock."""
    return None if record.client is None else record.client.makespan_monotonic_ns / 1e9


def overhead(record: RunRecord) -> float | None:
    """Seconds. None where a step's user times are not known, or the record's clocks contradict each other.

    Nor of a single step: the window is that step's own user time, and nothing is left of it.
    """
    if record.breakdown is None or record.clock_errors or record.scenario.steps == 1:
        return None
    return record.breakdown.overhead


def pressure(record: RunRecord) -> float | None:
    """The share of a run in which something waited for a CPU (pressure stall, `some`); None where not stored."""
    return record.pressure.cpu_some if record.pressure else None


def steal(record: RunRecord) -> float | None:
    """The share of a run's CPU time that the host took; None where not stored."""
    return record.pressure.steal if record.pressure else None


def load(records: Sequence[RunRecord]) -> dict[str, Any]:
    """How busy the machine was during these runs: medians, and whether the row is to be marked."""
    found = {
        name: median(values) if (values := [v for r in records if (v := of(r)) is not None]) else None
        for name, of in (("pressure", pressure), ("steal", steal))
    }
    return {**found, "busy": (found["pressure"] or 0.0) > BUSY}


def handoff(record: RunRecord) -> float | None:
    """Median seconds from one step's end to the next one's pod, over the handoffs of a run."""
    if record.breakdown is None or record.clock_errors:
        return None
    found = [part.seconds for part in record.breakdown.parts if part.name == "handoff"]
    return median(found) if found else None


def handoff_bounds(record: RunRecord) -> tuple[float, float] | None:
    """Medians of what the clocks allow each handoff of a run to have been, at least and at most. Seconds."""
    if record.breakdown is None or record.clock_errors:
        return None
    found = [part for part in record.breakdown.parts if part.name == "handoff"]
    return (median([p.low for p in found]), median([p.high for p in found])) if found else None


def part_seconds(record: RunRecord) -> dict[str, float]:
    """Seconds of a run by part name, summed over its steps; empty where the record has errors."""
    return {name: seconds for name, (seconds, _, _) in part_sums(record).items()}


def part_sums(record: RunRecord) -> dict[str, list[float]]:
    """As `part_seconds`, each followed by what it was at least and at most."""
    if record.breakdown is None or record.clock_errors:
        return {}
    sums: dict[str, list[float]] = {}
    for part in record.breakdown.parts:
        found = sums.setdefault(part.name, [0.0, 0.0, 0.0])
        found[0] += part.seconds
        found[1] += part.low
        found[2] += part.high
    return sums


def key_of(record: RunRecord) -> CellKey:
    scenario = record.scenario
    return CellKey(
        target=scenario.target,
        task=record.task,
        workload=scenario.workload,
        steps=scenario.steps,
        variant=scenario.variant,
        parameters=tuple(sorted((name, str(value)) for name, value in scenario.parameters.items())),
        orchestrator=scenario.orchestrator,
        configuration=scenario.configuration,
        environment=record.environment.digest,
        fault=scenario.fault,
        observer=scenario.observer,
        concurrent=scenario.concurrent,
        trigger=scenario.trigger,
        retries=scenario.retries,
        first=scenario.warm_up,
    )


def cells(records: Iterable[RunRecord]) -> list[Cell]:
    """One cell for each scenario and environment, sorted; the order of the records does not matter.

    Where a scenario has samples that were the first after a switch and others, the first are a cell of their own: a
    server that was just started takes another time, and how many of n are such would move the median. One that failed
    stays with the others: no row may look better for having failed at first.

    Runs that ended before the target told its facts carry a fingerprint cut short: where none of them was
    measured and just one cell of the scenario has those facts and more, they are that cell's.
    """
    grouped: dict[CellKey, list[RunRecord]] = {}
    for record in records:
        grouped.setdefault(key_of(record), []).append(record)
    alike: dict[CellKey, list[CellKey]] = {}
    for key in grouped:
        alike.setdefault(replace(key, environment=""), []).append(key)
    for key in sorted(grouped):
        facts = grouped[key][0].environment.deciding.items()
        fuller = [
            other
            for other in alike[replace(key, environment="")]
            if other in grouped and facts < grouped[other][0].environment.deciding.items()
        ]
        if len(fuller) == 1 and not any(is_measured(record) for record in grouped[key]):
            grouped[fuller[0]] += grouped.pop(key)
    firsts: dict[CellKey, int] = {}
    for key in list(grouped):
        if key.fault or key.observer or key.first or key.orchestrator in CONTROLS:
            continue
        split: dict[bool, list[RunRecord]] = {True: [], False: []}
        for record in grouped[key]:
            split[record.cold and is_measured(record)].append(record)
        if split[True] and any(map(is_measured, split[False])):
            grouped[key], firsts[key] = split[False], len(split[True])
            grouped.setdefault(replace(key, first=True), []).extend(split[True])
    return [
        Cell(key, tuple(sorted(members, key=_order)), firsts.get(key, 0))
        for key, members in sorted(grouped.items())
    ]


def _order(record: RunRecord) -> tuple[str, int, int, str]:
    sample = record.sample
    return sample.plan_id, sample.index, sample.number, record.run_id


def usual(found: Sequence[Cell]) -> list[Cell]:
    """Without what the report alone has: no two works under one name.

    That is variants, parameters, first runs and those that were not watched.
    """
    plain = (c for c in found if not (c.key.parameters or c.key.first or c.key.observer))
    return [cell for cell in plain if cell.key.variant in ("s3", "folder")]


def refusals(found: Iterable[Cell]) -> dict[tuple[str, str], str]:
    """By target and orchestrator, why nothing of it runs there, where that is all that is stored."""
    members: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        members.setdefault((cell.key.target, cell.key.orchestrator), []).append(cell)
    return {
        who: its[0].unsupported[0].reason or "unsupported"
        for who, its in members.items()
        if all(cell.refused for cell in its)
    }


def common_keys(found: Sequence[Cell]) -> frozenset[str]:
    """Blocking facts of the machine and the work: those known of every orchestrator that was measured.

    What only some have is an orchestrator's own (its version). `noop`, which touches no cluster, and cells
    without a measured run, whose fingerprint may be cut short, are asked only where there is nothing else.
    """
    asked = [cell for cell in found if cell.measured and cell.key.orchestrator != "noop"] or list(found)
    by_orchestrator: dict[str, set[str]] = {}
    for cell in asked:
        by_orchestrator.setdefault(cell.key.orchestrator, set()).update(cell.blocking)
    return frozenset(set.intersection(*by_orchestrator.values())) if by_orchestrator else frozenset()


def comparable(one: Cell, other: Cell, strict: bool = False) -> list[str]:
    """Blocking facts that forbid a comparison: those that both carry with different values.

    `strict`, for two cells of one scenario: also those that only one carries. A floor has none of an orchestrator's
    own, and `noop`, which touches no cluster, is never asked for more than it has.
    """
    a, b = one.blocking, other.blocking
    names = a.keys() | b.keys() if strict and one.key.orchestrator != "noop" else a.keys() & b.keys()
    return sorted(name for name in names if a.get(name) != b.get(name))


def unlike(one: Cell, other: Cell) -> str:
    """Why two cells' makespans are not set against each other; empty where they may be."""
    return (
        "first runs after a switch on one side, later ones on the other"
        if one.all_cold != other.all_cold
        else ""
    )


def floor_of(cell: Cell, found: Sequence[Cell]) -> Cell | None:
    """The floor of a cell: same target, work and task kind, nothing blocking between them.

    Of several the one with most blocks in common, then the one measured last.
    """
    name = FLOORS.get(cell.key.task)
    alike = [
        other
        for other in found
        if other.key.orchestrator == name and other.measured
        if other.key.work == cell.key.work and other.key.task == cell.key.task and not comparable(cell, other)
    ]
    if cell in alike:
        return cell
    return max(alike, key=lambda other: (len(pairs(other, cell)), other.last), default=None)


def block_of(record: RunRecord) -> tuple[str, int]:
    """The block that a sample was taken in: plan and number."""
    return record.sample.plan_id, record.sample.index


def pairs(
    one: Cell, other: Cell, of: Callable[[RunRecord], float | None] = makespan
) -> list[tuple[float, float]]:
    """(first, second) of every block in which both were measured."""
    first, second = (
        {block_of(record): value for record in cell.measured if (value := of(record)) is not None}
        for cell in (one, other)
    )
    return [(first[block], second[block]) for block in sorted(first.keys() & second.keys())]


@dataclass(frozen=True)
class Ratio:
    """How many times its floor a cell takes."""

    estimate: Estimate
    paired: bool
    """Within blocks; otherwise the ratio of two medians, without an interval."""


def ratio_to_floor(cell: Cell, floor: Cell | None) -> Ratio | None:
    """Makespan ÷ the floor's makespan. None without a floor, or for the floor itself."""
    if floor is None or floor is cell or not cell.measured or not floor.measured:
        return None
    both = pairs(floor, cell)
    if both:
        return Ratio(paired_ratio(both), paired=True)
    ratio = median(cell.values(makespan)) / median(floor.values(makespan))
    return Ratio(Estimate(ratio, len(cell.measured), None, "not measured in the same blocks"), paired=False)
