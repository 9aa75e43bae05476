"""The workloads, as phases of steps that may run at the same time: one definition for adapters and analysis."""

from dataclasses import dataclass

from adapters.base import BenchError

PIPELINE = ("ingest", "preprocess", "train", "eval", "register", "promote", "monitor")
GATED = ("register", "promote", "monitor")
"""Left out, successfully, where the gate does not pass."""

SWEEP = ({"seed": 41, "k": 5}, {"seed": 42, "k": 5}, {"seed": 42, "k": 10}, {"seed": 43, "k": 10})

WORKLOADS = {
    "pipeline": "the seven steps of the recommender, one after another",
    "chain": "N small steps (fibo) one after another: the cost of a step",
    "fanout": "N sleeping steps at once: the cost of width",
    "sweep": "four candidates (seed, k) at once; the best is picked and registered",
}


@dataclass(frozen=True)
class Member:
    """One step of a phase; `index` tells the members of a fan-out or sweep apart."""

    step: str
    index: int | None = None


def phases(workload: str, steps: int) -> tuple[tuple[Member, ...], ...]:
    """The phases of `workload`: members of one phase may overlap, phases follow one another.

    A sweep's candidates run side by side at their own pace, so each of their steps is counted as a phase
    although a quick candidate may be a step ahead of a slow one.
    """
    match workload:
        case "pipeline":
            return tuple((Member(step),) for step in PIPELINE)
        case "chain":
            return tuple((Member("probe", index),) for index in range(steps))
        case "fanout":
            return (tuple(Member("probe", index) for index in range(steps)),)
        case "sweep":
            candidates = range(len(SWEEP))
            middle = tuple(tuple(Member(s, i) for i in candidates) for s in ("preprocess", "train", "eval"))
            return ((Member("ingest"),), *middle, (Member("select"),), (Member("register"),))
        case _:
            raise BenchError(f"unknown workload '{workload}'", f"one of: {', '.join(WORKLOADS)}")
