"""`bench results` as it is typed."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import polars
import pytest

from bench.results import schema
from bench.results.store import Store
from tests.unit.made_records import MadeRun, made, scenario, small

ROOT = Path(__file__).parents[2]
PROGRAM = "from bench.errors import run_cli; from bench.commands.results import app; run_cli(app)"


def results(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read by the tests, never changed."""
    store = Store(tmp_path_factory.mktemp("results"))
    for number in range(3):
        store.append(made(scenario("argo", "chain", 3), number))
        store.append(made(scenario("pods", "chain", 3), number))
    store.append(made(scenario("argo", "chain", 3), 3, status="failed", reason="exit 137"))
    return store.folder


def test_ls_lists_runs_and_filters(folder: Path) -> None:
    done = results("ls", "--results", str(folder), "--orchestrator", "argo")
    assert (done.returncode, done.stdout.count("run-argo")) == (0, 4)
    assert "4 runs in" in done.stderr
    done = results("ls", "--results", str(folder), "--status", "failed", "--json")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["reason"] == "exit 137"


def test_show_draws_one_run_and_gives_it_as_json(folder: Path) -> None:
    done = results("show", "run-argo-default-chain-0", "--results", str(folder))
    assert done.returncode == 0
    assert "█" in done.stdout
    assert "handoff" in done.stdout
    done = results("show", "run-argo-default-chain-0", "--results", str(folder), "--json")
    record = json.loads(done.stdout)
    assert record == Store(folder).records()[0].model_dump(mode="json")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "nothing"), 2, "no run 'nothing' is stored here"),
        (("show", "run-"), 2, "7 runs begin with 'run-'"),
        (("export", "--format", "xml"), 2, "one of: jsonl, csv, parquet, pytest-benchmark"),
        (("export", "--out", "/nowhere/file"), 2, "cannot write /nowhere/file"),
        (("ls", "--status", "suceeded"), 2, "one of: succeeded, failed"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_to_type(
    folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = results(*arguments, "--results", str(folder))
    assert done.returncode == code
    assert words in done.stderr
    assert "error: " in done.stderr
    assert "next: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    for verb, code in (("ls", 1), ("verify", 2)):
        done = results(verb, "--results", str(tmp_path))
        assert done.returncode == code
        assert "next: to" in done.stderr
        assert "bench run" in done.stderr
    (tmp_path / "file").write_text("")
    assert results("ls", "--results", str(tmp_path / "file")).returncode == 2


def test_verify_ends_with_1_for_one_changed_byte(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        store.append(small(f"run-{number}", number))
    assert results("verify", "--results", str(tmp_path)).stdout.startswith("3 records in")
    data = bytearray(store.path.read_bytes())
    at = data.index(b'"makespan_monotonic_ns":', data.index(b"\n")) + 25
    data[at] = ord("1") if data[at] != ord("1") else ord("2")
    store.path.write_bytes(data)
    done = results("verify", "--results", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.startswith("line 2 (run-1): its sha256 is not that of its content")
    assert "kept: " in done.stderr


def test_a_damaged_row_is_left_out_and_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        store.append(small(f"run-{number}", number))
    damaged = store.path.read_bytes().replace(b"{", b"(", 1)
    store.path.write_bytes(damaged)
    for words in (("ls",), ("export",), ("export", "--out", str(tmp_path / "out.jsonl")), ("ls", "--json")):
        done = results(*words, "--results", str(tmp_path))
        assert done.returncode == 4
        assert f"warning: {store.path}, line 1: not JSON: " in done.stderr and "; left out" in done.stderr
        assert "run-0" not in done.stdout and ("run-2" in done.stdout or "--out" in words)
        assert "Traceback" not in done.stderr
    assert results("show", "run-1", "--results", str(tmp_path)).returncode == 0
    assert store.path.read_bytes() == damaged
    store.path.write_bytes(b"(\n" * 30)
    done = results("ls", "--results", str(tmp_path))
    assert done.returncode == 1
    assert (
        "error: none of the 30 lines of" in done.stderr and "and 10 more: bench results verify" in done.stderr
    )


def test_csv_has_a_row_for_each_run_with_parts_in_seconds(folder: Path) -> None:
    done = results("export", "--results", str(folder), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 7
    first = rows[0]
    record = Store(folder).records()[0]
    assert record.breakdown is not None
    handoffs = [part.seconds for part in record.breakdown.parts if part.name == "handoff"]
    assert float(first["part_handoff_seconds"]) == pytest.approx(sum(handoffs))
    assert float(first["makespan_seconds"]) == pytest.approx(record.breakdown.makespan)


def test_jsonl_is_the_records(folder: Path) -> None:
    lines = results("export", "--results", str(folder)).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        r.model_dump(mode="json") for r in Store(folder).records()
    ]


def test_an_exported_part_is_as_it_was_sealed(folder: Path, tmp_path: Path) -> None:
    (plan,) = {record.sample.plan_id for record in Store(folder).records()}
    done = results("export", "--plan", plan, "--results", str(folder))
    (tmp_path / "runs.jsonl").write_text(done.stdout)
    assert results("verify", "--results", str(tmp_path)).returncode == 0


def test_an_export_does_not_take_the_place_of_what_it_is_of(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(small("run-1"))
    before = store.path.read_bytes()
    done = results("export", "--results", str(tmp_path), "--out", str(store.path))
    assert done.returncode == 2 and "is where the runs are stored" in done.stderr
    assert store.path.read_bytes() == before


def test_a_run_in_which_no_step_has_a_time_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = MadeRun(scenario("prefect", "chain", 1), pods=False)
    start = {**run.ledger[0], "process_start_ns": None, "user_start_ns": None, "imports_done_ns": None}
    store.append(run.record(task="call", status="timeout", ledger=(start,), breakdown=None, timeline=None))
    done = results("show", run.run_id, "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_pytest_benchmark_compares_the_export(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "0001_runs.json"
    assert (
        results(
            "export", "--results", str(folder), "--format", "pytest-benchmark", "--out", str(out)
        ).returncode
        == 0
    )
    command = [
        sys.executable,
        "-m",
        "pytest_benchmark",
        "compare",
        str(out),
        "--csv",
        str(tmp_path / "out.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "2 tests" in done.stdout
    with (tmp_path / "out.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    data = [
        r.client.makespan_monotonic_ns / 1e9
        for r in Store(folder).records()
        if r.client and r.scenario.orchestrator == "argo" and r.status == "succeeded"
    ]
    argo = next(row for name, row in rows.items() if "kind/argo/chain-3/default" in name)
    assert float(argo["rounds"]) == 3
    assert float(argo["median"]) == pytest.approx(sorted(data)[1])


def test_one_plan_can_be_exported_and_an_unknown_one_is_named(folder: Path) -> None:
    assert results("export", "--results", str(folder), "--plan", "plan").stdout.count("\n") == 7
    done = results("export", "--results", str(folder), "--plan", "other")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no run of plan other is stored" in done.stderr


def test_the_comparison_in_the_docs_is_what_the_commands_print(tmp_path: Path) -> None:
    plans = ("31ca70d1", "8dfcfe52")
    for plan in plans:
        words = ("--plan", plan, "--format", "pytest-benchmark", "--out", str(tmp_path / f"{plan}.json"))
        assert results("export", "--results", str(ROOT / "docs" / "results"), *words).returncode == 0
    words = ("--columns=median,min,max,rounds", "--sort=name", "--group-by=name")
    command = [
        sys.executable,
        "-m",
        "pytest_benchmark",
        "compare",
        *(f"{plan}.json" for plan in plans),
        *words,
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    both = [part for part in said.strip().split("\n\n") if ": 2 tests" in part and "noop" not in part]
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    _, _, after = text.partition("<!-- pytest-benchmark compare -->\n```text\n")
    assert after.partition("\n```\n")[0].split("\n\n") == both


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 9, 11])
def test_exported_statistics_are_those_of_pytest_benchmark_itself(n: int) -> None:
    from pytest_benchmark.stats import Stats

    from bench.report.export import as_pytest_benchmark

    records = [made(scenario("argo", "chain", 3), number) for number in range(n)]
    theirs = Stats()
    for record in records:
        assert record.client is not None
        theirs.update(record.client.makespan_monotonic_ns / 1e9)
    (benchmark,) = json.loads(as_pytest_benchmark(records))["benchmarks"]
    ours = benchmark["stats"]
    for field, value in theirs.as_dict().items():
        if isinstance(value, str) or field.endswith("outliers"):
            assert ours[field] == value, field
        else:
            assert ours[field] == pytest.approx(value), field


def test_every_stored_record_is_valid_by_the_published_schema(folder: Path) -> None:
    published = json.loads(schema.PATH.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(published)
    jsonschema.Draft202012Validator.check_schema(published)
    for line in (folder / "runs.jsonl").read_text().splitlines():
        validator.validate(json.loads(line))
    assert not validator.is_valid({**json.loads(line), "surprise": 1})


def test_the_published_schema_is_that_of_the_types() -> None:
    """To publish a change: bench results schema > bench/results/schema/run-record-1.schema.json"""
    assert schema.PATH.read_text(encoding="utf-8") == schema.text()
    assert results("schema").stdout == schema.text()


@pytest.mark.parametrize("verb", ["ls", "show", "verify", "export", "schema"])
def test_help_has_an_example_and_the_exit_codes(verb: str) -> None:
    done = results(verb, "--help")
    assert done.returncode == 0
    assert "Example: bench results" in done.stdout
    assert "Exit code" in done.stdout


def test_a_reader_that_leaves_early_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -c '{PROGRAM}' export --results {folder} | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_parquet_has_the_rows_of_the_csv_with_types(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs.parquet"
    assert (
        results("export", "--format", "parquet", "--out", str(out), "--results", str(folder)).returncode == 0
    )
    table = polars.read_parquet(out)
    rows = list(
        csv.DictReader(io.StringIO(results("export", "--format", "csv", "--results", str(folder)).stdout))
    )
    assert table.columns == list(rows[0]) and table["run_id"].to_list() == [row["run_id"] for row in rows]
    assert table.schema["makespan_seconds"] == polars.Float64 and table.schema["cold"] == polars.Boolean
    assert table["makespan_seconds"].to_list() == [float(row["makespan_seconds"]) for row in rows]
