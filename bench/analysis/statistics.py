"""Medians, intervals and tests, each with what it needs and what it attains; no number without its n.

Where an answer rests on resampling, every resample is counted or the seed is fixed: the same samples give the same
answer on every machine.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from math import comb, isnan
from typing import Any

import numpy as np
import scipy  # its `special` loads when first used, which `bench --help` does not wait for; `stats` takes a second more

SEED = 20_260_101
LEVEL = 0.95
CURVE_RESAMPLES = 999
MANY_PAIRS, FEWEST_RESAMPLES = 2_000, 99
"""A line's bootstrap draws less often, to the second at least, where there are more pairs of runs than the first."""
EXACT_LIMIT = 2_000
"""The rank sum's null distribution is counted up to this size, that of 31 against 31 runs; a normal one above."""
P95_FROM = 72
"""Fewest samples of which the 95th percentile has a distribution-free 95 % interval (0.95^72 < 0.025)."""


def added(values: Iterable[float]) -> float:
    """Their sum, left to right: the same bits on every Python, whose own `sum` of floats compensates from 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


@dataclass(frozen=True)
class Interval:
    """`level` is the coverage attained, which may be below the one asked for."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class Estimate:
    """A number, how many samples it rests on, and its interval; `note` says why there is none."""

    value: float
    n: int
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """How two independent samples differ. `shift` and `delta` are positive where the second is larger.

    `p` is None, and `note` says why, where no arrangement of so few samples could reach `1 - LEVEL`.
    """

    n: tuple[int, int]
    shift: float
    """Hodges–Lehmann: the median of all pairwise differences, in the samples' unit."""
    shift_interval: Interval | None
    delta: float
    """Cliff's delta: P(second > first) − P(second < first), −1 to 1."""
    p: float | None
    exact: bool
    smallest_p: float
    """The smallest p that the test can give for samples of these sizes with as many values alike."""
    note: str = ""

    @property
    def size(self) -> str:
        """Cliff's delta in words: Romano et al. (2006), 0.147, 0.33, 0.474."""
        bounds = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))
        return next((word for bound, word in bounds if abs(self.delta) < bound), "large")

    def can_reject(self, tests: int) -> bool:
        """Whether any outcome could be told from chance as one of so many tests (Bonferroni)."""
        return self.smallest_p * tests <= 1 - LEVEL


@dataclass(frozen=True)
class Judged:
    """A difference as one of a family of tests."""

    found: Difference
    p: float | None
    """Holm-adjusted; None where `found` has none."""
    tests: int
    """In the family: those that have a p."""

    @property
    def smallest_p(self) -> float:
        """The smallest p that these samples can give, times the tests."""
        return min(1.0, self.found.smallest_p * max(1, self.tests))

    @property
    def verdict(self) -> str:
        """In words, of times: a difference only where the test allows it, none only where it could have been seen."""
        if self.p is None:
            return f"cannot tell: {self.found.note}"
        if self.p <= 1 - LEVEL:
            return f"{'slower' if self.found.shift > 0 else 'faster'}, effect {self.found.size}"
        if not self.found.can_reject(self.tests):
            n, m = self.found.n
            return (
                f"cannot tell: n too small for this many comparisons (n={n} and {m}: smallest p "
                f"{self.found.smallest_p:.2g} × {self.tests} = {self.smallest_p:.2g})"
            )
        return "no difference seen"


def p_by(exact: bool) -> str:
    """How `difference` got p, in words."""
    return "exact" if exact else "normal approximation"


def median(samples: Sequence[float]) -> float:
    """The middle of the samples.

    Raises:
        ValueError: if there are none, or one is not a number.
    """
    if len(samples) == 0:
        raise ValueError("no samples")
    if any(map(isnan, samples)):
        raise ValueError("a sample is not a number")
    return float(statistics.median(samples))


def order_interval(samples: Sequence[float], level: float = LEVEL, quantile: float = 0.5) -> Interval | None:
    """The narrowest pair of order statistics that covers the quantile with at least `level`; else the widest.

    Distribution-free: P(X(j) < q < X(k)) = P(j ≤ B < k), B ~ Binomial(n, quantile) (David & Nagaraja,
    *Order Statistics*, §7.1). Each side keeps its half of the error, so five samples attain 93.75 % for the
    median and the answer says so. None for fewer than two samples, which enclose nothing.
    """
    ordered = np.sort(_checked(samples))
    if len(ordered) < 2:
        return None
    j, k, attained = _ranks(len(ordered), level, quantile)
    return Interval(float(ordered[j - 1]), float(ordered[k - 1]), attained, f"order statistics {j} and {k}")


@lru_cache(maxsize=1024)
def _ranks(n: int, level: float, quantile: float) -> tuple[int, int, float]:
    """Which order statistics enclose the quantile, and with what level."""
    tail = (1 - level) / 2
    ranks = np.arange(1, n + 1)
    fewer, more = (of(ranks - 1, n, quantile) for of in (scipy.special.bdtr, scipy.special.bdtrc))
    low_ranks, high_ranks = ranks[fewer <= tail], ranks[more <= tail]
    j = int(low_ranks[-1]) if len(low_ranks) else 1
    k = int(high_ranks[0]) if len(high_ranks) else n
    return j, k, float(fewer[k - 1] - fewer[j - 1])


def median_estimate(samples: Sequence[float], level: float = LEVEL) -> Estimate:
    """The median with its order-statistic interval."""
    interval = order_interval(samples, level)
    note = ""
    if interval is None:
        note = "one sample: no interval"
    elif interval.level < level:
        note = f"n={len(samples)} attains {interval.level:.1%}, not {level:.0%}"
    return Estimate(median(samples), len(samples), interval, note)


def bootstrap_interval(samples: Sequence[float], level: float = LEVEL) -> Interval | None:
    """A bootstrap interval of the median. None for fewer than two samples.

    BCa (Efron 1987) over samples, with nothing drawn: it takes the distribution over all n^n resamples, which drawing
    more and more of them approaches. Where BCa is not defined (all alike, or a degenerate jackknife), the percentile
    method over the same. Its coverage is nominal only for large n: the order-statistic interval is the one to rely on
    for few samples.
    """
    data = _checked(samples)
    if len(data) < 2:
        return None
    ordered = np.sort(data)
    if ordered[0] == ordered[-1]:
        return Interval(float(ordered[0]), float(ordered[0]), level, "bootstrap (all samples alike)")
    low, high, weight = _median_ranks(len(ordered))
    medians = (ordered[low] + ordered[high]) / 2
    order = np.argsort(medians, kind="stable")
    medians, reached = medians[order], np.cumsum(weight[order])
    reached /= reached[-1]
    tails = _bca_tails(ordered, medians, reached, level)
    method = "BCa bootstrap, all resamples"
    if tails is None:
        tails, method = ((1 - level) / 2, (1 + level) / 2), "percentile bootstrap, all resamples"
    at = np.minimum(np.searchsorted(reached, tails), len(reached) - 1)
    return Interval(float(medians[at[0]]), float(medians[at[1]]), level, method)


def _bca_tails(
    ordered: np.ndarray[Any, Any], medians: np.ndarray[Any, Any], reached: np.ndarray[Any, Any], level: float
) -> tuple[float, float] | None:
    """Which quantiles of the resampled medians bound a BCa interval; None where it is not defined.

    Efron & Tibshirani, *An Introduction to the Bootstrap*, (14.10), (14.14), (14.15); `reached` is the distribution of
    `medians`, half of whose weight at the median itself counts as below, as scipy has it.
    """
    n, half = len(ordered), len(ordered) // 2
    middle = (ordered[(n - 1) // 2] + ordered[half]) / 2
    below, up_to = (
        float(reached[at - 1]) if at else 0.0
        for at in (np.searchsorted(medians, middle, side) for side in ("left", "right"))
    )
    bias = float(scipy.special.ndtri((below + up_to) / 2))
    # The median without one sample: without any below the middle, without the middle itself, without any above it.
    if n % 2:
        a, b, c = ordered[half - 1 : half + 2]
        left_out = np.repeat([(b + c) / 2, (a + c) / 2, (a + b) / 2], [half, 1, half])
    else:
        left_out = np.repeat([ordered[half], ordered[half - 1]], half)
    away = left_out.mean() - left_out
    spread = float((away**2).sum())
    if spread == 0 or not np.isfinite(bias):
        return None
    acceleration = float((away**3).sum()) / (6 * spread**1.5)
    reach = (float(scipy.special.ndtri((1 - level) / 2)), float(scipy.special.ndtri((1 + level) / 2)))
    low, high = (
        float(scipy.special.ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))) for z in reach
    )
    return low, high


@lru_cache(maxsize=64)
def _median_ranks(n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Which two of n sorted samples are in the middle of a resample (one twice where n is odd), how probably.

    The h-th smallest of a resample is at most the k-th sample where at least h draws of n are (Efron 1979, Ann.
    Statist. 7). Of an even number, h draws have their largest at i and the other h their smallest at j > i in
    C(n, h) ways (Hutson & Ernst 2000, J. R. Stat. Soc. B 62). Ranks count from 0; what is rarer than 1e-9 is
    left out.
    """
    h = (n + 1) // 2
    share = np.arange(n + 1) / n
    lower = np.diff(scipy.special.bdtrc(h - 1, n, share))
    if n % 2:
        (kept,) = np.nonzero(lower > 1e-9)
        return kept, kept, lower[kept]
    ways = scipy.special.gammaln(n + 1) - 2 * scipy.special.gammaln(h + 1)
    # Far from the middle, at ranks that are not kept, these are too large for a float where n is.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        largest = np.diff(np.exp(ways / 2 + h * np.log(share)))
        above = np.exp(ways / 2 + h * np.log(1 - share))
        smallest = -np.diff(above)
    kept = np.flatnonzero((lower > 1e-9) | (lower[::-1] > 1e-9))
    i, j = np.meshgrid(kept, kept, indexing="ij")
    same = lower[kept] - largest[kept] * above[kept + 1]
    weight = np.where(i < j, largest[i] * smallest[j], 0.0) + np.diag(same)
    chosen = i <= j
    return i[chosen], j[chosen], weight[chosen]


def p95(samples: Sequence[float], level: float = LEVEL) -> Estimate:
    """The 95th percentile; its interval only from 72 samples, since fewer cannot bound it from above."""
    data = _checked(samples)
    value = float(np.quantile(data, 0.95))
    if len(data) < P95_FROM:
        return Estimate(value, len(data), None, f"n={len(data)}: an interval needs {P95_FROM}")
    return Estimate(value, len(data), order_interval(samples, level, quantile=0.95))


def _gaps(
    a: np.ndarray[tuple[int], np.dtype[np.float64]], b: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The second less the first, of all pairs, in order."""
    return np.sort((b[:, None] - a[None, :]).ravel())


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Whether and by how much the second sample is larger than the first.

    A two-sided permutation test of the rank sum (ties shared), which is that of Cliff's delta: exact over all
    arrangements (Streitberg & Röhmel 1986, Stat. Softw. Newsl. 12), and above EXACT_LIMIT by the normal approximation
    with corrections for ties and continuity. The interval of the shift inverts the same test (Hollander & Wolfe,
    *Nonparametric Statistical Methods*, §4.3).
    """
    a, b = _checked(first), _checked(second)
    n, m = len(a), len(b)
    gaps = _gaps(a, b)
    values, ranks = _doubled_ranks(np.concatenate([a, b]))
    p, smallest = _rank_sum_test(ranks, n)
    possible = smallest <= 1 - LEVEL
    alike = " with values alike" if values < n + m else ""
    return Difference(
        n=(n, m),
        shift=float(np.median(gaps)),
        shift_interval=_shift_interval(gaps, n, m),
        delta=float(np.mean(np.sign(gaps))),
        p=p if possible else None,
        exact=_is_counted(n, m),
        smallest_p=smallest,
        note="" if possible else f"n={n} and {m}{alike} are too few: no p below {smallest:.2g} is possible",
    )


def paired_difference(pairs: Sequence[tuple[float, float]]) -> Difference:
    """Whether and by how much the second of a pair is larger than the first. For samples of one block.

    The exact sign test (pairs alike are left out of it); `shift` is the median of the differences within a pair
    with its order-statistic interval, which inverts the test; `delta` is Cliff's within pairs.
    """
    gaps = _checked([second - first for first, second in pairs])
    n, larger, smaller = len(gaps), int(np.sum(gaps > 0)), int(np.sum(gaps < 0))
    told = larger + smaller
    smallest = min(1.0, 2 * 0.5**told)
    possible = smallest <= 1 - LEVEL
    return Difference(
        n=(n, n),
        shift=median(gaps.tolist()),
        shift_interval=order_interval(gaps.tolist()),
        delta=(larger - smaller) / n,
        p=min(1.0, 2 * float(scipy.special.bdtr(min(larger, smaller), told, 0.5))) if possible else None,
        exact=True,
        smallest_p=smallest,
        note="" if possible else f"n={told} in pairs: too few, no p below {smallest:.2g} is possible",
    )


def _is_counted(n: int, m: int) -> bool:
    """Whether the null distribution for samples of these sizes is counted: work grows with the square of this."""
    return (n + m) * min(n, m) <= EXACT_LIMIT


def _doubled_ranks(values: np.ndarray[Any, Any]) -> tuple[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """How many different values there are, and twice each one's rank, ties sharing theirs: whole numbers."""
    _, which, times = np.unique(values, return_inverse=True, return_counts=True)
    return len(times), (2 * np.cumsum(times) - times + 1)[which]


def _rank_sum_test(ranks: np.ndarray[Any, np.dtype[np.int64]], n: int) -> tuple[float, float]:
    """p of the first n doubled ranks against the rest, and the smallest p that the same ranks could give."""
    if 2 * n > len(ranks):  # the others' sum says the same
        ranks, n = ranks[::-1], len(ranks) - n
    ordered = np.sort(ranks)
    two_sided = (_counted if _is_counted(n, len(ranks) - n) else _normal)(ordered, n)
    p, *ends = (two_sided(int(part.sum())) for part in (ranks[:n], ordered[:n], ordered[-n:]))
    return p, min(ends)


def _counted(ordered: np.ndarray[Any, np.dtype[np.int64]], n: int) -> Callable[[int], float]:
    """The two-sided p of a sum of n of these doubled ranks: over all arrangements."""
    highest = int(ordered[-n:].sum())
    # ways[k, s]: how many of the ranks looked at so far, taken k at a time, have the sum s.
    ways = np.zeros((n + 1, highest + 1))
    ways[0, 0] = 1
    for rank in ordered:
        ways[1:, rank:] += ways[:-1, : highest + 1 - rank]
    share = ways[n] / ways[n].sum()
    return lambda observed: min(1.0, 2 * float(min(share[: observed + 1].sum(), share[observed:].sum())))


def _normal(ordered: np.ndarray[Any, np.dtype[np.int64]], n: int) -> Callable[[int], float]:
    """As `_counted`, by the normal approximation."""
    total = len(ordered)
    _, times = np.unique(ordered, return_counts=True)
    ties = float((times.astype(float) ** 3 - times).sum()) / (total * (total - 1))
    spread = (n * (total - n) / 12 * (total + 1 - ties)) ** 0.5
    if spread == 0:
        return lambda _: 1.0

    def two_sided(observed: int) -> float:
        away = abs(observed / 2 - n * (total + 1) / 2)
        return min(1.0, 2 * float(scipy.special.ndtr((0.5 - away) / spread)))

    return two_sided


def _shift_interval(
    gaps: np.ndarray[tuple[int], np.dtype[np.float64]], n: int, m: int, level: float = LEVEL
) -> Interval | None:
    """Order statistics of the pairwise differences, by the null distribution of Mann–Whitney's U."""
    if n < 2 or m < 2:
        return None
    c, attained = _shift_rank(n, m, level)
    return Interval(float(gaps[c - 1]), float(gaps[len(gaps) - c]), attained, "Hodges–Lehmann, Mann–Whitney")


@lru_cache(maxsize=1024)
def _shift_rank(n: int, m: int, level: float) -> tuple[int, float]:
    """Which of the ordered differences, from either end, bounds the shift, and with what level."""
    tail = (1 - level) / 2
    if not _is_counted(n, m):
        middle, spread = n * m / 2, (n * m * (n + m + 1) / 12) ** 0.5
        c = max(1, int(middle + float(scipy.special.ndtri(tail)) * spread))
        return c, 1 - 2 * float(scipy.special.ndtr((c - 0.5 - middle) / spread))
    counts = _mann_whitney(n, m)
    total, below, c = comb(n + m, n), 0, 0
    # Integers: at these sizes floats would lose the tails.
    while (below + counts[c]) / total <= tail:
        below += counts[c]
        c += 1
    if c == 0:  # even the extremes leave more outside than asked for: the widest, and what it attains
        return 1, 1 - 2 * counts[0] / total
    return c, 1 - 2 * below / total


def _mann_whitney(n: int, m: int) -> list[int]:
    """How many arrangements of n and m give each U from 0 to its middle: the Gaussian binomial's first coefficients.

    The others are the same backwards.
    """
    middle = n * m // 2
    counts = [0] * (middle + 1)
    counts[0] = 1
    for i in range(1, n + 1):
        for u in range(middle, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, middle + 1):
            counts[u] += counts[u - i]
    return counts


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: rejecting where ≤ α keeps the family's error at α."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def judge(found: Sequence[Difference]) -> list[Judged]:
    """One family of tests, in the order given. Those that no outcome could reject have no p and are not of it."""
    tested = [each.p for each in found if each.p is not None]
    adjusted = iter(holm(tested))
    return [Judged(each, None if each.p is None else next(adjusted), len(tested)) for each in found]


def judge_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Replaces each row's `difference`, where it has one, by plain data and what its family makes of it."""
    having = [row for row in rows if row["difference"] is not None]
    for row, each in zip(having, judge([row["difference"] for row in having]), strict=True):
        row["difference"] = {
            **asdict(each.found),
            "size": each.found.size,
            "p_holm": each.p,
            "tests": each.tests,
            "smallest_p_holm": each.smallest_p,
            "verdict": each.verdict,
        }


def proportion(successes: int, n: int, level: float = LEVEL) -> Estimate:
    """A count out of n with its exact binomial interval (Clopper & Pearson 1934)."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n}")
    tail = (1 - level) / 2
    low = float(scipy.special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(scipy.special.betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Estimate(successes / n, n, Interval(low, high, level, "Clopper–Pearson"))


def paired_ratio(pairs: Sequence[tuple[float, float]], level: float = LEVEL) -> Estimate:
    """The median over pairs of second ÷ first, with its order-statistic interval. For samples of one block.

    Raises:
        ValueError: if there are none, or a first is not positive.
    """
    if any(first <= 0 for first, _ in pairs):
        raise ValueError("a ratio needs positive values")
    return median_estimate([second / first for first, second in pairs], level)


@dataclass(frozen=True)
class CostCurve:
    """A straight line through runs of several lengths: `fixed` is the cost of none, `marginal` that of one step more.

    Seconds. Intervals are None below two runs of each length.
    """

    fixed: Estimate
    marginal: Estimate
    lengths: tuple[tuple[int, int], ...]
    """(length, runs of it)."""


def cost_curve(points: Sequence[tuple[int, float]], level: float = LEVEL, seed: int = SEED) -> CostCurve:
    """Theil–Sen: the median slope over all pairs of runs of different lengths, and the median of what it leaves.

    Sen (1968), J. Am. Stat. Assoc. 63. Intervals by the percentile bootstrap within each length, its percentiles
    expanded for the fewest runs of a length (Hesterberg 2015, Am. Stat. 69): their level is nominal, and
    below five runs of a length not attained. `points` are (length, seconds).

    Raises:
        ValueError: if there are fewer than two lengths.
    """
    groups: dict[int, np.ndarray[tuple[int], np.dtype[np.float64]]] = {
        length: _checked([value for at, value in points if at == length])
        for length in sorted({at for at, _ in points})
    }
    if len(groups) < 2:
        raise ValueError("a line needs two lengths")
    (fixed,), (marginal,) = _theil_sen({length: values[None, :] for length, values in groups.items()})
    low_high: tuple[Interval | None, Interval | None] = (None, None)
    note = ""
    fewest = min(len(values) for values in groups.values())
    if fewest < 2:
        note = "one run of a length: no interval"
    else:
        rng = np.random.default_rng(seed)
        pairs = sum(len(groups[a]) * len(groups[b]) for a, b in combinations(groups, 2))
        resamples = min(CURVE_RESAMPLES, max(FEWEST_RESAMPLES, CURVE_RESAMPLES * MANY_PAIRS // pairs))
        drawn = _theil_sen(
            {
                length: values[rng.integers(0, len(values), (resamples, len(values)))]
                for length, values in groups.items()
            }
        )
        reach = (fewest / (fewest - 1)) ** 0.5 * float(scipy.special.stdtrit(fewest - 1, (1 + level) / 2))
        tail = float(scipy.special.ndtr(-reach))
        bounds = np.quantile(drawn, [tail, 1 - tail], axis=1)
        method = "expanded percentile bootstrap within lengths"
        if resamples < CURVE_RESAMPLES:
            method += f", {resamples} resamples"
        low_high = (
            Interval(float(bounds[0][0]), float(bounds[1][0]), level, method),
            Interval(float(bounds[0][1]), float(bounds[1][1]), level, method),
        )
    return CostCurve(
        Estimate(float(fixed), len(points), low_high[0], note),
        Estimate(float(marginal), len(points), low_high[1], note),
        tuple((length, len(values)) for length, values in groups.items()),
    )


def _theil_sen(
    groups: Mapping[int, np.ndarray[Any, np.dtype[np.float64]]],
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Intercepts and slopes, one for each row: `groups` has the rows' values (rows, runs) of each length."""
    slopes = [
        (groups[b][:, None, :] - groups[a][:, :, None]).reshape(len(groups[a]), -1) / (b - a)
        for a, b in combinations(sorted(groups), 2)
    ]
    slope = np.median(np.concatenate(slopes, axis=1), axis=1)
    left = [values - slope[:, None] * length for length, values in groups.items()]
    return np.median(np.concatenate(left, axis=1), axis=1), slope


def outliers(samples: Sequence[float], limit: float = 3.5) -> list[int]:
    """Positions of samples to flag (never to drop): modified z-score beyond `limit` (Iglewicz & Hoaglin).

    None below five samples, nor where more than half are alike.
    """
    data = _checked(samples)
    if len(data) < 5:
        return []
    distance = np.abs(data - np.median(data))
    spread = float(np.median(distance))
    if spread == 0:
        return []
    return [int(i) for i in np.flatnonzero(0.6745 * distance / spread > limit)]


def _checked(samples: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    data = np.asarray(samples, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise ValueError("no samples")
    if np.isnan(data).any():
        raise ValueError("a sample is not a number")
    return data
