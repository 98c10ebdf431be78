"""Tests of the progress of a sweep, on a terminal and in a log."""

import io
import json
import re

import pytest

from focal_plugin.compare.running import progress as progress_module
from focal_plugin.compare.running.progress import MetricsReader, Progress, RunState

from .fakes import fake_run


class Screen(io.StringIO):
    """Terminal that supports the used control sequences, and fails if a line is too wide."""

    def __init__(self, columns):
        super().__init__()
        self.columns, self.lines = columns, [""]

    def isatty(self):
        return True

    def write(self, text):
        for part in re.split(r"(\x1b\[\d+A\x1b\[J|\n)", text):
            up = re.fullmatch(r"\x1b\[(\d+)A\x1b\[J", part)
            if up:
                assert self.lines[-1] == ""
                assert int(up[1]) < len(self.lines)
                self.lines[-1 - int(up[1]) :] = [""]
            elif part == "\n":
                self.lines.append("")
            else:
                assert "\x1b" not in part
                self.lines[-1] += part


@pytest.fixture
def clock(monkeypatch):
    """Provide the seconds of the clock, which the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def write_metrics(folder, *lines, mode="a"):
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.json").open(mode) as stream:
        stream.write("".join(lines))


def line(iteration, **more):
    return json.dumps({"iteration": iteration, **more}) + "\n"


def watched(tmp_path, stream, *runs):
    return Progress([(run, tmp_path / run.id) for run in runs], stream)


def test_metrics_are_read_as_they_grow_and_only_once(tmp_path, monkeypatch):
    reader = MetricsReader(tmp_path)
    reader.read()
    assert reader.iteration == 0
    write_metrics(tmp_path, line(19, total_loss=2.0, time=0.5))
    reader.read()
    assert (reader.iteration, reader.loss, reader.iteration_s) == (20, 2.0, 0.5)
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(text) or loads(text))
    write_metrics(tmp_path, line(39, total_loss=1.0), line(39, **{"bbox/AP": 7.0}))
    reader.read()
    assert (reader.iteration, reader.loss, reader.iteration_s, reader.ap) == (40, 1.0, 0.5, 7.0)
    assert len(list(filter(None, parsed))) == 2


def test_a_line_counts_when_it_is_whole_and_a_broken_one_never(tmp_path):
    reader = MetricsReader(tmp_path)
    write_metrics(tmp_path, line(19), '{"iteration": 39, "tot')
    reader.read()
    assert reader.iteration == 20
    write_metrics(tmp_path, 'al_loss": NaN}\n')
    reader.read()
    assert reader.iteration == 40
    # the last line of a killed attempt, continued by the next attempt
    write_metrics(tmp_path, '{"iteration": 59, "to', line(19), "[]\n", "7\n", line(39))
    reader.read()
    assert reader.iteration == 40


def test_a_resumed_attempt_counts_from_where_it_resumed_and_a_new_file_from_its_start(tmp_path):
    reader = MetricsReader(tmp_path)
    write_metrics(tmp_path, line(19), line(39), line(59))
    reader.read()
    write_metrics(tmp_path, line(39))
    reader.read()
    assert reader.iteration == 40
    write_metrics(tmp_path, line(19), mode="w")
    reader.read()
    assert reader.iteration == 20


def test_a_log_has_a_line_for_each_change_and_one_each_half_minute(tmp_path, clock):
    stream = io.StringIO()
    runs = [fake_run("CE", steps=100), fake_run("FL", steps=100), fake_run("<b>\x1b[2J", steps=100)]
    shown = watched(tmp_path, stream, *runs)

    def update(*names):
        start = stream.tell()
        shown.update([RunState(name, "why") for name in names])
        stream.seek(start)
        return stream.read().splitlines()

    assert len(update("waiting", "waiting", "waiting")) == 4
    write_metrics(tmp_path / runs[0].id, line(19, total_loss=0.123456, time=2.0))
    first = "CE seed 1       running     20/100  2 s/it  ETA 2:40  loss 0.1235"
    assert update("running", "waiting", "waiting") == [first]
    for _ in range(29):
        clock[0] += 1
        assert update("running", "waiting", "waiting") == []
    clock[0] += 1
    assert update("running", "waiting", "waiting") == [
        first,
        "3 runs: 1 running, 2 waiting; 20/300 iterations, ETA 9:20",
    ]
    write_metrics(tmp_path / runs[0].id, line(99, **{"bbox/AP": 31.26}))
    assert update("done", "failed", "elsewhere") == [
        "CE seed 1       done       100/100  AP 31.3",
        "FL seed 1       failed     why",
        "<b>?[2J seed 1  elsewhere    0/100  (why)",
    ]


def test_a_terminal_shows_each_run_once_and_is_never_wrapped(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "24")
    screen = Screen(40)
    runs = [fake_run(arm, steps=100) for arm in ("CE", "日本語" * 20, "FL")]
    shown = watched(tmp_path, screen, *runs)
    for iteration in (19, 39, 59):
        clock[0] += 2
        write_metrics(tmp_path / runs[0].id, line(iteration, total_loss=1.0, time=2.0))
        shown.update([RunState("running")] * 3)
        assert len(screen.lines) == 5
        assert len(screen.lines[1]) < 25, "these characters are two columns wide"
    shown.note("a note")
    shown.update([RunState("done"), RunState("failed", "why"), RunState("running")])
    shown.close()
    assert screen.lines[0] == "a note"
    assert screen.lines[-2].startswith("3 runs: 1 running, 1 failed, 1 done; ")


def test_more_runs_than_lines_show_what_runs_and_count_the_rest(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "8")
    screen = Screen(100)
    runs = [fake_run("CE", seed) for seed in range(20)]
    shown = watched(tmp_path, screen, *runs)
    states = [RunState("done")] * 12 + [RunState("running")] * 3 + [RunState("waiting")] * 5
    for _ in range(3):
        clock[0] += 2
        shown.update(states)
    names = [text.split("  ")[0] for text in screen.lines]
    assert names[:3] == ["CE seed 12", "CE seed 13", "CE seed 14"]
    assert screen.lines[5:] == [
        "... and 15 more",
        "20 runs: 3 running, 5 waiting, 12 done; 60/100 iterations",
        "",
    ]


def test_a_failure_stays_on_the_terminal_above_what_changes(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "4")
    screen = Screen(100)
    shown = watched(tmp_path, screen, *(fake_run("CE", seed) for seed in range(9)))
    shown.update([RunState("failed", "why it failed")] + [RunState("running")] * 8)
    for _ in range(3):
        clock[0] += 2
        shown.update([RunState("failed", "why it failed")] + [RunState("running")] * 8)
    assert screen.lines[0].endswith("failed     why it failed")
    assert len(screen.lines) == 5


def test_an_unknown_time_is_not_shown_as_a_number(tmp_path, clock):
    stream = io.StringIO()
    run = fake_run(steps=100)
    shown = watched(tmp_path, stream, run)
    write_metrics(tmp_path / run.id, line(19, time=float("nan"), total_loss=float("nan")))
    shown.update([RunState("running")])
    assert "ETA ?" in stream.getvalue()
    assert "loss nan" in stream.getvalue()
