"""Which files a step has read and made, told to Airflow's OpenLineage provider: it cannot see that of a function."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from airflow.providers.openlineage.api import emit_dataset_lineage
from openlineage.client.event_v2 import Dataset
from openlineage.client.facet_v2 import dataset_version_dataset
from openlineage.client.generated import base

from core.lineage import dataset_name

SOURCE = ("dataset_uri", "dataset_sha256")
"""What `ingest` read, though it is the first to name it."""


@contextmanager
def told(given: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Takes what the step leaves, and tells the provider of the files in it and in what the step was `given`.

    A step that fails has made nothing. The step's own events name another producer than Airflow's.
    """
    left: dict[str, str] = {}
    producer = base.PRODUCER
    try:
        yield left
    finally:
        base.set_producer(producer)
    source = {name: text for name, text in left.items() if name in SOURCE}
    read = datasets({**given, **source})
    made = datasets({name: text for name, text in left.items() if name not in SOURCE})
    if read or made:
        emit_dataset_lineage(inputs=read, outputs=made)


def datasets(values: Mapping[str, str]) -> list[Dataset]:
    """The files among a step's inputs or outputs, named as OpenLineage does, with their digest where it is known."""
    found = []
    for name, uri in values.items():
        if name.endswith("_uri"):
            namespace, path = dataset_name(uri)
            digest = values.get(f"{name.removesuffix('_uri')}_sha256")
            version = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=f"sha256:{digest}")
            found.append(
                Dataset(namespace=namespace, name=path, facets={"version": version} if digest else {})
            )
    return found
