"""Turns an adapter's declared gaps into strict expected failures, and stores the suite's verdicts when asked."""

import time
from pathlib import Path
from typing import Any

import pytest

import adapters
import cluster
from bench.measure.environment import fingerprint
from bench.report import capabilities
from cluster import pins
from tests.conformance.suite import FOUND, MUST_PASS, Conformance
from tests.conftest import ALONE, BESIDE, LOCAL, after_the_cluster, needs_all, place_of
from tests.unit.conftest import wait_for

PATIENCE_SECONDS = 3600.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_out_optional(config, items)
    for item in items:
        owner = getattr(item, "cls", None)
        if owner is None or not issubclass(owner, Conformance):
            continue
        _check_gaps(owner)
        for gap in owner.gaps:
            if item.name == f"test_{gap.capability}":
                reason = f"{gap.kind}: {gap.reason}"
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))


def _check_gaps(owner: type[Conformance]) -> None:
    """A gap is one of the allowed ones. Raises `UsageError`."""
    if banned := sorted(gap.capability for gap in owner.gaps if gap.capability in MUST_PASS):
        raise pytest.UsageError(f"{owner.__name__}: {', '.join(banned)} must pass everywhere")
    if sum(gap.kind == "notyet" for gap in owner.gaps) > 2:
        raise pytest.UsageError(f"{owner.__name__}: at most two gaps may be 'notyet'")
    if silent := sorted(g.capability for g in owner.gaps if g.kind == "never" and "://" not in g.reason):
        raise pytest.UsageError(
            f"{owner.__name__}: {', '.join(silent)}: 'never' cites the vendor's documentation"
        )


def _leave_out_optional(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is asked only when verdicts are stored is left out; `--whole-conformance` keeps all."""
    if config.getoption("--whole-conformance") or config.getoption("--record-conformance"):
        return
    left_out = [item for item in items if _is_optional(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_optional(item: pytest.Item) -> bool:
    if item.get_closest_marker("variant"):
        return True
    owner = getattr(item, "cls", None)
    if owner is None or not issubclass(owner, Conformance):
        return False
    name = getattr(item, "originalname", item.name).removeprefix("test_")
    return name in owner.stored_only or (not owner.always_whole and name not in MUST_PASS)


_verdicts: dict[type[Conformance], dict[str, capabilities.Verdict]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    owner = getattr(item, "cls", None)
    if owner is None or not issubclass(owner, Conformance) or (call.when != "call" and report.passed):
        return report
    name = item.name.removeprefix("test_")
    gap = next((gap for gap in owner.gaps if gap.capability == name), None)
    if gap is not None and report.skipped:
        verdict = capabilities.Verdict(outcome=gap.kind, reason=gap.reason)
    elif report.passed:
        found = dict(report.user_properties).get(FOUND, "")
        verdict = capabilities.Verdict(outcome="yes", reason=found)
    elif report.skipped:
        return report
    else:
        verdict = capabilities.Verdict(
            outcome="failed", reason=str(call.excinfo and call.excinfo.value)[:200]
        )
    _verdicts.setdefault(owner, {}).setdefault(name, verdict)
    return report


@pytest.fixture(scope="class", autouse=True)
def record_conformance(request: pytest.FixtureRequest) -> Any:
    """Store the class's verdicts once its last test is over."""
    yield
    folder = request.config.getoption("--record-conformance")
    owner = request.cls
    if folder is None or owner is None or owner not in _verdicts:
        return
    runtime = adapters.load(owner.adapter).runtime(owner.target)
    found = capabilities.Conformance(
        adapter=owner.adapter,
        target=owner.target.value,
        configuration=owner.configuration,
        adapter_sha256=capabilities.adapter_sha256(owner.adapter, owner.target.value),
        recorded_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        environment=fingerprint({}, runtime.versions()),
        verdicts=_verdicts[owner],
    )
    capabilities.save(folder, capabilities.joined(capabilities.load(folder), found))


@pytest.fixture(scope="class", autouse=True)
def turn(request: pytest.FixtureRequest, shared: Path) -> None:
    """When a suite begins: one that runs beside others on the cluster when no test needs that alone any more.

    The images of those are made before.
    """
    begins, place = shared / ALONE, place_of(request.node.nodeid)
    if place == LOCAL:
        after_the_cluster(request)
    if place != BESIDE or not any(map(needs_all, request.session.items)):
        return
    if not begins.exists():
        request.getfixturevalue("cluster_is_up")
        beside = (item for item in request.session.items if place_of(item.nodeid) == BESIDE)
        adapters = {item.cls.adapter for item in beside if isinstance(item, pytest.Function)}
        cluster.ensure_images(adapters & set(pins.ORCHESTRATORS))
    wait_for(begins.exists, "the tests that need the cluster for themselves", PATIENCE_SECONDS)
