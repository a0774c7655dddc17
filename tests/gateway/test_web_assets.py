"""The table of the page's files: what is served, under which headers, and that pages find it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.web_assets import asset, asset_paths

FOLDER = Path(__file__).parents[2] / "gateway" / "web"
PAGES = ("/", "/overlay")
LINK = re.compile(r'(?:src|href)="(/web/[^"]+)"')
IMPORT = re.compile(r'^(?:import|export)[^;]*?from "\./([a-z_]+\.js)";', re.MULTILINE | re.DOTALL)
# WCAG 2.2 AA: text, and what one must see to use a control.
MIN_TEXT_CONTRAST = 4.5
MIN_CONTROL_CONTRAST = 3.0
TEXT_PAIRS = [
    ("text", "bg"),
    ("text", "sheet"),
    ("text", "accent-soft"),
    ("text", "warn-bg"),
    ("text", "error-bg"),
    ("muted", "bg"),
    ("muted", "sheet"),
    ("volatile", "sheet"),
    ("accent", "bg"),
    ("accent-ink", "accent"),
    ("accent-ink", "accent-hover"),
    ("bg", "text"),
]
CONTROL_PAIRS = [("line-strong", "bg"), ("line-strong", "sheet"), ("accent", "sheet")]


def links(page: str) -> list[str]:
    """Paths that a page names."""
    found = asset(page)
    assert found is not None
    return LINK.findall(found.body.decode())


def header(path: str, name: str) -> str:
    """Of an answer."""
    found = asset(path)
    assert found is not None
    return dict(found.headers)[name]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_html_that_allows_nothing_inline(page: str) -> None:
    found = asset(page)
    assert found is not None
    assert found.content_type == "text/html; charset=utf-8"
    text = found.body.decode()
    assert re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:", text) is None
    policy = header(page, "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "connect-src 'self' ws: wss:;" in policy
    assert "unsafe" not in policy
    assert header(page, "Cache-Control") == "no-cache"


@pytest.mark.parametrize("page", PAGES)
def test_all_that_a_page_names_is_there_and_may_be_cached_for_good(page: str) -> None:
    paths = links(page)
    assert len(paths) >= 3
    for path in paths:
        assert asset(path) is not None, path
        assert "immutable" in header(path, "Cache-Control")


def test_modules_import_only_modules_that_are_there() -> None:
    folder = links("/")[0].rpartition("/")[0]
    imported = set()
    for path in FOLDER.glob("*.js"):
        imported |= set(IMPORT.findall(path.read_text()))
    assert len(imported) > 10
    assert [name for name in imported if asset(f"{folder}/{name}") is None] == []


def test_pages_name_nothing_from_elsewhere() -> None:
    for path in FOLDER.iterdir():
        outside = re.findall(r"https?://[^\s\"'`<>)]+", path.read_text())
        assert [
            u for u in outside if not u.startswith(("http://localhost", "http://www.w3.org"))
        ] == []


def test_each_file_also_has_a_path_that_does_not_change() -> None:
    found = asset("/web/worklet.js")
    assert found is not None
    assert found.body == (FOLDER / "worklet.js").read_bytes()
    assert found.content_type == "text/javascript; charset=utf-8"
    assert header("/web/worklet.js", "Cache-Control") == "no-cache"


@pytest.mark.parametrize(
    "path", ["/web/", "/web/index.html", "/web/package.json", "/web/../config.py", "/nothing", ""]
)
def test_nothing_else_is_served(path: str) -> None:
    assert asset(path) is None


def test_every_answer_is_taken_for_what_it_says_it_is() -> None:
    for path in asset_paths():
        assert header(path, "X-Content-Type-Options") == "nosniff"
        assert header(path, "Referrer-Policy") == "no-referrer"


def test_the_page_is_small() -> None:
    folder = links("/")[0].rpartition("/")[0]
    sizes = [len(found.body) for p in asset_paths() if p.startswith(folder) and (found := asset(p))]
    assert sum(sizes) < 150_000


def palettes() -> dict[str, dict[str, str]]:
    """The colours of each theme in style.css."""
    sheet = (FOLDER / "style.css").read_text()
    blocks = re.findall(r"^:root(\[[^]]*\])? \{(.*?)^\}", sheet, re.MULTILINE | re.DOTALL)
    return {
        selector or "light": dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        for selector, block in blocks
    }


def luminance(color: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """1 to 21."""
    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", '[data-theme="dark"]'])
def test_colours_have_the_contrast_that_people_need(theme: str) -> None:
    colors = palettes()[theme]
    ratios = {pair: contrast(colors[pair[0]], colors[pair[1]]) for pair in TEXT_PAIRS}
    assert {pair: r for pair, r in ratios.items() if r < MIN_TEXT_CONTRAST} == {}
    ratios = {pair: contrast(colors[pair[0]], colors[pair[1]]) for pair in CONTROL_PAIRS}
    assert {pair: r for pair, r in ratios.items() if r < MIN_CONTROL_CONTRAST} == {}
