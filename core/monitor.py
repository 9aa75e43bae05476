"""Drift between the item popularity a model was trained on and recent interactions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 10


def population_stability_index(
    expected: npt.NDArray[np.int64], actual: npt.NDArray[np.int64], *, bins: int = BINS
) -> float:
    """PSI = Σ_b (a_b - e_b) ln(a_b / e_b) over bins of items (Siddiqi 2006, Credit Risk Scorecards; it
    is the Jeffreys divergence of the two distributions, Yurdakul 2018).
    Below 0.1 is usually read as stable, above 0.25 as shifted.

    Items are sorted by training popularity (ties by item number) and cut into at most `bins` bins of equal
    training mass; half an interaction is added to every bin, so that an empty one stays finite.

    Args:
        expected, actual: (items,) interactions per item in training and recently.
    """
    order = np.lexsort((np.arange(expected.size), -expected))
    sorted_counts = expected[order]
    total = int(sorted_counts.sum())
    before = np.cumsum(sorted_counts) - sorted_counts
    bin_of = np.minimum(before * bins // max(1, total), bins - 1)
    share_expected = _shares(np.bincount(bin_of, weights=sorted_counts, minlength=bins))
    share_actual = _shares(np.bincount(bin_of, weights=actual[order], minlength=bins))
    return round(float(np.sum((share_actual - share_expected) * np.log(share_actual / share_expected))), 12)


def _shares(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    smoothed = counts + 0.5
    shares: npt.NDArray[np.float64] = smoothed / smoothed.sum()
    return shares
