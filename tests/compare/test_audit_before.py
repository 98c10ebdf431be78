"""The audit of a comparison: written before training, and first in the report."""

import json
import re

import pytest

from focal_plugin.audit import Audit, Sentence
from focal_plugin.compare import audit_before as module
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.audit_before import audit_before
from focal_plugin.compare.plan.spec import read_plan
from focal_plugin.compare.report import figures
from focal_plugin.compare.report.json_content import json_content
from focal_plugin.compare.report.markdown import markdown_report
from focal_plugin.compare.report.page import html_page
from focal_plugin.compare.report.terminal import terminal_report

from ..conftest import ROOT

TINY = ["DATASETS.TRAIN", "('tiny_shapes',)", "DATASETS.TEST", "('tiny_shapes',)"]
FAULT = "circle: 90% of objects <have> no anchor of IoU .5."


@pytest.fixture
def plan(tiny_shapes, tmp_path):
    """Return a function that reads a spec with other options."""

    def plan(*opts):
        base = str(ROOT / "configs/Shapes-Detection/retinanet_small.yaml")
        spec = {"base": base, "arms": ["ce", "fl"], "seeds": 1, "opts": [*TINY, *opts]}
        (tmp_path / "spec.yaml").write_text(json.dumps(spec))
        return read_plan(tmp_path / "spec.yaml")

    return plan


@pytest.fixture
def audits(monkeypatch):
    """Replace the audit by one with a red sentence, and return the configs that it is given."""
    configs = []

    def audit_config(cfg, *, test, proposal):
        configs.append((cfg, test))
        sentences = (Sentence("red", "anchors", FAULT), Sentence("green", "classes", "Fine."))
        return Audit({"format": 1}, sentences)

    monkeypatch.setattr(module, "audit_config", audit_config)
    return configs


def test_the_reference_is_audited_as_it_trains(plan, tmp_path):
    text = audit_before(plan("MODEL.ANCHOR_GENERATOR.SIZES", [[512], [512], [512]]), tmp_path)
    assert re.search(r"Before training, the audit says:\n  .*no anchor of IoU \.5", text)
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["anchors"]
    assert content["proposal"]["status"] == "not searched"
    assert content["images"]["train"] == ["tiny_shapes"]


def test_an_audit_is_made_once_for_a_config(plan, audits, tmp_path):
    first, again = (audit_before(plan(), tmp_path) for _ in range(2))
    assert first == again == f"Before training, the audit says:\n  {FAULT}"
    assert len(audits) == 1
    audit_before(plan("INPUT.MIN_SIZE_TEST", 64), tmp_path)
    assert [cfg.INPUT.MIN_SIZE_TEST for cfg, _ in audits] == [128, 64]
    (tmp_path / "audit.json").write_text("{")
    audit_before(plan(), tmp_path)
    assert len(audits) == 3


def test_what_cannot_be_audited_is_a_line_and_no_file(plan, monkeypatch, tmp_path):
    def no_anchors(cfg, *, test, proposal):
        raise ValueError("the detector has no anchors")

    monkeypatch.setattr(module, "audit_config", no_anchors)
    text = audit_before(plan(), tmp_path)
    assert re.match(r"No audit: .*the detector has no anchors", text)
    assert "\n" not in text
    assert not (tmp_path / "audit.json").exists()


@pytest.fixture
def summary(plan, audits, tmp_path):
    """Return a function that summarizes a comparison of which nothing is trained."""
    plan().comparison.write(tmp_path)
    audit_before(plan(), tmp_path)
    return lambda: summarize(tmp_path, replicates=0)


def test_every_format_begins_with_the_red_sentences(summary):
    found = summary()
    drawings = figures.draw_all(found)
    page = html_page(found, [], None)
    assert page.index("circle: 90%") < page.index('<section id="verdict">')
    assert "&lt;have&gt;" in page
    assert "Fine." not in page
    markdown = markdown_report(found, drawings, None)
    assert markdown.index("## Before training") < markdown.index("## Verdict")
    assert terminal_report(found).startswith("Before training, the audit says:\n  circle: 90%")
    assert json_content(found)["red"] == [FAULT]


def test_without_an_audit_of_this_config_there_is_no_section(summary, tmp_path):
    content = json.loads((tmp_path / "audit.json").read_text())
    (tmp_path / "audit.json").write_text(json.dumps({**content, "config_hash": "another"}))
    assert summary().red == ()
    assert "Before training" not in html_page(summary(), [], None)
    (tmp_path / "audit.json").unlink()
    assert summary().red == ()


def test_a_damaged_audit_is_named(summary, tmp_path):
    (tmp_path / "audit.json").write_text('{"sentences": 3}')
    assert re.search(r"audit\.json is damaged: .*writes it again", terminal_report(summary()))
