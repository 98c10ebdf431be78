"""Tests of the LaTeX report: hostile names are text, and pdflatex compiles it where it is."""

import os
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from focal_plugin.compare.report.latex import LONG, latex_table, latex_text
from focal_plugin.compare.report.write import write_report
from focal_plugin.pages.table import Table
from focal_plugin.pages.text import plain

from ...each import each
from ..fake_comparison import FakeArm, write_comparison

HOSTILE = (
    "\\input{/etc/passwd}",
    "100% $x^2_i$ #1 & ~",
    "[2pt] {*} \\\\",
    "a--b ,,c'' ?`!`",
    '日本\u202e\x1b\n|Ünïcødé<>"',
)
CLASSES = ("\\end{document}", "%", "^^M_\\write18{ls}")

# What each command of a text stands for; an unknown command is an error
SHOWN = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textquotedbl": '"',
    "textasciigrave": "`",
    "textendash": "\u2013",
    "ldots": "\u2026",
}
MATH = {"-": "\u2212", "\\pm": "±", "\\times": "\u00d7", "\\geq": "≥", "\\leq": "≤"}
# Pattern of a piece of source -> what LaTeX shows
PIECES = {
    r"\\otherchar\{([0-9A-F]{4,6})\}": lambda found: chr(int(found, 16)),
    r"\\ensuremath\{(-|\\[a-z]+)\}": MATH.__getitem__,
    r"\\textsuperscript\{(2)\}": lambda found: "²",
    r"\\([a-z]+)\{\}": SHOWN.__getitem__,
    r"\\([{}$&#_%])": str,
    r"\{([\[\]*]?)\}": str,
    r"(~)": lambda found: "\u00a0",
    r"([^\\{}$&#_%~^<>|\"`\[\]*])": str,
}


def shown_by_latex(source):
    """Return the text that LaTeX shows, by a scanner that knows no other command."""
    text, i = "", 0
    while i < len(source):
        matches = ((re.match(p, source[i:]), shown) for p, shown in PIECES.items())
        match, shown = next(((m, s) for m, s in matches if m), (None, None))
        assert match, f"{source[i : i + 20]!r} is not text"
        text += shown(match[1])
        i += match.end()
    return text


@each("text", [*HOSTILE, *CLASSES, "34.1 ± 0.4", "\u22121.2 to +3.0", "< .0001", "x\u00a0y"])
def test_latex_shows_a_text_as_it_is(text):
    source = latex_text(text)
    assert "\n" not in source
    assert shown_by_latex(source) == plain(text)


def test_every_character_below_3000_is_shown_as_it_is():
    printable = [chr(i) for i in range(32, 0x3000) if chr(i).isprintable() and chr(i) != "\u00ad"]
    for character in printable:
        assert shown_by_latex(latex_text(f"x{character}y")) == plain(f"x{character}y")
    assert all(
        c.isascii() or unicodedata.name(c).startswith("LATIN")
        for c in latex_text("".join(printable))
    )


def test_no_two_characters_become_a_ligature():
    assert latex_text("a---b ,, ''") == "a-{}-{}-b ,{}, '{}'"


def table_of(rows, **more):
    return Table("t", ("arm", "AP"), tuple((f"[{i}]", str(i)) for i in range(rows)), **more)


def test_a_table_has_booktabs_rules_and_no_cell_is_an_argument_of_a_row():
    text = latex_table(table_of(2, caption="More."), "A_title")
    assert "\\caption{A\\_title. More.}\\label{tab:t}" in text
    rules = re.findall(r"\\(toprule|midrule|bottomrule)", text)
    assert rules == ["toprule", "midrule", "bottomrule"]
    assert "{tabular}{@{}lr@{}}" in text
    assert "arm & AP \\\\\n\\midrule\n{[}0{]} & 0 \\\\\n{[}1{]} & 1 \\\\\n" in text


def test_a_long_table_breaks_and_long_text_has_lines():
    assert "longtable" not in latex_table(table_of(LONG), "t")
    assert "\\begin{longtable}" in latex_table(table_of(LONG + 1), "t")
    text = latex_table(Table("t", ("a", "b"), (("x", "long " * 30),), left=2), "t")
    assert "{@{}lp{.75\\linewidth}@{}}" in text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latex")
    arms = {name: FakeArm(0.5 + 0.1 * i) for i, name in enumerate(HOSTILE)}
    arms[HOSTILE[2]] = FakeArm(without={1: "failed"})
    write_comparison(folder, arms, classes=CLASSES)
    return write_report(folder, replicates=0).html.parent


@pytest.mark.slow
def test_the_report_and_its_tables_hold_no_command_of_a_name(hostile):
    sources = [hostile / "report.tex", *sorted((hostile / "tables").glob("*.tex"))]
    names = {"recipe", "verdicts", "averages", "classes", "errors"}
    assert {file.stem for file in sources[1:]} == names
    for file in sources:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\\(input|write|end\{document\}.)", text.removesuffix("\n"))
        assert text.count("\\begin{document}") == text.count("\\end{document}")
        for figure in re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", text):
            assert (hostile / figure).read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_compiles_a_hostile_report(hostile):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    made = subprocess.run(
        command,
        cwd=hostile,
        env={**os.environ, "TEXMFVAR": str(hostile / "fonts")},  # where it may make bitmaps
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stdout.decode(errors="replace")[-2000:]
    assert Path(hostile, "report.pdf").stat().st_size > 10_000
