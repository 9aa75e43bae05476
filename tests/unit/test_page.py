"""The report as a page: bars that can be told apart, tables whose rows keep their name, nothing named twice."""

import html
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from bench.analysis.cells import PART_ORDER
from bench.report.build import build
from bench.report.contents import contents
from bench.report.numbers import seconds
from bench.report.page import COLOURS, _inline, bars, contrast
from tests.unit.made_records import made, scenario

STYLE = Path(__file__).parents[2] / "bench" / "report" / "templates" / "report.html.j2"
BACKS = re.findall(r"--back: (#[0-9a-f]{6})", STYLE.read_text(encoding="utf-8"))


def spent() -> list[dict[str, Any]]:
    chains = [
        made(scenario("argo", "chain", length, configuration=configuration), n, handoff=handoff)
        for length, handoff in ((1, 0.1), (40, 3.0))
        for configuration in ("default", "tuned")
        for n in range(3)
    ]
    found: list[dict[str, Any]] = contents(chains)["spent"]
    return found


def test_a_plain_text_is_parsed_as_the_parser_would() -> None:
    cells = [
        "12.3 s",
        "a_b_ c",
        "a & b",
        "&#124;",
        "<b>",
        "https://a.b",
        "[x](y)",
        "a\\*b",
        "**n**",
        "",
        "é †",
        '"q"',
        "--- ~",
    ]
    text = "\n\n".join(["# A `b` c", "one\ntwo", *cells, "| a | b |\n|---|---|", "- x\n- *y*"])
    text += "\n\n| a | b |\n|---|---|\n" + "\n".join(f"| {cell} | 1 |" for cell in cells)
    usual = MarkdownIt("commonmark", {"html": False}).enable("table")
    quick = MarkdownIt("commonmark", {"html": False}).enable("table")
    quick.core.ruler.at("inline", _inline)
    assert quick.render(text) == usual.render(text)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colour", COLOURS)
def test_every_part_stands_out_from_the_page_light_and_dark(colour: str) -> None:
    assert len(BACKS) == 2 and len(set(COLOURS)) == len(COLOURS) == len(PART_ORDER)
    assert min(contrast(colour, back) for back in BACKS) >= 3, "WCAG 2.2, 1.4.11"
    assert max(contrast(colour, ink) for ink in ("#ffffff", "#000000")) >= 4.5, "for the name in it"


def test_a_gap_in_the_pages_colour_is_between_neighbours() -> None:
    assert re.search(r"svg\.bars rect \{ stroke: var\(--back\);", STYLE.read_text(encoding="utf-8"))


def test_every_work_has_a_figure_on_its_own_scale_with_a_legend_that_is_read() -> None:
    short, long = spent()
    for table in (short, long):
        figure = bars(table)
        assert "aria-hidden" not in figure
        assert re.findall(r"</span>(\d+) (\w+)</li>", figure) == [
            (str(PART_ORDER.index(name) + 1), name) for name in table["columns"]
        ]
        drawn = re.findall(r'<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)"', figure)
        widest = max(
            sum(float(width) for _, y, width in drawn if y == row) for row in {y for _, y, _ in drawn}
        )
        assert widest == pytest.approx(1000, abs=1)


def test_the_number_at_a_bar_is_the_median_makespan_and_the_caption_says_what_is_drawn() -> None:
    table = spent()[1]
    figure = html.unescape(bars(table))
    for row in table["rows"]:
        said = f"argo {row['configuration']}, a step is a pod: {seconds(row['makespan']['value'])}, n=3"
        assert f">{said}</text>" in figure
    caption = re.search(r"<figcaption>(.*?)</figcaption>", figure)
    assert caption and caption[1].startswith("kind: chain-40. The median of each part")
    for words in ("median makespan", "not above zero is not drawn", "The table below"):
        assert words in caption[1]


def test_wide_parts_carry_their_name_narrow_ones_their_number() -> None:
    row: dict[str, Any] = {
        "orchestrator": "x", "configuration": "default", "task": "pod", "makespan": {"value": 100.0, "n": 1},
        "parts": {
            name: {"name": name, "median": value}
            for name, value in (("accept", 0.1), ("queue", 3.0), ("create", -1.0), ("handoff", 96.9))
        },
    }  # fmt: skip
    figure = bars({"title": "t", "columns": list(row["parts"]), "rows": [row]})
    assert re.findall(r'text-anchor="middle"[^>]*>([^<]*)<', figure) == ["2", "handoff"]
    assert figure.count("<rect") == 3, "what is below zero is not drawn"
    lefts = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', figure)]
    assert all(a < b for a, b in pairwise(lefts))


def page(folder: Path) -> str:
    of = [scenario(name, "chain", length) for name in ("argo", "pods") for length in (3, 10)]
    records = [made(each, n) for each in of for n in range(2)]
    local = [made(scenario("airflow", "chain", 3, target="local"), n, task="process") for n in range(2)]
    timing = {"n": 3, "median": 0.02, "q1": 0.01, "q3": 0.03}
    own = {"recorded_at": "2026-09-21", "cpu": "made up", "cores": 2, "python": "3.11", "note": ""}
    build([*records, *local], folder, own={**own, "benchmarks": {"test_one_sample": {"": timing}}})
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_row_is_headed_by_whose_it_is(tmp_path: Path) -> None:
    tables = re.findall(r"<table>.*?</table>", page(tmp_path), re.DOTALL)
    assert len(tables) > 8
    for table in tables:
        heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
        key = heads.index("orchestrator") if "orchestrator" in heads else 0
        for row in re.findall(r"<tr>\n(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL):
            cells = re.findall(r"<(t[hd])( [^>]*)?>", row)
            assert [number for number, (tag, _) in enumerate(cells) if tag == "th"] == [key]
            assert 'scope="row"' in cells[key][1]
            assert row.count("<th") == row.count("</th>")


def test_rows_keep_their_head_where_a_table_is_scrolled() -> None:
    assert re.search(
        r"tbody th \{[^}]*position: sticky; left: 0;", STYLE.read_text(encoding="utf-8"), re.DOTALL
    )


def test_no_two_tables_figures_or_headings_have_one_name(tmp_path: Path) -> None:
    text = page(tmp_path)
    labels = re.findall(r'aria-label="([^"]*)"', text)
    assert len(labels) == len(set(labels)) > 12
    assert "Table: Where the time goes, kind: chain-3" in labels
    assert {"Table: What measuring costs", "Table: What measuring costs (2)"} <= set(labels)
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_a_figure_stands_above_its_table(tmp_path: Path) -> None:
    text = page(tmp_path)
    for name in ("kind-chain-3", "kind-chain-10", "local-chain-3"):
        section = text.partition(f'<h3 id="{name}">')[2].partition("<h")[0]
        assert 0 < section.index('<svg class="bars"') < section.index("<table>")
