"""Tests of the proposal of anchors: what it reaches, what it keeps, and when there is none."""

import numpy as np
import pytest
import torch
import yaml
from detectron2.structures import Boxes, pairwise_iou

from focal_plugin import get_cfg
from focal_plugin.audit import proposal
from focal_plugin.audit.anchor_search import Reach, Shapes
from focal_plugin.audit.anchored_set import place_anchors
from focal_plugin.audit.detector import read_detector
from focal_plugin.audit.labeling import best_ious
from focal_plugin.audit.network_frame import frame_at_test
from focal_plugin.audit.proposal import propose_anchors
from focal_plugin.audit.proposal_sentences import proposal_sentences
from focal_plugin.audit.proposal_yaml import WITHOUT_PROPOSAL, proposal_yaml
from focal_plugin.audit.sampling import equal_quota, sample_by_class

from .reference import anchors_of, config, placed, random_table, table_of_boxes

SMALL = {"INPUT__MIN_SIZE_TEST": 64, "INPUT__MIN_SIZE_TRAIN": (64, 80)}


def two_sizes(num_large=60, num_small=6, *, small=15, seed=0):
    """Return the table of many objects that the anchors reach, and of a few that are too small."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(num_large):
        sides = [(rng.uniform(24, 34, 2), 0)]
        if i < num_small:
            sides.append((rng.uniform(0.85, 1.15, 2) * small, 1))
        boxes = []
        for side, label in sides:
            corner = rng.random(2) * ((96, 64) - side)
            boxes.append((*corner, *(corner + side), label))
        images.append(boxes)
    return table_of_boxes(images)


def coarse(**keys):
    """Return a config whose anchors are all large."""
    sizes = [[26, 32, 40], [52, 64, 80], [104, 128, 160]]
    return config(**{"MODEL__ANCHOR_GENERATOR__SIZES": sizes, **SMALL, **keys})


def with_opts(cfg, facts):
    cfg = cfg.clone()
    cfg.merge_from_list(facts["opts"])
    return cfg


@pytest.fixture(scope="module")
def offered():
    """Return a config, a table and the proposal for them."""
    cfg, table = coarse(), two_sizes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("focal_plugin.audit.anchor_search.GENERATIONS", 10)
        return cfg, table, propose_anchors(cfg, table)


def test_the_best_iou_of_the_search_is_that_of_the_anchors():
    table = random_table(8, seed=2)
    table.boxes[table.image == 0] = (90, 58, 96, 64)  # beyond the last location
    sizes = [[5, 7, 9], [10, 14, 18], [20, 28, 36]]
    data = placed(read_detector(coarse(MODEL__ANCHOR_GENERATOR__SIZES=sizes)), table)
    found = Reach(data).best_iou(Shapes(np.array(sizes[0]) / 8, np.array([0.5, 1, 2])))
    dense = []
    for image in range(8):
        boxes = torch.from_numpy(data.frame.boxes[data.table.image == image])
        anchors = Boxes.cat(anchors_of(data, image))
        if len(boxes):
            dense.append(pairwise_iou(Boxes(boxes), anchors).amax(dim=1).numpy())
    assert found == pytest.approx(np.concatenate(dense), abs=1e-6)


def test_the_proposal_reaches_the_rare_class_and_keeps_the_others(offered):
    _, _, facts = offered
    assert facts["status"] == "proposed"
    large, small, absent = facts["per_class"]
    assert (large["before"], small["before"]) == (1, pytest.approx(0, abs=0.2))
    assert min(large["after"], small["after"]) >= 0.98
    assert (absent["objects"], absent["before"], absent["after"]) == (0, None, None)
    assert facts["cost"] == 1  # anchors suffice, so no larger input


def test_the_recall_is_that_of_a_config_with_the_keys(offered):
    cfg, table, facts = offered
    for stage, own in (("before", cfg), ("after", with_opts(cfg, facts))):
        detector = read_detector(own)
        reached = best_ious(place_anchors(detector, table, frame_at_test(own))) >= 0.5
        assert facts[stage]["recall"] == pytest.approx(reached.mean())
        for label in (0, 1):
            own_recall = reached[table.classes == label].mean()
            assert facts["per_class"][label][stage] == pytest.approx(own_recall)


def test_the_proposal_keeps_levels_and_anchors_and_has_round_numbers(offered):
    cfg, _, facts = offered
    before, after = (x.MODEL.ANCHOR_GENERATOR for x in (cfg, with_opts(cfg, facts)))
    assert np.shape(after.SIZES) == np.shape(before.SIZES)
    assert np.shape(after.ASPECT_RATIOS) == np.shape(before.ASPECT_RATIOS)
    assert all(isinstance(size, int) for level in after.SIZES for size in level)
    strides = np.array(facts["strides"])[:, None]
    assert (np.array(after.SIZES) >= strides).all()
    assert (np.diff(after.SIZES, axis=1) > 0).all()
    ends = np.array(after.SIZES)[:, -1]  # a level ends where the next one begins, but for rounding
    assert (ends[:-1] <= np.array(after.SIZES)[1:, 0] + 1).all()
    assert all(round(ratio, 2) == ratio for ratio in after.ASPECT_RATIOS[0])
    assert facts["after"]["sizes"] == after.SIZES


def test_the_same_data_has_the_same_proposal_and_the_config_is_not_changed(offered):
    cfg, table, facts = offered
    unchanged = cfg.dump()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("focal_plugin.audit.anchor_search.GENERATIONS", 10)
        patch.setattr(proposal, "FACTORS", (1.0, np.nan))  # the second one is not tried
        assert propose_anchors(cfg, table) == facts
    assert cfg.dump() == unchanged


def test_each_class_counts_alike():
    shapes = [(18, 54, 0)] * 50 + [(54, 18, 1)] * 3 + [(54, 18, 2)] * 3  # width, height, class
    table = table_of_boxes([[(20, 5, 20 + w, 5 + h, label)] for w, h, label in shapes])
    cfg = coarse(MODEL__ANCHOR_GENERATOR__SIZES=[[26], [52], [104]])
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]  # one ratio cannot serve all
    facts = propose_anchors(cfg, table)
    assert [row["after"] for row in facts["per_class"]] == [0, 1, 1]


def test_a_larger_input_is_offered_only_if_no_anchors_reach_the_objects(monkeypatch):
    monkeypatch.setattr("focal_plugin.audit.anchor_search.GENERATIONS", 10)
    table = two_sizes(small=5)
    cfg = coarse()
    facts = propose_anchors(cfg, table)
    assert facts["after"]["short"] > facts["before"]["short"] == 64
    factor = facts["after"]["short"] / 64
    assert facts["cost"] == pytest.approx(factor**2, rel=0.02)
    own = with_opts(cfg, facts).INPUT
    assert tuple(round(factor * x) for x in (64, 80)) == own.MIN_SIZE_TRAIN
    assert (round(64 * factor), round(1333 * factor)) == (own.MIN_SIZE_TEST, own.MAX_SIZE_TEST)
    (sentence,) = proposal_sentences(facts)
    assert f"at {facts['after']['short']} px instead of 64 px" in sentence.text
    alone = propose_anchors(cfg, table, larger_input=False)
    assert not any(key.startswith("INPUT") for key in alone["opts"])
    assert (alone["per_class"][1]["after"] or 0) < min(0.95, facts["per_class"][1]["after"])


def test_images_of_their_own_size_are_not_enlarged():
    facts = propose_anchors(coarse(INPUT__MIN_SIZE_TEST=0), two_sizes(small=4))
    assert facts["cost"] == 1
    assert not any(key.startswith("INPUT") for key in facts["opts"])


def test_an_rpn_has_a_proposal_for_its_own_levels():
    cfg = config("faster_rcnn_small.yaml", **SMALL)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64]] * len(cfg.MODEL.RPN.IN_FEATURES)
    facts = propose_anchors(cfg, two_sizes(12))
    assert facts["status"] == "proposed"
    assert np.shape(facts["after"]["sizes"]) == (len(cfg.MODEL.RPN.IN_FEATURES), 1)


def status_of(cfg, table):
    facts = propose_anchors(cfg, table)
    assert (facts["after"], facts["opts"]) == (None, [])
    assert yaml.safe_load(proposal_yaml(facts)) is None
    assert proposal_yaml(facts) == f"# {WITHOUT_PROPOSAL[facts['status']]}\n"
    assert [s.severity for s in proposal_sentences(facts)] == ["green"]
    return facts["status"]


def test_nothing_is_proposed_where_nothing_helps():
    assert status_of(coarse(), two_sizes(num_small=0)) == "enough"
    assert status_of(coarse(), table_of_boxes([[], []])) == "empty"
    assert status_of(coarse(), table_of_boxes([[(0, 0, 9, 9, -1)]])) == "empty"
    assert status_of(coarse(), table_of_boxes([[(5, 5, 5.1, 5.1, 0)]])) == "none"
    cfg = coarse(MODEL__ANCHOR_GENERATOR__SIZES=[[26], [52, 64], [104]])
    assert status_of(cfg, two_sizes()) == "unsupported"


def test_the_yaml_is_a_config_with_the_keys_of_the_proposal(offered, tmp_path):
    cfg, _, facts = offered
    text = proposal_yaml({**facts, "opts": [*facts["opts"], "INPUT.MIN_SIZE_TRAIN", "(96, 120)"]})
    base, file = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text(cfg.dump())
    file.write_text(f"_BASE_: base.yaml\n{text}")
    read = get_cfg()
    read.merge_from_file(str(file))
    expected = with_opts(cfg, facts)
    expected.INPUT.MIN_SIZE_TRAIN = (96, 120)
    assert read.MODEL.ANCHOR_GENERATOR == expected.MODEL.ANCHOR_GENERATOR
    assert read.INPUT == expected.INPUT


def test_a_name_cannot_leave_its_comment(offered):
    _, _, facts = offered
    rows = [{**row, "name": f"x\nEVIL: {i}\r"} for i, row in enumerate(facts["per_class"])]
    many = {**facts, "per_class": rows * 20, "train": ["a\nb: c"]}
    text = proposal_yaml(many)
    assert set(yaml.safe_load(text)) == {"MODEL"}
    assert "and 30 more classes" in text
    assert len(text.splitlines()) < 40


def test_equal_quotas_take_as_many_objects_as_allowed():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 30, rng.integers(1, 8))
        most = int(rng.integers(1, 120))
        quota = equal_quota(counts, most)
        assert quota == 1 or np.minimum(counts, quota).sum() <= most
        if quota < counts.max(initial=0):
            assert np.minimum(counts, quota + 1).sum() > most


def test_a_sample_keeps_rare_classes_and_the_order_of_images():
    table = random_table(60, seed=4, crowds=0.1)
    rare = (table.classes == 2) & (np.cumsum(table.classes == 2) > 4)
    table = table._replace(classes=np.where(rare, 0, table.classes))
    sample = sample_by_class(table, 40)
    counts = sample.objects_per_class(3)
    assert counts[2] == 4
    assert counts.sum() == 40
    assert (np.diff(sample.image) >= 0).all()
    assert len(sample.file_names) == len(sample.image_sizes) == sample.image.max() + 1
    kept = {(sample.file_names[i], *box) for i, box in zip(sample.image, sample.boxes, strict=True)}
    assert kept <= {
        (table.file_names[i], *box) for i, box in zip(table.image, table.boxes, strict=True)
    }
    assert np.array_equal(sample_by_class(table, 40).boxes, sample.boxes)


def test_sizes_in_strides_give_the_same_proposal_with_its_generator(monkeypatch):
    monkeypatch.setattr("focal_plugin.audit.anchor_search.GENERATIONS", 5)
    pixels = coarse()
    strides = coarse(
        MODEL__ANCHOR_GENERATOR__SIZES=[[3.25, 4.0, 5.0]],
        MODEL__ANCHOR_GENERATOR__NAME="StrideAnchorGenerator",
    )
    expected, found = (propose_anchors(cfg, two_sizes()) for cfg in (pixels, strides))
    name = ["MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator"]
    assert expected["status"] == "proposed"
    assert found == {**expected, "opts": [*name, *expected["opts"]]}
    assert read_detector(strides).signature == read_detector(pixels).signature
    assert (
        read_detector(with_opts(strides, found)).signature
        == read_detector(with_opts(pixels, expected)).signature
    )
    written = yaml.safe_load(proposal_yaml(found))["MODEL"]["ANCHOR_GENERATOR"]
    assert written["NAME"] == "DefaultAnchorGenerator"
