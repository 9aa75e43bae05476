"""OpenLineage run events of one attempt: START, then COMPLETE or FAIL."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    datasource_dataset,
    error_message_run,
    execution_parameters_run,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    source_code_location_job,
    tags_run,
)
from openlineage.client.generated.base import set_producer
from openlineage.client.serde import Serde

NAMESPACE = "orchestrator-bench"
PRODUCER = "urn:orchestrator-bench:core"
EventKind = Literal["START", "COMPLETE", "FAIL"]


@dataclass(frozen=True)
class DatasetRef:
    """A file an attempt read or wrote. `size` in bytes, None if unknown."""

    uri: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True)
class Subject:
    """The attempt an event is about. `attempt_token` (32 hex digits) is the OpenLineage run id."""

    run_id: str
    step: str
    index: int | None
    attempt: int
    attempt_token: str
    image_digest: str
    code_digest: str
    params: Mapping[str, str]


def run_event(
    kind: EventKind,
    subject: Subject,
    *,
    inputs: Iterable[DatasetRef] = (),
    outputs: Iterable[DatasetRef] = (),
    metrics: Mapping[str, str] | None = None,
    error: str = "",
) -> dict[str, Any]:
    """One OpenLineage RunEvent as plain JSON data.

    Parameters stand in the executionParameters facet, code digest in sourceCodeLocation, image digest,
    attempt and metrics in tags, the pipeline run as parent; datasets carry URI and sha256.
    """
    set_producer(PRODUCER)
    run_facets: dict[str, Any] = {
        "parent": parent_run.ParentRunFacet(
            run=parent_run.Run(runId=parent_id(subject.run_id)),
            job=parent_run.Job(namespace=NAMESPACE, name="bookstore"),
        ),
        "executionParameters": execution_parameters_run.ExecutionParametersRunFacet(
            parameters=[
                execution_parameters_run.ExecutionParameter(key=key, name=key, value=value)
                for key, value in sorted(subject.params.items())
            ]
        ),
        "tags": tags_run.TagsRunFacet(tags=_tags(subject, metrics or {})),
    }
    if error:
        run_facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
            message=error, programmingLanguage="python"
        )
    job_facets: dict[str, Any] = {
        "jobType": job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="ORCHESTRATOR_BENCH", jobType="TASK"
        ),
        "sourceCodeLocation": source_code_location_job.SourceCodeLocationJobFacet(
            type="sha256", url=PRODUCER, version=subject.code_digest
        ),
    }
    name = f"bookstore.{subject.step}" + ("" if subject.index is None else f".{subject.index}")
    event = RunEvent(
        eventType=RunState(kind),
        eventTime=datetime.now(UTC).isoformat(),
        run=Run(runId=str(uuid.UUID(subject.attempt_token)), facets=run_facets),
        job=Job(namespace=NAMESPACE, name=name, facets=job_facets),
        inputs=[_input(item) for item in inputs],
        outputs=[_output(item) for item in outputs],
        producer=PRODUCER,
    )
    plain: dict[str, Any] = json.loads(Serde.to_json(event))
    return plain


def parent_id(run_id: str) -> str:
    """The OpenLineage run id (a UUID) of a pipeline run: the same for the same run id."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}:{run_id}"))


def dataset_name(uri: str) -> tuple[str, str]:
    """OpenLineage namespace and name of a URI, as its naming rules say (spec/Naming.md)."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return "file", parts.path
    if parts.scheme == "bookstore":
        return "bookstore", f"{parts.netloc}?{parts.query}" if parts.query else parts.netloc
    if parts.scheme == "models":  # MLflow's models:/name/version has no authority
        return "models", parts.path.lstrip("/")
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")


def _tags(subject: Subject, metrics: Mapping[str, str]) -> list[tags_run.TagsRunFacetFields]:
    pairs = {
        "run_id": subject.run_id,
        "attempt": str(subject.attempt),
        "image_digest": subject.image_digest,
        "code_digest": subject.code_digest,
        **{f"metric.{key}": value for key, value in sorted(metrics.items())},
    }
    return [
        tags_run.TagsRunFacetFields(key=key, value=value, source="ORCHESTRATOR_BENCH")
        for key, value in pairs.items()
        if value
    ]


def _dataset_facets(item: DatasetRef) -> dict[str, Any]:
    return {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=f"sha256:{item.sha256}"),
        "dataSource": datasource_dataset.DatasourceDatasetFacet(name=dataset_name(item.uri)[0], uri=item.uri),
    }


def _input(item: DatasetRef) -> InputDataset:
    namespace, name = dataset_name(item.uri)
    return InputDataset(namespace=namespace, name=name, facets=_dataset_facets(item))


def _output(item: DatasetRef) -> OutputDataset:
    namespace, name = dataset_name(item.uri)
    facets: dict[str, Any] = {}
    if item.size is not None:
        facets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            size=item.size, fileCount=1
        )
    return OutputDataset(namespace=namespace, name=name, facets=_dataset_facets(item), outputFacets=facets)
