"""What adapters' installations share, on the real cluster."""

from collections.abc import Iterator

import httpx
import pytest

from adapters.base import BenchError, Target
from adapters.forward import Forward
from adapters.installation import Installation
from adapters.targets import PIPELINE_NAMESPACE, connect

pytestmark = [pytest.mark.kind, pytest.mark.usefixtures("cluster_is_up")]


@pytest.fixture
def trial() -> Iterator[Installation]:
    installation = Installation(connect(Target.KIND), "trial")
    installation.open()
    yield installation
    installation.drop_database("trial")
    installation.close([])


def test_secrets_and_databases_are_made_once_and_leave_nothing(trial: Installation) -> None:
    assert trial.secret("word") == Installation(connect(Target.KIND), "trial").secret("word")
    assert trial.secret("word") != trial.secret("other")
    address = trial.database("trial")
    assert trial.database("trial") == address
    assert "trial" in trial.databases()
    trial.drop_database("trial")
    assert "trial" not in trial.databases()
    trial.close([])
    assert not trial.exists()


def test_a_namespace_of_others_is_left_alone() -> None:
    theirs = Installation(connect(Target.KIND), "default")
    with pytest.raises(BenchError, match="not ours"):
        theirs.open()
    with pytest.raises(BenchError, match="not ours"):
        theirs.close([])


def test_a_server_is_reached_through_the_api_server() -> None:
    forward = Forward(connect(Target.KIND).kube, PIPELINE_NAMESPACE, "recommender", 8080)
    with httpx.Client(base_url=forward.url, trust_env=False) as client:
        assert [client.get("/healthz").status_code for _ in range(3)] == [200, 200, 200]
    forward.close()


def test_where_no_pod_is_there_is_no_answer() -> None:
    forward = Forward(connect(Target.KIND).kube, PIPELINE_NAMESPACE, "nobody", 8080)
    with pytest.raises(httpx.HTTPError):
        httpx.get(forward.url, trust_env=False)
    forward.close()
