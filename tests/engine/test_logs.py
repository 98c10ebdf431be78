import argparse
import logging
import sys

import pytest

from focal_plugin import get_cfg
from focal_plugin.engine import logs
from focal_plugin.engine.command_line import OutputFolderError, refuse_another_run
from focal_plugin.engine.shortages import shortages

COCO = "detectron2.evaluation.coco_evaluation"


def record(name, text="text", level=logging.INFO):
    return logging.LogRecord(name, level, "file", 1, text, None, None)


@pytest.mark.parametrize(
    ("shown", "name", "text", "level"),
    [
        (True, "focal_plugin.engine.checkpoints.checkpointer", "Saving", logging.INFO),
        (True, "detectron2.utils.events", " iter: 19", logging.INFO),
        (True, "detectron2.engine.train_loop", "Starting training", logging.INFO),
        (True, "detectron2.data.build", "an image is missing", logging.WARNING),
        (True, "fvcore.common.checkpoint", "skipped", logging.ERROR),
        (True, COCO, "Evaluation results for bbox: \n| AP |", logging.INFO),
        (False, COCO, "Preparing results for COCO format ...", logging.INFO),
        (False, "detectron2.engine.defaults", "Model:\nFocalRetinaNet", logging.INFO),
        (False, "detectron2.data.build", "Distribution of instances", logging.INFO),
        (False, "detectron2", "Environment info", logging.INFO),
        (False, "focal_plugins", "of another package", logging.INFO),
    ],
)
def test_the_screen_shows_progress_results_and_warnings(shown, name, text, level):
    assert logs.is_for_the_screen(record(name, text, level)) is shown


@pytest.fixture
def screen(monkeypatch, capsys, tmp_path):
    """Return a function that logs to a fresh screen and file, and returns what both show."""

    def show(*records, quiet=False):
        source = logging.Logger("fresh")
        file = tmp_path / "log.txt"
        source.addHandler(logging.StreamHandler(sys.stdout))
        source.addHandler(logging.FileHandler(file))
        logs.stream_to_screen(source, quiet=quiet)
        for one in records:
            source.handle(one)
        source.handlers[1].close()
        return capsys.readouterr().out, file.read_text()

    return show


MESSAGES = (
    record("focal_plugin", "saved"),
    record("detectron2.data", "serialized"),
    record("fvcore", "skipped", logging.WARNING),
    record("focal_plugin", "details", logging.DEBUG),
)


def test_the_file_has_what_the_screen_leaves_out(screen):
    shown, logged = screen(*MESSAGES)
    assert [line.partition("] ")[2] for line in shown.splitlines()] == ["saved", "skipped"]
    assert shown.splitlines()[1].startswith("WARNING [")
    assert logged.splitlines() == ["saved", "serialized", "skipped", "details"]


def test_quiet_leaves_warnings_only(screen):
    shown, logged = screen(*MESSAGES, quiet=True)
    assert shown.count("\n") == 1
    assert "skipped" in shown
    assert logged.count("\n") == 4


@pytest.mark.parametrize("no_color", [None, "1"])
def test_only_a_terminal_gets_colors(screen, monkeypatch, no_color):
    assert "\x1b" not in screen(*MESSAGES)[0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert ("\x1b" in screen(*MESSAGES)[0]) == (no_color is None)


def test_what_an_evaluator_prints_is_a_detail(caplog, capsys):
    with caplog.at_level(logging.DEBUG), logs.prints_in_log_file():
        print(" Average Precision  (AP) @[ IoU=0.50:0.95 ] = 0.3")
    assert capsys.readouterr().out == ""
    assert "(AP) @[ IoU=0.50:0.95 ] = 0.3" in caplog.text
    assert caplog.records[0].levelno == logging.DEBUG


@pytest.mark.parametrize(("eval_only", "kept"), [(True, True), (False, False)])
def test_an_evaluation_keeps_the_config_of_the_run(tmp_path, monkeypatch, eval_only, kept):
    monkeypatch.setattr(logs, "setup_logger", lambda *_, name: logging.Logger(name))
    monkeypatch.setattr(logs, "collect_env_info", str)
    monkeypatch.setattr(logs, "seed_all_rng", lambda _: None)
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "run"), 5
    args = argparse.Namespace(eval_only=eval_only, quiet=False, config_file="x.yaml")
    logs.start_logs(cfg, args)
    assert "SEED: 5\n" in (tmp_path / "run/config.yaml").read_text()
    cfg.SEED = 6
    logs.start_logs(cfg, args)
    assert ("SEED: 5\n" in (tmp_path / "run/config.yaml").read_text()) is kept


@pytest.mark.parametrize("trace", ["model_0000099.pth", "model_final.pth", "metrics.json"])
def test_a_folder_with_a_run_is_not_used_for_another(tmp_path, trace):
    (tmp_path / "log.txt").write_text("a refused run leaves this")
    (tmp_path / "config.yaml").write_text("SEED: 1")
    (tmp_path / "metrics.json").touch()
    refuse_another_run(tmp_path)
    (tmp_path / trace).write_text("{}")
    with pytest.raises(OutputFolderError, match=rf"holds a run already \({trace}\)") as error:
        refuse_another_run(tmp_path)
    assert "--resume, or choose another OUTPUT_DIR" in str(error.value)


@pytest.mark.usefixtures("tiny_shapes")
@pytest.mark.parametrize(
    ("iterations", "warmup", "batch", "reasons"),
    [
        (2, 0, 16, ["SOLVER.MAX_ITER is 2"]),
        (300, 1000, 2, ["it ends within the 1000 SOLVER.WARMUP_ITERS"]),
        (5, 10, 2, ["is 5", "within the 10 ", "it sees 10 of 12 training images"]),
        (400, 50, 16, []),
    ],
)
def test_a_run_too_short_for_a_result_says_why(iterations, warmup, batch, reasons):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("tiny_shapes",)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = iterations, warmup
    cfg.SOLVER.IMS_PER_BATCH = batch
    said = shortages(cfg)
    assert len(said) == len(reasons)
    assert all(reason in text for reason, text in zip(reasons, said, strict=True))
