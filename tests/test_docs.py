"""Pages agree with files, keys, data and each other."""

import functools
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from focal_plugin import get_cfg
from focal_plugin.components import import_components
from focal_plugin.data.shapes.builtin import SPLITS
from focal_plugin.data.shapes.painting import draw_image
from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY
from focal_plugin.mining import MINER_REGISTRY

from .cached_configs import read_arm
from .conftest import ROOT
from .registrations import registrations_kept
from .tools import load_tool

DOCS = ROOT / "docs"
EXAMPLE = ROOT / "examples" / "my_losses"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# CONTRIBUTING.md names files and keys that its example adds; tests/test_contributing.py tests them.
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def name_of(page):
    return str(page.relative_to(ROOT))


def links_of(page):
    """Return relative links as (file, section), each of which may be empty."""
    return re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text())


def headings_of(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.*)$", text, re.MULTILINE)


def sections_of(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings_of(page)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_has_a_section_twice(page):
    assert len(headings_of(page)) == len(set(headings_of(page)))


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_to_files_and_sections_lead_somewhere(page):
    links = links_of(page)
    assert links
    for file, section in links:
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not section or section in sections_of(target), (file, section)


TABLE = re.compile(r"^\|.*\n\|[-: |]+\|\n((?:\|.*\n)+)", re.MULTILINE)
NUMBER = re.compile(r"[+\-\u2212~<]?[\d.,]+(?: ?(?:[%x\u00d7]|\u00b1 .*|s|ms|min|h|MiB|GiB|AP))?")


def has_table_of_numbers(page):
    """Return True if a third of the cells of some table are numbers."""
    for rows in TABLE.findall(page.read_text()):
        cells = [cell.strip() for row in rows.splitlines() for cell in row.strip("|").split("|")]
        if sum(NUMBER.fullmatch(cell) is not None for cell in cells) * 3 > len(cells):
            return True
    return False


def test_every_page_with_a_table_of_numbers_has_a_command_for_it():
    listed = {file for file, _ in links_of(DOCS / "numbers.md")}
    assert {page.name for page in PAGES if has_table_of_numbers(page)} - {
        Path(file).name for file in listed
    } == set()


def test_the_commands_behind_the_numbers_exist():
    text = (DOCS / "numbers.md").read_text()
    tools = re.findall(r"python (tools/[\w/]+\.py)|`(bm_\w+\.py)", text)
    assert len(tools) > 20
    for tool, benchmark in tools:
        assert (ROOT / (tool or f"tools/benchmarks/{benchmark}")).is_file(), tool or benchmark
    for spec in re.findall(r"\w+\.yaml", text):
        assert (ROOT / "configs" / "comparisons" / spec).is_file(), spec
    for tool in (ROOT / "tools").glob("*.py"):  # each tool that fills a page
        if "import fill" in tool.read_text():
            assert tool.name in text, tool


def test_the_index_lists_every_page_once():
    for index in (DOCS / "index.md", DOCS / "api" / "index.md"):
        text = index.read_text()
        others = {page.stem for page in index.parent.glob("*.md")} - {"index"}
        others |= {f"{page.parent.name}/index" for page in index.parent.glob("*/index.md")}
        listed = re.findall(r"^\* \[.*\]\((.*)\.md\): .*\.$", text, re.MULTILINE)
        assert sorted(listed) == sorted(others)


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=name_of)
def test_names_in_the_api_reference_exist(page):
    text, current = page.read_text(), None
    for directive, name in re.findall(r"^\.\. (\w+):: ([\w.]+)$", text, re.MULTILINE):
        if directive == "currentmodule":
            current = importlib.import_module(name)
        elif directive == "automodule":
            importlib.import_module(name)
        else:
            assert hasattr(current, name), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_config_files_and_keys_it_names_exist(page):
    text = page.read_text()
    for file in re.findall(r"configs/[\w./-]+\.yaml", text):
        assert (ROOT / file).exists(), file
    with registrations_kept(EXAMPLE):
        import_components([str(EXAMPLE / "my_losses.py")])
        cfg = get_cfg()
    for key in re.findall(r"\bMODEL\.FOCAL\.[A-Z\d_.]*[A-Z\d]", text):
        node = cfg
        for part in key.split("."):
            node = node[part]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_it_names_exist(page):
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)", page.read_text()):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (file, name)


def test_the_catalogue_contains_every_added_key():
    catalogue = (ROOT / "docs" / "catalogue.md").read_text()

    def keys(node, prefix):
        for name, value in node.items():
            key = f"{prefix}.{name}"
            yield from keys(value, key) if isinstance(value, dict) else [key]

    for key in keys(get_cfg().MODEL.FOCAL, "MODEL.FOCAL"):
        same = re.sub(
            r"\.(RPN|ROI_HEADS)\.(CLS_LOSS|BOX_LOSS|MINING|BALANCE|REWEIGHT|CARL)\.", r".\2.", key
        )
        as_there = f"| `{key.rpartition('.')[0]}.*` |  | options as in"
        assert f"`{key}`" in catalogue or (f"`{same}`" in catalogue and as_there in catalogue), key


@pytest.mark.slow
def test_the_table_of_the_built_in_dataset_is_current(monkeypatch):
    """Draw the images without the files that a training reads."""

    def images_of(name):
        return [{"annotations": annotations_of(name, i)} for i in range(SPLITS[name].images)]

    def annotations_of(name, index):
        found = draw_image(SPLITS[name], index)[1]
        return [{**x, "category_id": x["category_id"] - 1} for x in found]

    tool = load_tool("describe_shapes")
    monkeypatch.setattr(tool, "DatasetCatalog", SimpleNamespace(get=images_of))
    monkeypatch.setattr(sys, "argv", ["describe_shapes.py", "--check"])
    assert tool.main() == 0, "run tools/describe_shapes.py"


@pytest.mark.slow
def test_the_catalogue_matches_the_registries(monkeypatch):
    tool = load_tool("write_catalogue")
    monkeypatch.setattr(tool, "load_arms", arms_of)
    monkeypatch.setattr(sys, "argv", ["write_catalogue.py", "--check"])
    assert tool.main() == 0, "run tools/write_catalogue.py"


@functools.cache
def arms_of(comparison):
    return {name: read_arm(arm) for name, arm in comparison.arms.items()}


def test_every_component_has_a_row_with_a_sentence_a_reported_gain_and_an_arm():
    catalogue = (ROOT / "docs" / "catalogue.md").read_text()
    registries = [CLS_LOSS_REGISTRY, BOX_LOSS_REGISTRY, MINER_REGISTRY]
    for name, _ in (pair for registry in registries for pair in registry):
        row = re.search(rf"^\| `{name}` .*$", catalogue, re.MULTILINE)[0]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        _, sentence, formula, _, paper, reported, average_precision = cells
        assert sentence.endswith("."), name
        assert formula.startswith("`"), name
        assert "https://" in paper, name
        assert reported, name
        assert average_precision or name == "L1Loss", name  # smooth L1 with beta 0 is this loss


def test_no_page_and_no_config_holds_a_placeholder():
    words = re.compile(r"\b(TABLE|MEASURED(_\w+)?|CONCLUSION|MINUTES|DATE|TODO|TBD)\b")
    for page in [*PAGES, *sorted((ROOT / "configs").rglob("*.yaml"))]:
        assert not words.search(page.read_text()), page
        # A new component has a row in the catalogue before its arm is measured
        assert page.name == "catalogue.md" or "not measured" not in page.read_text(), page
