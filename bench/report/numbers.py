"""Numbers as text: durations, figures, medians with their intervals."""

from bench.analysis.statistics import Estimate


def seconds(value: float) -> str:
    """A duration to three figures: `0.042 s`, `9.53 s`, `134 s`."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if size >= 10 else f"{value:.2f} s" if size >= 1 else f"{value:.3f} s"


def figures(value: float) -> str:
    """A number to three figures, or all before the point where there are more: `0.324`, `1038`."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(estimate: Estimate | None, level: float | None = None) -> str:
    """`9.53 s`, and below it `[9.1, 10.2] 94%`: the median, its interval and the level that attains.

    The level is left out where it is `level`, which the reader has been told already. A dash where unknown.
    """
    if estimate is None:
        return "—"
    if estimate.interval is None:
        return seconds(estimate.value)
    low, high = seconds(estimate.interval.low)[:-2], seconds(estimate.interval.high)[:-2]
    attained = "" if estimate.interval.level == level else f" {estimate.interval.level:.0%}"
    return f"{seconds(estimate.value)}\n[{low}, {high}]{attained}"


def duration(value: float) -> str:
    """`45 s`, `12 min` or `3.4 h`: for what is only roughly known."""
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"
