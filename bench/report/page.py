"""The report as one HTML page: the Markdown's text, with pictures and bars in it, and nothing from elsewhere."""

import html
import itertools
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from bench.analysis.cells import PART_ORDER
from bench.analysis.statistics import added
from bench.report import curves, numbers

TITLE = "Pipeline orchestrators, measured"
PICTURES_IN = "where-the-time-goes"
"""The section that begins with pictures, by the id of its heading; so does the next."""
CURVES_IN = "the-cost-of-a-step"
DOTS_IN = "orchestrators-against-each-other"
"""The section before which the distributions of the comparison stand."""
PLAIN = re.compile(r"[^\\`*_\[\]!<>&\n]*")
"""A text without a character that means something else to Markdown."""
KEY = "orchestrator"
"""The column that heads the rows of a table, its first where there is no such column."""
COLOURS = (
    "#4477aa",
    "#0d8ba6",
    "#8f7f1a",
    "#c2458d",
    "#228833",
    "#e0525f",
    "#2a967a",
    "#808890",
    "#b87400",
    "#6f63c9",
    "#9a6b3f",
)
"""Of the parts of a run, in their order: each at least 3:1 against the page, light and dark. Their neighbours are
told apart by the gap between them, by number and by name."""
WIDTH, BAR, GAP = 1000, 26, 32
LETTER = 7.5
"""Of the text in a bar, at most, in pixels."""
STRIP, LABEL, DOT, MARGIN = 30, 330, 4.5, 24
"""Of a row of dots, in pixels: its height, the room for its name, a dot's radius, the room at the right."""


def page(markdown: str, content: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The whole page. `content` is what the report says as data, `pictures` are SVG texts by file name."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.core.ruler.at("inline", _inline)
    tokens = parser.parse(markdown)
    sections = _sections(tokens)
    begun = {
        PICTURES_IN: _figures(pictures),
        CURVES_IN: curves.figures(content["curves"]),
        **{slug(table["title"]): bars(table) for table in content["spent"]},
    }
    body = _render(parser, tokens, begun, {DOTS_IN: dots(content["tables"])})
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True)
    source = (files("bench.report") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(title=TITLE, sections=sections, body=body, inks=curves.INKS)


def _inline(state: StateCore) -> None:
    """The parser's own rule, which most texts here have no need of: they are a number or a name in a table."""
    for token in state.tokens:
        if token.type != "inline":
            continue
        token.children = []
        if PLAIN.fullmatch(token.content):
            token.children.append(Token("text", "", 0, content=token.content))
        else:
            state.md.inline.parse(token.content, state.md, state.env, token.children)


def _sections(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Id and text of each second-level heading; every heading gets its id on the way, one of its own."""
    found = []
    seen: dict[str, int] = {}
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            name = slug(_text(following))
            seen[name] = seen.get(name, 0) + 1
            token.attrSet("id", name if seen[name] == 1 else f"{name}-{seen[name] - 1}")
            if token.tag == "h2":
                found.append((name, following.content))
    return found


def _text(inline: Token) -> str:
    """Without markup."""
    return "".join(child.content for child in inline.children or ())


def slug(text: str) -> str:
    """A heading's id: `Where the time goes` is `where-the-time-goes`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _render(
    parser: MarkdownIt, tokens: Sequence[Token], after: Mapping[str, str], before: Mapping[str, str]
) -> str:
    """HTML, with more `before` and `after` headings, by id; tables scroll by keyboard, named after their section."""
    renderer = parser.renderer
    assert isinstance(renderer, RendererHTML)
    out, extra = [], ""
    headings: dict[str, str] = {}
    named: dict[str, int] = {}
    _head_rows(tokens)
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            above = {tag: text for tag, text in headings.items() if tag < token.tag and tag != "h1"}
            headings = {**above, token.tag: _text(tokens[number + 1])}
            extra = after.get(str(token.attrGet("id")), "")
            out.append(before.get(str(token.attrGet("id")), ""))
        if token.type == "table_open":
            label = ", ".join(headings.values())
            named[label] = named.get(label, 0) + 1
            label = html.escape(f"{label} ({named[label]})" if named[label] > 1 else label, quote=True)
            out.append(f'<div class="wide" role="region" tabindex="0" aria-label="Table: {label}">\n')
        if token.type == "inline":
            out.append(renderer.renderInline(token.children or [], parser.options, {}))
        else:
            out.append(renderer.renderToken(tokens, number, parser.options, {}))
        if token.type == "table_close":
            out.append("</div>\n")
        elif token.type == "heading_close" and extra:
            out.append(extra)
            extra = ""
    return "".join(out)


def _head_rows(tokens: Sequence[Token]) -> None:
    """Give every table's heads their scope, and make heads of the cells that say what a row is about."""
    heads: list[str] = []
    column = key = 0
    for number, token in enumerate(tokens):
        if token.type == "thead_open":
            heads = []
        elif token.type == "thead_close":
            key = heads.index(KEY) if KEY in heads else 0
        elif token.type == "tr_open":
            column = -1
        elif token.type == "th_open":
            token.attrSet("scope", "col")
            heads.append(_text(tokens[number + 1]))
        elif token.type == "td_open":
            column += 1
            if column == key:
                token.tag = "th"
                token.attrSet("scope", "row")
        elif token.type == "td_close" and column == key:
            token.tag = "th"


def _figures(pictures: Mapping[str, str]) -> str:
    found = []
    for name, svg in sorted(pictures.items()):
        target = name.removeprefix("timelines-").removesuffix(".svg")
        caption = (
            f"One run of the pipeline under each orchestrator as shipped, on {target}, drawn to one scale."
        )
        found.append(
            f'<figure><div class="wide picture" role="img" tabindex="0" aria-label="{html.escape(caption)}">'
            f"{svg[svg.index('<svg') :]}</div><figcaption>{html.escape(caption)}</figcaption></figure>\n"
        )
    return "".join(found)


def bars(table: Mapping[str, Any]) -> str:
    """A stacked bar for each row of a table of parts, on a scale of its own: medians; negative ones are left out."""
    rows = table["rows"]
    sums = [added(max(part["median"], 0.0) for part in row["parts"].values()) for row in rows]
    scale = WIDTH / (max(sums) or 1.0)
    drawn = []
    for number, row in enumerate(rows):
        top = number * (BAR + GAP)
        name = f"{row['orchestrator']} {row['configuration']}, a step is a {row['task']}"
        text = html.escape(f"{name}: {numbers.seconds(row['makespan']['value'])}, n={row['makespan']['n']}")
        drawn.append(f'<text x="0" y="{top + 18}">{text}</text>')
        left = 0.0
        for part in row["parts"].values():
            if (width := max(part["median"], 0.0) * scale) > 0:
                drawn.append(_segment(part, left, top + 24, width))
            left += width
    legend = "".join(
        f'<li><span class="swatch" style="background:{_colour(name)}"></span>{_number(name)} {html.escape(name)}</li>'
        for name in table["columns"]
    )
    caption = html.escape(
        f"{table['title']}. The median of each part of a run, laid end to end in the order in which they first occur, "
        "on one scale. The number beside a name is the median makespan, which medians of parts need not add up to; "
        "a part whose median is not above zero is not drawn. The table below has the numbers."
    )
    return (
        f'<figure><ul class="legend">{legend}</ul>'
        f'<div class="wide picture" role="img" tabindex="0" aria-label="{caption}">'
        f'<svg class="bars" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(rows) * (BAR + GAP)}">'
        f"{''.join(drawn)}</svg></div>"
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _segment(part: Mapping[str, Any], left: float, top: int, width: float) -> str:
    """A part's rectangle, with its name in it where there is room, or its number, or nothing."""
    name, fill = part["name"], _colour(part["name"])
    shown = next((text for text in (name, _number(name)) if len(text) * LETTER + 6 <= width), "")
    ink = max(("#ffffff", "#000000"), key=lambda colour: contrast(colour, fill))
    said = html.escape(f"{name} {numbers.seconds(part['median'])}")
    text = (
        f'<text x="{left + width / 2:.1f}" y="{top + 18}" text-anchor="middle" style="fill:{ink}">'
        f"{html.escape(shown)}</text>"
    )
    return (
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{fill}"><title>{said}</title></rect>'
        f"{text if shown else ''}"
    )


def _colour(part: str) -> str:
    return COLOURS[PART_ORDER.index(part)] if part in PART_ORDER else "#777777"


def _number(part: str) -> str:
    return str(PART_ORDER.index(part) + 1) if part in PART_ORDER else "?"


def contrast(one: str, other: str) -> float:
    """Of two colours (`#rrggbb`), from 1 to 21 (WCAG 2.2)."""
    a, b = (_luminance(colour) + 0.05 for colour in (one, other))
    return max(a, b) / min(a, b)


def _luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels)
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def dots(tables: Sequence[Mapping[str, Any]]) -> str:
    """Every run as a dot on the scale of its table, a line at the median: what a median alone would hide."""
    figures = []
    for table in tables:
        rows = [row for row in table["rows"] if row["makespans"] and row["orchestrator"] != "noop"]
        if len(rows) < 2:
            continue
        figures.append(_strips(rows, f"{table['title']}. Makespan of every run, a line at the median."))
    return f"<h3>Every run</h3>\n{''.join(figures)}" if figures else ""


def _strips(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    longest = max(row["makespans"][-1] for row in rows)
    scale = (WIDTH - LABEL - MARGIN) / longest
    height = len(rows) * STRIP
    drawn = []
    for tick in curves.ticks(longest):
        at = LABEL + tick * scale
        drawn.append(f'<path class="tick" d="M{at:.1f} 0v{height}"/>')
        drawn.append(f'<text x="{at:.1f}" y="{height + 18}" text-anchor="middle">{tick:g} s</text>')
    for number, row in enumerate(rows):
        middle = number * STRIP + STRIP / 2
        name = html.escape(f"{row['orchestrator']} {row['configuration']}, n={row['n']}")
        at = LABEL + row["makespan"]["value"] * scale
        drawn.append(f'<text x="0" y="{middle + 5:.0f}">{name}</text>')
        drawn.append(f'<path class="median" d="M{at:.1f} {middle - 11:.0f}v22"/>')
        drawn += [
            f'<circle cx="{LABEL + value * scale:.1f}" cy="{middle:.0f}" r="{DOT}">'
            f"<title>{numbers.seconds(value)}</title></circle>"
            for value in row["makespans"]
        ]
    text = html.escape(caption)
    return (
        f'<figure><div class="wide picture" role="img" tabindex="0" aria-label="{text}">'
        f'<svg class="dots" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 24}">'
        f"{''.join(drawn)}</svg></div><figcaption>{text}</figcaption></figure>\n"
    )
