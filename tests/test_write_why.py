"""Runs that explain the distance of focal loss, collected from several comparisons."""

import json
from dataclasses import replace

import pytest

from focal_plugin.compare.analysis.statistics import paired_difference
from focal_plugin.pages.text import NOTHING, signed

from .compare.fake_comparison import FakeArm, write_comparison
from .tools import load_tool

tool = load_tool("write_why")

PAGE = "".join(
    f"<!-- {part}: tools/write_why.py -->\n<!-- end of {part} -->\n" for part in tool.PARTS
)


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """Replace the page and its files by those of a new folder."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "why.md").write_text(PAGE)
    for name, file in {"RUNS": "why.json", "PAGE": "why.md", "FIGURE": "why.png"}.items():
        monkeypatch.setattr(tool, name, folder / file)
    return folder


@pytest.fixture(autouse=True)
def names(monkeypatch):
    monkeypatch.setattr(tool, "COMPARED_RATE", 0.01)  # that of the made-up runs
    monkeypatch.setattr(tool, "DATA", {"fake_train": "usual", "few": "few look-alikes"})


def run(arm, seed, ap, *, iterations=400, trial=False, learning_rate=0.01, **balance):
    return tool.Run("fake_train", arm, trial, learning_rate, iterations, seed, ap, balance)


def test_runs_of_two_comparisons_add_up_and_a_repeated_run_replaces_itself(tmp_path, docs, capsys):
    for name, seeds in {"a": (1, 2), "b": (2, 3)}.items():
        arms = {"FL": FakeArm(0.5), "CE": FakeArm(0.4, without={3: "failed"})}
        write_comparison(tmp_path / name, arms, seeds=seeds, factors=(1, 2))
        tool.main(["--results", str(tmp_path / name)])
    runs = tool.Runs.read(docs / "why.json")
    assert [(r.arm, r.seed) for r in runs.where(trial=False)] == [
        *(("CE", seed) for seed in (1, 2)),
        *(("FL", seed) for seed in (1, 2, 3)),
    ]
    assert {run.seed for run in runs.where(trial=True)} == {101, 102, 103}
    assert "4 runs read" not in capsys.readouterr().out.splitlines()[0]
    before = (docs / "why.json").read_bytes(), (docs / "why.md").read_bytes()
    tool.main([])
    assert before == ((docs / "why.json").read_bytes(), (docs / "why.md").read_bytes())
    assert (docs / "why.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_is_paired_by_seed_at_its_own_length():
    runs = tool.Runs(
        [
            *(run("FL", seed, ap) for seed, ap in {1: 20.0, 2: 22.0, 3: 21.0}.items()),
            *(run("CE", seed, ap) for seed, ap in {1: 18.5, 2: 21.0, 4: 90.0}.items()),
            run("CE", 1, 30.0, iterations=800),
        ]
    )
    found = paired_difference({1: 18.5, 2: 21.0}, {1: 20.0, 2: 22.0})
    assert (found.mean, found.n) == (-1.25, 2)
    low, high = (f"{abs(x):.1f}" for x in found.interval)
    table = tool.length_table(runs)
    assert table.header[1::2] == ("AP, 400 iterations", "AP, 800 iterations")
    fl, ce = table.rows
    assert fl == ("FL", "21.0 ± 1.0 (3)", NOTHING, NOTHING, NOTHING)
    assert ce[:2] == ("CE", "43.2 ± 40.6 (3)")
    assert ce[2].startswith(f"{signed(-1.25)} (")
    assert low in ce[2]
    assert high in ce[2]
    assert ce[3:] == ("30.0 (1)", NOTHING)


def test_a_change_is_that_of_the_same_seeds():
    runs = tool.Runs(
        [
            *(run(arm, seed, 20.0) for arm in ("FL", "CE", "OHEM") for seed in (1, 2)),
            *(run("FL", seed, 30.0, iterations=800) for seed in (1, 2, 3)),
            *(run("CE", seed, 30.0 + 2 * seed, iterations=800) for seed in (2, 3)),
            run("OHEM", 3, 9.0, iterations=800),
        ]
    )
    table = tool.change_table(runs)
    assert table.header == ("arm", "from 400 to 800 iterations")
    assert table.rows == (("CE", "+4.0"), ("OHEM", NOTHING))
    longest = [run(arm, 2, ap, iterations=1600) for arm, ap in {"FL": 40.0, "CE": 41.0}.items()]
    table = tool.change_table(tool.Runs([*runs, *longest]))
    assert table.header[2:] == ("from 800 to 1600 iterations", "from 400 to 1600 iterations")
    assert table.rows[0] == ("CE", "+4.0", signed(-3.0), "+1.0")


def test_trials_are_apart_and_other_rates_are_not_compared():
    runs = tool.Runs(
        [
            run("FL", 1, 20.0),
            run("FL", 1, 50.0, learning_rate=0.1),
            *(run("FL", seed, 10.0 + seed, trial=True, learning_rate=0.1) for seed in (1, 2)),
            run("FL", 1, 9.0, trial=True, learning_rate=0.02),
        ]
    )
    assert tool.length_table(runs).rows == (("FL", "20.0 (1)", NOTHING),)
    table = tool.rate_table(runs)
    assert table.header == ("arm", "rate 0.02", "rate 0.1")
    assert table.rows == (("FL", "9.0 (1)", "11.5 ± 0.7 (2)"),)


def test_balances_have_geometric_means():
    runs = tool.Runs([run("FL", seed, 1.0, start=2.0**seed, final=1.0) for seed in (1, 3)])
    assert tool.balance_table(runs).rows == (("FL", "4", "1"),)


def test_the_file_has_one_run_a_line(docs):
    runs = tool.Runs([run("FL", 1, 20.0, start=0.5), run("CE", 1, 19.0)]).updated([])
    runs.write(docs / "why.json")
    text = (docs / "why.json").read_text()
    assert len(text.splitlines()) == 2 + len(runs)
    assert json.loads(text)[0]["arm"] == "CE"
    assert tool.Runs.read(docs / "why.json") == runs


def test_another_training_set_is_compared_at_its_own_length():
    usual = [run(arm, 1, ap, iterations=800) for arm, ap in {"FL": 30.0, "CE": 28.0}.items()]
    few = [replace(each, ap=each.ap + 20, data="few") for each in usual]
    few[1] = replace(few[1], ap=51.0)
    runs = tool.Runs([*usual, *few, run("FL", 1, 9.0), run("OHEM", 1, 7.0, iterations=800)])
    table = tool.data_table(runs)
    assert table.header[1::2] == ("AP, usual", "AP, few look-alikes")
    assert table.rows == (
        ("FL", "30.0 (1)", NOTHING, "50.0 (1)", NOTHING),
        ("CE", "28.0 (1)", signed(-2.0), "51.0 (1)", "+1.0"),
    )
    assert tool.length_table(runs).rows[0][1] == "9.0 (1)"
