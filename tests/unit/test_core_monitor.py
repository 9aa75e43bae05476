"""Drift: nothing where nothing changed, more where more changed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.monitor import population_stability_index

counts = hnp.arrays(np.int64, st.shared(st.integers(2, 50), key="items"), elements=st.integers(0, 1000))


@given(counts, counts)
def test_it_is_never_negative_and_always_finite(expected: np.ndarray, actual: np.ndarray) -> None:  # type: ignore[type-arg]
    psi = population_stability_index(expected, actual)
    assert np.isfinite(psi)
    assert psi >= 0


def test_the_same_popularity_does_not_drift() -> None:
    popularity = np.arange(1000, 0, -5)
    assert population_stability_index(popularity, popularity) < 1e-9
    assert population_stability_index(popularity, popularity // 5) < 0.001


def test_a_reversed_popularity_does() -> None:
    popularity = np.arange(1000, 0, -5)
    assert population_stability_index(popularity, popularity[::-1]) > 0.25


def test_by_hand() -> None:
    """Two bins: 300 against 100 expected, 100 against 300 seen; half an interaction added to each."""
    expected, actual = np.array([300, 100]), np.array([100, 300])
    share = 300.5 / 401
    by_hand = 2 * (share - (1 - share)) * np.log(share / (1 - share))
    assert abs(population_stability_index(expected, actual, bins=2) - by_hand) < 1e-9
