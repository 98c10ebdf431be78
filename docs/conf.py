"""
Configuration of the documentation site; `make docs` builds it, without a network.

The pages are written for GitHub. This file adapts them to the site.
"""

import gc
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

gc.disable()  # makes the short build a third faster

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

project = "focal_plugin"
author = "focal_plugin contributors"
project_copyright = author
version = release = metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"{project} {release}"
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["tables.css"]
templates_path: list[str] = []

myst_heading_anchors = 4  # the same anchors as on GitHub

highlight_language = "none"  # a block names its language, as on GitHub
default_role = "code"  # `NAME` in a docstring is code, as in Markdown
autoclass_content = "both"  # a class section includes the constructor's arguments
autodoc_inherit_docstrings = False
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 150
toc_object_entries_show_parents = "hide"
napoleon_custom_sections = ["Reported"]
napoleon_use_ivar = True
napoleon_numpy_docstring = False

# Page of the site -> file at the top of the repository that the page shows
TOP_FILES = {
    "start": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}


def show_top_file(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill a page with its top file, and redirect links to that file to the page."""
    if page in TOP_FILES:
        text = (ROOT / TOP_FILES[page]).read_text(encoding="utf-8")
        source[0] = re.sub(r"\]\((?!https?:|#)", "](../", text)
    for name, file in TOP_FILES.items():
        source[0] = source[0].replace(f"](../{file}", f"](/{name}.md")


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Build the navigation from the pages listed in an index, one part for each section."""
    if page.rpartition("/")[2] != "index":
        return
    for section in source[0].split("\n## "):
        pages = re.findall(r"^\* \[(.*)\]\((.*)\.md\)", section, re.MULTILINE)
        if pages:
            lines = [f"{title} <{name}>" for title, name in pages]
            caption = f":caption: {section.splitlines()[0]}" if page == "index" else ""
            tree = "\n".join(["```{toctree}", ":hidden:", caption, "", *lines, "```"])
            source[0] += f"\n{tree}\n"


class LinkOutside(SphinxPostTransform):
    """
    Resolve links that leave docs/.

    A link to a file of the package leads to its section of the API reference. Any other file
    becomes a download. A folder has no page, so its name is plain text.
    """

    default_priority = 5  # before MyST resolves its links

    def run(self, **kwargs: Any) -> None:
        for link in list(self.document.findall(addnodes.download_reference)):
            module = self.module_of(link)
            if module in self.env.domains.python_domain.modules:
                link.replace_self(self.reference_to(module, link))
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("reftype") == "myst" and self.target_of(link).is_dir():
                link.replace_self(link.children)

    def target_of(self, link: nodes.Element) -> Path:
        _, target = self.env.relfn2path(link["reftarget"], link["refdoc"])
        return Path(target)

    def module_of(self, link: nodes.Element) -> str:
        target = self.target_of(link)
        if not target.is_relative_to(ROOT):
            return ""
        return ".".join(target.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    def reference_to(self, module: str, link: nodes.Element) -> addnodes.pending_xref:
        options = {"refdomain": "py", "reftype": "mod", "reftarget": module}
        return addnodes.pending_xref(
            "", *link.children, refdoc=link["refdoc"], refexplicit=True, **options
        )


_NO_PARAGRAPH = (" ", "-", "*", "..")


def mark_formulas(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Make indented blocks literal and escape bars, so that formulas stay unchanged."""
    out: list[str] = []
    for line in lines:
        opens = line.startswith("    ") and len(out) > 1 and not out[-1]
        paragraph = next(filter(None, reversed(out)), "")
        if opens and not paragraph.startswith(_NO_PARAGRAPH) and not paragraph.endswith("::"):
            out += ["::", ""]
        out.append(re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", line))
    if what in {"attribute", "data", "property"}:
        # An escaped line end prints nothing. Without it, napoleon parses words before a colon as a
        # type.
        out.insert(0, "\\")
    lines[:] = out


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("source-read", show_top_file)
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", mark_formulas, priority=400)  # before napoleon
    app.add_post_transform(LinkOutside)
