"""The documentation, in Markdown and in docstrings, is plain English."""

import ast
import re

from .conftest import ROOT
from .each import each
from .tools import load_tool

FORBIDDEN = (
    *("Of", "What", "Which", "Whether", "How", "As", "Those", "Where", "That", "Who", "Whose"),
    *("When", "If", "In", "On", "At", "By", "For", "From", "With", "Without", "To", "Up"),
    *("The same", "Same", "Likewise"),
)
OPENING = re.compile(rf"({'|'.join(FORBIDDEN)})\b")


def files_of(folder):
    found = ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    return [file for file in found if "__pycache__" not in file.parts]


def docstrings(source):
    """Yield (line, docstring) of every module, class and function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def faults_of(source):
    return [
        f"line {line}: {text.splitlines()[0]}"
        for line, text in docstrings(source)
        if OPENING.match(text)
    ]


@each("folder", ["focal_plugin", "tools", "tests", "examples", "docs", "."])
def test_no_docstring_opens_with_a_preposition_or_a_relative(folder):
    faults = {str(file): faults_of(file.read_text()) for file in files_of(folder)}
    assert {file: found for file, found in faults.items() if found} == {}


def test_an_opening_is_recognized():
    assert faults_of('def f():\n    """Of a kernel."""\n') == ["line 2: Of a kernel."]
    assert faults_of('"""Whether it can be had."""\n') == ["line 1: Whether it can be had."]
    assert faults_of('"""Offset of a kernel."""\n') == []


MARKDOWN = """\
# A title is no sentence

One plain sentence, with `code that counts` once. Another one: it ends here.

| a | table |
|---|---|
| is | left out |

```
code. And more of it.
```

* A list item, which [links](to/a/page.md).
"""


def test_sentences_are_counted_without_code_and_tables():
    tool = load_tool("check_prose")
    sentences = tool.sentences_of(MARKDOWN)
    assert [tool.count_words(sentence) for sentence in sentences] == [6, 5, 5]


def test_a_page_of_long_sentences_fails(tmp_path, capsys):
    tool = load_tool("check_prose")
    page = tmp_path / "page.md"
    page.write_text("Short words make a short sentence. " * 6)
    assert tool.main([str(page)]) == 0
    page.write_text((" ".join(["word"] * 18).capitalize() + ". ") * 6)
    assert tool.main([str(page), "--longest", "1"]) == 1
    assert "18.0 words a sentence" in capsys.readouterr().out
