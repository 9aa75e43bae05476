"""The published JSON Schema of the stored record. `bench results schema` prints it."""

import json
from pathlib import Path
from typing import Any

from bench.results.records import SCHEMA_VERSION, RunRecord

PATH = Path(__file__).with_name(f"run-record-{SCHEMA_VERSION}.schema.json")


def record_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of one line of `runs.jsonl`, made from the types themselves."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:orchestrator-bench:run-record:{SCHEMA_VERSION}",
        **RunRecord.model_json_schema(mode="validation"),
    }


def text() -> str:
    """The published file's content."""
    return json.dumps(record_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
