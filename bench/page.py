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
from markdown_it.token import Token

from bench import curves, drawing
from bench.cells import PART_ORDER

TITLE = "Pipeline orchestrators, measured"
PICTURES_IN = "where-the-time-goes"
"""The section that begins with pictures, by the id of its heading; so does the next."""
CURVES_IN = "the-cost-of-a-step"
DOTS_IN = "orchestrators-against-each-other"
"""The section before which the distributions of the comparison stand."""
COLOURS = (
    "#4477aa",
    "#66ccee",
    "#ccbb44",
    "#aa3377",
    "#228833",
    "#ee6677",
    "#88ccaa",
    "#bbbbbb",
    "#ddaa33",
    "#225588",
    "#999933",
)
"""Of the parts of a run, in their order: Tol's bright and muted schemes, told apart with colour blindness too."""
WIDTH, BAR, GAP = 1000, 22, 34
STRIP, LABEL, DOT, MARGIN = 30, 330, 4.5, 24
"""Of a row of dots, in pixels: its height, the room for its name, a dot's radius, the room at the right."""


def page(markdown: str, content: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The whole page. `content` is what the report says as data, `pictures` are SVG texts by file name."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    sections = _sections(tokens)
    drawn = bars(content["breakdowns"]) + _figures(pictures)
    begun = {PICTURES_IN: drawn, CURVES_IN: curves.figures(content["curves"])}
    body = _render(parser, tokens, begun, {DOTS_IN: dots(content["tables"])})
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True)
    source = (files("bench") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(title=TITLE, sections=sections, body=body, inks=curves.INKS)


def _sections(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Id and text of each second-level heading; every heading gets its id on the way."""
    found = []
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            name = slug(following.content)
            token.attrSet("id", name)
            if token.tag == "h2":
                found.append((name, following.content))
    return found


def slug(text: str) -> str:
    """A heading's id: `Where the time goes` is `where-the-time-goes`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _render(
    parser: MarkdownIt, tokens: Sequence[Token], after: Mapping[str, str], before: Mapping[str, str]
) -> str:
    """HTML, with more `before` and `after` headings, by id; tables scroll by keyboard, named after their section."""
    renderer = parser.renderer
    assert isinstance(renderer, RendererHTML)
    out, heading, extra = [], "", ""
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[number + 1].content
            extra = after.get(str(token.attrGet("id")), "")
            out.append(before.get(str(token.attrGet("id")), ""))
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        if token.type == "table_open":
            label = html.escape(heading, quote=True)
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


def bars(breakdowns: Sequence[Mapping[str, Any]]) -> str:
    """A stacked bar for each scenario, all to one scale: medians of the parts; negative ones are left out."""
    shown = [entry for entry in breakdowns if entry["orchestrator"] != "noop"]
    if not shown:
        return ""
    longest = max(sum(max(part["median"], 0.0) for part in entry["parts"]) for entry in shown)
    colours = dict(zip(PART_ORDER, COLOURS, strict=True))
    rows = []
    for number, entry in enumerate(shown):
        top, left = number * (BAR + GAP), 0.0
        whole = sum(max(part["median"], 0.0) for part in entry["parts"])
        text = html.escape(f"{entry['scenario']}{' (' + entry['knob'] + ')' if entry['knob'] else ''}")
        rows.append(f'<text x="0" y="{top + 14}">{text}: {drawing.seconds(whole)}, n={entry["n"]}</text>')
        for part in entry["parts"]:
            width = max(part["median"], 0.0) / longest * WIDTH
            if width <= 0:
                continue
            name = f"{part['name']} {drawing.seconds(part['median'])}"
            fill = colours.get(part["name"], "#777777")
            rows.append(
                f'<rect x="{left:.1f}" y="{top + 20}" width="{width:.1f}" height="{BAR}" fill="{fill}">'
                f"<title>{html.escape(name)}</title></rect>"
            )
            left += width
    used = [name for name in PART_ORDER if any(part["name"] == name for e in shown for part in e["parts"])]
    legend = "".join(
        f'<li><span class="swatch" style="background:{colours[name]}"></span>{html.escape(name)}</li>'
        for name in used
    )
    caption = (
        "Medians of the parts of a run, in the order they first occur; one scale. Numbers: the tables below."
    )
    height = len(shown) * (BAR + GAP)
    return (
        f'<figure><ul class="legend" aria-hidden="true">{legend}</ul>'
        f'<div class="wide picture" role="img" tabindex="0" aria-label="{caption}">'
        f'<svg class="bars" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">'
        f"{''.join(rows)}</svg></div>"
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def dots(tables: Sequence[Mapping[str, Any]]) -> str:
    """Every run as a dot on the scale of its table, a line at the median: what a median alone would hide."""
    figures = []
    for table in tables:
        rows = [row for row in table["rows"] if row["makespans"] and row["orchestrator"] != "noop"]
        if len(rows) < 2:
            continue
        work = f"{table['workload']}-{table['steps']}"
        caption = (
            f"{table['target']}, one {table['task']} per step, {work} ({table['environment']}): makespan of every run, "
            "a line at the median."
        )
        figures.append(_strips(rows, caption))
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
            f"<title>{drawing.seconds(value)}</title></circle>"
            for value in row["makespans"]
        ]
    text = html.escape(caption)
    return (
        f'<figure><div class="wide picture" role="img" tabindex="0" aria-label="{text}">'
        f'<svg class="dots" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 24}">'
        f"{''.join(drawn)}</svg></div><figcaption>{text}</figcaption></figure>\n"
    )
