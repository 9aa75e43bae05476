"""Registers the deployments: what `python -m adapters.prefect.deployments POOL [RESULTS]` does."""

import sys

from prefect.filesystems import RemoteFileSystem
from prefect.types.entrypoint import EntrypointType

from adapters.prefect import pipeline
from adapters.prefect.variants import STORAGE, STORE

DEPLOYMENT, APART = "bench", "apart"
"""Of each workload: with its steps in its own process, or each on infrastructure of its own."""
FLOWS = (pipeline.pipeline, pipeline.chain, pipeline.fanout, pipeline.sweep)


def register(pool: str) -> None:
    """Create or replace the deployments. The flows are imported by name, wherever the worker's process runs."""
    for flow in FLOWS:
        flow.to_deployment(
            DEPLOYMENT, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
        ).apply()


def register_apart(pool: str, results: str) -> None:
    """Create or replace those whose steps run apart and leave their results in the folder `results`."""
    RemoteFileSystem(basepath=results).save(STORAGE, overwrite=True)
    for flow in FLOWS:
        flow.to_deployment(
            APART,
            work_pool_name=pool,
            entrypoint_type=EntrypointType.MODULE_PATH,
            parameters={"apart": True},
        ).apply()
    pipeline.one_step.to_deployment(
        DEPLOYMENT,
        work_pool_name=pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
        job_variables={"env": STORE},
    ).apply()


if __name__ == "__main__":
    register(sys.argv[1])
    if len(sys.argv) > 2:
        register_apart(sys.argv[1], sys.argv[2])
