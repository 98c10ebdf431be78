"""Tests of specs on several datasets, and of folds."""

import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from focal_plugin.compare.plan.collection import COLLECTION_FILE, Collection, folder_of
from focal_plugin.compare.plan.setting import Setting
from focal_plugin.compare.plan.spec import best_runs, read_plan, read_plans
from focal_plugin.compare.plan.spec_file import read_spec

from ...conftest import ROOT
from .trained_config import as_trained

BASE = f"base: {ROOT}/configs/Shapes-Detection/retinanet_small.yaml\n"
ARMS = BASE + "arms: {CE: ce, FL: fl}\n"
TWO = (
    "datasets: {a: {train: a.json:images, test: c.json:images}, "
    "b: {train: c.json:images, test: a.json:images}}\n"
)


@pytest.fixture
def write(tmp_path):
    """Provide a function that writes a spec beside two datasets, of two and of three classes."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        (tmp_path / "images" / f"{i}.png").write_bytes(bytes([i]))
    for name, classes in (("a", 2), ("b", 3), ("c", 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(coco(classes)))

    def write(text, name="spec.yaml"):
        file = tmp_path / name
        file.write_text(ARMS + text)
        return file

    return write


def coco(classes):
    size = {"width": 8, "height": 8}
    box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in range(12)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % classes, **box} for i in range(12)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(classes)],
    }


def refused(file, error=ValueError):
    with pytest.raises(error) as caught:
        read_plans(file)
    return str(caught.value)


def test_each_dataset_has_a_comparison_of_all_arms_with_its_own_classes(write):
    two = (
        "datasets:\n  a: {train: a.json:images, test: c.json:images}\n"
        "  b: {train: b.json:images, test: b.json:images, opts: [SOLVER.BASE_LR, 0.03]}\n"
    )
    plans = read_plans(write("seeds: 3\n" + two))
    assert [plan.comparison.part for plan in plans] == ["a", "b"]
    assert [plan.comparison.name for plan in plans] == ["spec: a", "spec: b"]
    assert [len(plan.comparison.runs) for plan in plans] == [6, 6]
    first, second = (as_trained(plan.comparison.runs[0]) for plan in plans)
    assert (first.DATASETS.TRAIN, first.DATASETS.TEST) == (("a_train",), ("a_test",))
    assert (first.MODEL.RETINANET.NUM_CLASSES, second.MODEL.RETINANET.NUM_CLASSES) == (2, 3)
    assert (first.SOLVER.BASE_LR, second.SOLVER.BASE_LR) == (0.05, 0.03)
    assert len({run.id for plan in plans for run in plan.comparison.runs}) == 12
    names = [text.partition("=")[0] for text in plans[1].comparison.runs[0].datasets]
    assert names == ["b_train", "b_test"]


def test_a_registered_dataset_is_named(write):
    shapes = "{train: focal_shapes_train, test: focal_shapes_val}"
    two = f"datasets: {{s: {shapes}, a: {{train: a.json:images, test: c.json:images}}}}\n"
    plans = read_plans(write("seeds: 1\n" + two))
    first = as_trained(plans[0].comparison.runs[0])
    assert first.DATASETS.TRAIN == ("focal_shapes_train",)
    assert plans[0].comparison.runs[0].datasets == ()
    classes = MetadataCatalog.get("focal_shapes_train").thing_classes
    assert len(classes) == first.MODEL.RETINANET.NUM_CLASSES


def test_a_number_of_classes_that_is_given_stays(write):
    seven = TWO.replace("}}", ", opts: [MODEL.RETINANET.NUM_CLASSES, 7]}}")
    said = "MODEL.RETINANET.NUM_CLASSES is 7, but dataset 'b_train' has 2 classes"
    assert said in refused(write("seeds: 1\n" + seven))


def test_only_entries_with_train_and_test_are_compared_on(write):
    file = write("seeds: 1\n" + TWO.replace("{a:", "{other: a.json:images, a:", 1))
    spec = read_spec(file)
    assert spec.part_names == ("a", "b")
    assert [dataset.name for dataset in spec.datasets] == ["other"]


def test_a_plan_of_one_dataset_is_refused(write):
    file = write(
        "seeds: 1\nfolds: 3\nopts: [DATASETS.TRAIN, [mine]]\ndatasets: {mine: a.json:images}\n"
    )
    with pytest.raises(ValueError, match="is on several datasets or folds"):
        read_plan(file)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("folds: 1", ValueError, "folds must be an integer >= 2, got 1"),
        ("folds: [5]", ValueError, "folds must be an integer"),
        ("folds: {k: 5}", KeyError, "no key of folds is named 'k'; known: number, seed"),
        ("folds: {number: 5, seed: -1}", ValueError, "folds: seed must be an integer >= 0"),
        ("folds: 1000", ValueError, "folds must be at most 100"),
        ("folds: 3\n" + TWO, ValueError, "folds and several datasets .* cannot be combined"),
        (
            "folds: 3\nopts: [DATASETS.TEST, [x]]",
            ValueError,
            "folds: they set DATASETS.TEST, so it cannot be an option",
        ),
        (TWO + "opts: [DATASETS.TRAIN, [x]]", ValueError, "datasets: they set DATASETS.TRAIN"),
        (
            "datasets: {a: {train: a.json:images, test: a.json:images}}",
            ValueError,
            "'a' is the only one to compare on",
        ),
        (
            "datasets: {a: {train: a.json:images}}",
            ValueError,
            "datasets: 'a': test must be JSON:IMAGES or the name of a dataset, got None",
        ),
        (
            "datasets: {a: {train: a.json:images, val: a.json:images}}",
            KeyError,
            "datasets: 'a': no key is named 'val'; known: train, test, opts",
        ),
        (
            "datasets: {a: {train: none.json:images, test: a.json:images}}",
            FileNotFoundError,
            "datasets: 'a': train: no file 'none.json'",
        ),
        (
            TWO.replace("c.json:images}, b", "c.json:images, opts: [DATASETS.TEST, x]}, b"),
            ValueError,
            "DATASETS.TEST is not an option: use the keys train and test",
        ),
        (
            TWO.replace("c.json:images}, b", "c.json:images, opts: [SOLVER.BASE_LR, 1]}, b")
            + "opts: [SOLVER.BASE_LR, 2]",
            ValueError,
            "datasets: SOLVER.BASE_LR is already in opts, for all datasets",
        ),
    ],
)
def test_a_malformed_choice_of_datasets_is_refused(write, text, error, said):
    with pytest.raises(error, match=said):
        read_plans(write(f"seeds: 1\n{text}\n"))


@pytest.mark.parametrize("several", ["folds: 3\n", TWO])
def test_looks_are_refused(write, several):
    text = "seeds: {looks: [4, 6]}\n" + several
    assert "requires a fixed number of seeds, without looks" in refused(write(text))


def test_the_budget_is_that_of_all_datasets(write):
    text = "seeds: 2\n" + TWO + "budget: {iterations: 10, total_iterations: %d}\n"
    assert len(read_plans(write(text % 80))) == 2
    assert "take up to 80 iterations" in refused(write(text % 79))


# --- folds

FOLDED = "seeds: 2\nopts: [DATASETS.TRAIN, [mine], MODEL.RETINANET.NUM_CLASSES, 2]\n"
FOLDED += "datasets: {mine: a.json:images}\nfolds: {number: 3, seed: 1}\n"


@pytest.mark.parametrize(
    "named",
    [
        "datasets: {mine: a.json:images}\n",
        "datasets: {my_train: a.json:images, my_val: c.json:images}\n",
        "datasets: {x: a.json:images, y: c.json:images}\nopts: [DATASETS.TRAIN, [x]]\n",
    ],
)
def test_the_training_set_is_folded_however_it_is_named(write, named):
    plans = read_plans(write("seeds: 1\nfolds: 2\n" + named))
    assert as_trained(plans[0].comparison.runs[0]).MODEL.RETINANET.NUM_CLASSES == 2


def files_of(plan):
    texts = [text.partition("=")[2].rpartition(":")[0] for text in plan.comparison.runs[0].datasets]
    return {Path(text).stem: Path(text) for text in texts}


def test_folds_are_coco_files_in_the_folder_of_each(write, tmp_path):
    plans = read_plans(write(FOLDED), folder=tmp_path / "out")
    assert [plan.comparison.part for plan in plans] == ["fold-1", "fold-2", "fold-3"]
    tested = []
    for plan in plans:
        own = folder_of(plan.comparison, tmp_path / "out")
        assert own == tmp_path / "out" / plan.comparison.part
        files = files_of(plan)
        assert {f.parent for f in (files["train"], files["test"])} == {own / "data"}
        train, test = (json.loads(files[use].read_text()) for use in ("train", "test"))
        ids = [{image["id"] for image in part["images"]} for part in (train, test)]
        assert (len(ids[0]), len(ids[1]), ids[0] & ids[1]) == (8, 4, set())
        assert sorted(x["category_id"] for x in test["annotations"]) == [0, 0, 1, 1]
        tested += ids[1]
        cfg = as_trained(plan.comparison.runs[0])
        number = plan.comparison.part[-1]
        assert (f"fold{number}_train",) == cfg.DATASETS.TRAIN
        assert (f"fold{number}_test",) == cfg.DATASETS.TEST
    assert sorted(tested) == list(range(12))


def test_the_runs_of_a_fold_have_the_same_ids_in_any_folder_and_without_one(write, tmp_path):
    spec = write(FOLDED)
    there, here = (read_plans(spec, folder=tmp_path / name) for name in ("there", "here"))
    dry = read_plans(spec)
    ids = [
        [run.id for plan in plans for run in plan.comparison.runs] for plans in (there, here, dry)
    ]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0])) == 12
    other = read_plans(write(FOLDED.replace("seed: 1", "seed: 2")))
    assert not {run.id for plan in other for run in plan.comparison.runs} & set(ids[0])


def test_planning_again_writes_no_file_again(write, tmp_path):
    spec, folder = write(FOLDED), tmp_path / "out"
    first = read_plans(spec, folder=folder)
    before = {file: file.stat().st_mtime_ns for plan in first for file in files_of(plan).values()}
    read_plans(spec, folder=folder)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_arms_with_other_training_sets_are_refused(write):
    text = FOLDED.replace("opts: [DATASETS.TRAIN, [mine], ", "opts: [")
    text = text.replace("{mine: a.json:images}", "{mine: a.json:images, other: c.json:images}")
    file = write(text)
    mine, other = (f"[DATASETS.TRAIN, [{name}]]" for name in ("mine", "other"))
    arms = f"arms: {{CE: {{arm: ce, opts: {mine}}}, FL: {{arm: fl, opts: {other}}}}}"
    file.write_text(BASE + arms + "\n" + text)
    said = "folds: all arms must have one training set, the same one, got mine, other"
    assert said in refused(file)


def test_too_few_images_for_the_folds_are_an_error(write):
    assert "too few images for 13 parts: 12 without copies" in refused(
        write(FOLDED.replace("number: 3", "number: 13"))
    )


def test_best_runs_are_those_of_the_fold(write, tmp_path):
    spec = write(FOLDED + "learning_rates: {factors: [1, 2], seeds: [101, 102, 103]}\n")
    plans = read_plans(spec, folder=tmp_path)
    second = plans[1].comparison
    runs = best_runs(spec, second, {"FL": Setting(2.0)}, tmp_path)
    assert [run.name for run in runs] == ["FL lr x 2 seed 1", "FL lr x 2 seed 2"]
    assert runs[0].datasets == second.runs[0].datasets
    assert as_trained(runs[0]).DATASETS.TRAIN == ("fold2_train",)


# --- the file that lists them


def test_a_collection_is_read_as_it_was_written(write, tmp_path):
    plans = read_plans(write(FOLDED))
    made = Collection.of("cells", "fold", [plan.comparison for plan in plans])
    made.write(tmp_path / "out")
    assert Collection.read(tmp_path / "out") == made
    assert [member.folder for member in made.members] == ["fold-1", "fold-2", "fold-3"]
    assert Collection.read(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x", "kind": "planet", "members": []}'])
def test_a_damaged_collection_names_its_file(tmp_path, content):
    (tmp_path / COLLECTION_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"collection\.json.*Delete it"):
        Collection.read(tmp_path)
