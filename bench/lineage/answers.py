"""What stored runs say of lineage: how often each question was answered, and what was missing."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.lineage import FIRST_FOUR, QUESTIONS
from bench.analysis.cells import Cell
from bench.results.records import RunRecord

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _answered(cell: Cell) -> list[RunRecord]:
    return [record for record in cell.records if record.lineage and record.status != "void"]


def asked_alike(cell: Cell) -> list[RunRecord]:
    """Its runs that were asked by the same query as the newest; none where none was asked."""
    answered = _answered(cell)
    if not answered:
        return []
    query = _query(max(answered, key=lambda record: (record.recorded_at, record.run_id)))
    return [record for record in answered if _query(record) == query]


def columns(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell with answers: how often each question was answered, wrong, absent, and what was missing.

    Runs that were asked by another query than the newest are left out and counted as `older`: what changed is how we
    ask, not what the store has.
    """
    made = []
    for cell in found:
        alike = asked_alike(cell)
        if not alike:
            continue
        runs = [record.lineage for record in alike]
        answers = {each: [a for run in runs for a in run if a.question == each] for each in QUESTIONS}
        facts = len({name for a in runs[0] if a.question in FIRST_FOUR for name in (*a.facts, *a.missing)})
        made.append(
            {
                "orchestrator": cell.key.orchestrator,
                "configuration": cell.key.configuration,
                "target": cell.key.target,
                "task": cell.key.task,
                "environment_sha256": cell.key.environment,
                "n": len(runs),
                "older": len(_answered(cell)) - len(runs),
                "source": runs[0][0].source,
                "query": _query(alike[0]),
                "answers": {
                    each: {
                        "counts": {
                            v: sum(a.verdict == v for a in got) for v in ("answered", "wrong", "absent")
                        },
                        "missing": sorted({name for a in got for name in a.missing}),
                        "wrong": sorted({name for a in got for name in a.wrong}),
                        "given": sorted({name for a in got for name in a.facts}),
                        **({"of": facts} if each == "durable" else {}),
                    }
                    for each, got in answers.items()
                },
                "answered": sum(all(a.verdict == "answered" for a in got) for got in answers.values()),
                "wrong": sum(any(a.verdict == "wrong" for a in got) for got in answers.values()),
            }
        )
    return made


def kept(column: Mapping[str, Any]) -> str:
    """`5 of 5 (9 asked)`: of the facts that the store had of questions 1 to 4, those that outlive the run's objects.

    `9 of 9` where it had all.
    """
    known = {fact for each in FIRST_FOUR for fact in column["answers"][each]["given"]}
    durable = column["answers"]["durable"]
    had = f"{len(durable['given'])} of {len(known)}" if known else "it had none"
    return had if len(known) == durable["of"] else f"{had} ({durable['of']} asked)"


def _query(record: RunRecord) -> str:
    """How its store was asked, without the run's own names."""
    return _ID.sub("RUN", record.lineage[0].query.replace(record.run_id, "RUN"))


def shown(entry: Mapping[str, Any]) -> str:
    """A cell of the table: the verdict where all runs agree, otherwise the counts; partial answers say so."""
    counts: Mapping[str, int] = entry["counts"]
    verdicts = [name for name, count in counts.items() if count]
    text = verdicts[0] if len(verdicts) == 1 else ", ".join(f"{name} {counts[name]}" for name in verdicts)
    if verdicts == ["absent"] and entry["given"]:
        text = f"in part (no {', '.join(entry['missing'])})"
    if "of" in entry and entry["given"]:
        text += f" ({len(entry['given'])} of {entry['of']} facts)"
    return f"{text} ({', '.join(entry['wrong'])})" if entry["wrong"] else text
