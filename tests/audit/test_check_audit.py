"""Tests of the tool that compares the audit with stock Detectron2's labels of all anchors."""

import copy

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin.audit import audit_config
from focal_plugin.data import register_datasets

from ..tools import load_tool

SMALL = "Shapes-Detection/retinanet_small.yaml"


@pytest.fixture
def tool():
    return load_tool("check_audit")


def test_the_audit_of_the_built_in_dataset_is_what_stock_counts(tool, tiny_shapes, capsys):
    of = MetadataCatalog.get("tiny_shapes")
    arguments = [f"{of.json_file}:{of.image_root}", "--config-file", SMALL, "--input-size", "64"]
    assert tool.main(arguments) == 0
    said = capsys.readouterr().out
    assert "differs" not in said
    assert "recall at IoU 0.7 [4]" in said
    assert tool.NAME not in DatasetCatalog.list()


def test_a_figure_that_differs_is_named(tool, tiny_shapes):
    of = MetadataCatalog.get("tiny_shapes")
    register_datasets([f"{tool.NAME}={of.json_file}:{of.image_root}"])
    try:
        cfg = tool._config(SMALL, 64, [])
        facts, counted = audit_config(cfg).facts, tool.count(cfg)
    finally:
        DatasetCatalog.remove(tool.NAME)
        MetadataCatalog.remove(tool.NAME)
    wrong = copy.deepcopy(facts)
    wrong["anchors"]["per_class"][2]["positives"] += 1
    assert [row[0] for row in tool.compare(wrong, counted) if row[-1]] == ["positives [2]"]
