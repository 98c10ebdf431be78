"""tools/check_published.py finds published numbers, and a planted difference."""

import math

import pytest
from torch import nn

from .tools import load_tool

tool = load_tool("check_published")

SMALL = ("--size", "64")


def rows_of(printed):
    """Return figure and source -> (expected, ours, equal)."""
    cells = [[x.strip() for x in line.split("  ") if x.strip()] for line in printed.splitlines()]
    return {(row[0], row[1]): (row[2], row[3], row[5]) for row in cells[2:]}


@pytest.mark.slow
def test_the_config_for_coco_has_every_published_number(capsys):
    assert tool.main([]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 17
    assert rows["parameters of the model", "published"] == ("37,915,572", "37,915,572", "yes")
    assert rows["GFLOP of convolutions", "published"] == ("146", "146", "yes")
    assert rows["loss of a positive anchor", "formula"] == ("1.12844", "1.12844", "yes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opts", "unequal", "equal"),
    [
        (
            ("MODEL.RETINANET.NUM_CONVS", "3"),
            {
                ("parameters of the model", "published"),
                ("parameters of head.cls_subnet.6.bias", "stock"),
                ("FLOP of model.head.bbox_subnet.6", "stock"),
            },
            ("loss_cls, step 1", "formula"),
        ),
        (
            ("MODEL.RETINANET.PRIOR_PROB", "0.011"),
            {
                ("loss of a positive anchor", "formula"),
                ("loss of a background anchor", "formula"),
                ("loss_cls, step 1", "formula"),
                ("loss_cls, step 2", "formula"),
            },
            ("FLOP in all", "stock"),
        ),
        (
            ("MODEL.RETINANET.IOU_THRESHOLDS", "[0.4, 0.7]"),
            {("positives per image, step 1", "stock"), ("loss_cls, step 1", "formula")},
            ("loss of a positive anchor", "formula"),
        ),
    ],
)
def test_another_config_differs(capsys, opts, unequal, equal):
    assert tool.main([*SMALL, *opts]) == 1
    rows = rows_of(capsys.readouterr().out)
    assert unequal <= {key for key, row in rows.items() if row[2] == "no"}
    assert rows[equal][2] == "yes"


def test_a_module_that_one_detector_lacks_differs():
    stock = {"": 12, "a": 2, "b": 10}
    ours = {"": 12, "a": 2, "c": 10, "loss": 0}
    total, count, *unequal = tool.module_rows("parameters", stock, ours)
    assert not total.differs
    assert (count.figure, count.ours) == ("modules with other parameters, of 4", 2)
    assert [(row.figure, row.expected, row.ours) for row in unequal] == [
        ("parameters of b", 10, 0),
        ("parameters of c", 0, 10),
    ]


def test_at_most_twenty_modules_are_listed():
    stock = {"": 30, **{f"m{i}": 1 for i in range(30)}}
    rows = tool.module_rows("FLOP", stock, {"": 30})
    assert rows[1].ours == 30
    assert len(rows) == 2 + 20


def test_published_parameters_are_compared():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3, bias=False)})
    rows = tool.parameter_rows(model, model)
    assert [(row.expected, row.ours, row.differs) for row in rows[:2]] == [
        (37_915_572, 6, True),
        (31_452_352, 6, True),
    ]
    assert not any(row.differs for row in rows[2:])


def test_the_closed_form_is_that_of_the_paper():
    positive, background = tool.focal_losses()
    element = 0.75 * 0.01**2 * -math.log(0.99)
    assert background == pytest.approx(80 * element)
    assert positive == pytest.approx(0.25 * 0.99**2 * math.log(100) + 79 * element)


@pytest.mark.parametrize(
    ("ours", "differs"), [(1.0, False), (1.009, False), (1.011, True), (float("nan"), True)]
)
def test_a_tolerance_is_relative(ours, differs):
    assert tool.Row("x", "formula", 2.0, 2 * ours, 0.01).differs == differs
