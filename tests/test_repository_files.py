"""The files at the top of the repository agree with each other and with the package."""

import re
from importlib import metadata

import pytest
import yaml

from .conftest import ROOT

HOSTED = [
    ROOT / "CITATION.cff",
    ROOT / ".pre-commit-config.yaml",
    *(ROOT / ".github").rglob("*.yml"),
]


def load(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", HOSTED, ids=lambda file: file.name)
def test_a_yaml_file_holds_a_mapping(file):
    assert isinstance(load(file), dict)


def test_citation_and_changelog_have_the_version_of_the_package():
    citation = load(ROOT / "CITATION.cff")
    version = metadata.version("focal_plugin")
    assert citation["version"] == version
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == f"{version} - {citation['date-released']}"


def test_the_workflow_tests_two_versions_of_python():
    workflow = load(ROOT / ".github" / "workflows" / "test.yml")
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.12"]
    assert {"run": "make test-all"} in job["steps"]
    assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())


def test_every_make_target_that_the_files_name_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for file in [ROOT / "CONTRIBUTING.md", *HOSTED]:
        named = set(re.findall(r"(?:`|^|run: )make ([\w-]+)", file.read_text(), re.MULTILINE))
        assert named <= targets, (file.name, named - targets)


def test_a_bug_report_asks_for_the_versions_and_the_config():
    bug = load(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")
    required = {
        field["id"] for field in bug["body"] if field.get("validations", {}).get("required")
    }
    assert {"command", "config", "doctor"} <= required
    doctor = next(field for field in bug["body"] if field.get("id") == "doctor")
    assert "python -m focal_plugin.doctor" in doctor["attributes"]["description"]


def test_a_loss_request_asks_for_paper_equation_and_implementation():
    loss = load(ROOT / ".github" / "ISSUE_TEMPLATE" / "loss.yml")
    required = {
        field["id"] for field in loss["body"] if field.get("validations", {}).get("required")
    }
    assert {"paper", "equation", "implementation"} <= required
