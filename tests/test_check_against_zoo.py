"""tools/check_against_zoo.py compares a run with a log of the model zoo."""

import json

import pytest

from .tools import load_tool

tool = load_tool("check_against_zoo")

LAST = 1999
ZOO = {"total_loss": 2.0, "loss_cls": 1.2, "loss_box_reg": 0.8, "num_pos_anchors": 50.0, "lr": 0.01}


def log_of(numbers, *, last=LAST, ap=37.4, later=None):
    """
    Return the lines of a log, one for each 20 iterations.

    The numbers of the first 1,000 iterations rise by 1% of their mean, so their median is their
    mean.
    """
    lines = []
    for iteration in range(19, last + 1, 20):
        rise = 1 + 0.01 * ((iteration - 509) / 1000)
        first = {name: value * rise for name, value in numbers.items()}
        lines.append({"iteration": iteration, **(first if iteration < 1000 else later or first)})
    if ap is not None:
        lines.append({"iteration": last + 1, "bbox/AP": ap})
    return lines


def write(file, lines):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def run_tool(tmp_path, capsys):
    """Return run_tool(lines of the run, lines of the zoo), which gives code, output and errors."""

    def run(run_lines, zoo_lines=None, *more):
        zoo = write(tmp_path / "zoo.json", zoo_lines or log_of(ZOO))
        write(tmp_path / "run" / "metrics.json", run_lines)
        code = tool.main([str(zoo), str(tmp_path / "run"), *more])
        return code, *capsys.readouterr()

    return run


def row_of(printed, name):
    (line,) = (line for line in printed.splitlines() if line.startswith(f"{name} "))
    return line.split()[1:]


def test_equal_logs_agree(run_tool):
    code, printed, _ = run_tool(log_of(ZOO))
    assert code == 0
    assert row_of(printed, "loss_cls") == ["1.2", "1.2", "1.0000", "5.0%", "yes"]
    assert row_of(printed, "bbox/AP") == ["37.4", "37.4", "1.0000", "0.5", "AP", "yes"]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("total_loss", 1.049, 1.051),
        ("loss_cls", 0.951, 0.949),
        ("loss_box_reg", 1.049, 1.051),
        ("num_pos_anchors", 0.901, 0.899),
        ("lr", 1.0009, 1.0011),
    ],
)
def test_each_median_has_its_tolerance(run_tool, name, inside, outside):
    for factor, code in ((inside, 0), (outside, 1)):
        found, printed, _ = run_tool(log_of({**ZOO, name: ZOO[name] * factor}))
        assert found == code
        assert row_of(printed, name)[-1] == ("no" if code else "yes")
        assert row_of(printed, name)[2] == f"{factor:.4f}"


@pytest.mark.parametrize(("ap", "code"), [(36.91, 0), (36.89, 1), (37.89, 0), (37.91, 1)])
def test_ap_has_a_tolerance_of_half_a_point(run_tool, ap, code):
    assert run_tool(log_of(ZOO, ap=ap))[0] == code


def test_only_the_first_iterations_count(run_tool):
    later = {**ZOO, "loss_cls": 100.0}
    assert run_tool(log_of(ZOO, later=later))[0] == 0
    assert run_tool(log_of(ZOO, later=later), None, "--iterations", "2000")[0] == 1


def test_a_run_that_ends_early_has_no_ap(run_tool):
    code, printed, _ = run_tool(log_of(ZOO, last=999, ap=None))
    assert code == 0
    assert "bbox/AP is not compared" in printed
    assert not any(line.startswith("bbox/AP") for line in printed.splitlines())


def test_a_resumed_run_repeats_lines_and_the_last_one_counts(run_tool):
    wrong = [{**line, "loss_cls": 9.0} for line in log_of(ZOO, ap=None)]
    code, printed, _ = run_tool(wrong + log_of(ZOO))
    assert code == 0
    assert row_of(printed, "loss_cls")[1] == "1.2"


def test_infinite_numbers_do_not_count(run_tool):
    lines = log_of(ZOO)
    lines[3]["loss_cls"] = float("inf")
    assert run_tool(lines)[0] == 0


def without(name):
    return [{key: x for key, x in line.items() if key != name} for line in log_of(ZOO)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (without("num_pos_anchors"), "run/metrics.json has no num_pos_anchors"),
        (without("bbox/AP"), "run/metrics.json has no bbox/AP after its last iteration, 2,000"),
        (log_of(ZOO, ap=float("nan")), "has no bbox/AP after its last iteration"),
        (log_of(ZOO, last=899, ap=None), "run/metrics.json ends at iteration 899, before 1,000"),
        (log_of(ZOO, last=3999), "has 4,000 iterations and"),
        (log_of(ZOO)[41:], "run/metrics.json has 9 finite values of total_loss in the first 1,000"),
        ([{"iteration": "19"}], "run/metrics.json is damaged: line 1 is no JSON object"),
        ([["iteration"]], "line 1 is no JSON object"),
        ([], "run/metrics.json is damaged: it has no line"),
    ],
)
def test_an_unusable_log_is_named(run_tool, lines, message):
    code, printed, error = run_tool(lines)
    assert (code, printed) == (2, "")
    assert message in error


def test_a_missing_file_is_named(tmp_path, capsys):
    assert tool.main([str(tmp_path / "zoo.json"), str(tmp_path)]) == 2
    assert "zoo.json" in capsys.readouterr().err


def test_a_page_that_was_downloaded_in_place_of_the_log_is_named(tmp_path, capsys):
    (tmp_path / "zoo.json").write_text("<html>\n")
    run = write(tmp_path / "run" / "metrics.json", log_of(ZOO))
    assert tool.main([str(tmp_path / "zoo.json"), str(run)]) == 2
    assert "zoo.json is damaged: line 1" in capsys.readouterr().err
