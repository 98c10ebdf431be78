import numpy as np
import pytest

from focal_plugin.compare.analysis.detections import coco_json, match_boxes
from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.match_boxes import AREAS, ascending

from .coco_cases import ground_truth, pycocotools_evaluation, random_case, write


def crowded_case(seed):
    """Return two images full of overlapping objects of few sizes, with equal scores and IoUs."""
    generator = np.random.default_rng(seed)

    def box():
        sizes = generator.choice([30, 32, 33, 96, 100], 2)
        return [*map(float, generator.integers(0, 40, 2)), *map(float, sizes)]

    annotations = [
        {
            "id": number + 1,
            "image_id": 1 + number % 2,
            "category_id": 7,
            "bbox": box(),
            "area": float(generator.choice([500, 1024, 5000, 9216, 20000])),
            "iscrowd": int(generator.random() < 0.2),
        }
        for number in range(24)
    ]
    detections = [
        {"image_id": 1 + n % 2, "category_id": 7, "bbox": box(), "score": n * 7 % 8 / 8}
        for n in range(240)
    ]
    return ground_truth([1, 2], annotations), detections


@pytest.mark.parametrize(
    "case",
    [
        *(random_case(seed, tied_scores=seed % 2 == 0) for seed in range(4)),
        *(crowded_case(seed) for seed in range(4)),
    ],
)
def test_every_match_is_that_of_pycocotools(tmp_path, case):
    truth, detections = case
    evaluation = evaluate(write(tmp_path, truth), detections)
    images = len(evaluation.image_ids)
    results = pycocotools_evaluation(truth, detections).evalImgs
    ids = [annotation["id"] for annotation in truth["annotations"]]
    compared = 0
    for k, matches in enumerate(evaluation.classes):
        objects = np.zeros((len(AREAS), images), dtype=int)
        objects[:, matches.images] = matches.objects
        column = {detection: n for n, detection in enumerate(matches.detection.tolist())}
        for size in range(len(AREAS)):
            first = (k * len(AREAS) + size) * images
            for image, result in enumerate(results[first : first + images]):
                if result is None:
                    assert objects[size, image] == 0
                    continue
                assert objects[size, image] == (result["gtIgnore"] == 0).sum()
                own = [column[id_ - 1] for id_ in result["dtIds"]]
                matched = result["dtMatches"]
                assert (matches.matched[size][:, own] == (matched > 0)).all()
                assert (matches.ignored[size][:, own] == result["dtIgnore"]).all()
                if size == 0:
                    found = [ids.index(id_) if id_ else -1 for id_ in matched[0]]
                    assert matches.found[own].tolist() == found
                    compared += len(own)
    assert compared == sum(len(matches.score) for matches in evaluation.classes) > 30


@pytest.mark.parametrize("at_once", [1, 40])
def test_matches_are_the_same_however_many_classes_are_matched_at_once(
    tmp_path, monkeypatch, at_once
):
    truth, detections = random_case(3)
    file = write(tmp_path, truth)
    together = evaluate(file, detections).classes
    monkeypatch.setattr(match_boxes, "_AT_ONCE", at_once)
    in_parts = evaluate(file, detections).classes
    assert len(in_parts) == len(together) > 1
    for mine, expected in zip(in_parts, together, strict=True):
        for name in vars(expected):
            assert (getattr(mine, name) == getattr(expected, name)).all(), name


@pytest.mark.parametrize("largest", [0, 200, 255, 256, 65535, 65536, 2**40])
def test_the_order_is_stable_and_ascending_for_integers_of_any_size(largest):
    values = np.random.default_rng(0).integers(0, largest, 500, endpoint=True)
    values[:6] = [largest, 0, largest, 0, 0, largest]
    assert ascending(values).tolist() == sorted(range(500), key=values.tolist().__getitem__)
    assert ascending(values[:0]).tolist() == []


def test_entries_are_read_alike_at_once_and_one_by_one(tmp_path, monkeypatch):
    truth, detections = random_case(2)
    detections[0]["bbox"] = [1, 2, 3.5, 4]
    truth = coco_json.read_ground_truth(write(tmp_path, truth))
    at_once = coco_json.read_detections(detections, truth)
    monkeypatch.setattr(coco_json, "_at_once", lambda *_: None)
    one_by_one = coco_json.read_detections(detections, truth)
    for name in ("image", "category", "box", "score"):
        mine, expected = getattr(at_once, name), getattr(one_by_one, name)
        assert (mine.dtype, mine.shape) == (expected.dtype, expected.shape)
        assert (mine == expected).all()
