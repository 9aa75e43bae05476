"""The report page in a real browser: headless Chromium, from a file, wide and narrow, light and dark."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.report.build import build
from bench.results.store import Store
from cluster import host
from tests.unit.made_records import made, scenario
from tests.unit.test_lineage import asked, complete

ROOT = Path(__file__).parents[2]
NAMES = ("argo", "airflow", "dagster", "kfp", "pods", "prefect", "seventh", "eighth")
LENGTHS = (3, 10)
DARK, LIGHT = "0", "1"
PROBE = """
const lum = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => { x /= 255;
  return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4 });
  return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2] };
const back = e => { for (; e; e = e.parentElement) {
  const c = e.ownerDocument.defaultView.getComputedStyle(e).backgroundColor;
  if (c !== 'rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' };
addEventListener('load', () => {
  const d = document.querySelector('iframe').contentDocument, w = d.defaultView;
  const text = [...d.querySelectorAll('p, li, td, th, h1, h2, h3, a, figcaption')];
  const apart = (one, other) => { const a = lum(one), b = lum(other);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
  const fill = e => w.getComputedStyle(e).fill;
  const contrasts = text.map(e => apart(w.getComputedStyle(e).color, back(e)));
  const tables = [...d.querySelectorAll('.wide')].filter(e => e.querySelector('tbody th'));
  tables.forEach(e => { e.scrollLeft = 99999 });
  const away = e => { const a = e.getBoundingClientRect(), b = e.closest('.wide').getBoundingClientRect();
    return a.left < b.left - 1 || a.left > b.right };
  const found = {
    width: d.documentElement.clientWidth, scroll: d.documentElement.scrollWidth,
    contrast: Math.min(...contrasts), back: back(d.body), texts: text.length,
    tables: d.querySelectorAll('table').length, bars: d.querySelectorAll('svg.bars rect').length,
    parts: Math.min(...[...d.querySelectorAll('svg.bars rect')].map(e => apart(fill(e), back(e)))),
    partNames: Math.min(...[...d.querySelectorAll('svg.bars text[style]')].map(
      e => apart(fill(e), fill(e.previousElementSibling)))),
    scrolled: tables.filter(e => e.scrollLeft > 0).length,
    headless: tables.flatMap(e => [...e.querySelectorAll('tbody th')]).filter(away).length,
    labels: [...d.querySelectorAll('[aria-label]')].map(e => e.getAttribute('aria-label')),
    names: [...d.querySelectorAll('svg.curves > text')].map(e => e.textContent),
    inks: Math.min(...[...d.querySelectorAll('svg.curves text, svg.curves g path')].map(
      e => apart(e.tagName == 'text' ? fill(e) : w.getComputedStyle(e).stroke, back(e)))),
    runs: [...d.querySelectorAll('svg.curves svg path[transform]')].filter(
      e => e.getBoundingClientRect().width > 2).length,
    lines: [...d.querySelectorAll('svg.curves path.fit')].filter(e => e.getBoundingClientRect().width > 50).length,
    dots: d.querySelectorAll('svg.dots circle').length,
    seen: [...d.querySelectorAll('svg.dots circle')].filter(e => e.getBoundingClientRect().width > 2).length,
    unnamed: [...d.querySelectorAll('[tabindex], [role=img]')].filter(e => !e.getAttribute('aria-label')).length,
    scopeless: d.querySelectorAll('th:not([scope])').length,
    dangling: [...d.querySelectorAll('a[href^="#"]')].filter(
      e => !d.getElementById(e.getAttribute('href').slice(1))).length,
    sections: [...d.querySelectorAll('h2')].map(e => e.textContent),
  };
  document.body.textContent = JSON.stringify(found);
});
"""


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser; installed by apt where it is missing and we may."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if not host.may_install():
        pytest.skip("needs Chromium: apt-get install chromium")
    try:
        host.apt_install(partial(subprocess.run, check=True, capture_output=True), ["chromium"])
    except subprocess.CalledProcessError as error:  # Ubuntu has it as a snap alone
        pytest.skip(f"needs Chromium, which apt does not give: {error.stderr.decode()[-200:]}")
    found = shutil.which("chromium")
    assert found
    return found


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the stored results, and of runs with answers about lineage and of chains of two lengths."""
    out = tmp_path_factory.mktemp("report")
    chains = [
        made(scenario(name, "chain", length), n) for name in NAMES for length in LENGTHS for n in range(2)
    ]
    build([*Store(ROOT / "docs" / "results").records(), asked(0, complete()), *chains], out)
    yield (out / "report.html").read_text(encoding="utf-8")


def looked_at(chromium: str, page: str, folder: Path, width: int, scheme: str) -> dict[str, Any]:
    """What the browser makes of the page in a frame of this width, in pixels."""
    outer = folder / "outer.html"
    # The page's own policy forbids everything but its styles: the probe is in the frame's parent.
    frame = f'<iframe width="{width}" height="800" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    outer.write_text(f"<!doctype html><body>{frame}<script>{PROBE}</script></body>", encoding="utf-8")
    words = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=10000"),
        *(f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"),
    ]
    done = subprocess.run(
        [chromium, *words, outer.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found: dict[str, Any] = json.loads(
        html.unescape(done.stdout.partition("<body>")[2].partition("</body>")[0])
    )
    return found


@pytest.mark.parametrize(("width", "scheme"), [(1280, LIGHT), (360, DARK)])
def test_the_page_can_be_read(chromium: str, page: str, tmp_path: Path, width: int, scheme: str) -> None:
    found = looked_at(chromium, page, tmp_path, width, scheme)
    assert found["texts"] > 100 and found["tables"] > 5 and found["bars"] > 10
    assert found["dots"] == found["seen"] > 20, "every run of the comparison is a dot that can be seen"
    assert found["runs"] >= 2 * len(NAMES) * len(LENGTHS) and found["lines"] >= len(NAMES), (
        "and of the curves"
    )
    assert all(any(text.startswith(f"{name} default: ") for text in found["names"]) for name in NAMES)
    assert min(found["inks"], found["parts"]) >= 3, "WCAG 2.2 AA, for what is drawn"
    assert found["partNames"] >= 4.5, "and for what is written on it"
    assert found["scrolled"] > 3 and found["headless"] == 0, (
        "a row keeps its head where its table is scrolled"
    )
    assert len(found["labels"]) == len(set(found["labels"])), "no two tables or figures have one name"
    assert found["scroll"] <= found["width"], "the page itself does not scroll sideways; its tables do"
    assert found["contrast"] >= 4.5, "WCAG 2.2 AA"
    assert (found["back"] == "rgb(255, 255, 255)") == (scheme == LIGHT)
    assert (found["unnamed"], found["scopeless"], found["dangling"]) == (0, 0, 0)
    assert found["sections"][0] == "Read this first", "limits come before numbers"
    assert "What each still knows of the model" in found["sections"]


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert "<script" not in page and "<link" not in page and "@import" not in page
    assert not re.search(r"""(?:src|srcset|data)\s*=\s*["']?(?:https?:)?//""", page)
    assert not re.search(r"url\(\s*['\"]?(?!#)", page)
    assert "default-src 'none'" in page
