"""Two sets against each other: what is claimed, what is refused, and how it is said."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters.base import BenchError
from bench.analysis.cells import cells, floor_of
from bench.analysis.compare import compare
from bench.results.records import Environment, RunRecord
from bench.results.store import Store
from tests.unit.made_records import made, scenario


def runs(orchestrator: str = "argo", n: int = 6, handoff: float = 1.5, **environment: str) -> list[RunRecord]:
    found = []
    for number in range(n):
        record = made(scenario(orchestrator, "chain", 3), number, handoff)
        blocking = {**record.environment.blocking, **environment}
        found.append(record.model_copy(update={"environment": Environment(blocking=blocking)}))
    return found


def test_a_slower_set_is_called_slower_and_the_other_way_round() -> None:
    (slower,) = compare(runs(), runs(handoff=4.0)).compared
    assert slower.verdict == "slower, effect large" and slower.found.shift > 0
    assert slower.p is not None and slower.p < 0.05
    (faster,) = compare(runs(handoff=4.0), runs()).compared
    assert faster.verdict == "faster, effect large"


def test_a_set_does_not_differ_from_itself() -> None:
    (same,) = compare(runs(), runs()).compared
    assert (same.verdict, same.found.shift) == ("no difference seen", 0)


def test_first_runs_after_a_switch_are_not_set_against_later_ones() -> None:
    cold = [record.model_copy(update={"cold": True}) for record in runs()]
    with pytest.raises(BenchError, match="each run was the first after a switch"):
        compare(cold, runs())
    (forced,) = compare(cold, runs(), force=True).compared
    assert forced.differs and compare(cold, cold).compared


def test_too_few_samples_claim_nothing() -> None:
    (few,) = compare(runs(n=2), runs(n=2, handoff=9.0)).compared
    assert few.p is None and few.verdict.startswith("cannot tell: n=2 and 2 are too few")


def chains(count: int, n: int, handoff: float = 1.5) -> list[RunRecord]:
    of = [scenario("argo", "chain", 1, parameters={"fibo": number}) for number in range(count)]
    return [made(each, i, handoff, run_id=f"{each.key}-{i}-{handoff}") for each in of for i in range(n)]


def test_where_so_many_comparisons_could_reject_nothing_none_is_called_alike() -> None:
    """Complete separation, 5 against 5: the smallest p is 2 of 252, which 6 comparisons can bear and 7 cannot."""
    far, near = chains(7, 5), chains(7, 5, handoff=9.0)
    for each in compare(far, near).compared:
        assert each.verdict == (
            "cannot tell: n too small for this many comparisons (n=5 and 5: smallest p 0.0079 × 7 = 0.056)"
        )
        assert each.p == each.smallest_p == pytest.approx(7 * 2 / 252)
    six = compare(chains(6, 5), chains(6, 5, handoff=9.0)).compared
    assert {each.verdict for each in six} == {"slower, effect large"}
    alike = compare(far, far).compared
    assert all(each.verdict.startswith("cannot tell: n too small for this many") for each in alike)


def test_p_is_adjusted_over_all_that_is_compared() -> None:
    one = compare(runs(n=4), runs(n=4, handoff=4.0)).compared
    both = compare(
        runs(n=4) + runs("pods", 4), runs(n=4, handoff=4.0) + runs("pods", 4, handoff=4.0)
    ).compared
    assert one[0].p is not None and both[0].p == pytest.approx(2 * one[0].p)


def test_different_environments_are_refused_by_name_unless_forced() -> None:
    with pytest.raises(BenchError, match=r"kernel: 6\.1 and 6\.8"):
        compare(runs(kernel="6.1"), runs(kernel="6.8"))
    (forced,) = compare(runs(kernel="6.1"), runs(kernel="6.8"), force=True).compared
    assert forced.differs == ("kernel: 6.1 and 6.8",)


def told(records: list[RunRecord], **facts: str) -> list[RunRecord]:
    """The same, with facts that are only good to know."""
    return [
        r.model_copy(
            update={"environment": Environment(blocking=r.environment.blocking, informational=facts)}
        )
        for r in records
    ]


def test_runs_of_other_code_are_another_environment_wherever_it_is_written() -> None:
    with pytest.raises(BenchError, match="code: a and b"):
        compare(told(runs(), code="a"), runs(code="b"))
    (same,) = compare(told(runs(), code="a"), runs(code="a")).compared
    assert same.differs == ()


def test_runs_of_another_python_are_another_environment_and_of_another_patch_of_it_are_not() -> None:
    with pytest.raises(BenchError, match=r"python: 3\.11 and 3\.12"):
        compare(told(runs(), python="3.11.7"), told(runs(), python="3.12.3"))
    (same,) = compare(told(runs(), python="3.11.7"), told(runs(), python="3.11.9")).compared
    assert same.differs == ()


def without(records: list[RunRecord], *facts: str) -> list[RunRecord]:
    return [
        r.model_copy(
            update={
                "environment": Environment(
                    blocking={k: v for k, v in r.environment.blocking.items() if k not in facts}
                )
            }
        )
        for r in records
    ]


@pytest.mark.parametrize("fact", ["kubernetes", "cpu", "argo_workflows"])
def test_a_fact_that_only_one_set_has_is_a_difference_between_the_two(fact: str) -> None:
    value = runs()[0].environment.blocking[fact]
    with pytest.raises(BenchError, match=rf"{fact}: {value} and not recorded"):
        compare(runs(), without(runs(), fact))
    with pytest.raises(BenchError, match=rf"{fact}: not recorded and {value}"):
        compare(without(runs(), fact), runs())


def test_the_harness_alone_touches_no_cluster_and_a_floor_has_no_version_of_an_orchestrator() -> None:
    assert compare(runs("noop"), without(runs("noop"), "kubernetes")).compared[0].differs == ()
    argo, floor = cells([*runs(), *runs("pods")])
    assert "argo_workflows" in argo.blocking and floor_of(argo, [argo, floor]) is floor


def test_a_set_of_two_environments_is_refused() -> None:
    mixed = runs(n=3, kernel="6.1") + [
        r.model_copy(update={"run_id": r.run_id + "x"}) for r in runs(n=3, kernel="6.8")
    ]
    with pytest.raises(BenchError, match=r"the first set has .* in more than one environment"):
        compare(mixed, runs())


def test_what_only_one_has_is_named() -> None:
    found = compare(runs() + runs("pods"), runs())
    assert (found.only_first, found.only_second) == (("kind/pods/chain-3/default",), ())
    with pytest.raises(BenchError, match="no scenario is measured in both"):
        compare(runs(), runs("pods"))


def test_runs_with_a_fault_are_left_out() -> None:
    struck = made(scenario("argo", "chain", 1, fault="sigkill"))
    with pytest.raises(BenchError, match="nothing against nothing"):
        compare([struck], [struck])


def typed(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_as_it_is_typed(tmp_path: Path) -> None:
    for name, kernel, handoff in (("a", "6.1", 1.5), ("b", "6.1", 4.0), ("c", "6.8", 1.5)):
        store = Store(tmp_path / name)
        for record in runs(kernel=kernel, handoff=handoff):
            store.append(record)
    done = typed(tmp_path / "a", tmp_path / "b")
    assert done.returncode == 0 and "slower, effect large" in done.stdout
    body = json.loads(typed(tmp_path / "a", tmp_path / "b", "--json").stdout)
    (row,) = body["compared"]
    assert row["verdict"] == "slower, effect large"
    assert row["smallest_p"] == row["p"] == pytest.approx(2 / 924), "6 against 6, apart, one comparison"
    refused = typed(tmp_path / "a", tmp_path / "c")
    assert (refused.returncode, "kernel: 6.1 and 6.8" in refused.stderr) == (1, True)
    assert "--force" in refused.stderr and "Traceback" not in refused.stderr
    absent = typed(tmp_path / "a", tmp_path / "nowhere")
    assert (absent.returncode, "there is no folder" in absent.stderr) == (2, True)
