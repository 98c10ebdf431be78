"""LaTeX report of a comparison: booktabs tables, figures and the paragraph for a paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...pages.drawing import Drawing
from ...pages.table import Table
from ...pages.text import plain
from ..analysis.summary import Summary
from .headline import headlines
from .how_to_report import bibtex, how_to_report
from .sections import CHAPTERS, contents
from .sentences import reference_note

TABLES = (
    *("recipe", "verdicts", "verdicts-best", "tuning", "test-sets", "averages", "classes"),
    "errors",
)
"""Tables that a paper may need, in this order; each is also a file of its own."""
LONG = 40
"""Rows above which a table breaks over pages."""
PARAGRAPH = 60
"""Characters above which a column has lines."""

_PREAMBLE = r"""\documentclass{article}
\usepackage[a4paper,margin=25mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{textcomp,booktabs,longtable,graphicx,iftex}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
% pdfLaTeX shows a character that it has no glyph for by its number
\ifPDFTeX
  \newcommand{\otherchar}[1]{\texttt{[U+#1]}}
\else
  \usepackage{fontspec}
  \newcommand{\otherchar}[1]{\symbol{"#1}}
\fi
"""
_OF_TABLES = r"\providecommand{\otherchar}[1]{\texttt{[U+#1]}}"
"""Definition that every table is self-contained with, besides booktabs, longtable and graphicx."""

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    # After the end of a row, these would be an argument of it
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\N{MINUS SIGN}": r"\ensuremath{-}",
    "\N{PLUS-MINUS SIGN}": r"\ensuremath{\pm}",
    "\N{MULTIPLICATION SIGN}": r"\ensuremath{\times}",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ensuremath{\geq}",
    "\N{LESS-THAN OR EQUAL TO}": r"\ensuremath{\leq}",
    "\N{SUPERSCRIPT TWO}": r"\textsuperscript{2}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
    "\N{SOFT HYPHEN}": "",
}


def latex_text(text: object) -> str:
    r"""
    Return ``text`` for LaTeX as one line that shows it as it is: no command, formula or comment.

    Letters of Latin-1 stay. Any other character outside of ASCII is the argument of `\otherchar`,
    as its number.
    """
    escaped = "".join(map(_escaped, plain(text)))
    return re.sub(r"([-,'])(?=\1)", r"\1{}", escaped)  # no ligature


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii() or ("\u00c0" <= character <= "\u00ff" and character.isalpha()):
        return character
    return f"\\otherchar{{{ord(character):04X}}}"


def latex_table(table: Table, title: str) -> str:
    """
    Return a table with booktabs rules: one that floats, or a long one over several pages.

    Args:
        title: first sentence of the caption.
    """
    columns = "".join(_column(table, i) for i in range(len(table.header)))
    columns = f"@{{}}{columns}@{{}}"
    header = f"\\toprule\n{_row(table.header)}\n\\midrule"
    rows = "\n".join(map(_row, table.rows))
    text = f"{title}. {table.caption}".removesuffix(" ")
    caption = f"\\caption{{{latex_text(text)}}}\\label{{tab:{table.name}}}"
    if len(table.rows) > LONG:
        return (
            f"{_OF_TABLES}\n{{\\scriptsize\\setlength{{\\tabcolsep}}{{3pt}}\n"
            f"\\begin{{longtable}}{{{columns}}}\n{caption}\\\\\n{header}\n\\endhead\n"
            f"\\bottomrule\n\\endfoot\n{rows}\n\\end{{longtable}}}}\n"
        )
    fit = r"\ifdim\width>\linewidth\linewidth\else\width\fi"
    return (
        f"{_OF_TABLES}\n\\begin{{table}}[htbp]\n\\centering\\footnotesize\n{caption}\n\n"
        f"\\smallskip\n\\resizebox{{{fit}}}{{!}}{{\\begin{{tabular}}{{{columns}}}\n{header}\n{rows}\n"
        f"\\bottomrule\n\\end{{tabular}}}}\n\\end{{table}}\n"
    )


def _column(table: Table, i: int) -> str:
    """Return the type of a column: a paragraph for long text, else text left and numbers right."""
    if not table.is_text(i):
        return "r"
    longest = max((len(row[i]) for row in table.rows), default=0)
    return r"p{.75\linewidth}" if longest > PARAGRAPH else "l"


def latex_tables(summary: Summary) -> dict[str, str]:
    r"""Return the tables for a paper by name, each for `\input`."""
    made = {
        table.name: latex_table(table, content.title or CHAPTERS[content.section.chapter])
        for content in contents(summary)
        for table in content.tables
        if table.name in TABLES
    }
    return {name: made[name] for name in TABLES if name in made}


def latex_report(summary: Summary, drawings: Sequence[Drawing]) -> str:
    """Return a document that compiles in the folder of the report, with all of the above."""
    parts = [latex_text(reference_note(summary))]
    if paragraph := how_to_report(summary):
        parts += ["\\section*{How to report this}", latex_text(paragraph)]
        parts += [f"\\begin{{verbatim}}\n{bibtex(summary)}\n\\end{{verbatim}}"]
    parts += latex_tables(summary).values()
    return latex_document(summary.name, headlines(summary), parts, drawings)


def latex_document(
    title: str, answers: Iterable[str], parts: Iterable[str], drawings: Iterable[Drawing]
) -> str:
    """Return a document of a title, the answers, parts that are LaTeX already, and figures."""
    blocks = [
        f"{_PREAMBLE}\\title{{{latex_text(title)}}}\n\\date{{}}\n\\begin{{document}}",
        "\\maketitle",
        *(f"\\textbf{{{latex_text(text)}}}" for text in answers),
        *parts,
        *map(_figure, drawings),
        "\\end{document}\n",
    ]
    return "\n\n".join(filter(None, blocks))


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def _figure(drawing: Drawing) -> str:
    text = f"{latex_text(drawing.title)}. {latex_text(drawing.caption)}"
    return (
        f"\\begin{{figure}}[htbp]\n\\centering\n"
        f"\\includegraphics[width=\\linewidth]{{figures/{drawing.name}.pdf}}\n"
        f"\\caption{{{text}}}\\label{{fig:{drawing.name}}}\n\\end{{figure}}"
    )
