"""Prints what KFP's metadata store has of a run, as JSON: `python lineage_client.py HOST PORT RUN`.

Runs by itself in the environment `kfp-metadata`, which has the store's own client and nothing of this project.
"""

import json
import sys
from typing import Any

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as proto

Json = dict[str, Any]


def plain(values: Any) -> Json:
    """Properties by name as JSON values."""
    found = {}
    for name, value in values.items():
        kind = value.WhichOneof("value")
        inner = getattr(value, kind) if kind else None
        found[name] = MessageToDict(inner) if kind in ("struct_value", "proto_value") else inner
    return found


def read(host: str, port: int, run: str) -> Json:
    """Executions of the run with their artifacts; empty where the store does not know it."""
    store = metadata_store.MetadataStore(proto.MetadataStoreClientConfig(host=host, port=port))
    context = store.get_context_by_type_and_name("system.PipelineRun", run)
    if context is None:
        return {"executions": [], "artifacts": [], "events": []}
    executions = store.get_executions_by_context(context.id)
    types = {each.id: each.name for each in store.get_execution_types()}
    artifacts = store.get_artifacts_by_context(context.id)
    events = store.get_events_by_execution_ids([each.id for each in executions]) if executions else []
    return {
        "executions": [
            {
                "id": each.id,
                "type": types.get(each.type_id, ""),
                "state": proto.Execution.State.Name(each.last_known_state),
                "updated_ms": each.last_update_time_since_epoch,
                "properties": plain(each.custom_properties),
            }
            for each in executions
        ],
        "artifacts": [
            {
                "id": each.id,
                "uri": each.uri,
                "properties": {**plain(each.properties), **plain(each.custom_properties)},
            }
            for each in artifacts
        ],
        "events": [
            {
                "execution": each.execution_id,
                "artifact": each.artifact_id,
                "type": proto.Event.Type.Name(each.type),
            }
            for each in events
        ],
    }


if __name__ == "__main__":
    json.dump(read(sys.argv[1], int(sys.argv[2]), sys.argv[3]), sys.stdout)
