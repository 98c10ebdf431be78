import csv
import struct
import xml.etree.ElementTree as ElementTree

import pytest

import focal_plugin_commands as commands
from focal_plugin.compare import explain_command
from focal_plugin_commands.compare import DEFAULT_LOSSES


@pytest.fixture
def run():
    return lambda *argv: commands.focal_compare(["explain", *argv])


def test_draws_a_png_with_the_curves_beside_it(run, tmp_path, capsys):
    file = tmp_path / "new folder" / "figure.png"
    assert run("--output", str(file)) == 0
    assert str(file) in capsys.readouterr().out
    header = file.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:])
    assert width > height > 500
    rows = list(csv.DictReader(file.with_suffix(".csv").open()))
    assert {row["name"] for row in rows} == set(DEFAULT_LOSSES)
    assert len(rows) == len(DEFAULT_LOSSES) * 2 * len(explain_command.X_T)
    entropy = [r for r in rows if r["name"] == "SigmoidCrossEntropyLoss" and r["x_t"] == "0"]
    assert [(r["side"], r["loss"], r["gradient"]) for r in entropy] == [
        ("positive", "0.693147", "0.5"),
        ("negative", "0.693147", "0.5"),
    ]


def test_draws_an_svg(run, tmp_path):
    file = tmp_path / "figure.svg"
    assert run("SigmoidFocalLoss", "SoftmaxFocalLoss:gamma=1", "--output", str(file)) == 0
    assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_losses_with_the_same_curve_share_a_line():
    curves = [
        explain_command.trace_loss(name, explain_command.X_T)
        for name in ("SigmoidCrossEntropyLoss", "SigmoidFocalLoss", "SoftmaxCrossEntropyLoss")
    ]
    groups = explain_command._same_curves(curves)
    assert [[curve.name for curve in group] for group in groups] == [
        ["SigmoidCrossEntropyLoss", "SoftmaxCrossEntropyLoss"],
        ["SigmoidFocalLoss"],
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["SigmoidFocalLos"], "did you mean 'SigmoidFocalLoss'"),
        (["GHMLoss"], "GHMLoss has no curve"),
        (["--output", "figure.docx"], "must end in .png or .svg, got figure.docx"),
        ([f"SigmoidFocalLoss:gamma={i}" for i in range(40)], "at most 35 losses"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    run, argv, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("focal-compare: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
