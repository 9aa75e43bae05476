"""`bench run`: from options to a plan, its execution with progress, and what is shown at the end."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

import adapters
import cluster
import core.errors
from adapters.base import Adapter, Configuration, Target, Unsupported
from adapters.local import envs
from adapters.local.state import local_state
from adapters.local.target import close_local
from adapters.locks import measuring
from adapters.workloads import PIPELINE, WORKLOADS
from bench.analysis.cells import CONTROLS, FLOORS, overhead
from bench.errors import EXIT_INTERRUPTED, BadInput
from bench.faults import inject
from bench.measure import pilot
from bench.measure import plan as planning
from bench.measure.plan import Expectation, Limits, Plan
from bench.measure.runner import Progress as Event
from bench.measure.runner import Runner
from bench.report import numbers, tables, timeline
from bench.results.records import Outline, RetryPolicy, RunRecord, Scenario, Trigger
from bench.results.store import PUBLISHED, Reading, Store
from core.config import PipelineConfig, load_config

VARIANTS = {Target.LOCAL: ("folder",), Target.KIND: ("s3", "volume"), Target.K8S: ("s3",)}
"""Where artifacts travel, the usual one first."""
LIMITS = Limits(max_steal=0.2, jitter_seconds=10.0)
"""As `bench run` has them unless told otherwise."""
SIZED = ("chain", "fanout")
SIZES = {"pipeline": len(PIPELINE), "sweep": 15}


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    orchestrators: tuple[str, ...]
    results: Path
    target: Target | None = None
    context: str = ""
    """Of a kubeconfig: which cluster of somebody else's."""
    n: int = 5
    workloads: tuple[str, ...] = ("pipeline",)
    configurations: tuple[str, ...] = ()
    steps: tuple[int, ...] = (10,)
    """Of a chain, or how wide a fan-out is."""
    variant: str = ""
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    controls: bool = True
    warm_up: bool = True
    """A one-step chain after each deployment of an orchestrator; not where something goes wrong on purpose."""
    limits: Limits = LIMITS
    observers: tuple[Literal["", "off"], ...] = ("",)
    concurrent: tuple[int, ...] = (1,)
    """How many runs a sample submits at once."""
    triggers: tuple[Trigger, ...] = ("api",)
    """What starts the runs."""
    retries: tuple[RetryPolicy, ...] = ("equal",)
    seed: int | None = None
    fresh: bool = False
    keep: bool = False
    as_json: bool = False
    faults: tuple[str, ...] = ()
    budget_hours: float | None = None
    plan_only: bool = False
    precision: float | None = None
    """Of the median's interval, as a share of the median: a pilot says which `n` that takes."""
    begun: float = field(default_factory=time.monotonic)

    @property
    def until(self) -> float:
        """When the budget is used up, by the monotonic clock."""
        return math.inf if self.budget_hours is None else self.begun + self.budget_hours * 3600


def run(options: Options) -> None:
    """Carry out a `bench run`.

    Raises `BadInput` for what cannot be, `BenchError` for what failed; exits with 130 when interrupted and
    with 1 when a run did not succeed.
    """
    stream = sys.stderr if options.as_json else sys.stdout
    width = None if stream.isatty() else tables.PLAIN_WIDTH
    console = Console(file=stream, highlight=False, soft_wrap=True, width=width)
    target, why = choose_target(options.target, options.context)
    wanted = scenarios(options, target)
    piloted = ""
    if options.precision is not None:
        piloted, n = ask_pilot(options, options.precision, target, wanted, console)
        options = replace(options, n=n)
    with Store.locked(options.results) as store:
        for notice in store.notices:
            console.print(f"note: {notice}", markup=False)
        console.print(f"target {target.value} ({why}) · results in {options.results}", markup=False)
        plan, resumed = _plan(options, store, target, wanted, piloted)
        missing = list(planning.missing(plan, store))
        console.print(
            f"plan {plan.plan_id}: {len(plan.slots) // plan.n} scenarios × {plan.n} = {len(plan.slots)} runs, "
            f"seed {plan.seed}"
            + ("; a one-step run after each deployment" if any(s.warm_up for s in wanted) else "")
            + f"; a run is void where others take over {plan.limits.max_steal:.0%} of CPU time"
            + (f"; goes on with the {len(missing)} that are missing" if resumed else "")
        )
        earlier = planning.learned([*published(), *store.records()])
        expectation = planning.expected(plan, missing, earlier)
        console.print(told(expectation))
        if options.plan_only:
            console.print(tables.plan_table(plan, missing))
            if options.as_json:
                sys.stdout.write(plan.model_dump_json(indent=1) + "\n")
            return
        console.print(tables.plan_summary(plan, missing, earlier.makespans))
        within_budget(expectation, options)
        if target is Target.LOCAL:
            make_environments(wanted, console)
        records = _execute(options, store, target, plan, console)
        everything = [record for record in store.records() if record.sample.plan_id == plan.plan_id]
        left = {(plan.scenarios[slot.scenario].key, slot.index) for slot in planning.missing(plan, store)}
    if options.as_json:
        json.dump([r.model_dump(mode="json") for r in everything], sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        show(everything, console)
    asked = [record for record in records if record.scenario.orchestrator in options.orchestrators]
    if left or any(map(_went_wrong, everything)) or any(record.status == "unsupported" for record in asked):
        raise SystemExit(1)


def _went_wrong(record: RunRecord) -> bool:
    """A void one was repeated, or its sample is missing; how a run with a fault ends is what it measures."""
    return record.status in ("failed", "timeout") and not record.scenario.fault


def published() -> list[RunRecord]:
    """The results that came with this version: a first idea of how long things take."""
    return Reading(PUBLISHED, Outline).records


def told(expectation: Expectation) -> str:
    """How long it will take, in words."""
    parts = [
        f"{'about' if expectation.whole else 'at least'} {numbers.duration(expectation.seconds)} by earlier runs",
        "" if expectation.gaps_known else "deployments are not all in it",
        f"{expectation.unknown} runs of unknown length" if expectation.unknown else "",
    ]
    return "; ".join(filter(None, parts))


def within_budget(expectation: Expectation, options: Options) -> None:
    """Raises `BadInput` for a plan that takes longer than what is left of the budget."""
    spent = time.monotonic() - options.begun
    if options.budget_hours is not None and spent + expectation.seconds > options.budget_hours * 3600:
        enough = math.ceil((spent + expectation.seconds) / 360) / 10
        raise BadInput(
            f"the plan takes {told(expectation)}: more than the budget of {options.budget_hours:g} h",
            f"a smaller --n, fewer scenarios, or --budget {enough:g}",
            "the plan: the same command with a larger budget carries it out",
        )


def make_environments(scenarios: Sequence[Scenario], console: Console) -> None:
    """Make the Python environments that the orchestrators of these scenarios lack on this machine."""
    state = local_state()
    missing = envs.missing(state, dict.fromkeys(scenario.orchestrator for scenario in scenarios))
    if not missing:
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(missing))
        for name in missing:
            bar.update(task, description=f"making the environment of {name}")
            envs.ensure(state, name)
            bar.advance(task)
    console.print(f"made in {state.envs}: {', '.join(missing)}")


def choose_target(asked: Target | None, context: str = "") -> tuple[Target, str]:
    """The target to use and why: without a word from the user, our cluster where it is up, else this machine.

    Which cluster `k8s` is holds for the rest of the process. Raises `BadInput` where nothing is installed there.
    """
    if context and asked not in (None, Target.K8S):
        raise BadInput(f"--context is of no use to the target {asked}", "--target k8s")
    if context or asked is Target.K8S:
        try:
            found = cluster.installed(context)
        except cluster.ClusterError as missing:
            raise BadInput(missing.what, missing.remedy, missing.kept) from missing
        os.environ["BENCH_CONTEXT"] = found.context
        return Target.K8S, f"context {found.context}"
    if asked is not None:
        return asked, "asked for"
    try:
        cluster.info()
    except cluster.ClusterError:
        return Target.LOCAL, "no cluster of ours is up; `bench cluster up` makes one"
    return Target.KIND, "our cluster is up"


def scenarios(options: Options, target: Target) -> list[Scenario]:
    """The scenarios that `options` ask for, controls and warm-ups included. Raises `BadInput` for what is unknown."""
    if not options.orchestrators:
        raise BadInput("no orchestrator is named", "bench orchestrators lists them")
    everyone = [name for name in adapters.names() if name not in CONTROLS]
    names = everyone if "all" in options.orchestrators else list(options.orchestrators)
    asked = {name: adapters.load(name) for name in names}
    parameters = checked(options.parameters)
    for workload in options.workloads:
        if workload not in WORKLOADS:
            raise BadInput(f"unknown workload '{workload}'", f"one of: {', '.join(WORKLOADS)}")
    variant = options.variant or VARIANTS[target][0]
    if variant not in VARIANTS[target]:
        why = ": a shared volume does not reach a second node" if variant == "volume" else ""
        raise BadInput(
            f"target {target.value} has no variant '{variant}'{why}", f"one of: {', '.join(VARIANTS[target])}"
        )
    chosen = [
        (adapter, configuration)
        for adapter in asked.values()
        for configuration in _configurations(adapter, target, options.configurations)
    ]
    known_anywhere = [c.name for adapter in asked.values() for t in Target for c in adapter.configurations(t)]
    if unknown := [name for name in options.configurations if name not in known_anywhere]:
        known = ", ".join(dict.fromkeys(known_anywhere))
        raise BadInput(f"unknown configuration '{', '.join(unknown)}'", f"one of: {known}")
    struck = wanted_faults(options, target)
    if options.controls and not struck:
        tasks = {configuration.task for _, configuration in chosen}
        for name in ("noop", *(floor for task, floor in FLOORS.items() if task in tasks)):
            if name not in asked:
                control = adapters.load(name)
                chosen += [(control, configuration) for configuration in control.configurations(target)]
    measured = [
        Scenario(
            orchestrator=adapter.name,
            target=target.value,
            workload=workload,
            configuration=configuration.name,
            steps=steps,
            variant=variant,
            parameters={**_sleeps(workload, adapter.name), **parameters},
            fault=fault,
            observer=observer,
            concurrent=concurrent,
            trigger=trigger,
            retries=retries,
        )
        for adapter, configuration in chosen
        for workload in options.workloads
        for steps in (options.steps if workload in SIZED else (SIZES[workload],))
        for fault in struck or ("",)
        for observer in options.observers
        for concurrent in options.concurrent
        for trigger in options.triggers
        for retries in options.retries
        if not fault or inject.struck_step(fault, workload)
        if adapter.name not in CONTROLS
        or (trigger == "api" and retries == "equal" and not inject.takes(fault))
        if adapter.name != "noop" or not (observer or concurrent > 1)
    ]
    if not measured:
        raise BadInput(
            "nothing is left to measure: what was asked for excludes itself",
            "a control has no trigger, retry policy or observer of its own: name an orchestrator",
        )
    warm_ups = planning.warm_ups(each for each in measured if each.orchestrator not in CONTROLS)
    return [*measured, *(warm_ups if options.warm_up and not struck else ())]


def wanted_faults(options: Options, target: Target) -> tuple[str, ...]:
    """The faults asked for; `all` stands for those that the target and the workloads have.

    Raises `BadInput` for what cannot be.
    """
    here = [fault.name for fault in inject.FAULTS.values() if target in fault.targets]
    wanted = tuple(here) if "all" in options.faults else options.faults
    for name in wanted:
        if name not in inject.FAULTS:
            raise BadInput(f"unknown fault '{name}'", f"one of: all, {', '.join(inject.FAULTS)}")
        if name not in here:
            raise BadInput(f"{inject.FAULTS[name].title}: cannot be on {target.value}", "--target kind")
        if name in options.faults and inject.FAULTS[name].step and set(options.workloads) != {"pipeline"}:
            raise BadInput(
                f"{inject.FAULTS[name].title}: only a pipeline has that step", "--workload pipeline"
            )
    for workload in options.workloads if wanted else ():
        longer = [steps for steps in options.steps if steps != 1] if workload == "chain" else []
        if workload not in inject.STRUCK or longer:
            raise BadInput(
                f"a fault strikes one step: not in {f'chain-{longer[0]}' if longer else workload}",
                "--workload chain --steps 1, or --workload pipeline (it strikes train)",
            )
    if options.concurrent != (1,) and options.triggers != ("api",):
        raise BadInput("a schedule or an event starts one run", "leave --concurrent or --trigger out")
    if wanted and options.triggers != ("api",):
        raise BadInput("a fault strikes a run that the harness starts", "leave --trigger or --fault out")
    if "shipped" in options.retries and not wanted:
        raise BadInput("retries as shipped say something only where a step fails", "--fault all")
    if wanted and options.concurrent != (1,):
        raise BadInput("a fault strikes one run: not several at once", "leave --concurrent or --fault out")
    if wanted and "fault" in options.parameters:
        raise BadInput("--fault and --set fault=… are two ways to say one thing", "leave --set fault=… out")
    return wanted


def _configurations(adapter: Adapter, target: Target, wanted: Sequence[str]) -> list[Configuration]:
    """Those of `wanted` that the adapter has on the target, all without a wish.

    Where it cannot run there at all, its `default`, so that the table says why.
    """
    known = adapter.configurations(target)
    if not known:
        return [Configuration(name="default")]
    chosen = [c for c in known if not wanted or c.name in wanted]
    if not chosen and adapter.name in CONTROLS:
        return list(known)
    if not chosen:
        raise BadInput(
            f"{adapter.name} has no configuration '{', '.join(wanted)}' on {target.value}",
            f"one of: {', '.join(c.name for c in known)}",
        )
    return chosen


def _sleeps(workload: str, orchestrator: str) -> dict[str, str | int | float]:
    return {"sleep_seconds": "10"} if workload == "fanout" and orchestrator != "noop" else {}


def checked(parameters: dict[str, str | int | float]) -> dict[str, str | int | float]:
    """The parameters, if the pipeline's config takes them. Raises `BadInput` naming the first that it does not."""
    try:
        load_config("{}", [f"{key}={value}" for key, value in parameters.items()])
    except core.errors.BadInput as error:
        raise BadInput(error.what, f"--set takes: {', '.join(PipelineConfig.model_fields)}") from None
    return parameters


def ask_pilot(
    options: Options, precision: float, target: Target, wanted: Sequence[Scenario], console: Console
) -> tuple[str, int]:
    """Run what is missing of the pilot; its plan's id, and how many samples the precision takes.

    Raises `BadInput` where the pilot cannot say, or where its plan was asked for and it has not run yet.
    """
    folder = options.results / pilot.FOLDER
    context = _context(target)
    digest = planning.request_digest(wanted, pilot.RUNS, options.seed, options.limits, context)
    with Store.locked(folder) as store:
        plan = None if options.fresh else pilot.current(options.results, store, digest)
        if plan is None:
            plan = planning.make(wanted, pilot.RUNS, options.seed, options.limits, context)
            planning.save(folder, plan)
        if (begun := pilot.asked_by(options.results, plan, precision)) is not None:
            return plan.plan_id, begun.n  # what it said then holds until those runs are there
        missing = list(planning.missing(plan, store))
        if missing:
            console.print(f"pilot {plan.plan_id}: {len(missing)} runs, discarded afterwards")
            if options.plan_only:
                raise BadInput("how many samples is not known before the pilot has run", "leave --plan out")
            earlier = planning.learned([*published(), *store.records()])
            within_budget(planning.expected(plan, missing, earlier), options)
            if target is Target.LOCAL:
                make_environments(wanted, console)
            _execute(options, store, target, plan, console)
            if time.monotonic() > options.until and planning.lacks_samples(plan, store):
                raise BadInput(
                    "the pilot has not ended",
                    f"the same command{_again(options)}: it goes on",
                    "the pilot's runs",
                )
        runs = [record for record in store.records() if record.sample.plan_id == plan.plan_id]
    n, key = pilot.samples_for(pilot.by_scenario(runs), precision)
    console.print(f"n = {n}: what {key} takes for {precision:.3g} of its median to either side")
    return plan.plan_id, n


def _context(target: Target) -> str:
    """Which cluster of somebody else's is meant, as `choose_target` has found."""
    return os.environ.get("BENCH_CONTEXT", "") if target is Target.K8S else ""


def _plan(
    options: Options, store: Store, target: Target, wanted: Sequence[Scenario], piloted: str
) -> tuple[Plan, bool]:
    asked = (wanted, options.n, options.seed, options.limits, _context(target))
    digest = planning.request_digest(*asked)
    if not options.fresh and (found := planning.unfinished(store.folder, store, digest)):
        return found, True
    plan = planning.make(*asked).model_copy(update={"pilot": piloted, "precision": options.precision})
    planning.save(store.folder, plan)
    return plan, False


def _execute(options: Options, store: Store, target: Target, plan: Plan, console: Console) -> list[RunRecord]:
    """Carry out what the plan lacks: all of it, or what begins before the budget is used up."""
    records: list[RunRecord] = []
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with measuring(target), Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=len(plan.slots))

        def tell(event: Event) -> None:
            name = event.scenario.key
            match event.event:
                case "recorded" | "warmed up" if event.record is not None:
                    bar.update(task, completed=event.done)
                    console.print(line(event.record, event.done, event.total), markup=False)
                case "void":
                    errors.print(f"void: {name} [{event.index}]: {event.message}", markup=False)
                case "unsupported":
                    console.print(f"unsupported: {name}: {event.message}", markup=False)
                case _:
                    bar.update(
                        task, description=f"{event.event} {name} [{event.index}]", completed=event.done
                    )

        runner = Runner(
            store,
            target,
            deadline_seconds=plan.limits.deadline_seconds,
            idle_seconds=plan.limits.idle_seconds,
            max_steal=plan.limits.max_steal,
            keep=options.keep,
            context=plan.context,
            until=options.until,
            tell=tell,
        )
        try:
            runner.clean()
            records.extend(runner.run(plan))
            left = len(list(planning.missing(plan, store)))
            if left and time.monotonic() > options.until:
                errors.print(
                    f"the budget of {options.budget_hours:g} h is used up: {_stored_of(plan, left, options)}"
                )
        except Unsupported as gap:
            raise BadInput(gap.message, gap.remedy) from gap
        except KeyboardInterrupt:
            left = len(list(planning.missing(plan, store)))
            console.print(f"interrupted: {_stored_of(plan, left, options)}")
            raise SystemExit(EXIT_INTERRUPTED) from None
        finally:
            close_local()
    return records


def _stored_of(plan: Plan, left: int, options: Options) -> str:
    stored = f"{len(plan.slots) - left} of {len(plan.slots)} samples are stored"
    return f"{stored}; the same command{_again(options)} goes on with the rest"


def _again(options: Options) -> str:
    return " without --fresh" if options.fresh else ""


def line(record: RunRecord, done: int, total: int) -> str:
    """One line for a finished run."""
    parts = [f"{done}/{total}", record.scenario.key, record.status]
    if record.breakdown is not None:
        parts.append(f"makespan {record.breakdown.makespan:.2f} s")
        if (beside := overhead(record)) is not None:
            parts.append(f"overhead {beside:.2f} s")
    if record.verification is not None and record.verification.model_sha256:
        parts.append(f"model {record.verification.model_sha256[:12]}")
    if record.cold:
        parts.append("cold")
    if record.reason:
        parts.append(record.reason)
    if record.clock_errors:
        parts.append("clock errors: " + "; ".join(record.clock_errors))
    return " · ".join(parts)


def show(records: Sequence[RunRecord], console: Console) -> None:
    """The summary, where the time went, and the timeline of the last good run of each orchestrator; no warm-ups."""
    records = [record for record in records if not record.scenario.warm_up]
    if any(record.scenario.fault for record in records):
        console.print(tables.faults_table(records))
        if (answers := tables.lineage_table(records)) is not None:
            console.print(answers)
        return
    console.print(tables.summary(records))
    if (started := tables.starts_table(records)) is not None:
        console.print(started)
    if (several := tables.concurrent_table(records)) is not None:
        console.print(several)
    console.print(tables.breakdown_table(records))
    last: dict[str, RunRecord] = {}
    for record in records:
        drawn = record.scenario.orchestrator != "noop" and record.scenario.concurrent == 1
        if record.status == "succeeded" and drawn:
            last[record.scenario.key] = record
    for record in last.values():
        console.print(timeline.timeline(record, console.width))
