"""focal-plugin as it is typed."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import entry_points, version

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import focal_plugin_commands as commands
import focal_plugin_doctor as doctor
from focal_plugin import __version__
from focal_plugin.compare.analysis.evaluated_runs import REPLICATES
from focal_plugin.compare.running.engines.base import ENGINES
from focal_plugin.data.shapes.png import encode_png
from focal_plugin_commands import compare, plugin

from .conftest import ROOT

CONFIG = ROOT / "configs/Shapes-Detection/retinanet_small.yaml"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a dataset of one image with these boxes: JSON:IMAGES."""
    (tmp_path / "images").mkdir()
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    (tmp_path / "images/a.png").write_bytes(encode_png(pixels))

    def write(name, *boxes):
        rest = {"image_id": 1, "category_id": 1, "area": 4, "iscrowd": 0}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
            "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
            "annotations": [
                {"id": i, "bbox": box, **rest}
                for i, box in enumerate([[1, 1, 2, 2], *boxes], start=1)
            ],
        }
        (tmp_path / name).write_text(json.dumps(content))
        return f"{tmp_path / name}:{tmp_path / 'images'}"

    return write


@pytest.fixture
def unregister():
    """Remove the datasets that a command registers in this process."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


NEGATIVE, EMPTY = [5, 5, -2, 2], [1, 1, 0, 2]


def run(*arguments):
    return commands.focal_plugin(["check-data", *map(str, arguments)])


def test_a_good_data_set_is_exit_code_0_and_a_line(write, capsys):
    good = write("good.json")
    assert run(good, "--images", "--num-classes", 2) == 0
    said = capsys.readouterr().out
    assert "good.json: 1 images, 1 objects, 0 errors, 0 warnings" in said
    assert said.endswith("Ready to train.\n")


def test_errors_are_exit_code_1_with_counts_findings_and_what_to_do(write, capsys):
    bad = write("bad.json", NEGATIVE, EMPTY, NEGATIVE)
    assert run(write("good.json"), bad) == 1
    said = capsys.readouterr().out
    assert "error            2  box-negative" in said
    assert "warning          1  box-empty" in said
    assert "annotation 2 of image 1 (a.png): bbox [5, 5, -2, 2]" in said
    assert "-> boxes are [x, y, width, height]" in said
    assert said.splitlines()[-1].startswith("To fix: ")
    assert "bad.json" in said.splitlines()[-1]
    assert "good.json" not in said.splitlines()[-1]


@pytest.mark.parametrize("boxes", [[[3, 3, 1e-7, 2]], [[50, 3, 4, 4], [7, 60, 2, 2]]])
def test_a_class_that_training_would_not_see_is_not_ready_to_train(write, boxes, capsys, tmp_path):
    data = write("lost.json", *boxes)
    content = json.loads((tmp_path / "lost.json").read_text())
    for annotation in content["annotations"][1:]:
        annotation["category_id"] = 2
    (tmp_path / "lost.json").write_text(json.dumps(content))
    before = DatasetCatalog.list()
    assert run(data) == 1
    assert f"cat: {len(boxes)} objects in the dataset, 0 in training" in capsys.readouterr().out
    assert DatasetCatalog.list() == before


def test_warnings_are_exit_code_1_only_where_it_is_strict(write):
    data = write("warn.json", EMPTY)
    assert run(data) == 0
    assert run(data, "--strict") == 1


def test_the_report_is_strict_json_of_all(write, tmp_path):
    file = tmp_path / "findings.json"
    assert run(write("good.json"), write("bad.json", NEGATIVE), "--report", file) == 1
    report = json.loads(file.read_text())
    assert report["errors"] == 1
    good, bad = report["datasets"]
    assert (good["errors"], bad["errors"]) == (0, 1)
    assert bad["counts"] == {"box-negative": 1}
    assert bad["findings"][0]["annotation_id"] == 2
    assert bad["facts"]["classes"] == ["dog", "cat"]


def test_a_number_of_classes_can_be_given(write, capsys):
    assert run(write("a.json"), "--num-classes", 3) == 1
    assert "--num-classes is 3, the file has 2 categories" in capsys.readouterr().out


def test_images_are_opened_only_where_that_is_asked(write, tmp_path, capsys):
    data = write("a.json")
    (tmp_path / "images/a.png").write_bytes(b"")
    assert run(data) == 0
    assert run(data, "--images") == 1
    assert "image-unreadable" in capsys.readouterr().out


def test_files_outside_and_large_files_are_refused_unless_allowed(write, tmp_path, capsys):
    data = write("a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    content["images"][0]["file_name"] = "../images/../a.json"
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert run(data) == 1
    assert "image-outside-root" in capsys.readouterr().out
    assert run(data, "--allow-outside-root") == 0
    assert run(data, "--max-json-mib", 0.0001) == 1
    assert "json-too-large" in capsys.readouterr().out


def test_a_truncated_file_is_an_error_in_the_data(write, tmp_path, capsys):
    data = write("a.json")
    (tmp_path / "a.json").write_text('{"images": [')
    assert run(data) == 1
    assert "json-broken" in capsys.readouterr().out
    assert run("--dataset", f"mine={data}") == 1
    assert run("--config-file", CONFIG, "--dataset", f"mine={data}") == 1
    assert "a.json is not a COCO JSON" in capsys.readouterr().err


def test_a_data_set_can_have_a_name_without_a_config(write, capsys):
    assert run("--dataset", f"mine={write('a.json')}") == 0
    assert "mine: 1 images" in capsys.readouterr().out
    assert "mine" not in DatasetCatalog.list()


def with_config(data, *keys):
    names = ("DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)")
    return run("--config-file", CONFIG, "--dataset", f"mine={data}", *names, *keys)


def test_the_data_sets_of_a_config_are_held_to_what_it_asks_for(write, unregister, capsys):
    assert with_config(write("a.json")) == 1
    said = capsys.readouterr().out
    assert "MODEL.RETINANET.NUM_CLASSES is 5, but dataset 'mine' has 2 classes" in said


def test_a_config_can_be_changed(write, unregister, capsys):
    assert with_config(write("a.json"), "MODEL.RETINANET.NUM_CLASSES", 2) == 0
    assert "mine: 1 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "exit_code"), [("normal", 0), ("strict", 1), ("drop", 0), ("lax", 2)]
)
def test_a_config_can_be_strict(write, unregister, key, exit_code):
    keys = ("MODEL.RETINANET.NUM_CLASSES", 2, "MODEL.FOCAL.DATA.CHECK", key)
    assert with_config(write("a.json", EMPTY), *keys) == exit_code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give JSON:IMAGES or --config-file"),
        (["a.json"], "is given as JSON:IMAGES, got 'a.json'"),
        (["nowhere/a.json:images"], "file not found"),
        (["--dataset", "a.json:images"], "NAME=annotations.json:image_dir"),
        (["--config-file", "none.yaml"], "none.yaml"),
        (["--config-file", str(CONFIG), "DATASETS.TRAIN", "('coco_2017_trian',)"], "did you mean"),
        (["--config-file", str(CONFIG), "NO.KEY", "1"], "NO.KEY"),
        (["--config-file", str(CONFIG), "SEED"], "SEED"),
        (["--config-file", str(CONFIG), "--num-classes", "3"], "--num-classes"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("focal-plugin: ")
    assert message in error
    assert "Traceback" not in error


def test_a_report_that_cannot_be_written_is_exit_code_2(write, tmp_path, capsys):
    assert run(write("a.json"), "--report", tmp_path / "nowhere/findings.json") == 2
    assert "nowhere" in capsys.readouterr().err


def test_an_unknown_option_is_exit_code_2():
    with pytest.raises(SystemExit) as ended:
        run("--no-such-option")
    assert ended.value.code == 2


def test_help_teaches_by_examples(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    for word in ("examples:", "--strict", "--images", "--allow-outside-root", "Exit code"):
        assert word in said


@pytest.mark.parametrize(
    ("program", "commands", "at_least"),
    [("focal-compare", compare, 12), ("focal-plugin", plugin, 7)],
)
def test_every_example_of_the_help_is_one_that_the_parser_takes(program, commands, at_least):
    parser = commands._parser()
    parsers = [parser, *parser._subparsers._group_actions[0].choices.values()]
    texts = "\n".join(f"{each.description}\n{each.epilog}" for each in parsers)
    lines = texts.replace("\\\n", " ").splitlines()
    examples = [line.split("#")[0] for line in lines if line.startswith(f"  {program} ")]
    assert len(examples) >= at_least
    for example in examples:
        parser.parse_args(shlex.split(example)[1:])


def test_defaults_and_choices_of_the_parser_are_those_of_the_package():
    assert compare.REPLICATES == REPLICATES
    assert tuple(ENGINES) == compare.ENGINES
    assert {name: f"{name}_command" for name in compare.COMMANDS} == {
        name: command.module.rpartition(".")[2] for name, command in compare.COMMANDS.items()
    }


def test_the_doctor_is_the_doctor(capsys):
    assert commands.focal_plugin(["doctor", "--runtime"]) == 0
    assert capsys.readouterr().out.strip() == doctor.detectron2_runtime()


@pytest.mark.parametrize("name", ["focal-compare", "focal-plugin"])
def test_it_is_installed_under_its_name(name):
    (command,) = entry_points(group="console_scripts", name=name)
    assert command.value == f"focal_plugin_commands:{name.replace('-', '_')}"
    assert command.load()


@pytest.mark.parametrize("run", [commands.focal_compare, commands.focal_plugin])
def test_the_version_is_that_of_the_distribution(run, capsys):
    with pytest.raises(SystemExit) as end:
        run(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.split()[1] == __version__ == version("focal_plugin")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["run", "--help"], 0), (["rum"], 2), (["report", "--stict", "runs"], 2)],
)
def test_help_and_a_typo_import_no_package(arguments, code):
    """A new Python answers without PyTorch, whose import takes seconds."""
    script = f"""
import sys
import focal_plugin_commands as commands
try:
    commands.focal_compare({arguments})
except SystemExit as end:
    heavy = [name for name in ("focal_plugin", "numpy", "torch") if name in sys.modules]
    sys.exit(f"imported {{heavy}}" if heavy else end.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
