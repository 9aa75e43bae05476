"""Run records made up for tests: a consistent run to start from, and what can go wrong with it."""

import random
from collections.abc import Sequence
from typing import Any

from adapters.base import Attempt, Timeline
from adapters.workloads import Member, phases
from bench.analysis.breakdown import breakdown
from bench.results.records import (
    ClientClock,
    Environment,
    PodClock,
    RunRecord,
    Sample,
    Scenario,
    Verification,
)

SECOND = 1_000_000_000
EPOCH = 1_790_000_000 * SECOND
"""When made-up runs are submitted."""


def scenario(
    orchestrator: str = "argo", workload: str = "pipeline", steps: int = 7, **fields: Any
) -> Scenario:
    values = {"target": "kind", "configuration": "default", **fields}
    return Scenario(orchestrator=orchestrator, workload=workload, steps=steps, **values)


class MadeRun:
    """What really happened in a made-up run, to the nanosecond, and what each clock tells of it."""

    def __init__(self, of: Scenario, seed: int = 0, handoff: float = 1.5, pods: bool = True) -> None:
        self.of = of
        self.random = random.Random(f"{of.key}{seed}")
        self.run_id = f"run-{of.orchestrator}-{of.configuration}-{of.workload}-{seed}"
        self.with_pods = pods
        self.submit = EPOCH + seed * 1000 * SECOND + self.random.randrange(SECOND)
        self.accepted = self.submit + self._about(0.05)
        self.pods: list[PodClock] = []
        self.ledger: list[dict[str, Any]] = []
        self.attempts: list[Attempt] = []
        self.skipped: tuple[str, ...] = ()
        self.true_parts: dict[str, int] = {"accept": self.accepted - self.submit}
        at = self.accepted
        if of.orchestrator != "noop":
            for number, phase in enumerate(phases(of.workload, of.steps)):
                at = self._phase(phase, at, "queue" if number == 0 else "handoff", handoff)
        self.last_look = at + self._about(0.01)
        self.first_terminal = self.last_look + self._about(0.2)
        self.makespan = self.first_terminal - self.submit

    def _about(self, seconds: float) -> int:
        return int(seconds * self.random.uniform(0.8, 1.2) * SECOND)

    def _phase(self, phase: Sequence[Member], ready: int, wait: str, handoff: float) -> int:
        last = ready
        for position, member in enumerate(phase):
            created = ready + self._about(handoff) + position * 50_000_000
            last = max(last, self.add(member, created)["user_end_ns"])
        return last

    def add(
        self, member: Member, created: int, attempt: int = 1, user: float = 0.4, **last: Any
    ) -> dict[str, Any]:
        """One attempt whose pod is created at `created`; returns the fields of its last event."""
        name = f"{self.run_id}-{member.step}-{member.index}-{attempt}"
        process = created + self._about(0.8) if self.with_pods else created
        started = process + self._about(0.1)
        imports, begin = process + self._about(0.6), process + self._about(0.9)
        end = begin + self._about(user)
        common: dict[str, Any] = {
            "schema": 1,
            "run_id": self.run_id,
            "step": member.step,
            "index": member.index,
            "attempt_token": f"token-{name}",
            "attempt": attempt,
            "host": name,
            "pod_name": name if self.with_pods else None,
            "pod_uid": f"uid-{name}" if self.with_pods else None,
            "process_start_ns": process,
            "imports_done_ns": imports,
            "user_start_ns": begin,
            "monotonic_ns": begin - EPOCH,
        }
        outputs = {"passed": "true"} if member.step in ("eval", "select") else {}
        finish = {
            **common,
            "event": "finish",
            "wall_ns": end,
            "user_end_ns": end,
            "data": {"outputs": outputs},
        }
        finish.update(last)
        self.ledger += [
            {**common, "event": "start", "wall_ns": begin, "user_end_ns": None, "data": {}},
            finish,
        ]
        if self.with_pods:
            self.pods.append(
                PodClock(
                    name=name,
                    uid=f"uid-{name}",
                    created=created // SECOND,
                    scheduled=created // SECOND,
                    started=started // SECOND,
                    finished=(end + SECOND // 10) // SECOND,
                    exit_code=0,
                    arrivals_ns={"created": created + 20_000_000, "running": started + 50_000_000},
                )
            )
        self.attempts.append(
            Attempt(
                step=member.step,
                index=member.index,
                attempt=attempt,
                pod_name=name if self.with_pods else None,
                started=created // SECOND,
                finished=(end + SECOND // 5) // SECOND,
                status="Succeeded",
            )
        )
        return finish

    @property
    def client(self) -> ClientClock:
        return ClientClock(
            jitter_seconds=0.0,
            submit_ns=self.submit,
            accepted_ns=self.accepted,
            last_non_terminal_ns=self.last_look,
            first_terminal_ns=self.first_terminal,
            makespan_monotonic_ns=self.makespan,
        )

    @property
    def timeline(self) -> Timeline:
        return Timeline(
            run_id=self.run_id,
            native_status="Succeeded",
            resolution_seconds=1.0,
            attempts=tuple(self.attempts),
            skipped=self.skipped,
        )

    def breakdown(self) -> Any:
        return breakdown(self.of, self.client, self.timeline, self.pods, self.ledger)

    def record(self, **fields: Any) -> RunRecord:
        """The record as the runner would store it."""
        sample = {"plan_id": "plan", "scenario": self.of.key, "index": 0, **fields.pop("sample", {})}
        blocking = {"cpu": "made up", "cores": "2", "kubernetes": "v1.34.4"}
        if self.of.orchestrator == "argo":
            blocking["argo_workflows"] = "v3.7.3"
        values: dict[str, Any] = {
            "sample": Sample(**sample),
            "run_id": self.run_id,
            "scenario": self.of,
            "task": "nothing" if self.of.orchestrator == "noop" else "pod",
            "status": "succeeded",
            "client": self.client,
            "timeline": self.timeline,
            "pods": tuple(self.pods),
            "ledger": tuple(self.ledger),
            "breakdown": self.breakdown(),
            "verification": Verification(ok=True),
            "environment": Environment(blocking=blocking, informational={"commit": "0000000"}),
            "recorded_at": "2026-09-21T12:00:00Z",
            **fields,
        }
        return RunRecord(**values)


def made(of: Scenario | None = None, number: int = 0, handoff: float = 1.5, **fields: Any) -> RunRecord:
    """A record of sample `number`."""
    run = MadeRun(of or scenario(), seed=number, handoff=handoff)
    return run.record(sample={"index": number}, **fields)


def small(run_id: str, index: int = 0, **fields: Any) -> RunRecord:
    """A record without steps, quick to make."""
    of = scenario("noop", "chain", 3)
    return MadeRun(of, seed=index).record(run_id=run_id, sample={"index": index}, **fields)
