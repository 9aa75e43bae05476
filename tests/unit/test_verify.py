"""A run counts only when its output was checked: the same inputs have given the same model."""

from bench.analysis.verify import same_digest
from bench.results.records import RunRecord, Verification
from tests.unit.made_records import MadeRun, scenario


def test_the_same_inputs_are_the_same_data_too() -> None:
    """A file that grew under its URI gives another model, and that is no mistake."""

    def trained(number: int, model: str, data: str) -> RunRecord:
        run = MadeRun(scenario(), seed=number)
        for event in run.ledger:
            if event["event"] == "finish" and event["step"] == "ingest":
                event["data"] = {"outputs": {"dataset_sha256": data}}
        return run.record(verification=Verification(ok=True, model_sha256=model))

    first = trained(0, "a" * 64, "data-1")
    assert same_digest(trained(1, "b" * 64, "data-2"), [first]) is None
    assert same_digest(trained(1, "a" * 64, "data-1"), [first]) is None
    assert "the same inputs gave model" in str(same_digest(trained(1, "b" * 64, "data-1"), [first]))
