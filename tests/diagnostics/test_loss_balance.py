"""File of the balance between classification loss and box loss."""

import json

import pytest

from focal_plugin.diagnostics.loss_balance import (
    GradientNorms,
    LossBalance,
    read_balance,
    write_balance,
)
from focal_plugin.json_file import DamagedFileError

from ..each import each

BALANCE = LossBalance(
    iteration=40,
    num_images=32,
    batch_size=8,
    parts={"rpn": GradientNorms(0.5, 0.25), "roi_heads": GradientNorms(None, 0.0)},
)


def test_a_record_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "new" / "balance_start.json"
    write_balance(file, BALANCE)
    assert read_balance(file) == BALANCE
    assert [x.name for x in file.parent.iterdir()] == [file.name]


def test_a_missing_record_is_none(tmp_path):
    assert read_balance(tmp_path / "balance_start.json") is None


@each(
    ("norms", "ratio"),
    [
        ((3.0, 0.5), 6.0),
        ((0.0, 0.5), None),
        ((3.0, 0.0), None),
        ((None, 0.5), None),
        ((3.0, None), None),
    ],
)
def test_the_ratio_requires_both_norms(norms, ratio):
    assert GradientNorms(*norms).ratio == ratio


@each(
    ("content", "fault"),
    [
        ("", "it is empty"),
        ("[]", "it must be an object"),
        ('{"iteration": 1, "num_images": 2, "batch_size": 1}', "parts is missing"),
        (
            json.dumps({**vars(BALANCE), "parts": {"rpn": {"cls": "many", "box": 1.0}}}),
            "parts.rpn.cls must be a finite number",
        ),
    ],
)
def test_a_damaged_record_names_its_fault(content, fault, tmp_path):
    file = tmp_path / "balance_final.json"
    file.write_text(content)
    with pytest.raises(DamagedFileError, match=f"balance_final.json is damaged: {fault}"):
        read_balance(file)
