"""What the pages say of files, keys and data is so."""

import re
import subprocess
import sys

import pytest

from focal_plugin import get_cfg

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
    for key in re.findall(r"\bMODEL\.FOCAL\.[A-Z_.]*[A-Z]", text):
        node = get_cfg()
        for part in key.split("."):
            node = node[part]


def test_every_key_of_ours_stands_in_the_readme():
    readme = (ROOT / "README.md").read_text()

    def keys(node, prefix):
        for name, value in node.items():
            key = f"{prefix}.{name}"
            yield from keys(value, key) if isinstance(value, dict) else [key]

    for key in keys(get_cfg().MODEL.FOCAL, "MODEL.FOCAL"):
        assert f"`{key}`" in readme, key


@pytest.mark.slow
def test_the_table_of_the_built_in_data_set_is_its_own():
    check = [sys.executable, ROOT / "tools" / "describe_shapes.py", "--check"]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 0, "run tools/describe_shapes.py"


def test_no_page_holds_a_placeholder():
    for page in PAGES:
        assert not re.search(r"^(TABLE|MEASURED_\w+)$|\bDATE\b", page.read_text(), re.MULTILINE)
