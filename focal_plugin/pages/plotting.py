"""Style of the figures, and their reproducible conversion to PNG, SVG and PDF."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Each color has a CSS variable on the page, so that figures follow light and dark mode
INK, MUTED, GRID, PAPER, REST = "#1b1e23", "#5f6772", "#dcdfe4", "#ffffff", "#a9b0ba"
# Palette of Okabe and Ito for color-blind readers, without yellow, which is too light, plus two
# colors of Paul Tol
PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#882255",
    "#999933",
)

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    REST: "var(--rest)",
    **{color: f"var(--arm-{i})" for i, color in enumerate(PALETTE, start=1)},
}
_STYLE: dict[RcKeyType, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.prop_cycle": cycler(color=[INK]),
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a class may have the name "$x$"
    "text.usetex": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "figure.dpi": 72,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType, which publishers accept
    "svg.hashsalt": "focal-compare",
    "path.simplify": True,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PNG_DPI = 180


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply the style of the pages, whatever the settings of the user."""
    with mpl.rc_context(), warnings.catch_warnings():
        # The text of a page is in the reader's font, which has the glyph
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def lay_out(figure: Figure) -> None:
    """Fix the layout of a figure, which takes most of the time, once for all its formats."""
    with style():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def png(figure: Figure, *, dpi: int = PNG_DPI) -> bytes:
    """Return the figure as PNG, on white."""
    stream = io.BytesIO()
    with style():
        FigureCanvasAgg(figure).print_figure(stream, format="png", dpi=dpi)
    return stream.getvalue()


def pdf(figure: Figure) -> bytes:
    """Return the figure as PDF, on white, with embedded TrueType fonts and without a date."""
    stream = io.BytesIO()
    with style():
        FigureCanvasPdf(figure).print_figure(stream, format="pdf", metadata={"CreationDate": None})
    return stream.getvalue()


def svg(figure: Figure) -> str:
    """Return the figure as SVG, on white; text stays text."""
    stream = io.StringIO()
    with style():
        FigureCanvasSVG(figure).print_figure(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def inline_svg(source: str, *, name: str, title: str) -> str:
    """
    Return an SVG as part of a page.

    It has unique ids, the font and the colors of the page, and a title for screen readers.

    Args:
        source: result of :func:`svg`.
        name: letters, digits and `-`; unique on the page.
        title: text for screen readers.
    """
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(source)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        _adapt(element, name)
    paper = root.find(f".//*[@id='{name}-patch_1']")
    if paper is not None:
        for path in paper:
            path.set("style", "fill: none")
    heading = ET.Element(f"{{{_SVG}}}title", {"id": f"{name}-title"})
    heading.text = title
    root.insert(0, heading)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    return ET.tostring(root, encoding="unicode")


def _adapt(element: ET.Element, name: str) -> None:
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.get('id')}")
    for key in ("clip-path", "style"):
        if key in element.attrib:
            element.set(key, element.attrib[key].replace("url(#", f"url(#{name}-"))
    href = element.get(f"{{{_XLINK}}}href", "")
    if href.startswith("#"):
        element.set(f"{{{_XLINK}}}href", f"#{name}-{href[1:]}")
    if "style" in element.attrib:
        element.set("style", _adapt_style(element.attrib["style"]))


def _adapt_style(text: str) -> str:
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    # "font: 700 8.5px 'DejaVu Sans', sans-serif", or its parts: use the font of the page
    text = re.sub(r"(?<![\w-])font: ?((?:\d{3} |bold )?)([\d.]+px)[^;]*", _page_font, text)
    return re.sub(r"font-family: [^;]*", "font-family: inherit", text)


def _page_font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1].strip()}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"
