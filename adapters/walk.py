"""A run without an orchestrator: its steps in their order, each given what those before it left.

Also a program, in the step's image too: `python -m adapters.walk calls REQUEST` carries out a run in its own process,
`processes` in one for each step. It prints a line for each attempt, as JSON.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from adapters.base import Attempt, RunRequest
from adapters.workloads import GATED, SWEEP, Member, phases

NEEDS: Mapping[str, tuple[str, ...]] = {
    "preprocess": ("ratings_uri",),
    "train": ("train_uri",),
    "eval": ("model_uri", "heldout_uri", "model_sha256"),
    "select": ("candidates",),
    "register": (
        *("dataset_uri", "dataset_sha256", "model_uri", "model_sha256", "metrics_uri"),
        *("score", "passed"),
    ),
    "promote": ("model_version", "score", "passed"),
    "monitor": ("heldout_uri", "model_sha256", "promoted"),
}
"""Which outputs of earlier steps a step is given."""


@dataclass(frozen=True)
class Job:
    """One step that may start now."""

    member: Member
    settings: Mapping[str, str]
    inputs: Mapping[str, str]


Outputs = dict[str, str]
Execute = Callable[[Sequence[Job]], Sequence[Outputs]]


def walk(workload: str, steps: int, parameters: Mapping[str, str | int | float], execute: Execute) -> None:
    """Go through the phases of a workload; `execute` runs the jobs of one phase and returns their outputs."""
    known: Outputs = {}
    candidates: list[Outputs] = []
    for phase in phases(workload, steps):
        if phase[0].step in GATED and known.get("passed") == "false":
            continue
        jobs = [_job(workload, member, parameters, known, candidates) for member in phase]
        for job, left in zip(jobs, execute(jobs), strict=True):
            index = job.member.index
            if workload == "sweep" and index is not None:
                known |= {f"{name}/{index}": value for name, value in left.items()}
                if job.member.step == "eval":
                    candidates.append(_candidate(index, known))
            else:
                known |= left


def _job(
    workload: str,
    member: Member,
    parameters: Mapping[str, str | int | float],
    known: Outputs,
    candidates: Sequence[Outputs],
) -> Job:
    settings = {name: str(value) for name, value in parameters.items()}
    seen = {**known, "candidates": json.dumps(candidates)}
    if workload == "sweep":
        if member.index is not None:
            settings |= {name: str(value) for name, value in SWEEP[member.index].items()}
            own = f"/{member.index}"
            seen |= {name.removesuffix(own): value for name, value in known.items() if name.endswith(own)}
        elif member.step == "register":
            settings |= {name: known[name] for name in ("seed", "k")}
    names = NEEDS.get(member.step, ()) if workload in ("pipeline", "sweep") else ()
    return Job(member, settings, {name: seen[name] for name in names if name in seen})


def _candidate(index: int, known: Outputs) -> Outputs:
    sweep = {name: str(value) for name, value in SWEEP[index].items()}
    names = ("score", "passed", "model_uri", "model_sha256", "metrics_uri")
    own = {name: known[f"{name}/{index}"] for name in names if f"{name}/{index}" in known}
    return {"index": str(index), **sweep, **own}


def words(run_id: str, job: Job) -> list[str]:
    """The arguments of `step` for a job."""
    step, index = job.member.step, job.member.index
    found = [step, "--run-id", run_id, *([] if index is None else ["--index", str(index)])]
    for name, value in job.settings.items():
        found += ["--set", f"{name}={value}"]
    for name, value in job.inputs.items():
        found += ["--input", f"{name}={value}"]
    return found


def outputs_in(text: str) -> Outputs:
    """The outputs in the JSON object that ends what a step printed. Raises `ValueError` where the last line is none."""
    lines = text.strip().splitlines()
    try:
        return {name: str(value) for name, value in json.loads(lines[-1])["outputs"].items()}
    except (IndexError, ValueError, KeyError, AttributeError, TypeError):
        last = lines[-1][:200] if lines else "(nothing)"
        raise ValueError(f"its last line is not its outputs: {last}") from None


def attempts_in(text: str) -> list[Attempt]:
    """What this program said of each step in what it printed; a line that is not whole says nothing."""
    found = []
    for line in text.splitlines():
        if line.startswith(_ATTEMPT):
            with suppress(ValueError, KeyError):
                found.append(Attempt.model_validate(json.loads(line)["attempt"]))
    return found


_ATTEMPT = '{"attempt":'


def _told(job: Job, at: float, outputs: Outputs) -> Outputs:
    attempt = Attempt(
        step=job.member.step, index=job.member.index, started=at, finished=time.time(), status="0"
    )
    # One write with its own line ends: steps of the same phase print too, and their text may lack its end yet.
    sys.stdout.write(f"\n{json.dumps({'attempt': attempt.model_dump(), 'outputs': outputs})}\n")
    sys.stdout.flush()
    return outputs


def _call(request: RunRequest, job: Job) -> Outputs:
    """The step in this process."""
    from core.config import load_config
    from core.entry import run_step

    at = time.time()
    result = run_step(
        job.member.step,
        run_id=request.run_id,
        config=load_config("{}", [f"{name}={value}" for name, value in job.settings.items()]),
        inputs=job.inputs,
        index=job.member.index,
    )
    return _told(job, at, dict(result.outputs))


def _process(request: RunRequest, job: Job) -> Outputs:
    """The step in a process of its own."""
    at = time.time()
    command = [sys.executable, "-m", "core.entry", *words(request.run_id, job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return _told(job, at, outputs_in(done.stdout))


WAYS = {"calls": _call, "processes": _process}


def _main(way: str, text: str) -> None:
    """Members of one phase at once, in threads."""
    request, carry_out = RunRequest.model_validate_json(text), WAYS[way]

    def execute(jobs: Sequence[Job]) -> list[Outputs]:
        if len(jobs) == 1:
            return [carry_out(request, jobs[0])]
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(lambda job: carry_out(request, job), jobs))

    sys.excepthook = lambda kind, error, _: print(f"{kind.__name__}: {error}", file=sys.stderr)
    walk(request.workload, request.steps, request.parameters, execute)


if __name__ == "__main__":
    _main(*sys.argv[1:])
