"""The step for exit handlers."""

from tests.unit.conftest import Home, outputs_of


def test_the_outcome_of_a_run_stands_in_the_ledger(home: Home) -> None:
    assert outputs_of(home.step("outcome", "--run-id", "r1", "--input", "status=Failed")) == {
        "status": "Failed"
    }
    (effect,) = home.events("effect")
    assert effect["data"] == {"effect": "run.outcome", "target": "r1", "status": "Failed"}


def test_an_outcome_without_a_status_is_bad_input(home: Home) -> None:
    assert home.step("outcome", "--run-id", "r1").returncode == 2
