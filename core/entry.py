"""`step NAME …`: the only way an orchestrator starts a step in a container; `run_step` is the same call."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from core import clock, faults, ledger
from core.config import STEPS, PipelineConfig, load_config, make_config
from core.context import StepContext, step_folder
from core.errors import BadInput, BenchError, InjectedFault
from core.ledger import Ledger, open_ledger
from core.settings import Settings
from core.steps import StepFunction, load_step

EXAMPLES = {
    "ingest": "--set dataset_uri=s3://data/ratings.csv",
    "preprocess": "--input ratings=out/ratings.parquet",
    "train": "--set k=10 --input train=out/train.npz",
    "eval": "--input model=out/model.joblib --input heldout=out/heldout.npz",
    "register": "--input model=out/model.joblib --input metrics=out/metrics.json",
    "promote": "--input model_version=3 --input passed=true",
    "monitor": "--input heldout=out/heldout.npz --input model_sha256=9f86d0…",
    "rollback": "--input model_version=2",
    "select": """--input 'candidates=[{"index": 0, "score": 0.61, "seed": 1}, {"index": 1, "score": 0.64}]'""",
    "probe": "--set fibo=20",
    "outcome": "--input status=Succeeded",
}
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class StepResult:
    """What a finished attempt gave: its outputs, and which attempt (1-based, by the ledger) it was."""

    step: str
    outputs: Mapping[str, str]
    attempt: int
    attempt_token: str


class Terminated(BaseException):
    """SIGTERM arrived. A BaseException, so that no step swallows it."""


@dataclass(frozen=True)
class _Times:
    process_start_ns: int
    imports_done_ns: int


class _Attempt:
    """Writes one attempt's events."""

    def __init__(
        self, where: Ledger, settings: Settings, run_id: str, step: str, index: int | None, times: _Times
    ) -> None:
        self.ledger = where
        self.token = ledger.new_id()
        self.number = 0
        self.user_start_ns = 0
        self.user_end_ns = 0
        self._common = {
            "schema": ledger.SCHEMA,
            "run_id": run_id,
            "step": step,
            "index": index,
            "attempt_token": self.token,
            "host": socket.gethostname(),
            "pod_name": settings.pod_name,
            "pod_uid": settings.pod_uid,
            "node": settings.node,
            "image_digest": settings.image_digest,
            "process_start_ns": times.process_start_ns,
            "imports_done_ns": times.imports_done_ns,
        }

    def record(self, event: str, data: Mapping[str, Any], **times: int) -> None:
        """Append one event; `start` also learns which attempt this is. Raises LedgerError."""
        receipt = self.ledger.append(
            {
                **self._common,
                **times,
                "event": event,
                "event_id": ledger.new_id(),
                "attempt": self.number,
                "wall_ns": clock.wall_ns(),
                "monotonic_ns": clock.monotonic_ns(),
                "data": dict(data),
            }
        )
        if event == "start":
            self.number = receipt.attempt

    def effect(self, name: str, target: str, details: Mapping[str, str]) -> None:
        """Announce a side effect."""
        self.record("effect", {"effect": name, "target": target, **details})


def run_step(
    name: str,
    *,
    run_id: str,
    config: PipelineConfig | Mapping[str, object],
    inputs: Mapping[str, str] | None = None,
    index: int | None = None,
    output_dir: str = "",
    publish_uri: str = "",
    settings: Settings | None = None,
) -> StepResult:
    """Run one attempt of a step in this process, recorded in the ledger like any other.

    Raises:
        BadInput: for anything the caller has to correct.
        BenchError: if the ledger, the store, the registry or serving fails.
        InjectedFault: if the configuration asks for one.
    """
    settings = settings or Settings.from_environment()
    settled = config if isinstance(config, PipelineConfig) else make_config(config)
    if name not in STEPS:
        raise BadInput(f"there is no step {name!r}", next_step=f"one of: {', '.join(STEPS)}")
    if not RUN_ID.fullmatch(run_id):
        raise BadInput(f"run id {run_id!r} is not 1 to 200 letters, digits, dots, dashes or underscores")
    function = load_step(name)
    lineage = _Lineage.load(name)
    _preload(name, settled, settings, [*(inputs or {}).values(), output_dir])
    where = open_ledger(settings.ledger_uri, settings.token)
    times = _Times(clock.process_start_ns(), clock.wall_ns())
    attempt = _Attempt(where, settings, run_id, name, index, times)
    given = dict(inputs or {})
    attempt.record("start", {"inputs": given, "config": settled.model_dump(mode="json")})
    struck = faults.applies(settled.fault, name, attempt.number)
    fault = settled.fault if struck else None
    between = faults.kill_self if fault and fault.kind == "kill-between-writes" else _nothing
    default_dir = "/".join(
        [settings.artifact_root.rstrip("/"), run_id, step_folder(name, index), str(attempt.number)]
    )
    context = StepContext(
        run_id=run_id,
        step=name,
        index=index,
        attempt=attempt.number,
        attempt_token=attempt.token,
        config=settled,
        inputs=given,
        output_dir=output_dir or default_dir,
        publish_uri=publish_uri,
        settings=settings,
        announce=attempt.effect,
        between_writes=between,
    )
    lineage.start(attempt, context)
    return _attempt(function, attempt, context, lineage, fault)


def _preload(name: str, config: PipelineConfig, settings: Settings, places: list[str]) -> None:
    """Import what the step will need of store and registry: imports are not user time."""
    if name in ("probe", "outcome"):
        return
    from core import artifacts

    if not places[-1] or name == "train":  # train keeps its checkpoints there, wherever its outputs go
        places.append(settings.artifact_root)
    artifacts.preload([*places, config.dataset_uri])
    if name in ("register", "promote", "rollback"):
        from core import registry

        registry.preload(config.registry)


def _attempt(
    function: StepFunction, attempt: _Attempt, context: StepContext, lineage: _Lineage, fault: Any
) -> StepResult:
    attempt.user_start_ns = clock.wall_ns()
    try:
        if fault is not None and fault.kind != "kill-between-writes":
            attempt.effect("fault", fault.kind, {})
            faults.strike(fault)
        outputs = function(context)
    except BaseException as error:
        attempt.user_end_ns = clock.wall_ns()
        _record_failure(attempt, context, lineage, error)
        raise
    attempt.user_end_ns = clock.wall_ns()
    lineage.complete(attempt, context)
    attempt.record(
        "finish",
        {"outputs": outputs, "digests": _digests(context), **context.details},
        user_start_ns=attempt.user_start_ns,
        user_end_ns=attempt.user_end_ns,
    )
    return StepResult(context.step, outputs, attempt.number, attempt.token)


def _record_failure(attempt: _Attempt, context: StepContext, lineage: _Lineage, error: BaseException) -> None:
    """Say in the ledger why the attempt ends; a ledger that fails too must not hide the first error."""
    reason = "SIGTERM" if isinstance(error, Terminated) else f"{type(error).__name__}: {error}"
    try:
        lineage.fail(attempt, context, reason)
        attempt.record(
            "failed",
            {"error": reason, "digests": _digests(context), **context.details},
            user_start_ns=attempt.user_start_ns,
            user_end_ns=attempt.user_end_ns,
        )
    except BenchError as also:
        print(f"step: error: the failure could not be recorded: {also}", file=sys.stderr)


def _digests(context: StepContext) -> dict[str, dict[str, str]]:
    return {
        "read": {item.uri: item.sha256 for item in context.read.values()},
        "written": {item.uri: item.sha256 for item in context.written.values()},
    }


def _nothing() -> None:
    """Nothing happens between the two writes unless a fault is asked for."""


class _Lineage:
    """Appends OpenLineage events; probe and outcome, which read and write no data, have none."""

    def __init__(self, *, active: bool) -> None:
        self.active = active

    @classmethod
    def load(cls, step: str) -> _Lineage:
        """Import the OpenLineage classes now, before the step's own clock starts."""
        if step in ("probe", "outcome"):
            return cls(active=False)
        import core.lineage  # noqa: F401

        return cls(active=True)

    def start(self, attempt: _Attempt, context: StepContext) -> None:
        self._emit("START", attempt, context)

    def complete(self, attempt: _Attempt, context: StepContext) -> None:
        self._emit("COMPLETE", attempt, context)

    def fail(self, attempt: _Attempt, context: StepContext, reason: str) -> None:
        self._emit("FAIL", attempt, context, reason)

    def _emit(self, kind: Any, attempt: _Attempt, context: StepContext, error: str = "") -> None:
        if not self.active:
            return
        from core.codedigest import code_digest
        from core.lineage import DatasetRef, Subject, run_event

        params = context.config.model_dump(mode="json")
        subject = Subject(
            context.run_id,
            context.step,
            context.index,
            context.attempt,
            context.attempt_token,
            context.settings.image_digest,
            code_digest(),
            {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()},
        )
        event = run_event(
            kind,
            subject,
            inputs=[DatasetRef(item.uri, item.sha256) for item in context.read.values()],
            outputs=[DatasetRef(item.uri, item.sha256, item.size) for item in context.written.values()],
            metrics=context.metrics,
            error=error,
        )
        attempt.record("lineage", {"openlineage": event})


def main(argv: Sequence[str] | None = None) -> int:
    """The `step` command. Returns the exit code: 0 done, 2 bad input, 1 failure."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)  # process 1 of a container would ignore it otherwise
    try:
        config = load_config(args.config, args.set)
        result = run_step(
            args.step,
            run_id=args.run_id,
            config=config,
            inputs=_pairs(args.input, "--input"),
            index=args.index,
            output_dir=args.output_dir,
            publish_uri=args.publish_uri,
        )
        _write_results(args.results_dir, result.outputs)
    except BenchError as error:
        print(f"step {args.step}: error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except InjectedFault as error:
        print(f"step {args.step}: error: {error}", file=sys.stderr, flush=True)
        return 1
    except Terminated:
        print(f"step {args.step}: ended by SIGTERM; start it again to resume", file=sys.stderr, flush=True)
        return 143
    except MemoryError:
        print(f"step {args.step}: error: out of memory; give it a higher limit", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"step {args.step}: error: {error}; free space or fix access, then retry", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"step {args.step}: interrupted; start it again to resume", file=sys.stderr, flush=True)
        return 130
    except Exception as error:
        if os.environ.get("BENCH_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"
        print(f"step {args.step}: error: {what}; BENCH_DEBUG=1 shows where", file=sys.stderr, flush=True)
        return 1
    print(json.dumps({"step": result.step, "outputs": dict(result.outputs)}), flush=True)
    return 0


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the failure is being recorded
    raise Terminated


def _pairs(items: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise BadInput(f"{option} {item!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _write_results(folder: str, outputs: Mapping[str, str]) -> None:
    if not folder:
        return
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name, value in outputs.items():
        (place / name).write_text(value, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    every = "\n".join(f"  step {name} --run-id r1 {example}" for name, example in EXAMPLES.items())
    fields = ", ".join(PipelineConfig.model_fields)
    epilog = (
        f"examples:\n{{examples}}\n\nconfiguration fields: {fields}\n\n"
        "environment: BENCH_LEDGER_URI, BENCH_ARTIFACT_ROOT, BENCH_SERVING_URI, BENCH_TOKEN,\n"
        "MLFLOW_TRACKING_URI (without them: files under $BENCH_HOME, default .bench)\n\n"
        "exit codes: 0 done, 2 bad input (do not retry), 1 failure, 143 ended by SIGTERM"
    )
    parser = argparse.ArgumentParser(
        prog="step",
        description="Run one step of the bookstore pipeline.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=epilog.format(examples=every),
    )
    commands = parser.add_subparsers(dest="step", required=True, metavar="NAME")
    for name in STEPS:
        command = commands.add_parser(
            name,
            help=_summary(name),
            description=_summary(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=epilog.format(examples=f"  step {name} --run-id r1 {EXAMPLES[name]}"),
        )
        command.add_argument("--run-id", required=True, metavar="ID", help="the pipeline run")
        command.add_argument("--config", default="{}", metavar="JSON|PATH", help="configuration")
        command.add_argument("--index", type=int, metavar="I", help="which of parallel steps this is")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="override one field"
        )
        command.add_argument(
            "--input", action="append", default=[], metavar="NAME=VALUE", help="a file or a value"
        )
        command.add_argument("--output-dir", default="", metavar="DIR|URI", help="where files are written")
        command.add_argument(
            "--publish-uri", default="", metavar="URI", help="where the orchestrator will store them"
        )
        command.add_argument("--results-dir", default="", metavar="DIR", help="one small file per output")
    return parser


def _summary(name: str) -> str:
    summaries = {
        "ingest": "read and check the ratings",
        "preprocess": "split them into training and held-out interactions",
        "train": "train the recommender",
        "eval": "score it and pass or fail the gate",
        "register": "put it into the model registry",
        "promote": "make it the model that is served",
        "monitor": "check what is served, and drift",
        "rollback": "serve a known-good version again",
        "select": "choose the best candidate of a sweep",
        "outcome": "write into the ledger how the whole run ended (for an exit handler)",
        "probe": "compute fibo(n) or sleep: a step that does next to nothing",
    }
    return summaries[name]


if __name__ == "__main__":
    raise SystemExit(main())
