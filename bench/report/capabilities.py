"""What each adapter can do, as the conformance suite found it: stored verdicts in, a table out."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from adapters.base import BenchError, Frozen
from bench.results.records import Environment
from cluster.state import write_atomic

FOLDER = "conformance"
BEGIN, END = "<!-- capabilities: made by `bench capabilities --write` -->", "<!-- /capabilities -->"
ROOT = Path(__file__).resolve().parents[2]

CAPABILITIES = {
    "deploy_twice": "a second deploy changes nothing",
    "gate_passes": "seven steps, promoted, served",
    "submit_twice_is_one_run": "the same run id twice is one run",
    "gate_fails": "a failed gate ends well, nothing is registered",
    "timeline": "timeline complete, ordered, true to the ledger",
    "logs": "a step's output can be read",
    "parameters": "parameters reach the steps",
    "chain": "steps one after another",
    "fanout": "steps at the same time",
    "sweep": "four candidates, the best is registered",
    "retry_once": "a step that raises is tried again",
    "killed_process_is_retried": "a step whose process dies is tried again",
    "retries_as_shipped": "without settings of ours a failed step is left failed",
    "two_at_once_are_kept_apart": "two runs at once are kept apart",
    "caches_are_off": "the same run again runs every step again",
    "timeout": "a run that is too long is noticed and ended",
    "cancel": "a run can be ended, and is gone",
    "schedule_fires": "a schedule starts a run, once and on time",
    "schedule_overlaps": "a scheduled run that is due while the last one is at work",
    "event_triggers": "a data event starts a run",
    "approval_waits": "a run waits for approval before promote",
    "undeploy_leaves_nothing": "undeploy leaves nothing",
}
"""Tests of the conformance suite (without `test_`) in the order of the table, and what each asks."""

Outcome = Literal["yes", "never", "notyet", "failed"]
SHOWN: dict[str, str] = {"yes": "yes", "never": "no", "notyet": "not yet", "failed": "**fails**"}


class Verdict(Frozen):
    """What one test of the suite found. `reason`: the declared gap's, the failure's first line, or what was found."""

    outcome: Outcome
    reason: str = ""


class Conformance(Frozen):
    """The suite's verdicts on one adapter and target, with what they hold for."""

    adapter: str
    target: str
    configuration: str
    adapter_sha256: str
    recorded_at: str
    environment: Environment
    verdicts: dict[str, Verdict]

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"{self.adapter}-{self.target}.json"


ELSEWHERE: dict[str, set[str]] = {
    "local": {"cluster.py", "deploy"},
    "kind": {"local.py", "local_runner.py"},
    "k8s": {"local.py", "local_runner.py"},
}
"""By target: parts of an adapter that have no say there."""


def adapter_sha256(name: str, target: str) -> str:
    """sha256 over the adapter's own code and manifests, as far as `target` uses them: what a verdict holds for.

    Its reader of lineage is passed over: no capability rests on it.
    """
    digest = hashlib.sha256()
    folder = ROOT / "adapters" / name
    passed_over = {"golden", "lineage.py", "lineage_client.py"} | ELSEWHERE[target]
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix in (".py", ".yaml") and passed_over.isdisjoint(relative.parts):
            digest.update(f"{relative.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def save(results: Path, found: Conformance) -> Path:
    """Write under `results`, in place of what was known of that adapter and target."""
    path = results / FOLDER / found.file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load(results: Path) -> list[Conformance]:
    """Every stored verdict, by target and adapter. Raises `BenchError` naming a file that is none."""
    found = []
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            found.append(Conformance.model_validate_json(path.read_text(encoding="utf-8")))
        except (ValidationError, UnicodeDecodeError) as error:
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise BenchError(f"{path} is not a conformance result: {said}", f"rm {path}") from None
    return sorted(found, key=lambda c: (c.target, c.adapter))


def joined(stored: Iterable[Conformance], new: Conformance) -> Conformance:
    """`new`, and what is stored of the same code that was not asked again."""
    code = (new.file, new.configuration, new.adapter_sha256)
    same = (one for one in stored if (one.file, one.configuration, one.adapter_sha256) == code)
    kept = {name: verdict for one in same for name, verdict in one.verdicts.items()}
    return new.model_copy(update={"verdicts": kept | new.verdicts})


def stale(found: Iterable[Conformance]) -> list[str]:
    """What no longer holds: adapters that changed since, and verdicts on another suite."""
    problems = []
    for one in found:
        if one.adapter_sha256 != adapter_sha256(one.adapter, one.target):
            problems.append(f"{one.file}: adapters/{one.adapter} has changed since it was recorded")
        if missing := sorted(set(CAPABILITIES) - set(one.verdicts)):
            problems.append(f"{one.file}: no verdict on {', '.join(missing)}")
        if failed := sorted(name for name, v in one.verdicts.items() if v.outcome == "failed"):
            problems.append(f"{one.file}: {', '.join(failed)} failed")
    return problems


def table(found: Sequence[Conformance]) -> str:
    """Markdown: a row for each capability, a column for each adapter and target, every gap with its reason."""
    notes: list[str] = []
    heads = [f"{one.adapter} {one.configuration}, {one.target}" for one in found]
    lines = [
        "| " + " | ".join(["what the conformance suite asks", *heads]) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for name, asks in CAPABILITIES.items():
        cells = []
        for one in found:
            verdict = one.verdicts.get(name)
            shown = SHOWN[verdict.outcome] if verdict else "—"
            if verdict and verdict.outcome == "yes":
                shown = verdict.reason or shown
            elif verdict:
                notes.append(f"{one.adapter}, {one.target}, {asks}: {verdict.reason}")
                shown += f" [{len(notes)}]"
            cells.append(shown)
        lines.append("| " + " | ".join([f"{asks} (`{name}`)", *cells]) + " |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))] if notes else []
    return "\n".join(lines)


def write(page: Path, found: Sequence[Conformance]) -> None:
    """Put the table between the two marks of `page`. Raises `BenchError` where the marks are missing."""
    write_atomic(page, renewed(page, found))


def renewed(page: Path, found: Sequence[Conformance]) -> str:
    """The text of `page` with the table as it should be."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{page} has no marks for the capabilities", f"add the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{table(found)}\n{end}{after}"
