"""Turns an adapter's declared gaps into strict expected failures."""

import pytest

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
