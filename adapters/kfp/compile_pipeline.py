"""A workload as what the backend runs: `python -m adapters.kfp.compile_pipeline WORKLOAD STEPS`, JSON on stdout.

For the SDK's own environment, with the steps' image in STEP_IMAGE and, where it is not ours, STEP_RETRIES.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped]

from adapters.kfp import pipeline


def compiled(workload: str, steps: int) -> dict[str, Any]:
    """The pipeline's intermediate representation and its own arguments."""
    component, more = pipeline.definition(workload, steps)
    spec = json_format.MessageToDict(component.pipeline_spec)
    if names := cached(spec):
        raise SystemExit(f"caches are on: {', '.join(names)}")
    return {"pipeline_spec": spec, "arguments": more}


def cached(spec: Mapping[str, Any]) -> list[str]:
    """The steps that a backend may answer from its cache; groups have no say in it."""
    components = spec["components"]
    dags = [spec["root"]["dag"], *(part["dag"] for part in components.values() if "dag" in part)]
    return sorted(
        name
        for dag in dags
        for name, task in dag["tasks"].items()
        if "executorLabel" in components[task["componentRef"]["name"]]
        and task.get("cachingOptions", {}).get("enableCache")
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compiled(sys.argv[1], int(sys.argv[2])), sort_keys=True))
