"""Whether a run did what its workload says: a run counts only when its output was checked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.base import Timeline
from adapters.workloads import GATED, Member, phases
from bench.results.records import RunRecord, Scenario, Verification

Key = tuple[str, int | None]
UNFINISHED = "did not finish"
UNSERVED = "the service does not serve the model that was promoted"


def fibo(n: int) -> int:
    """The n-th Fibonacci number, 0 and 1 being the first two."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def verify(
    scenario: Scenario, ledger: Sequence[Mapping[str, Any]], timeline: Timeline | None
) -> Verification:
    """Compare the ledger with what the workload should have done, and the orchestrator's timeline with both."""
    starts: Counter[Key] = Counter((e["step"], e["index"]) for e in ledger if e["event"] == "start")
    finishes = {(e["step"], e["index"]): e for e in ledger if e["event"] == "finish"}
    outputs = {key: event["data"].get("outputs", {}) for key, event in finishes.items()}
    if scenario.orchestrator == "noop":
        return Verification(ok=True)

    problems = []
    gate = outputs.get(("eval", None)) or outputs.get(("select", None)) or {}
    passed = {"true": True, "false": False}.get(str(gate.get("passed", "")).lower())
    expected: set[Member] = {m for phase in phases(scenario.workload, scenario.steps) for m in phase}
    if passed is False:
        expected = {member for member in expected if member.step not in GATED}
    wanted = {(member.step, member.index) for member in expected}
    for step, index in sorted(wanted - set(finishes), key=str):
        problems.append(f"{_name(step, index)} {UNFINISHED}")
    for step, index in sorted(set(starts) - wanted, key=str):
        problems.append(f"{_name(step, index)} ran and should not have")
    if timeline is not None:
        claimed: Counter[Key] = Counter((a.step, a.index) for a in timeline.attempts)
        for step, index in sorted(set(claimed) | set(starts), key=str):
            if claimed[step, index] != starts[step, index]:
                problems.append(
                    f"{_name(step, index)}: {starts[step, index]} attempts in the ledger,"
                    f" {claimed[step, index]} by the orchestrator"
                )
    if scenario.workload == "chain" and not float(scenario.parameters.get("sleep_seconds", 0)):
        value = str(fibo(int(scenario.parameters.get("fibo", 10))))
        wrong = [key for key, left in outputs.items() if str(left.get("value")) != value]
        problems += [f"{_name(*key)} left {outputs[key].get('value')}, not {value}" for key in wrong]

    trained = outputs.get(("train", None)) or outputs.get(("select", None)) or {}
    promoted = outputs.get(("promote", None), {}).get("promoted")
    served = outputs.get(("monitor", None), {}).get("served_sha256")
    if promoted is not None and served is not None and served != trained.get("model_sha256"):
        problems.append(UNSERVED)
    return Verification(
        ok=not problems,
        problems=tuple(problems),
        model_sha256=trained.get("model_sha256"),
        passed=passed,
        promoted=None if promoted is None else str(promoted).lower() == "true",
        served_sha256=served,
        steps=tuple(sorted({step for step, _ in finishes})),
        attempts=sum(starts.values()),
    )


def did_its_work(verification: Verification | None) -> bool:
    """Whether every step that should have has finished, and what was promoted is served."""
    problems = verification.problems if verification else ()
    return not any(problem.endswith(UNFINISHED) or problem == UNSERVED for problem in problems)


def same_digest(record: RunRecord, earlier: Sequence[RunRecord]) -> str | None:
    """What is wrong where the same inputs gave another model than in an earlier run, otherwise None."""
    mine = record.verification.model_sha256 if record.verification else None
    if mine is None or record.status != "succeeded":
        return None
    numeric = ("numpy", "scipy", "scikit-learn", "joblib")
    for other in earlier:
        theirs = other.verification.model_sha256 if other.verification else None
        if (
            theirs not in (None, mine)
            and other.status == "succeeded"
            and other.scenario.workload == record.scenario.workload
            and _inputs(other) == _inputs(record)
            and all(other.environment.deciding.get(n) == record.environment.deciding.get(n) for n in numeric)
        ):
            return f"the same inputs gave model {mine[:12]} here and {str(theirs)[:12]} in {other.run_id}"
    return None


def _inputs(record: RunRecord) -> tuple[Any, ...]:
    """What determines the model: parameters that shape it, the data that was read, and the code."""
    shaping = ("dataset_uri", "seed", "k", "n_books")
    given = record.scenario.parameters
    data = {
        event["data"].get("outputs", {}).get("dataset_sha256")
        for event in record.ledger
        if event["event"] == "finish" and event["step"] == "ingest"
    }
    return (*(str(given.get(name)) for name in shaping), data, record.environment.deciding.get("code"))


def _name(step: str, index: int | None) -> str:
    return step if index is None else f"{step}[{index}]"
