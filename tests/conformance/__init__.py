"""One suite for every adapter and target; what one cannot do is a strict expected failure with a reason."""

import pytest

pytest.register_assert_rewrite(  # so that what is asked there says, too, what it saw
    *(f"{__name__}.{each}" for each in ("airflow_only", "dagster_metadata", "prefect_assets", "suite"))
)
