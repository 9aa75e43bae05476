"""Registers a deployment of each flow in the work pool: what `python -m adapters.prefect.deployments POOL` does."""

import sys

from prefect.types.entrypoint import EntrypointType

from adapters.prefect import pipeline

DEPLOYMENT = "bench"
FLOWS = (pipeline.pipeline, pipeline.chain, pipeline.fanout, pipeline.sweep)


def register(pool: str) -> None:
    """Create or replace the deployments. The flows are imported by name, wherever the worker's process runs."""
    for flow in FLOWS:
        flow.to_deployment(
            DEPLOYMENT, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
        ).apply()


if __name__ == "__main__":
    register(sys.argv[1])
