"""What a shell offers after a word, asked as bash asks it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import completion


def offered(*words: str) -> list[str]:
    """What bash offers for the last of these words."""
    environment = {
        **os.environ,
        "_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("bench", *words)),
        "COMP_CWORD": str(len(words)),
    }
    asked = [str(Path(sys.executable).parent / "bench")]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, env=environment)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["run", "-o", "a"], ["airflow", "all", "argo"]),
        (["run", "-o", "argo", "-w", "chain,"], ["chain,pipeline", "chain,fanout", "chain,sweep"]),
        (["run", "-o", "argo", "--fault", "promote"], ["promote-killed", "promote-killed-naive"]),
        (["run", "-o", "argo", "--target", "k"], ["kind", "k8s"]),
        (["run", "-o", "argo", "--retries", "equal,"], ["equal,shipped"]),
    ],
)
def test_names_are_offered(words: list[str], offers: list[str]) -> None:
    assert sorted(offered(*words)) == sorted(offers)


def test_configurations_are_those_of_the_orchestrator_and_target_that_were_typed() -> None:
    local = offered("run", "-o", "prefect", "--target", "local", "-c", "")
    assert "in-process" in local and "pods" not in local and "openlineage" not in local
    assert "pods" in offered("run", "-o", "prefect", "-c", "")


def test_a_name_is_offered_once() -> None:
    assert completion.rest("a,b,", ("a", "b", "c", "c")) == ["a,b,c"]
