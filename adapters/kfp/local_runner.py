"""One run of a workload with KFP's local runner: `python -m adapters.kfp.local_runner FOLDER`.

FOLDER holds `request.json`. What KFP logs goes to `journal.jsonl` there, a line for each record, with the time KFP
gave it; its messages do not say which iteration of a loop they are about, so the arguments of a task are noted
just before KFP runs it.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfp import local
from kfp.local import cache
from kfp.local.orchestrator import task_executor

from adapters.base import RunRequest
from adapters.kfp import journal, pipeline


class Journal(logging.Filter):
    """Writes down each record of the root logger, which KFP takes the handlers from but not the filters."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, marked with the thread that it is about."""
        with self._lock:
            self._file.write(json.dumps({"thread": threading.get_ident(), **line}) + "\n")

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes."""
        self.write({"at": record.created, "said": record.getMessage()})
        return True


def main(folder: Path) -> int:
    """Run the workload; 0 where KFP says it succeeded."""
    request = RunRequest.model_validate_json((folder / journal.REQUEST).read_text(encoding="utf-8"))
    file = Journal(folder / journal.JOURNAL)
    logging.getLogger().addFilter(file)
    logging.getLogger().setLevel(logging.INFO)
    _name_tasks(file)

    run, more = pipeline.definition(request.workload, request.steps)
    spec = run.pipeline_spec
    file.write({"groups": _groups(spec)})
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(Path(os.environ["BENCH_ARTIFACT_ROOT"]) / request.run_id),
        workspace_root=str(folder / "workspace"),
        raise_on_error=False,
    )
    _refuse_caches(spec)
    settings = {name: str(value) for name, value in request.parameters.items()}
    run(run_id=request.run_id, settings=settings, **more)
    said = journal.read(folder)
    return 0 if journal.ending(said) == "SUCCESS" else 1


def _name_tasks(file: Journal) -> None:
    """Note what a task is given before KFP runs it: its log names the component alone."""
    dispatcher = task_executor.task_dispatcher
    run: Callable[..., Any] = dispatcher.run_single_task_implementation

    def noted(**given: Any) -> Any:
        arguments = given["arguments"]
        index = arguments.get("index", (arguments.get("candidate") or {}).get("index"))
        file.write({"task": given["component_name"], "index": None if index is None else int(index)})
        return run(**given)

    dispatcher.run_single_task_implementation = noted


def _groups(spec: Any) -> dict[str, list[str]]:
    """The tasks of each group (condition or loop) of a pipeline."""
    components = spec.components
    return {
        name: sorted(components[task.component_ref.name].dag.tasks)
        for name, task in spec.root.dag.tasks.items()
        if components[task.component_ref.name].WhichOneof("implementation") == "dag"
    }


def _refuse_caches(spec: Any) -> None:
    """A step taken from a cache is no measurement.

    Raises `SystemExit` where the runner has a cache, or the definition would let a backend use one.
    """
    dags = [spec.root.dag, *(part.dag for part in spec.components.values())]
    cached = sorted(name for dag in dags for name, task in dag.tasks.items() if _caches(spec, task))
    if cache.get_local_cache() is not None or cached:
        raise SystemExit(f"caches are on: {', '.join(cached) or 'the runner has one'}")


def _caches(spec: Any, task: Any) -> bool:
    """Whether a task may be answered from a cache; groups have no say in it."""
    is_step = spec.components[task.component_ref.name].WhichOneof("implementation") == "executor_label"
    return bool(is_step and task.caching_options.enable_cache)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
