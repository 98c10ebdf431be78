#!/usr/bin/env python3
"""
Check that the documentation reads easily: the mean sentence has fewer than 18 words.

    python tools/check_prose.py                  # all pages; exit 1 if one has longer sentences
    python tools/check_prose.py --longest 10     # also show the longest sentences of each page

Code, tables, headings, comments and link targets are skipped.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/api/*.md")
MAX_MEAN = 18.0
"""Limit of the mean number of words per sentence of a page."""
FEW = 5
"""Minimum number of sentences of a page for a meaningful mean."""

_LEFT_OUT = (
    re.compile(r"^(```|~~~).*?^\1\s*$", re.DOTALL | re.MULTILINE),  # code, and directives
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"<[^>\n]+>"),
    re.compile(r"^#.*$", re.MULTILINE),
    re.compile(r"^\s*\|.*$", re.MULTILINE),  # tables
    re.compile(r"^( {4}|\t)\S.*$", re.MULTILINE),  # indented code
)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"`+[^`]*`+")
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+", re.MULTILINE)
_END = re.compile(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9\x00])|\n\s*\n")
_WORD = re.compile(r"[\w\x00](?:[\w'\x00./:=-]*[\w\x00])?")


def sentences_of(markdown: str) -> list[str]:
    """Return the sentences of the running text; inline code counts as one word."""
    text = markdown
    for pattern in _LEFT_OUT:
        text = pattern.sub("\n\n", text)
    text = _LINK.sub(r"\1", text)
    text = _CODE.sub("\x00", text)
    text = _ITEM.sub("\n\n", text)
    parts = (" ".join(part.split()) for part in _END.split(text))
    return [part for part in parts if len(_WORD.findall(part)) > 2]


def count_words(sentence: str) -> int:
    """Return the number of words of a sentence."""
    return len(_WORD.findall(sentence))


def main(argv: list[str] | None = None) -> int:
    """Print the figures of each page and return 1 if a page has sentences that are too long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--longest", type=int, default=0, metavar="N", help="show the N longest sentences of a page"
    )
    parser.add_argument("pages", nargs="*", type=Path, help="pages to check (default: all)")
    args = parser.parse_args(argv)
    pages = args.pages or sorted(page for pattern in PAGES for page in ROOT.glob(pattern))
    too_long = []
    total_words = total_sentences = 0
    for page in pages:
        sentences = sentences_of(page.read_text(encoding="utf-8"))
        lengths = [count_words(sentence) for sentence in sentences]
        total_words, total_sentences = total_words + sum(lengths), total_sentences + len(lengths)
        average = mean(lengths) if len(lengths) >= FEW else 0.0
        if average >= MAX_MEAN:
            too_long.append(page)
        name = page.resolve().relative_to(ROOT) if page.resolve().is_relative_to(ROOT) else page
        flag = "  too long" if average >= MAX_MEAN else ""
        print(f"{average:5.1f} words a sentence, {sum(lengths):6,} words  {name}{flag}")
        for sentence in sorted(sentences, key=count_words, reverse=True)[: args.longest]:
            print(f"        {count_words(sentence):3}  {sentence.replace(chr(0), '`...`')}")
    print(f"{total_words / max(total_sentences, 1):5.1f} words a sentence, {total_words:6,} words")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
