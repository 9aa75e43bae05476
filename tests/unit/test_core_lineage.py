"""OpenLineage events of real attempts, against the official JSON Schemas where they are at hand.

No package ships the schemas: OPENLINEAGE_SPEC names the `spec` folder of an OpenLineage checkout. Without it, the
structure and the links between steps are checked, and that every part names an official schema; no more.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from core.entry import run_step
from core.errors import BadInput
from core.lineage import dataset_name
from tests.unit.conftest import Home

SPEC = os.environ.get("OPENLINEAGE_SPEC", "")
SCHEMAS: dict[str, Any] = {
    schema["$id"]: schema
    for schema in (json.loads(path.read_text()) for path in (Path(SPEC).rglob("*.json") if SPEC else ()))
    if "$id" in schema
}
needs_schemas = pytest.mark.skipif(not SCHEMAS, reason="OPENLINEAGE_SPEC names no folder of official schemas")
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)


def validate(event: dict[str, Any]) -> int:
    """Check the event by the schema it names, and each facet by its own. Returns how many facets."""
    facets = [
        *event["run"]["facets"].items(),
        *event["job"]["facets"].items(),
        *(pair for item in event["inputs"] + event["outputs"] for pair in item["facets"].items()),
        *(pair for item in event["outputs"] for pair in item.get("outputFacets", {}).items()),
    ]
    urls = [event["schemaURL"], *(facet["_schemaURL"] for _, facet in facets)]
    assert all(url.startswith("https://openlineage.io/spec/") for url in urls), urls
    if not SCHEMAS:
        return len(facets)
    _by_reference(event["schemaURL"], event)
    for name, facet in facets:
        url = facet["_schemaURL"].partition("#")[0]
        assert url in SCHEMAS, f"facet {name} names a schema that is not here: {url}"
        if "/facets/" in url:  # a facet of somebody's own has the base's
            Draft202012Validator(SCHEMAS[url], registry=REGISTRY, format_checker=CHECK).validate(
                {name: facet}
            )
        _by_reference(facet["_schemaURL"], facet)
    return len(facets)


CHECK = Draft202012Validator.FORMAT_CHECKER


def _by_reference(url: str, instance: object) -> None:
    Draft202012Validator({"$ref": url}, registry=REGISTRY, format_checker=CHECK).validate(instance)


def lineage(home: Home) -> list[dict[str, Any]]:
    return [event["data"]["openlineage"] for event in home.events("lineage")]


def test_every_event_of_a_run_is_valid_and_datasets_link_the_steps(home: Home) -> None:
    options: dict[str, Any] = {"run_id": "r", "config": {"n_books": 20}, "settings": home.settings}
    ingest = run_step("ingest", **options)
    pre = run_step("preprocess", inputs=ingest.outputs, **options)
    train = run_step("train", inputs=pre.outputs, **options)
    run_step("eval", inputs={**pre.outputs, **train.outputs}, index=2, **options)
    events = lineage(home)
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 4
    assert all(validate(event) >= 4 for event in events)
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in events} == {
        events[0]["run"]["facets"]["parent"]["run"]["runId"]
    }
    _, ingested, _, split, _, trained, _, scored = events
    names = [{item["name"] for item in event["outputs"]} for event in (ingested, split, trained)]
    assert {item["name"] for item in split["inputs"]} <= names[0]
    assert {item["name"] for item in trained["inputs"]} <= names[1]
    assert {item["name"] for item in scored["inputs"]} & names[2]
    source = ingested["inputs"][0]
    assert source["namespace"] == "bookstore"
    assert source["facets"]["version"]["datasetVersion"] == f"sha256:{ingest.outputs['dataset_sha256']}"
    tags = {tag["key"]: tag["value"] for tag in scored["run"]["facets"]["tags"]["tags"]}
    assert tags["image_digest"] == "sha256:" + "1" * 64
    assert tags["code_digest"].startswith("sha256:")
    assert float(tags["metric.score"]) > 0
    assert scored["job"]["name"] == "bookstore.eval.2"


def test_a_failed_attempt_ends_in_a_valid_fail(home: Home) -> None:
    with pytest.raises(BadInput):
        run_step("train", run_id="r", config={}, inputs={"train": "/none.npz"}, settings=home.settings)
    start, fail = lineage(home)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert start["run"]["runId"] == fail["run"]["runId"]
    assert "/none.npz" in fail["run"]["facets"]["errorMessage"]["message"]
    validate(fail)


@needs_schemas
def test_the_check_itself_refuses_a_broken_event(home: Home) -> None:
    """A control: without it, a validator that checks nothing would pass too."""
    run_step("ingest", run_id="r", config={"n_books": 20}, settings=home.settings)
    good = lineage(home)[-1]
    breaks: list[tuple[str, Any]] = [("eventType", "DONE"), ("run", {"facets": {}}), ("job", {"name": "x"})]
    for field, value in breaks:
        broken = {**copy.deepcopy(good), field: value}
        with pytest.raises((ValidationError, KeyError)):
            validate(broken)
    broken = copy.deepcopy(good)
    broken["run"]["facets"]["parent"]["run"] = {}
    with pytest.raises(ValidationError):
        validate(broken)
    broken = copy.deepcopy(good)
    del broken["outputs"][0]["facets"]["version"]["datasetVersion"]
    with pytest.raises(ValidationError):
        validate(broken)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://artifacts/runs/r/model.joblib", ("s3://artifacts", "runs/r/model.joblib")),
        ("file:///data/r.csv", ("file", "/data/r.csv")),
        ("bookstore://generated?seed=1", ("bookstore", "generated?seed=1")),
        ("models:/recommender/3", ("models", "recommender/3")),
    ],
)
def test_datasets_are_named_as_openlineage_names_them(uri: str, expected: tuple[str, str]) -> None:
    assert dataset_name(uri) == expected
