"""Statistics against published values, against scipy's own independent routes, and by simulation."""

from collections import Counter
from itertools import combinations, product
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.analysis.statistics import (
    EXACT_LIMIT,
    _median_ranks,
    added,
    bootstrap_interval,
    cost_curve,
    difference,
    holm,
    judge,
    judge_rows,
    median,
    median_estimate,
    order_interval,
    outliers,
    p95,
    p_by,
    paired_difference,
    paired_ratio,
    proportion,
)

# Ranks and coverage of the 95 % sign-test interval: Hollander & Wolfe, table A.2 (Conover A3 alike).
RANKS = [(6, 1, 6, 0.9688), (8, 1, 8, 0.9922), (10, 2, 9, 0.9785), (15, 4, 12, 0.9648), (20, 6, 15, 0.9586)]


@pytest.mark.parametrize(("n", "low", "high", "level"), RANKS)
def test_order_interval_takes_the_published_ranks(n: int, low: int, high: int, level: float) -> None:
    found = order_interval([float(i) for i in range(1, n + 1)])
    assert found is not None
    assert (found.low, found.high) == (low, high)
    assert found.level == pytest.approx(level, abs=5e-5)


def test_five_samples_do_not_attain_95_percent_and_the_answer_says_so() -> None:
    found = median_estimate([5.0, 1.0, 4.0, 2.0, 3.0])
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (1.0, 5.0)
    assert found.interval.level == 0.9375
    assert found.note == "n=5 attains 93.8%, not 95%"
    assert median_estimate([1.0]).note == "one sample: no interval"


@pytest.mark.parametrize("n", [6, 9, 20, 41])
def test_order_interval_covers_the_median_at_least_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(7)
    draws = rng.lognormal(size=(3000, n))
    found = order_interval(list(range(n)))
    assert found is not None
    ordered = np.sort(draws, axis=1)
    inside = (ordered[:, int(found.low)] <= 1) & (ordered[:, int(found.high)] > 1)
    # The attained level is exact: three standard errors of 3000 draws around it.
    error = 3 * np.sqrt(found.level * (1 - found.level) / 3000)
    assert found.level >= 0.95
    assert abs(inside.mean() - found.level) < error


def test_p95_has_an_interval_from_72_samples_on() -> None:
    assert p95(list(range(71))).interval is None
    assert "72" in p95(list(range(71))).note
    found = p95(list(range(72)))
    assert found.interval is not None
    assert found.interval.level >= 0.95
    below = order_interval(list(range(71)), quantile=0.95)
    assert below is not None
    assert 1 - 0.95**71 < 0.975 <= 1 - 0.95**72


@pytest.mark.parametrize("n", [5, 6, 12, 21, 60, 101])
def test_bca_over_all_resamples_is_what_scipys_drawing_approaches(n: int) -> None:
    data = np.random.default_rng(n).lognormal(size=n)
    found = bootstrap_interval(list(data))
    assert found is not None
    assert found.method == "BCa bootstrap, all resamples"
    drawn = stats.bootstrap((data,), np.median, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    ordered = np.sort(data)
    for value, reference in ((found.low, drawn.low), (found.high, drawn.high)):
        assert abs(np.searchsorted(ordered, value) - np.searchsorted(ordered, reference)) <= 1
    assert _median_ranks(n)[2].sum() == pytest.approx(1, abs=1e-7)
    assert bootstrap_interval(list(data[::-1])) == found, "whatever their order"


def test_bootstrap_where_bca_is_undefined_or_there_is_too_little() -> None:
    same = bootstrap_interval([2.0, 2.0, 2.0])
    assert same is not None
    assert (same.low, same.high) == (2.0, 2.0)
    assert bootstrap_interval([2.0]) is None
    mostly = bootstrap_interval([1.0, 1.0, 1.0, 1.0, 5.0])
    assert mostly is not None
    assert (mostly.low, mostly.high, mostly.method) == (1.0, 5.0, "percentile bootstrap, all resamples")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [10_000, 10_001])
def test_a_bootstrap_of_ten_thousand_runs_says_what_the_order_statistics_say(n: int) -> None:
    data = list(np.random.default_rng(n).lognormal(size=n))
    found, other = bootstrap_interval(data), order_interval(data)
    assert found is not None and other is not None
    assert _median_ranks(n)[2].sum() == pytest.approx(1, abs=1e-5)
    assert (found.low, found.high) == pytest.approx((other.low, other.high), rel=0.005)


def test_all_resamples_of_five_are_those_counted_by_hand() -> None:
    """3,125 resamples of five samples, 1,296 of four: every one looked at."""
    for n in (4, 5):
        low, high, weight = _median_ranks(n)
        counted = Counter(float(np.median(each)) for each in product(range(n), repeat=n))
        found: Counter[float] = Counter()
        for i, j, share in zip(low, high, weight, strict=True):
            found[(i + j) / 2] += share
        assert {value: share for value, share in found.items() if share > 1e-9} == pytest.approx(
            {value: count / n**n for value, count in counted.items()}
        )


def test_bootstrap_covers_the_median_at_about_its_level() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(200):
        found = bootstrap_interval(list(rng.exponential(size=40)))
        assert found is not None
        hits += found.low <= np.log(2) <= found.high
    # Of 200 at 95 %, fewer than 178 would happen once in ten thousand.
    assert hits >= stats.binom(200, 0.95).ppf(1e-4)


# Hollander & Wolfe, example 4.1 (tritiated water diffusion): U = 15 of 50, one-sided exact p = 0.1272.
TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
GESTATION = [1.15, 0.88, 0.90, 0.74, 1.21]


def test_difference_gives_the_published_test_and_shift() -> None:
    found = difference(TERM, GESTATION)
    assert found.p == pytest.approx(2 * 0.1272, abs=2e-4)
    assert found.exact
    # Example 4.3: the Hodges–Lehmann shift is 0.305; example 4.4: the 96 % interval is (-0.15, 0.76).
    assert found.shift == pytest.approx(-0.305)
    assert found.shift_interval is not None
    assert found.shift_interval.low == pytest.approx(-0.76)
    assert found.shift_interval.high == pytest.approx(0.15)
    assert found.shift_interval.level == pytest.approx(0.96, abs=0.005)
    assert found.delta == pytest.approx(2 * 15 / 50 - 1)


def test_difference_with_ties_is_that_of_all_arrangements() -> None:
    a, b = [1.0, 2.0, 2.0, 3.0, 3.0], [2.0, 3.0, 3.0, 4.0]
    ranks = stats.rankdata(a + b)
    observed, centre = ranks[:5].sum(), 5 * 10 / 2
    sums = [sum(ranks[list(chosen)]) for chosen in combinations(range(9), 5)]
    extreme = sum(abs(s - centre) >= abs(observed - centre) - 1e-9 for s in sums) / comb(9, 5)
    low = sum(s <= observed + 1e-9 for s in sums) / comb(9, 5)
    found = difference(a, b)
    assert found.p == pytest.approx(2 * low, abs=1e-9)
    assert found.p == pytest.approx(extreme, abs=0.08)


@pytest.mark.parametrize(("n", "m", "possible"), [(3, 3, False), (2, 5, False), (4, 4, True), (3, 5, True)])
def test_too_few_samples_give_no_p(n: int, m: int, possible: bool) -> None:
    found = difference([float(i) for i in range(n)], [float(10 + i) for i in range(m)])
    assert (found.p is not None) == possible
    assert found.delta == 1.0
    assert found.size == "large"
    if not possible:
        assert f"n={n} and {m} are too few" in found.note
    else:
        assert found.p == pytest.approx(2 / comb(n + m, n))


def test_equal_samples_do_not_differ() -> None:
    for n in (6, 120):
        found = difference([3.0] * n, [3.0] * n)
        assert (found.p, found.smallest_p, found.shift, found.delta) == (None, 1.0, 0.0, 0.0)
        assert found.note == f"n={n} and {n} with values alike are too few: no p below 1 is possible"


@pytest.mark.parametrize("limit", [EXACT_LIMIT, 0])
def test_the_smallest_p_is_that_of_the_same_values_set_apart(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ties and without, counted and by the normal approximation."""
    monkeypatch.setattr("bench.analysis.statistics.EXACT_LIMIT", limit)
    for values in ([*range(11)], [1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4], [1] * 9 + [2] * 2):
        mixed, apart = values[::2] + values[1::2], sorted(values)
        found = difference(mixed[:5], mixed[5:])
        ends = [difference(apart[:5], apart[5:]), difference(apart[6:], apart[:6])]
        reached = min(end.smallest_p if end.p is None else end.p for end in ends)
        assert found.smallest_p == pytest.approx(reached, rel=1e-9)
    assert difference([*range(5)], [*range(5, 11)]).smallest_p >= 2 / comb(11, 5) * (1 - 1e-9)
    few = difference([1.0] * 5, [1.0] * 4 + [2.0] * 2)
    assert few.p is None and "with values alike are too few" in few.note


def test_many_values_alike_bound_the_normal_approximation_too() -> None:
    found = difference([0.0] * 150, [0.0] * 149 + [1.0])
    assert found.p is None and found.smallest_p > 0.05
    assert difference([0.0] * 150, [0.0] * 75 + [1.0] * 75).smallest_p < 1e-9


def test_pairs_are_told_apart_by_the_exact_sign_test() -> None:
    pairs = [(float(i), i + gap) for i, gap in enumerate((0.5, 1.0, 2.0, -0.25, 3.0, 1.5, 0.75, 2.5))]
    found = paired_difference(pairs)
    assert found.p == pytest.approx(stats.binomtest(7, 8).pvalue) and found.smallest_p == 2 / 256
    assert (found.n, found.shift, found.delta) == ((8, 8), 1.25, 0.75)
    interval = found.shift_interval
    assert interval is not None and (interval.low, interval.high) == (-0.25, 3.0)
    assert interval.level == pytest.approx(1 - 2 / 256)


def test_pairs_alike_tell_nothing_and_few_pairs_give_no_p() -> None:
    five = paired_difference([(0.0, 1.0)] * 5)
    assert (five.p, five.note) == (None, "n=5 in pairs: too few, no p below 0.062 is possible")
    assert paired_difference([(0.0, 1.0)] * 6).p == pytest.approx(2 / 64)
    assert paired_difference([(0.0, 1.0)] * 5 + [(1.0, 1.0)]).p is None
    assert paired_difference([(1.0, 1.0)] * 9).smallest_p == 1.0


def test_false_positives_stay_at_their_level() -> None:
    rng = np.random.default_rng(2)
    rejected = sum(
        (difference(list(x[:5]), list(x[5:])).p or 1) <= 0.05 for x in rng.lognormal(size=(400, 10))
    )
    assert rejected <= stats.binom(400, 0.05).ppf(0.9999)


@pytest.mark.parametrize("n", [5, 12, 120])
def test_the_shift_interval_covers(n: int) -> None:
    rng = np.random.default_rng(n)
    rounds = 100 if n > 100 else 300
    hits = 0
    for _ in range(rounds):
        found = difference(list(rng.normal(size=n)), list(rng.normal(loc=1, size=n))).shift_interval
        assert found is not None
        assert found.level >= 0.94
        hits += found.low <= 1 <= found.high
    assert hits >= stats.binom(rounds, 0.95).ppf(1e-4)


def test_holm_gives_the_published_adjustment() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_proportion_is_clopper_pearson() -> None:
    # R: binom.test(7, 20)$conf.int
    found = proportion(7, 20).interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.1539092, 0.5921885), abs=1e-6)
    none = proportion(0, 10).interval
    assert none is not None
    assert (none.low, none.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))
    with pytest.raises(ValueError, match="3 of 2"):
        proportion(3, 2)


def test_paired_ratio_is_within_pairs() -> None:
    found = paired_ratio([(1.0, 2.0), (10.0, 20.0), (100.0, 200.0)])
    assert (found.value, found.n) == (2.0, 3)
    with pytest.raises(ValueError, match="positive"):
        paired_ratio([(0.0, 1.0)])


def test_outliers_are_positions_and_few_samples_have_none() -> None:
    assert outliers([10.0, 10.1, 9.9, 10.2, 30.0]) == [4]
    assert outliers([10.0, 10.1, 30.0]) == []
    assert outliers([1.0, 1.0, 1.0, 1.0, 9.0]) == []


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")]])
def test_no_samples_are_no_number(wrong: list[float]) -> None:
    with pytest.raises(ValueError):
        median(wrong)


def test_a_cost_curve_is_theil_and_sens_line() -> None:
    rng = np.random.default_rng(7)
    points = [(n, 3 + 0.5 * n + float(rng.normal(0, 0.2))) for n in (1, 10, 40) for _ in range(6)]
    curve = cost_curve(points)
    x, y = [n for n, _ in points], [value for _, value in points]
    slope = stats.theilslopes(y, x).slope
    assert curve.marginal.value == pytest.approx(slope)
    assert curve.fixed.value == pytest.approx(float(np.median(np.array(y) - slope * np.array(x))))
    assert curve.lengths == ((1, 6), (10, 6), (40, 6))


def test_a_cost_curve_without_noise_has_no_width_and_one_run_of_a_length_no_interval() -> None:
    exact = cost_curve([(n, 2.0 + 0.25 * n) for n in (1, 40) for _ in range(3)])
    assert exact.fixed.interval is not None and exact.marginal.interval is not None
    assert (exact.fixed.interval.low, exact.fixed.interval.high) == pytest.approx((2.0, 2.0))
    assert (exact.marginal.interval.low, exact.marginal.interval.high) == pytest.approx((0.25, 0.25))
    assert cost_curve([(1, 1.0), (40, 2.0), (40, 2.1)]).marginal.interval is None
    with pytest.raises(ValueError, match="two lengths"):
        cost_curve([(10, 1.0), (10, 2.0)])


def test_cost_curves_cover_at_their_nominal_level_with_five_runs_of_a_length() -> None:
    """The published design, 1, 10 and 40 steps: no fewer than 95 % leaves probable; plain percentiles cover 88 %."""
    rng = np.random.default_rng(11)
    trials, fixed, step = 60, 0, 0
    for trial in range(trials):
        points = [(n, 3 + 0.5 * n + float(rng.normal(0, 0.3))) for n in (1, 10, 40) for _ in range(5)]
        found = cost_curve(points, seed=trial)
        assert found.fixed.interval is not None and found.marginal.interval is not None
        fixed += found.fixed.interval.low <= 3 <= found.fixed.interval.high
        step += found.marginal.interval.low <= 0.5 <= found.marginal.interval.high
    assert min(fixed, step) >= stats.binom(trials, 0.95).ppf(0.05)


@pytest.mark.parametrize(("n", "m"), [(3, 9), (7, 4), (5, 5), (8, 8)])
def test_the_permutation_test_is_scipys(n: int, m: int) -> None:
    """Over all arrangements, with ties and without."""
    rng = np.random.default_rng(n * m)
    for decimals in (0, 1, 6):
        a, b = rng.normal(size=n).round(decimals), (rng.normal(size=m) + 0.4).round(decimals)
        ranks = stats.rankdata(np.concatenate([a, b]))
        reference = stats.permutation_test(
            (ranks[:n], ranks[n:]),
            lambda x, y, axis=-1: np.sum(x, axis=axis),
            vectorized=True,
            n_resamples=np.inf,
        )
        found = difference(list(a), list(b))
        assert found.exact and found.p == pytest.approx(reference.pvalue)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (31, 31), (12, 30), (50, 7), (2, 500)])
def test_many_runs_are_counted_as_mann_whitneys_test_counts(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(size=m) + 0.3
    found = difference(list(a), list(b))
    assert found.exact and p_by(found.exact) == "exact"
    assert found.p == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue)
    assert found.smallest_p == pytest.approx(2 / comb(n + m, n))
    other = difference(list(b), list(a))
    assert (other.p, other.shift) == (pytest.approx(found.p), pytest.approx(-found.shift))


def test_many_runs_are_tested_by_the_normal_approximation() -> None:
    rng = np.random.default_rng(4)
    for decimals in (1, 6):  # with values alike, and without
        a, b = rng.normal(size=150).round(decimals), (rng.normal(size=150) + 0.2).round(decimals)
        found = difference(list(a), list(b))
        assert found.p == pytest.approx(stats.mannwhitneyu(a, b, method="asymptotic").pvalue)
    assert p_by(found.exact) == "normal approximation"
    assert (
        found.shift_interval is not None
        and found.shift_interval.low < found.shift < found.shift_interval.high
    )
    assert difference([0.0], list(range(1, 61))).p is not None, "one run against sixty"


def test_only_differences_with_a_p_are_of_the_family() -> None:
    far = difference([1, 2, 3, 4, 5, 6], [11, 12, 13, 14, 15, 16])
    near = difference([1, 2, 3, 4, 5, 6], [1.5, 2.5, 3.5, 4.5, 5.5, 6.5])
    few = difference([1, 2], [3, 4])
    one, two, three = judge([far, few, near])
    assert (one.p, two.p, three.p) == (pytest.approx(2 * (far.p or 0)), None, near.p)
    assert [each.tests for each in (one, two, three)] == [2, 2, 2]
    assert [each.verdict for each in (one, two, three)] == [
        "slower, effect large",
        "cannot tell: n=2 and 2 are too few: no p below 0.33 is possible",
        "no difference seen",
    ]
    rows: list[dict[str, Any]] = [{"difference": far}, {"difference": None}, {"difference": few}]
    judge_rows(rows)
    assert rows[1] == {"difference": None} and rows[0]["difference"]["size"] == "large"
    assert rows[0]["difference"]["p_holm"] == rows[0]["difference"]["smallest_p_holm"] == far.p


def test_what_could_not_be_rejected_is_not_called_alike() -> None:
    """4 against 4 beside one other test: the smallest p is 2 of 70, twice that is above 0.05."""
    near = difference([1, 3, 5, 7], [2, 4, 6, 8])
    alone, beside = judge([near])[0], judge([near, near])[0]
    assert alone.verdict == "no difference seen"
    assert beside.verdict.startswith("cannot tell: n too small for this many comparisons (n=4 and 4: ")
    assert beside.smallest_p == pytest.approx(4 / 70)
    far = difference([1, 2, 3, 4], [5, 6, 7, 8])
    strong = difference([*range(9)], [*range(20, 29)])
    assert judge([far, strong])[0].verdict == "slower, effect large", "Holm's last step has no factor"


def test_a_line_through_many_runs_draws_less_often_and_says_so() -> None:
    few = [(length, length + number / 100) for length in (1, 10) for number in range(20)]
    many = [(length, length + number / 100) for length in (1, 10) for number in range(100)]
    one, other = cost_curve(few).marginal.interval, cost_curve(many).marginal.interval
    assert one is not None and one.method == "expanded percentile bootstrap within lengths"
    assert other is not None and other.method.endswith(", 199 resamples")
    assert other.low <= 1.0 <= other.high


def test_a_sum_has_the_same_bits_on_every_python() -> None:
    """From 3.12 on, `sum` gives 1.0 here; stored residuals, and the report's bytes, are of the one below."""
    assert added([0.1] * 10) == 0.9999999999999999
    assert added([]) == 0.0
