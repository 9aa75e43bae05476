"""What Kubeflow Pipelines' own stores know of a run.

The backend: its metadata store (ML Metadata: executions, artifacts, events) and the run as its API gives it. The local
runner has no store, as its documentation says.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adapters.base import BenchError, RunHandle
from adapters.kfp.api import KfpClusterDriver
from adapters.kfp.journal import step_of
from adapters.kfp.local import KfpLocalDriver
from adapters.lineage import Kept, Known
from adapters.local import envs
from adapters.local.state import local_state

ENVIRONMENT = "kfp-metadata"
METADATA, METADATA_PORT = "metadata-grpc-deployment", 8080
SOURCE = "KFP's metadata store (MLMD) and run database"
QUERY = (
    "MLMD: context system.PipelineRun {run}, its executions, artifacts, events; "
    "GET /apis/v2beta1/runs/{run}: pipeline_spec"
)
RETURNED = {"eval": "passed", "register": "model_version", "promote": "promoted"}
"""What the single value that a component returns is called in the core, by step."""
Json = Mapping[str, Any]


def known(driver: KfpLocalDriver | KfpClusterDriver, handle: RunHandle) -> Known:
    """What the backend's stores have; nothing of the local runner. Raises `BenchError` where one does not answer."""
    if isinstance(driver, KfpLocalDriver):
        return Known(source="none: the SDK's local runner keeps no record of a run", query="none")
    query = QUERY.format(run=handle.native_id)
    stored = _metadata(driver, handle.native_id)
    run = driver.api.run(handle.native_id) or {}
    return known_of(stored, run, query)


def _metadata(driver: KfpClusterDriver, run: str) -> Json:
    """Asks the metadata store by its own client. Raises `BenchError` with what that says where it fails."""
    address = urlsplit(driver.servers.url(METADATA, METADATA_PORT))
    script = Path(__file__).with_name("lineage_client.py")
    done = subprocess.run(
        [
            envs.ensure(local_state(), ENVIRONMENT),
            script,
            str(address.hostname),
            str(address.port),
            run,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchError(
            f"KFP's metadata store could not be asked: {why}",
            "its client needs Python 3.11: run bench with that" if "ml_metadata" in why else "bench doctor",
        )
    found: Json = json.loads(done.stdout)
    return found


def known_of(stored: Json, run: Json, query: str = "") -> Known:
    """From the metadata store's answer and the API's.

    The metadata store has one execution for a step, whatever its attempts. The API's list of tasks shows a failed
    executor, without a word on whose it is: no attempt is attributed.
    """
    artifacts = {each["id"]: each for each in stored["artifacts"]}
    images = images_of(run)
    attempts: list[Kept] = []
    parameters: dict[str, str] = {}
    for execution in sorted(stored["executions"], key=lambda each: each["id"]):
        properties = execution["properties"]
        given = properties.get("inputs") or {}
        parameters = parameters or flat(given.get("settings") or {})
        if execution["type"] != "system.ContainerExecution":
            continue
        step = step_of(properties["task_name"])
        read, made = (
            {
                name: text
                for event in stored["events"]
                if event["execution"] == execution["id"]
                and event["type"] == kind
                and event["artifact"] in artifacts
                for name, text in flat(artifacts[event["artifact"]]["properties"]).items()
            }
            for kind in ("INPUT", "OUTPUT")
        )
        attempts.append(
            Kept(
                step=step,
                attempt=None,
                succeeded=execution["state"] == "COMPLETE",
                inputs={**flat(given), **read},
                outputs={**made, **returned(step, properties.get("outputs") or {})},
                finished=execution["updated_ms"] / 1e3,
                image=images.get(properties["task_name"], "").rpartition("@")[2],
            )
        )
    return Known(
        source=SOURCE,
        query=query,
        parameters=parameters,
        attempts=tuple(attempts),
        run=str(run.get("display_name", "")),
    )


def images_of(run: Json) -> dict[str, str]:
    """The image of each task, from the pipeline that the run's record holds."""
    whole: Json = run.get("pipeline_spec") or {}
    spec: Json = whole.get("pipeline_spec", whole)
    executors = (spec.get("deploymentSpec") or {}).get("executors") or {}
    return {
        name.removeprefix("comp-"): str(executors[component["executorLabel"]]["container"]["image"])
        for name, component in (spec.get("components") or {}).items()
        if component.get("executorLabel") in executors
    }


def returned(step: str, outputs: Json) -> dict[str, str]:
    """A component's returned values by the core's names."""
    return {
        RETURNED.get(step, name) if name == "Output" else name: text_of(value)
        for name, value in outputs.items()
    }


def flat(values: Json) -> dict[str, str]:
    """Scalars as text; what is itself a mapping is left out."""
    return {name: text_of(value) for name, value in values.items() if not isinstance(value, Mapping | list)}


def text_of(value: Any) -> str:
    """As the core writes it: `true`, `0.5`, `7`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
