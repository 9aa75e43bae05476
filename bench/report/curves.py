"""The cost of a step, drawn: makespan against the length of a chain, a mark for each run, a line for each fit.

Lines are told apart by the shape of their marks and by their name at the end, not by colour alone.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.numbers import seconds

WIDTH, HIGH = 1000, 290
"""Of the whole and, at least, of the plot in it. Pixels."""
LEFT, RIGHT, TOP, BOTTOM = 64, 370, 26, 46
"""Room around the plot for the numbers of its axes and, at the right, for the names of its lines. Pixels."""
LINE = 19
"""Between the names of two lines at least."""
APART = 34
"""Between the numbers of two lengths at least."""
INKS = 8
"""Colours that the page's style has for light and dark, as `ink0` and so on."""
SHAPES = (
    "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0",
    "M-3.8-3.8h7.6v7.6h-7.6z",
    "M0-5.2l4.8 8.4h-9.6z",
    "M0-5.6l5.6 5.6l-5.6 5.6l-5.6-5.6z",
    "M-5 0h10M0-5v10",
    "M0 5.2l-4.8-8.4h9.6z",
    "M-4-4l8 8M-4 4l8-8",
)
"""Disc, square, triangle, diamond, plus, triangle upside down, cross; seven and eight have no common factor."""


def figures(curves: Sequence[Mapping[str, Any]]) -> str:
    """A chart for each environment, kind of step and kind of chain; nothing where there is no curve."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in curves:
        key = (row["environment"], row["target"], row["task"], tuple(row["parameters"].items()))
        groups.setdefault(key, []).append(row)
    return "".join(_figure(members) for members in groups.values())


def _figure(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    chain = "".join(f", {name}={value}" for name, value in first["parameters"].items())
    caption = (
        f"{first['target']}, one {first['task']} per step, chains{chain} ({first['environment']}): makespan of every "
        "run against the number of steps, and the line fitted to them. A line's height at 0 is what a run costs "
        "whatever its length, where the table below tells that apart from 0."
    )
    said = html.escape(f"{caption} {'; '.join(map(_name, rows))}.")
    text = html.escape(caption)
    return (
        f'<figure><div class="wide picture" role="img" tabindex="0" aria-label="{said}">'
        f"{_chart(rows)}</div><figcaption>{text}</figcaption></figure>\n"
    )


def _name(row: Mapping[str, Any]) -> str:
    """`argo tuned: 9.10 s + 8.20 s a step`."""
    fixed, step = row["fixed"]["value"], row["marginal"]["value"]
    sign = "+" if step >= 0 else "−"
    return (
        f"{row['orchestrator']} {row['configuration']}: {seconds(fixed)} {sign} {seconds(abs(step))} a step"
    )


def _chart(rows: Sequence[Mapping[str, Any]]) -> str:
    longest = max(entry["steps"] for row in rows for entry in row["lengths"])
    most = max(value for row in rows for _, value in row["points"])
    wide, high = WIDTH - LEFT - RIGHT, max(HIGH, LINE * len(rows))
    x = wide / (longest * 1.03)
    y = high / (most * 1.04)
    floor = TOP + high
    drawn = [f'<text x="0" y="{TOP - 12}">makespan</text>']
    for tick in ticks(most):
        at = floor - tick * y
        drawn.append(f'<path class="tick" d="M{LEFT} {at:.1f}h{wide}"/>')
        drawn.append(f'<text x="{LEFT - 8}" y="{at + 5:.1f}" text-anchor="end">{tick:g} s</text>')
    for length in _apart(sorted({0, *(entry["steps"] for row in rows for entry in row["lengths"])}), x):
        at = LEFT + length * x
        drawn.append(f'<path class="tick" d="M{at:.1f} {floor}v5"/>')
        drawn.append(f'<text x="{at:.1f}" y="{floor + 20}" text-anchor="middle">{length}</text>')
    drawn.append(f'<text x="{LEFT + wide / 2:.1f}" y="{floor + 40}" text-anchor="middle">steps</text>')
    marks, ends = [], []
    for number, row in enumerate(rows):
        fixed, step = row["fixed"]["value"], row["marginal"]["value"]
        name = html.escape(f"{row['orchestrator']} {row['configuration']}")
        marks.append(
            f'<g class="ink{number % INKS}"><path class="fit" d="M0 {high - fixed * y:.1f}'
            f'L{longest * x:.1f} {high - (fixed + longest * step) * y:.1f}"/>'
        )
        marks += [
            f'<path transform="translate({length * x:.1f} {high - value * y:.1f})" d="{_shape(number)}">'
            f"<title>{name}, {length} steps: {seconds(value)}</title></path>"
            for length, value in row["points"]
        ]
        marks.append("</g>")
        ends.append(min(max(floor - (fixed + longest * step) * y, TOP), floor))
    # What a line has outside of the plot, such as a fixed cost below 0, is cut off by an SVG of its own.
    drawn.append(f'<svg x="{LEFT}" y="{TOP}" width="{wide}" height="{high}">{"".join(marks)}</svg>')
    for number, (row, end, at) in enumerate(zip(rows, ends, _spread(ends, floor), strict=True)):
        start, left = LEFT + longest * x, LEFT + wide + 26
        drawn.append(
            f'<g class="ink{number % INKS}"><path class="lead" d="M{start + 4:.1f} {end:.1f}L{left - 9} {at:.1f}"/>'
            f'<path transform="translate({left} {at:.1f})" d="{_shape(number)}"/></g>'
            f'<text x="{left + 12}" y="{at + 5:.1f}">{html.escape(_name(row))}</text>'
        )
    return (
        f'<svg class="curves" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {floor + BOTTOM}">'
        f"{''.join(drawn)}</svg>"
    )


def ticks(longest: float) -> list[float]:
    """Round numbers from 0 to at most `longest`, at most six of them."""
    size = 10.0 ** math.floor(math.log10(longest))
    step = next(s for s in (size / 10, size / 5, size / 2, size, 2 * size) if longest / s < 6)
    return [step * number for number in range(int(longest / step) + 1)]


def _shape(number: int) -> str:
    return SHAPES[number % len(SHAPES)]


def _apart(lengths: Sequence[int], scale: float) -> list[int]:
    """Those whose numbers do not touch; the longest is always among them."""
    kept = [lengths[-1]]
    for length in reversed(lengths[:-1]):
        if (kept[0] - length) * scale >= APART:
            kept.insert(0, length)
    return kept


def _spread(ends: Sequence[float], floor: float) -> list[float]:
    """Heights from TOP to `floor` at which names do not touch, in the order of their lines' ends and near them."""
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    placed = [0.0] * len(ends)
    least = float(TOP)
    for i in order:
        placed[i] = max(ends[i], least)
        least = placed[i] + LINE
    most = floor
    for i in reversed(order):
        placed[i] = min(placed[i], most)
        most = placed[i] - LINE
    return placed
