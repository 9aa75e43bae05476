"""Turns an adapter's declared gaps into strict expected failures, and stores the suite's verdicts when asked."""

import time
from typing import Any

import pytest

import adapters
from bench import capabilities
from bench.environment import fingerprint
from tests.conformance.suite import Conformance


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        owner = getattr(item, "cls", None)
        if owner is None or not issubclass(owner, Conformance):
            continue
        for gap in owner.gaps:
            if item.name == f"test_{gap.capability}":
                reason = f"{gap.kind}: {gap.reason}"
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))


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
        verdict = capabilities.Verdict(outcome="yes")
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
        adapter_sha256=capabilities.adapter_sha256(owner.adapter),
        recorded_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        environment=fingerprint({}, runtime.versions()),
        verdicts=_verdicts[owner],
    )
    capabilities.save(folder, found)
