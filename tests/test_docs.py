"""What the pages say of files, keys and data is so."""

import re
import subprocess
import sys

import pytest

from focal_plugin import get_cfg
from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY
from focal_plugin.mining import MINER_REGISTRY

from .conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert links
    for link in links:
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_config_files_and_keys_it_names_exist(page):
    text = page.read_text()
    for file in re.findall(r"configs/[\w./-]+\.yaml", text):
        assert (ROOT / file).exists(), file
    for key in re.findall(r"\bMODEL\.FOCAL\.[A-Z\d_.]*[A-Z\d]", text):
        node = get_cfg()
        for part in key.split("."):
            node = node[part]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_it_names_exist(page):
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)", page.read_text()):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (file, name)


def test_every_key_of_ours_stands_in_the_catalogue():
    catalogue = (ROOT / "docs" / "catalogue.md").read_text()

    def keys(node, prefix):
        for name, value in node.items():
            key = f"{prefix}.{name}"
            yield from keys(value, key) if isinstance(value, dict) else [key]

    for key in keys(get_cfg().MODEL.FOCAL, "MODEL.FOCAL"):
        same = re.sub(r"\.(RPN|ROI_HEADS)\.(CLS_LOSS|BOX_LOSS|MINING)\.", r".\2.", key)
        as_there = f"| `{key.rpartition('.')[0]}.*` |  | options as in"
        assert f"`{key}`" in catalogue or (f"`{same}`" in catalogue and as_there in catalogue), key


@pytest.mark.slow
def test_the_table_of_the_built_in_data_set_is_its_own():
    check = [sys.executable, ROOT / "tools" / "describe_shapes.py", "--check"]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 0, "run tools/describe_shapes.py"


def run_catalogue(*args):
    command = [sys.executable, ROOT / "tools" / "write_catalogue.py", *args]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_catalogue_is_that_of_the_registries():
    result = run_catalogue("--check")
    assert result.returncode == 0, f"run tools/write_catalogue.py\n{result.stderr}"


def test_every_component_has_a_row_with_a_sentence_a_reported_gain_and_an_arm():
    catalogue = (ROOT / "docs" / "catalogue.md").read_text()
    registries = [CLS_LOSS_REGISTRY, BOX_LOSS_REGISTRY, MINER_REGISTRY]
    for name, _ in (pair for registry in registries for pair in registry):
        row = re.search(rf"^\| `{name}` .*$", catalogue, re.MULTILINE)[0]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        _, sentence, formula, _, paper, reported, average_precision = cells
        assert sentence.endswith("."), name
        assert formula.startswith("`"), name
        assert "arxiv.org" in paper, name
        assert reported, name
        assert average_precision or name == "L1Loss", name  # smooth L1 with beta 0 is this loss


def test_no_page_and_no_config_holds_a_placeholder():
    placeholder = re.compile(
        r"\b(TABLE|MEASURED(_\w+)?|CONCLUSION|MINUTES|DATE|TODO|TBD)\b|not measured"
    )
    for page in [*PAGES, *sorted((ROOT / "configs").rglob("*.yaml"))]:
        assert not placeholder.search(page.read_text()), page
