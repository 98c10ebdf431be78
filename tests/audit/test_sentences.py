"""Tests of the sentences: each is said where its figure says so, and only there."""

import copy

import pytest

from focal_plugin.audit import Audit
from focal_plugin.audit.sentences import number, percent, sentences_of
from focal_plugin.audit.text_page import text_page


def row(objects, recall, *, positives=0.5, neutral=1.0):
    return {
        "objects": objects,
        "recall": {"0.5": recall},
        "positives_over_objects": neutral,
        "share_of_positives": positives,
        "positives_per_object": {"mean": 3.0},
    }


def counted(index, name, objects):
    return {
        "index": index,
        "name": name,
        "objects": objects,
        "images": 2,
        "rank": index + 1,
        "share": 0.5,
        "with_head": 1.0,
        "group": "rare",
    }


QUIET = {
    "detector": {
        "kind": "RetinaNet",
        "assigner": "max_iou",
        "frame": {"short": 256, "longest": 400},
    },
    "images": {"train": ["mine"], "images": 9, "objects": 30, "crowds": 0},
    "classes": {
        "per_class": [counted(0, "RBC", 20), counted(1, "Platelets", 10)],
        "head": 0,
        "tail": 1,
        "absent": [],
        "imbalance_ratio": 2.0,
    },
    "anchors": {
        "recall": {"0.5": 0.97},
        "per_class": [row(20, 0.97), row(10, 0.97)],
        "at_training": [
            {"frame": {"short": s}, "per_class": [{"0.5": 0.97}] * 2} for s in (200, 300)
        ],
        "remedies": {},
        "stolen": 0.0,
        "forced": 0.0,
        "unused_levels": [],
    },
    "sizes": {
        "below_finest_stride": 0.0,
        "finest_stride": 8,
        "duplicate": 0.0,
        "per_class": [{"side": {"p5": 9.0, "p50": 20.0, "p95": 31.0}}] * 2,
    },
    "background": {"bg_fg": 34.2, "anchors": {"mean": 999.0}, "positives": {"mean": 7.0}},
    "loss": {
        "rows": [{"name": "config", "loss": "SigmoidFocalLoss", "negatives_of_loss": 0.0007}],
        "normalizer": {
            "init": 100.0,
            "positives_per_batch": {"mean": 300.0, "std": 5.0},
            "images_per_batch": 4,
        },
    },
    "proposal": {"status": "enough"},
    "ceilings": {
        "nms": 0.0,
        "nms_thresh": 0.5,
        "detections_lost": 0.0,
        "detections_per_image": 100,
        "topk_images": None,
        "topk_candidates": None,
    },
}


def facts_with(**changes):
    """Return quiet facts with some changed values, `section__name=value`."""
    facts = copy.deepcopy(QUIET)
    for path, value in changes.items():
        section, name = path.split("__", 1)
        facts[section][name] = value
    return facts


def loud(**changes):
    """Return the sentences that are red or yellow."""
    found = sentences_of(facts_with(**changes))
    return [(x.severity, x.text) for x in found if x.severity != "green"]


def test_a_dataset_without_faults_has_green_sentences_only():
    assert [(x.severity, x.text) for x in sentences_of(QUIET)] == [
        ("green", "97% of objects have an anchor of IoU .5 at 256 px."),
        ("green", "RBC has 2 times the objects of Platelets."),
        ("green", "There are 34.2 background anchors for each positive one."),
        (
            "green",
            "Before the first step, background anchors cause 0.07% of the config's "
            "SigmoidFocalLoss.",
        ),
        (
            "green",
            "A batch of 4 images has 300 positive anchors, and MODEL.FOCAL.NORMALIZER.INIT is 100.",
        ),
    ]


@pytest.mark.parametrize(
    ("remedy", "end"),
    [
        ({"size": 16, "short": 512}, "add size 16 or train at 512 px."),
        ({"size": None, "short": 512}, "train at 512 px."),
        ({"size": None, "short": None}, "change the sizes and ratios of the anchors."),
    ],
)
def test_a_class_without_anchors_is_red_with_its_remedy(remedy, end):
    changes = {"anchors__per_class": [row(20, 0.97), row(10, 0.29)]}
    assert loud(**changes, anchors__remedies={"1": remedy}) == [
        (
            "red",
            "Platelets: 71% of objects have no anchor of IoU .5 at 256 px. No loss will find "
            f"them; {end}",
        )
    ]


@pytest.mark.parametrize(
    ("changes", "severity", "text"),
    [
        (
            {"anchors__per_class": [row(20, 0.8), row(10, 0.7)]},
            "yellow",
            "RBC and Platelets: 20% to 30% of objects have no anchor of IoU .5 at 256 px.",
        ),
        (
            {"anchors__per_class": [row(20, 0.97), row(10, 0.97, positives=0.01, neutral=0.1)]},
            "yellow",
            "Platelets: 50% of all objects, but 1.0% of all positive anchors.",
        ),
        (
            {"detector__assigner": "atss"},
            "yellow",
            "Positives are counted by IoU thresholds (max_iou), but training uses atss.",
        ),
        ({"anchors__stolen": 0.02}, "yellow", "2.0% of objects lose all of their anchors to"),
        ({"anchors__forced": 0.2}, "yellow", "20% of positives exist only as the best anchors"),
        ({"anchors__unused_levels": ["p7"]}, "yellow", "No anchor of p7 is positive, so"),
        ({"classes__absent": [1]}, "yellow", "No training image has an object of Platelets."),
        (
            {"classes__imbalance_ratio": 11.5},
            "yellow",
            "RBC has 11.5 times the objects of Platelets. 100% of the images of Platelets also",
        ),
        (
            {"classes__per_class": [counted(0, "RBC", 20), counted(1, "x\ny", 3)]},
            "yellow",
            "Some classes have fewer than 10 objects: x y (3).",
        ),
        ({"sizes__below_finest_stride": 0.2}, "yellow", "20% of objects are smaller than 8 px,"),
        ({"sizes__duplicate": 0.02}, "yellow", "2.0% of objects have a duplicate: same class,"),
        ({"background__bg_fg": 4792.4}, "yellow", "There are 4,792 background anchors for"),
        ({"background__bg_fg": None}, "red", "No anchor is positive, so nothing is learned."),
        ({"ceilings__nms": 0.02}, "yellow", "2.0% of objects have a neighbor of their class"),
        ({"ceilings__detections_lost": 0.01}, "yellow", "TEST.DETECTIONS_PER_IMAGE is 100, which"),
        (
            {"ceilings__detections_lost": 0.2},
            "red",
            "TEST.DETECTIONS_PER_IMAGE is 100, which loses",
        ),
        ({"ceilings__topk_images": 0.2}, "yellow", "20% of images have more objects than"),
        (
            {"anchors__at_training": [{"frame": {"short": 512}, "per_class": [{"0.5": 1}] * 2}]},
            "yellow",
            "The shorter side of a test image is 256 px, and of a training image 512 px.",
        ),
        (
            {"anchors__at_training": [{"frame": {"short": 256}, "per_class": [{"0.5": 0}] * 2}]},
            "yellow",
            "RBC and Platelets: most objects have no anchor of IoU .5 in training images of 256",
        ),
    ],
)
def test_a_fault_has_one_sentence(changes, severity, text):
    ((found, said),) = loud(**changes)
    assert found == severity
    assert said.startswith(text)


def test_a_first_normalizer_far_from_its_start_is_yellow():
    normalizer = {**QUIET["loss"]["normalizer"], "init": 3.0}
    ((severity, said),) = loud(loss__normalizer=normalizer)
    assert severity == "yellow"
    assert said.endswith("INIT is 3: the first losses are larger than later ones.")


def test_a_loss_of_negatives_is_yellow():
    rows = [{"name": "config", "loss": "X", "negatives_of_loss": 0.9}]
    rows.append({"name": "ohem", "loss": "Y", "negatives_of_loss": 0.1})
    ((severity, said),) = loud(loss__rows=rows)
    assert severity == "yellow"
    assert said.endswith("cause 90% of the config's X, 10% of ohem.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0%"),
        (1, "100%"),
        (0.9999, "99.9%"),
        (0.995, "99.5%"),
        (0.712, "71%"),
        (0.099, "9.9%"),
        (0.0752, "7.5%"),
        (0.0007, "0.07%"),
        (1e-9, "0.001%"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(4792.4, "4,792"), (11.46, "11.5"), (0.05, "0.05")])
def test_a_number_has_the_digits_that_count(value, text):
    assert number(value) == text


def test_the_page_has_a_row_for_each_class_and_colors_on_a_terminal():
    audit = Audit(QUIET, sentences_of(QUIET))
    page = text_page(audit, colored=False)
    assert "Platelets         10         2    9 20 31        0.970" in page
    assert "\x1b" not in page
    assert "\x1b[32mgreen " in text_page(audit, colored=True)


def test_a_page_of_many_classes_shows_the_first_and_the_last():
    facts = facts_with()
    many = [counted(index, f"class{index:02}", 20) for index in range(30)]
    facts["classes"]["per_class"] = many
    facts["anchors"]["per_class"] = [row(20, 0.97)] * 30
    facts["sizes"]["per_class"] = QUIET["sizes"]["per_class"] * 15
    page = text_page(Audit(facts, ()), colored=False)
    assert "class09" in page
    assert "class10" not in page
    assert "class20" in page
    assert "10 classes between are not shown." in page
