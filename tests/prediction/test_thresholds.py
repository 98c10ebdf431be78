"""Score thresholds of a run."""

import json
import shutil
from dataclasses import replace

import pytest

from focal_plugin.compare.runs.environment import Environment
from focal_plugin.prediction.thresholds import automatic, best_thresholds
from focal_plugin.prediction.trained_run import read_run
from focal_plugin.score_thresholds import ClassThreshold, ScoreThresholds

NAMES = ("a", "b")
FILES = ("score_thresholds.json", "coco_instances_results.json")


@pytest.fixture(scope="module")
def found(run):
    return read_run(run)


@pytest.fixture
def copy(run, tmp_path):
    """Return a copy of what a run leaves beside its weights."""
    (tmp_path / "inference").mkdir()
    for name in ("env.json", *(f"inference/{name}" for name in FILES)):
        shutil.copy(run / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def best(found, copy):
    """Return a function that finds the thresholds of the copy."""

    def best():
        return best_thresholds(replace(found, folder=copy, environment=Environment.read(copy)))

    return best


def test_a_run_of_an_older_version_gets_the_same_from_its_detections(copy, best):
    written = best()
    (copy / "inference/score_thresholds.json").unlink()
    assert best() == written
    assert written.together.score is not None


def test_written_thresholds_need_no_ground_truth(copy, best):
    written = best()
    (copy / "env.json").unlink()
    (copy / "inference/coco_instances_results.json").unlink()
    assert best() == written


def edit(copy, change):
    (copy / "inference/score_thresholds.json").unlink()
    file = copy / "env.json"
    content = json.loads(file.read_text())
    change(content["datasets"]["test"][0])
    file.write_text(json.dumps(content))


def edit_detections(copy, content):
    (copy / "inference/score_thresholds.json").unlink()
    (copy / "inference/coco_instances_results.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda copy: shutil.rmtree(copy / "inference"),
            ValueError,
            "was not evaluated on tiny_shapes, .*--eval-only, or give the threshold.*--score 0.5",
        ),
        (
            lambda copy: edit(copy, lambda data: data.update(json_file="/gone.json")),
            FileNotFoundError,
            r"annotations of tiny_shapes are gone: there is no file /gone\.json; give the thresh",
        ),
        (
            lambda copy: edit(copy, lambda data: data.update(json_sha256="0")),
            ValueError,
            "annotations.json has changed since .* was trained: give the threshold",
        ),
        (
            lambda copy: edit_detections(copy, [{"image_id": 1}]),
            ValueError,
            "results.json holds no detections of .*annotations.json: give the threshold",
        ),
        (
            lambda copy: (copy / "inference/score_thresholds.json").write_text("{"),
            ValueError,
            "score_thresholds.json is damaged",
        ),
    ],
)
def test_a_run_without_known_thresholds_asks_for_one(copy, best, damage, error, message):
    damage(copy)
    with pytest.raises(error, match=message):
        best()


def thresholds(first, second, together):
    def of(name, score):
        rest = (None,) * 3 if score is None else (0.5, 0.25, 1 / 3)
        return ClassThreshold(name, 4, score, *rest)

    classes = (of("x", first), of("y", second))
    return ScoreThresholds("val", 0.5, of("all classes", together), classes)


def test_each_class_has_its_own_and_a_class_never_found_that_of_all():
    found = automatic(thresholds(0.3, None, 0.4), NAMES)
    assert found.scores == (0.3, 0.4)
    rows = [line.split() for line in found.table.splitlines()]
    assert ["a", "4", "0.30", "0.50", "0.25", "0.33"] in rows
    assert ["b", "4", "0.40*", "-", "-", "-"] in rows


def test_without_a_correct_detection_nothing_is_best():
    with pytest.raises(ValueError, match=r"no detection on val was correct.*--score 0\.5"):
        automatic(thresholds(None, None, None), NAMES)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="val has 2 classes, but the model 3"):
        automatic(thresholds(0.3, 0.3, 0.3), (*NAMES, "c"))
