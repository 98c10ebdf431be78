"""The benchmarks run, and the page shows their measurements."""

import functools
import json
import re
import runpy

import pytest

from .benchmark_process import answer_for_memory, give_large_blocks_back
from .conftest import ROOT
from .forked import run_script
from .tools import load_tool

TOOLS = ROOT / "tools"
PAGE = ROOT / "docs" / "performance.md"
QUICK = {
    "bm_dense_loss.py": "--size 64 64 --classes 3 --rounds 2",
    "bm_box_loss.py": "--size 256 256 --rounds 2",
    "bm_ranking.py": "--size 64 64 --classes 3 --positives 5 --rounds 2",
    "bm_match_anchors.py": "--size 512 512 --objects 20 --rounds 2",
    "bm_mining.py": "--size 64 64 --classes 3 --rounds 2",
    "bm_assignment.py": "--size 256 256 --objects 5 --rounds 2",
    "bm_arm_steps.py": "--arms ce ohem --batch 1 --size 64 64 --rounds 2",
    "bm_training_step.py": (
        "--config-file configs/Shapes-Detection/retinanet_small.yaml --size 64 64 --rounds 2"
    ),
}


@pytest.fixture(scope="module")
def commands():
    """Return name -> script and options of `make bench` and of the page."""
    run_all = runpy.run_path(str(TOOLS / "benchmarks" / "run_all.py"))
    return {**run_all["FAST"], **run_all["SLOW"], **run_all["GPU"]}


@pytest.mark.slow
@pytest.mark.parametrize("script", QUICK)
def test_it_prints_a_table_and_writes_what_it_measured(fork_server, script, tmp_path):
    file = tmp_path / "measured.json"
    options = [*QUICK[script].split(), "--threads", 1, "--json", file]
    command = [TOOLS / "benchmarks" / script, *options]
    prepare = None
    if script != next(iter(QUICK)):  # the first starts a new Python to measure memory
        memory = run_script(*command, "--memory-only", prepare=give_large_blocks_back)
        assert memory.returncode == 0, memory.stderr
        prepare = functools.partial(answer_for_memory, memory.stdout)
    done = run_script(*command, prepare=prepare)
    assert done.returncode == 0, done.stderr
    facts = json.loads(file.read_text())
    assert f"tools/benchmarks/{script}" in facts["machine"]["command"]
    assert facts["machine"]["allocator"].endswith("malloc")
    memory = [row["extra MiB"] for row in facts["rows"]]
    assert max(memory) > 0
    times = [next(x for x in row.values() if isinstance(x, float)) for row in facts["rows"]]
    assert min(times) > 0
    for row in facts["rows"]:
        assert row["p20"] <= row["p80"]
        assert str(next(iter(row.values()))) in done.stdout


def test_every_part_of_the_page_has_an_existing_script(commands):
    parts = re.findall(r"<!-- ([\w-]+): tools/write_performance\.py -->", PAGE.read_text())
    assert len(parts) > 5
    assert set(parts) <= set(commands)
    for command in commands.values():
        assert (TOOLS / "benchmarks" / command.split()[0]).exists(), command


def test_a_part_of_the_page_is_replaced_by_table_and_command():
    tool = load_tool("write_performance")
    page = "a\n<!-- x: tools/write_performance.py -->\nold\n<!-- end of x -->\nb\n"
    rows = [
        {"variant": "stock", "ms": 1234.5, "p20": 1.0, "p80": 2000.0, "of copy": None},
        {"variant": "ours", "ms": 0.0123, "p20": 0.012, "p80": 0.5, "of copy": 0.5},
    ]
    filled = tool.fill(page, "x", "write_performance", tool.table(rows))
    assert filled.splitlines() == [
        "a",
        "<!-- x: tools/write_performance.py -->",
        "| variant | ms | of copy |",
        "|---|---:|---:|",
        "| stock | 1234 (1 - 2000) |  |",
        "| ours | 0.012 (0.012 - 0.5) | 0.5 |",
        "<!-- end of x -->",
        "b",
    ]
    tuned = [{**row, "ms": row["ms"] / 2, "of copy": 0.25} for row in rows]
    assert tool.table(tool.beside(rows, tuned)).splitlines() == [
        "| variant | ms | ms, tuned | of copy | of copy, tuned |",
        "|---|---:|---:|---:|---:|",
        "| stock | 1234 (1 - 2000) | 617 |  | 0.25 |",
        "| ours | 0.012 (0.012 - 0.5) | 0.0062 | 0.5 | 0.25 |",
    ]
    with pytest.raises(ValueError, match=r"must contain <!-- y: tools/write_performance\.py -->"):
        tool.fill(page, "y", "write_performance", "")
