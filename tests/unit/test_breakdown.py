"""The breakdown tells what happened, within what the clocks can tell, and says where they contradict each other."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.workloads import PIPELINE, Member
from bench.analysis.breakdown import CLOCK_READS, breakdown, passages
from bench.results.records import Breakdown
from tests.unit.made_records import EPOCH, SECOND, MadeRun, scenario


def parts(found: Breakdown, name: str) -> list[Any]:
    return [part for part in found.parts if part.name == name]


def changed(run: MadeRun, step: str, **fields: Any) -> None:
    """Put fields into all of a step's ledger events."""
    for event in run.ledger:
        if event["step"] == step:
            event.update({k: v for k, v in fields.items() if k != "user_end_ns" or event["event"] != "start"})


@pytest.mark.parametrize(
    ("workload", "steps"), [("pipeline", 7), ("chain", 5), ("fanout", 50), ("sweep", 4), ("chain", 1)]
)
@pytest.mark.parametrize("pods", [True, False], ids=["pods", "processes"])
def test_a_consistent_run_has_no_errors(workload: str, steps: int, pods: bool) -> None:
    for seed in range(20):
        run = MadeRun(scenario(workload=workload, steps=steps), seed=seed, pods=pods)
        found = run.breakdown()
        assert found.errors == ()
        assert found.makespan == pytest.approx(run.makespan / SECOND)
        names = [part.name for part in found.parts]
        assert (names[0], names[1], names[-1]) == ("accept", "queue", "finish")
        assert ("create" in names) == pods


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    workload=st.sampled_from([("pipeline", 7), ("chain", 3), ("fanout", 9), ("sweep", 4)]),
    lost=st.sets(st.sampled_from(["process_start_ns", "imports_done_ns", "user_start_ns", "user_end_ns"])),
    no_pods=st.booleans(),
    handoff=st.floats(0.0, 20.0),
)
def test_parts_telescope_whatever_is_missing(
    seed: int, workload: tuple[str, int], lost: set[str], no_pods: bool, handoff: float
) -> None:
    run = MadeRun(scenario(workload=workload[0], steps=workload[1]), seed=seed, handoff=handoff)
    for event in run.ledger[seed % 3 :: 3]:
        event.update(dict.fromkeys(lost))
    if no_pods:
        run.pods.clear()
    found = run.breakdown()
    whole = run.first_terminal - run.submit
    assert sum(part.seconds for part in found.parts) == pytest.approx(whole / SECOND, abs=1e-6)
    assert found.residual == pytest.approx(0, abs=1e-6)
    assert all(part.low <= part.seconds <= part.high for part in found.parts)
    assert not any("residual" in error for error in found.errors)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), handoff=st.floats(0.0, 20.0))
def test_the_truth_lies_within_every_parts_bounds(seed: int, handoff: float) -> None:
    run = MadeRun(scenario("argo", "chain", 4), seed=seed, handoff=handoff)
    created = {}
    original = run.pods
    for pod in original:
        created[pod.name] = pod.arrivals_ns["created"] - 20_000_000
    ends = [e["user_end_ns"] for e in run.ledger if e["event"] == "finish"]
    made = [created[pod.name] for pod in original]
    found = run.breakdown()
    for part, (end, begin) in zip(
        parts(found, "handoff"), zip(ends[:-1], made[1:], strict=True), strict=True
    ):
        assert part.low <= (begin - end) / SECOND <= part.high
        assert part.clocks == "ledger→kubernetes"
    assert found.errors == ()


def test_the_parts_of_a_chain_come_in_their_order() -> None:
    found = MadeRun(scenario("pods", "chain", 2)).breakdown()
    inside = ["create", "start", "imports", "prepare", "user"]
    assert [p.name for p in found.parts] == ["accept", "queue", *inside, "handoff", *inside, "finish"]
    assert [p.index for p in parts(found, "user")] == [0, 1]


def test_kubernetes_bounds_are_a_second_cut_short_by_the_watch() -> None:
    run = MadeRun(scenario("argo", "chain", 1))
    created = run.pods[0].created
    assert created is not None
    queue = parts(run.breakdown(), "queue")[0]
    assert queue.low == pytest.approx(created - run.accepted / SECOND, abs=1e-6)
    arrival = run.pods[0].arrivals_ns["created"]
    assert queue.high == pytest.approx((arrival - run.accepted) / SECOND, abs=1e-6)
    run.pods[0] = run.pods[0].model_copy(update={"arrivals_ns": {}})
    queue = parts(run.breakdown(), "queue")[0]
    assert queue.high == pytest.approx(created + 1 - run.accepted / SECOND, abs=1e-6)


def test_a_noop_run_is_accept_and_finish() -> None:
    found = MadeRun(scenario("noop")).breakdown()
    assert [part.name for part in found.parts] == ["accept", "finish"]
    assert (found.errors, found.overhead, found.user) == ((), None, None)


def test_no_ledger_is_an_error_for_all_but_noop() -> None:
    run = MadeRun(scenario("argo", "chain", 2))
    found = breakdown(run.of, run.client, None, [], [])
    assert [p.name for p in found.parts] == [
        "accept",
        "queue+create+start+imports+prepare+user+handoff+finish",
    ]
    assert found.errors == ("probe[0]: no attempt in the ledger", "probe[1]: no attempt in the ledger")
    assert found.overhead is None


def test_overhead_is_the_ledgers_span_less_the_longest_of_each_phase() -> None:
    run = MadeRun(scenario("argo", "fanout", 50))
    finished = [e for e in run.ledger if e["event"] == "finish"]
    span = max(e["user_end_ns"] for e in finished) - min(e["user_start_ns"] for e in finished)
    longest = max(e["user_end_ns"] - e["user_start_ns"] for e in finished)
    found = run.breakdown()
    assert found.overhead == pytest.approx((span - longest) / SECOND)
    assert found.user == pytest.approx(longest / SECOND)


def test_a_fan_out_goes_through_the_member_that_ends_last() -> None:
    run = MadeRun(scenario("argo", "fanout", 50))
    finished = [e for e in run.ledger if e["event"] == "finish"]
    last = max(finished, key=lambda e: e["user_end_ns"])
    found = run.breakdown()
    assert [part.index for part in parts(found, "user")] == [last["index"]]
    # How long after the phase's first pod its own was created is width, not a wait for the orchestrator.
    assert [part.index for part in parts(found, "spread")] == [last["index"]]


def test_a_sweeps_candidates_are_followed_at_their_own_pace() -> None:
    """A quick candidate is steps ahead of a slow one; no negative handoff comes of it."""
    of = scenario("argo", "sweep", 4)
    run = MadeRun(of)
    run.ledger, run.pods, run.attempts = [], [], []
    at = run.add(Member("ingest"), run.accepted + SECOND)["user_end_ns"]
    ends = []
    for candidate, user in enumerate((0.2, 9.0, 0.2, 4.0)):
        ready = at
        for step in ("preprocess", "train", "eval"):
            # Candidate 2's training is the longest of all, candidate 1's other steps are.
            slow = 15.0 if (candidate, step) == (2, "train") else user
            ready = run.add(Member(step, candidate), ready + SECOND, user=slow)["user_end_ns"]
        ends.append(ready)
    ready = run.add(Member("select"), max(ends) + SECOND)["user_end_ns"]
    end = run.add(Member("register"), ready + SECOND)["user_end_ns"]
    run.last_look, run.first_terminal = end + 1000, end + 2000
    run.makespan = run.first_terminal - run.submit
    found = run.breakdown()
    assert found.errors == ()
    slowest = ends.index(max(ends))
    assert [(p.step, p.index) for p in parts(found, "user")] == [
        ("ingest", None),
        *((step, slowest) for step in ("preprocess", "train", "eval")),
        ("select", None),
        ("register", None),
    ]


def retried(successful: int = 2) -> tuple[MadeRun, int, int]:
    """A chain of two whose second step's first attempts fail; creation times of its first and last pods."""
    of = scenario("argo", "chain", 2)
    run = MadeRun(of)
    run.ledger, run.pods, run.attempts = [], [], []
    at = run.add(Member("probe", 0), run.accepted + SECOND)["user_end_ns"]
    first = begin = at + SECOND
    for attempt in range(1, successful):
        lost = run.add(Member("probe", 1), begin, attempt, event="failed", user_end_ns=None)
        begin = lost["wall_ns"] + 5 * SECOND
    end = run.add(Member("probe", 1), begin, successful)["user_end_ns"]
    run.last_look, run.first_terminal = end + 1000, end + 2000
    run.makespan = run.first_terminal - run.submit
    return run, first, begin


@pytest.mark.parametrize("successful", [2, 4])
def test_retries_are_a_part_of_their_own_and_count_as_overhead(successful: int) -> None:
    run, first, last = retried(successful)
    found = run.breakdown()
    assert found.errors == ()
    part = parts(found, "retries")[0]
    assert part.low <= (last - first) / SECOND <= part.high
    assert len(parts(found, "user")) == 2
    clean = MadeRun(scenario("argo", "chain", 2)).breakdown()
    assert found.overhead > clean.overhead + 5 * (successful - 1)


def test_a_pod_that_never_reached_the_ledger_counts_as_the_first_attempt() -> None:
    run, first, last = retried()
    run.ledger = [e for e in run.ledger if (e["index"], e["attempt"]) != (1, 1)]
    found = run.breakdown()
    assert found.errors == ()
    part = parts(found, "retries")[0]
    assert part.low <= (last - first) / SECOND <= part.high


def test_a_killed_attempt_leaves_a_start_and_no_end() -> None:
    run, *_ = retried()
    run.ledger = [e for e in run.ledger if e["event"] != "failed"]
    found = run.breakdown()
    assert found.errors == ()
    assert parts(found, "retries")


def test_a_step_that_did_not_finish_is_an_error() -> None:
    run = MadeRun(scenario("argo", "chain", 2))
    run.ledger = [e for e in run.ledger if (e["index"], e["event"]) != (1, "finish")]
    found = run.breakdown()
    assert "probe[1]: did not finish, by the ledger" in found.errors
    assert found.parts[-1].name == "user+finish"
    assert found.overhead is None


def test_a_fan_outs_lost_member_is_an_error_though_it_is_not_on_the_chain() -> None:
    run = MadeRun(scenario("argo", "fanout", 50))
    run.ledger = [e for e in run.ledger if e["index"] != 0]
    assert "probe[0]: did not finish, by the ledger" in run.breakdown().errors


def test_a_pod_that_was_not_observed_merges_its_parts_and_is_named() -> None:
    run = MadeRun(scenario("argo", "chain", 3))
    name = run.pods.pop(1).name
    assert name
    found = run.breakdown()
    assert found.errors == ("probe[1]: its pod was not observed",)
    assert [p.name for p in found.parts].count("handoff+create+start") == 1


@pytest.mark.parametrize(
    ("field", "merged", "what"),
    [("created", "handoff+create", "creation"), ("started", "create+start", "container's start")],
)
def test_a_missing_kubernetes_time_merges_its_neighbours(field: str, merged: str, what: str) -> None:
    run = MadeRun(scenario("argo", "chain", 2))
    run.pods[1] = run.pods[1].model_copy(update={field: None})
    found = run.breakdown()
    assert found.errors[0].startswith("probe[1]: its ") and what in found.errors[0]
    assert merged in [part.name for part in found.parts]


def test_a_gate_that_does_not_pass_leaves_three_steps_out_without_an_error() -> None:
    run = MadeRun(scenario("argo"))
    gated = PIPELINE[4:]
    run.ledger = [e for e in run.ledger if e["step"] not in gated]
    run.pods = [pod for pod in run.pods if not any(step in pod.name for step in gated)]
    run.attempts = [a for a in run.attempts if a.step not in gated]
    end = max(e["user_end_ns"] or 0 for e in run.ledger)
    run.last_look, run.first_terminal = end + 1000, end + 2000
    run.makespan = run.first_terminal - run.submit
    assert len(run.breakdown().errors) == 3
    run.skipped = gated
    assert run.breakdown().errors == ()
    run.skipped = ()
    changed(run, "eval", data={"outputs": {"passed": "false"}})
    assert run.breakdown().errors == ()


# Seeded lies: every one must be told.


def test_a_clock_that_goes_backwards_is_an_error_and_nothing_is_clamped() -> None:
    run = MadeRun(scenario("argo", "chain", 2))
    for event in run.ledger:
        if event["index"] == 1:
            for field in ("process_start_ns", "imports_done_ns", "user_start_ns", "user_end_ns", "wall_ns"):
                event[field] = event[field] and event[field] - 30 * SECOND
    found = run.breakdown()
    negative = [part for part in found.parts if part.high < 0]
    assert [part.name for part in negative] == ["start"]
    assert any(error.startswith("start of probe[1]: negative, ") for error in found.errors)


@pytest.mark.parametrize(("trigger", "step", "told"), [("schedule", 0, 0), ("schedule", 1, 1), ("api", 0, 1)])
def test_a_schedules_first_pod_may_be_made_before_the_run_is_due(trigger: str, step: int, told: int) -> None:
    """And is shown as it is: the wait before it is negative, and so short that the parts add up."""
    run = MadeRun(scenario("prefect", "chain", 2, trigger=trigger))
    pod = run.pods[step]
    assert pod.created is not None
    arrivals = {**pod.arrivals_ns, "created": pod.arrivals_ns["created"] - 9 * SECOND}
    run.pods[step] = pod.model_copy(update={"created": pod.created - 9, "arrivals_ns": arrivals})
    found = run.breakdown()
    (wait,) = [part for part in found.parts if part.name in ("queue", "handoff") and part.index == step]
    assert wait.high < 0
    assert sum(part.seconds for part in found.parts) == pytest.approx(run.makespan / SECOND)
    assert len(found.errors) == told


def test_swapped_steps_are_an_error() -> None:
    run = MadeRun(scenario("argo"))
    for event in run.ledger:
        event["step"] = {"train": "eval", "eval": "train"}.get(event["step"], event["step"])
    found = run.breakdown()
    assert any(error.startswith("handoff of eval: negative") for error in found.errors)
    assert any("timeline: train is eval, by the ledger" in error for error in found.errors)


def test_user_code_that_ends_before_it_starts_is_an_error() -> None:
    run = MadeRun(scenario("argo", "chain", 1))
    start = run.ledger[0]["user_start_ns"]
    changed(run, "probe", user_end_ns=start - 1)
    errors = run.breakdown().errors
    assert any("probe[0]: user code ends before it starts" in error for error in errors)


def test_a_watch_that_tells_of_a_pod_before_it_is_created_is_an_error() -> None:
    run = MadeRun(scenario("argo", "chain", 1))
    pod = run.pods[0]
    assert pod.created is not None
    early = {**pod.arrivals_ns, "created": int(pod.created) * SECOND - 1}
    run.pods[0] = pod.model_copy(update={"arrivals_ns": early})
    assert any("the watch told of its creation before" in error for error in run.breakdown().errors)


@pytest.mark.parametrize("seconds", [-3, 3])
def test_a_wall_clock_stepped_during_the_run_shows_in_the_residual(seconds: int) -> None:
    run = MadeRun(scenario("noop"))
    run.makespan += seconds * SECOND
    found = run.breakdown()
    assert found.residual is not None
    assert found.residual_bound is not None
    assert abs(found.residual) > found.residual_bound
    assert any(error.startswith("residual: the parts add up to") for error in found.errors)


def test_the_residuals_bound_is_two_clock_reads() -> None:
    assert MadeRun(scenario("noop")).breakdown().residual_bound == CLOCK_READS


def test_a_handoff_is_not_understated_where_the_watch_is_prompt() -> None:
    for seed in range(20):
        run = MadeRun(scenario("argo", "chain", 4), seed=seed, handoff=0.2)
        ends = [e["user_end_ns"] for e in run.ledger if e["event"] == "finish"]
        truth = [
            (pod.arrivals_ns["created"] - end) / SECOND for pod, end in zip(run.pods[1:], ends, strict=False)
        ]
        found = [part.seconds for part in parts(run.breakdown(), "handoff")]
        assert found == pytest.approx(truth, abs=0.03), "more than the watch's latency away"


@pytest.mark.parametrize(("lie", "words"), [("late", "started"), ("early", "finished")])
def test_a_wrong_timeline_is_caught(lie: str, words: str) -> None:
    run = MadeRun(scenario("argo", "chain", 3))
    attempt = run.attempts[1]
    assert attempt.started is not None
    assert attempt.finished is not None
    fields = {"started": attempt.started + 10} if lie == "late" else {"finished": attempt.finished - 10}
    run.attempts[1] = attempt.model_copy(update=fields)
    errors = run.breakdown().errors
    assert len(errors) == 1
    assert errors[0].startswith(f"timeline: probe[1] {words}")


def test_a_step_that_is_not_of_the_workload_is_an_error() -> None:
    run = MadeRun(scenario("argo", "chain", 2))
    run.add(Member("probe", 7), run.accepted)
    assert "probe[7]: ran, but is no step of chain" in run.breakdown().errors


@pytest.mark.parametrize("seconds", [1, 3])
def test_a_container_that_counts_as_started_long_after_its_process_was_forked_is_no_error(
    seconds: int,
) -> None:
    """As seen on kind: `startedAt` 1 to 2 s after the process start on a machine with twice its load."""
    run = MadeRun(scenario("argo", "chain", 1))
    middle = parts(run.breakdown(), "create")[0].seconds
    pod = run.pods[0]
    process = run.ledger[0]["process_start_ns"]
    started = process // SECOND + 1 + seconds
    arrivals = {**pod.arrivals_ns, "running": (started + 1) * SECOND}
    run.pods[0] = pod.model_copy(update={"started": float(started), "arrivals_ns": arrivals})
    found = run.breakdown()
    assert found.errors == ()
    start = parts(found, "start")[0]
    assert start.seconds < 0 <= start.high
    # The middle stays where the clock says: the allowance widens bounds only.
    assert parts(found, "create")[0].seconds == pytest.approx(middle + 1 + seconds, abs=1)


def test_a_process_older_than_its_pod_is_an_error() -> None:
    run = MadeRun(scenario("argo", "chain", 1))
    created = run.pods[0].created
    assert created is not None
    for event in run.ledger:
        event["process_start_ns"] = int(created - 1) * SECOND
    assert any(error.startswith("start of probe[0]: negative") for error in run.breakdown().errors)


def test_calls_in_an_older_process_go_straight_to_user_start() -> None:
    run = MadeRun(scenario("prefect", "chain", 3, target="local"), pods=False)
    for event in run.ledger:
        event["process_start_ns"] = run.submit - 3600 * SECOND
        event["imports_done_ns"] = run.submit - 3590 * SECOND
    found = breakdown(run.of, run.client, run.timeline, [], run.ledger, task="call")
    assert found.errors == ()
    assert [part.name for part in found.parts] == [
        "accept", "queue", "user", "handoff", "user", "handoff", "user", "finish",
    ]  # fmt: skip


@pytest.mark.parametrize("task", ["process", "call"])
def test_a_pod_that_runs_all_steps_is_a_boundary_of_the_first_only(task: str) -> None:
    run = MadeRun(scenario("prefect"))
    first = run.pods[0]
    run.pods[1:] = []
    run.attempts = [attempt.model_copy(update={"pod_name": None}) for attempt in run.attempts]
    for event in run.ledger:
        event.update(pod_uid=first.uid, pod_name=first.name)
    found = breakdown(run.of, run.client, run.timeline, run.pods, run.ledger, task)
    assert found.errors == ()
    assert [part.step for part in parts(found, "create")] == ["ingest"]
    assert len(parts(found, "handoff")) == 6
    assert all(part.clocks == "ledger" for part in parts(found, "handoff"))
    assert len(parts(found, "imports")) == (7 if task == "process" else 0)


def test_the_order_of_pods_and_of_the_ledger_does_not_matter() -> None:
    run = MadeRun(scenario("argo", "sweep", 4))
    forward = run.breakdown()
    assert forward == breakdown(run.of, run.client, run.timeline, run.pods[::-1], run.ledger[::-1])


def test_calls_of_one_process_come_in_the_order_they_were_made() -> None:
    run = MadeRun(scenario(workload="chain", steps=3), pods=False)
    for number, event in enumerate(run.ledger):
        event["process_start_ns"] = EPOCH - number  # one process, read a little earlier each time
    found = passages(None, [], run.ledger)
    assert [passage.member.index for passage in found] == [0, 1, 2]
