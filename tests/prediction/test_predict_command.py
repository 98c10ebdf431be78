"""focal-plugin predict as it is typed."""

import json
import shutil

import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

import focal_plugin_commands as commands
from focal_plugin.prediction.predict_command import shown
from focal_plugin.prediction.thresholds import Thresholds


def predict(*arguments):
    return commands.focal_plugin(["predict", *map(str, arguments), "--device", "cpu"])


def test_it_writes_a_coco_file_and_pictures(run, images, tmp_path, capsys):
    assert predict(run, *images, "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert not said.err
    assert "Weights: " in said.out
    assert "Score thresholds with the largest F1 on tiny_shapes, at IoU 0.5:" in said.out
    assert f"12 images, {len(read(tmp_path)['annotations'])} objects (" in said.out
    content = read(tmp_path)
    assert [image["file_name"] for image in content["images"]] == [x.name for x in images]
    least = {category["id"]: category["score_threshold"] for category in content["categories"]}
    assert all(x["score"] >= least[x["category_id"]] for x in content["annotations"])
    assert len({x["id"] for x in content["annotations"]}) == len(content["annotations"]) > 0
    assert content["info"]["image_root"] == str(images[0].parent)
    pictures = sorted((tmp_path / "out/pictures").iterdir())
    assert [picture.name for picture in pictures] == [image.name for image in images]


def read(tmp_path):
    return json.loads((tmp_path / "out/predictions.json").read_text())


def test_each_class_has_its_own_threshold_which_a_score_may_equal():
    scores, classes = torch.tensor([0.5, 0.5, 0.25]), torch.tensor([0, 1, 1])
    found = Instances((9, 9), scores=scores, pred_classes=classes)
    kept = shown(found, Thresholds((0.75, float(scores[1]))))
    assert kept.pred_classes.tolist() == [1]
    assert kept.scores.tolist() == [0.5]


def test_the_file_is_a_dataset_that_check_data_reads(run, images, tmp_path, capsys):
    assert predict(run, *images[:2], "--out", tmp_path / "out", "--no-images") == 0
    assert not (tmp_path / "out/pictures").exists()
    data = f"{tmp_path / 'out/predictions.json'}:{images[0].parent}"
    assert commands.focal_plugin(["check-data", data]) == 0
    assert "2 images" in capsys.readouterr().out


def test_one_threshold_for_all_classes_needs_no_evaluation(run, images, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "inference")
    assert predict(copy, images[0], "--out", tmp_path / "out") == 2
    assert "was not evaluated" in capsys.readouterr().err
    options = ("--out", tmp_path / "out", "--no-images", "--score")
    assert predict(copy, images[0], *options, 0) == 0
    scores = sorted(x["score"] for x in read(tmp_path)["annotations"])
    middle = scores[len(scores) // 2]
    assert predict(copy, images[0], *options, middle) == 0
    shown = [x["score"] for x in read(tmp_path)["annotations"]]
    assert sorted(shown) == [score for score in scores if score >= middle]
    assert "Score thresholds" not in capsys.readouterr().out


def test_a_broken_file_is_said_and_the_others_are_done(run, images, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_text("text")
    Image.open(images[0]).convert("CMYK").save(folder / "b.jpg")
    assert predict(run, folder, "--out", tmp_path / "out", "--batch", 2) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{folder / 'a.jpg'}: it is no image that Pillow knows",
        "1 of 2 files could not be read.",
    ]
    content = read(tmp_path)
    assert [image["file_name"] for image in content["images"]] == ["b.jpg"]
    assert [x["file_name"] for x in content["unreadable"]] == ["a.jpg"]


def test_thresholds_are_not_those_of_other_weights_which_is_said(run, images, tmp_path, capsys):
    weights = ("--weights", run / "model_final.pth")
    assert predict(run, images[0], *weights, "--no-images", "--out", tmp_path / "out") == 0
    assert "of the last evaluation of the run, not of --weights" in capsys.readouterr().out


def test_the_default_folder_is_in_the_run(run, images, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    assert predict(copy, images[0], "--no-images") == 0
    assert (copy / "predictions/predictions.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no image, folder or pattern nowhere"),
        (["{image}", "--weights", "gone.pth"], "there is no file gone.pth"),
        (["{image}", "--import", "no_such_module"], "cannot import no_such_module"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(run, images, arguments, message, capsys):
    assert predict(run, *(text.format(image=images[0]) for text in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("focal-plugin: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", [["--score", "1.5"], ["--score", "nan"], ["--batch", "0"]])
def test_an_illegal_number_is_exit_code_2(option, capsys):
    with pytest.raises(SystemExit) as ended:
        predict("run", "image.png", *option)
    assert ended.value.code == 2
    assert f"got '{option[1]}'" in capsys.readouterr().err
