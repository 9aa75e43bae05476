"""The configuration `openlineage`: Airflow's provider switched on, and the events that it leaves, one a file."""

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from adapters.airflow.api import Json
from core.config import STEPS

OPENLINEAGE = "openlineage"
"""The configuration's name."""
ENVIRONMENT = "airflow-openlineage"
"""The set of the lock that has the provider too, and the image of it: it is loaded wherever it is installed."""
TRANSPORT = "AIRFLOW__OPENLINEAGE__TRANSPORT"
ENDS = ("COMPLETE", "FAIL")


def environment_of(configuration: str) -> str:
    """The set of the lock that a configuration's servers and tasks run in; its image has the same name."""
    return ENVIRONMENT if configuration == OPENLINEAGE else "airflow"


def transport(prefix: str, **options: object) -> dict[str, str]:
    """The setting of every server and task: events go to files whose names begin with `prefix`.

    `options` are fsspec's, of a store.
    """
    storage = {"storage_options": options} if options else {}
    return {TRANSPORT: json.dumps({"type": "file", "log_file_path": prefix, **storage})}


def events_of(files: Iterable[str | bytes], dag_id: str, run_id: str) -> list[Json]:
    """The events of a run's steps, by time; not those of the run itself or of a task that is no step (`gate`).

    Raises `ValueError` where a file is being written.
    """
    found = []
    for text in files:
        event: Json = json.loads(text)
        told = event["run"]["facets"].get("airflow")  # events of the run itself have another
        is_ours = told and (told["dag"]["dag_id"], told["dagRun"]["run_id"]) == (dag_id, run_id)
        if is_ours and step_of(event) in STEPS:
            found.append(event)
    return sorted(found, key=lambda event: str(event["eventTime"]))


def step_of(event: Mapping[str, Any]) -> str:
    """The step that a task's event is about."""
    return str(event["run"]["facets"]["airflow"]["task"]["task_id"]).rpartition(".")[2]


def attempt_of(event: Mapping[str, Any]) -> int:
    """Which try of the step it is about, from 1."""
    return int(event["run"]["facets"]["airflow"]["taskInstance"]["try_number"])


def is_whole(events: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every attempt that began has ended."""
    kinds: dict[str, set[str]] = {}
    for event in events:
        kinds.setdefault(event["run"]["runId"], set()).add(event["eventType"])
    return bool(kinds) and all(found.intersection(ENDS) for found in kinds.values())


def files_of(event: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """What a step read and made, as its inputs and outputs call it: `train_uri` is the file `train.npz`.

    Of what was read, only the data set that `ingest` starts from; the rest is what earlier steps have made.
    """
    read = event["inputs"] if step_of(event) == "ingest" else []
    made = {name: text for each in event["outputs"] for name, text in _named(_stem(each), each).items()}
    return {name: text for each in read for name, text in _named("dataset", each).items()}, made


def _stem(dataset: Mapping[str, Any]) -> str:
    return PurePosixPath(dataset["name"]).stem


def _named(name: str, dataset: Mapping[str, Any]) -> dict[str, str]:
    """A file's URI, put together as `core.lineage.dataset_name` took it apart, and its digest where it is known."""
    namespace, path = dataset["namespace"], dataset["name"]
    uri = f"{namespace}/{path}" if "://" in namespace else f"{namespace}://{path}"
    version = dataset["facets"].get("version", {}).get("datasetVersion", "")
    digest = {f"{name}_sha256": version.removeprefix("sha256:")} if version else {}
    return {f"{name}_uri": uri, **digest}
