"""
Tests of the page in a real browser, `make test-browser`: width, errors, contrast, text of figures.

They require playwright and a Chromium of the system. axe-core checks more where it is installed.
"""

import os
import shutil
from pathlib import Path

import pytest

from focal_plugin.compare.report.report_all import report_all
from focal_plugin.compare.report.write import write_report

from ...conftest import ROOT
from ..fake_comparison import FakeArm, write_collection, write_comparison

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
AXE = ROOT / "build/browser/node_modules/axe-core/axe.min.js"
PHONE, DESKTOP = 390, 1280

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

# Every visible text with too little contrast to the nearest background, as WCAG AA asks: 4.5, or 3
# if it is large. SVG text is filled, other text has a color.
LOW_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255];
  };
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c;
    }
    return [255, 255, 255, 1];
  };
  const around = (box, x, y) => box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
  const under = e => {  // fills of the drawing below the middle of a text, over the page
    const box = e.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    let color = behind(e.ownerSVGElement.parentElement);
    for (const p of e.ownerSVGElement.querySelectorAll('path, rect')) {
      if (e.compareDocumentPosition(p) & Node.DOCUMENT_POSITION_FOLLOWING) break;
      const style = getComputedStyle(p);
      if (style.fill === 'none' || !around(p.getBoundingClientRect(), x, y)) continue;
      const fill = rgba(style.fill), a = fill[3] * style.opacity * style.fillOpacity;
      color = color.map((c, i) => i < 3 ? a * fill[i] + (1 - a) * c : 1);
    }
    return color;
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || ['title', 'STYLE'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const a = light(rgba(svg ? style.fill : style.color)), b = light(svg ? under(e) : behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    if (ratio < least) found.push(`${ratio.toFixed(2)} ${e.tagName} ${e.textContent.slice(0, 40)}`);
  }
  return found;
}"""
# Elements that reach over the side of the page and are in no box that scrolls
TOO_WIDE = """() => [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') || e.classList.contains('scroll'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """Provide the address of a report with long names, a failed run and everything it can have."""
    folder = tmp_path_factory.mktemp("browser")
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9, {1: "failed"}), "<b>&amp; $x^2$": FakeArm(0.7)}
    arms["a-long-name-that-has-no-space-" * 2 + "in-it"] = FakeArm(0.6, config="X: {Y: 1}")
    write_comparison(folder, arms, snapshots=True, classes=("rare " * 12, "b" * 60, "c"))
    return write_report(folder, replicates=5).html.as_uri()


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> str:
    """Provide the address of a report over several datasets with long names."""
    folder = tmp_path_factory.mktemp("several")
    names = ("cells", "a-long-name-that-has-no-space-" * 2, "<b>&amp; $x^2$", "d", "e")
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9), "a long name of an arm " * 2: FakeArm(0.7)}
    write_collection(folder, dict.fromkeys(names, arms))
    return report_all(folder, replicates=0).html.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, report):
    """Provide a function that opens the report in a window."""
    contexts = []

    def open_(width=DESKTOP, scheme="light", address=report):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("requestfailed", lambda request: page.errors.append(request.url[:80]))
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["report", "several"])
def test_nothing_is_wider_than_the_page_and_nothing_fails(open_page, name, request):
    for width in (PHONE, DESKTOP):
        page = open_page(width, address=request.getfixturevalue(name))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(TOO_WIDE) == []
        assert page.errors == []
        page.add_style_tag(content=".scroll { overflow: visible; }")  # the check can fail
        assert page.evaluate("document.documentElement.scrollWidth") > width or width == DESKTOP


def test_a_table_that_is_wider_than_its_box_scrolls_in_it(open_page):
    page = open_page(PHONE)
    boxes = page.evaluate(
        """() => [...document.querySelectorAll('.scroll')]
        .filter(e => e.scrollWidth > e.clientWidth)
        .map(e => { e.scrollLeft = 1e5; return e.scrollLeft + e.clientWidth - e.scrollWidth; })"""
    )
    assert len(boxes) > 5
    assert all(abs(rest) <= 1 for rest in boxes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_over_several_datasets_is_legible(open_page, several, scheme):
    page = open_page(scheme=scheme, address=several)
    assert page.evaluate(LOW_CONTRAST) == []
    assert page.locator("svg").count() == 2
    assert page.locator("nav a").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_wcag_aa(open_page, scheme):
    page = open_page(scheme=scheme)
    assert page.evaluate(LOW_CONTRAST) == []
    gray = {"light": "#999", "dark": "#666"}[scheme]
    page.add_style_tag(content=f".what, svg text {{ color: {gray}; fill: {gray} !important; }}")
    assert len(page.evaluate(LOW_CONTRAST)) > 50  # the check can fail


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed; `make test-browser` does")
def test_axe_finds_no_fault(open_page, scheme):
    page = open_page(PHONE, scheme)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa']})")
    faults = [
        f"{each['id']}: {node['html'][:90]}"
        for each in found["violations"]
        for node in each["nodes"][:3]
    ]
    assert faults == []
    assert len(found["passes"]) > 10


def test_every_figure_has_a_text(open_page):
    page = open_page()
    names = page.evaluate(
        """() => [...document.querySelectorAll('svg, img')].map(e => e.tagName === 'IMG'
        ? e.alt : document.getElementById(e.getAttribute('aria-labelledby'))?.textContent)"""
    )
    assert len(names) > 20
    assert all(names)
    assert page.evaluate(
        """() => [...document.querySelectorAll('figure.drawing')]
        .every(e => e.querySelector('h4').textContent.trim())"""
    )


def test_a_click_enlarges_a_picture_and_another_one_closes_it(open_page):
    for width in (PHONE, DESKTOP):
        page = open_page(width)
        picture = page.locator(".enlarge").nth(1)
        small = picture.locator("img").bounding_box()["width"]
        picture.click()
        box = picture.locator("img").bounding_box()
        assert box["width"] > 1.5 * small
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert 0 <= box["y"] <= box["y"] + box["height"] <= 900
        page.locator(".close:visible").click()
        assert picture.locator("img").bounding_box()["width"] == small
        assert page.locator(".close:visible").count() == 0


def test_a_printed_page_is_light_and_has_no_cut_box(open_page, tmp_path):
    page = open_page(794, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    )
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert Path(tmp_path / "page.pdf").stat().st_size > 50_000
