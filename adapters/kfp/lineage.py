"""What Kubeflow Pipelines' own store knows of a run: on this machine there is none.

The backend's metadata store is not asked yet: its images cannot be had where this was written.
"""

from adapters.base import RunHandle
from adapters.kfp.api import KfpClusterDriver
from adapters.kfp.local import KfpLocalDriver
from adapters.lineage import Known


def known(driver: KfpLocalDriver | KfpClusterDriver, handle: RunHandle) -> Known:
    """Nothing: the local runner has no store, as its documentation says."""
    return Known(source="none: the SDK's local runner keeps no record of a run", query="none")
