"""Tests of the loss before the first step: that of a real step at the prior."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from focal_plugin import arms
from focal_plugin.audit.detector import read_detector
from focal_plugin.audit.labeling import label_anchors
from focal_plugin.audit.loss_figures import LabeledSet, loss_facts
from focal_plugin.audit.start_of_training import start_of, terms_of_labels
from focal_plugin.modeling.samples_per_class import set_samples_per_class

from .reference import config, instances_of, placed, random_table


def labeled_by(cfg, table):
    data = placed(read_detector(cfg), table)
    return LabeledSet(data, label_anchors(data))


def first_step(cfg, data, *, zeroed, loss):
    """Return the loss of the first step on all images, with every logit at its prior."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for name, parameter in model.named_parameters():
        if any(part in name for part in zeroed) and name.endswith("weight"):
            torch.nn.init.zeros_(parameter)
    height, width = data.table.image_sizes[0].tolist()
    inputs = [
        {
            "image": torch.zeros(3, height, width),
            "instances": instances_of(data, image),
            "height": height,
            "width": width,
        }
        for image in range(len(data.table.file_names))
    ]
    with EventStorage(), torch.no_grad():
        return model(inputs)[loss].item()


def config_of_arm(arm, num_images, name="retinanet_small.yaml", **keys):
    cfg = config(name, MODEL__DEVICE="cpu", SOLVER__IMS_PER_BATCH=num_images, **keys)
    arms.apply(cfg, arm)
    return cfg


@pytest.mark.parametrize(
    ("arm", "num_images"),
    [
        ("fl", 3),
        ("class_balanced", 3),
        ("softmax_fl", 3),
        ("norm_per_image", 3),
        ("qfl", 3),
        ("rank_sort", 1),
        ("dr_authors", 1),
        ("ohem", 3),
        ("ghm", 1),
    ],
)
def test_the_loss_is_that_of_the_first_step(arm, num_images):
    keys = {"MODEL__FOCAL__CLS_LOSS__WEIGHT": 3.0, "MODEL__FOCAL__MINING__RANK_BY": "cls_and_box"}
    keys["MODEL__FOCAL__MINING__NUM_KEEP"] = 1000  # all survivors of the suppression by this rank
    cfg = config_of_arm(arm, num_images, **keys)
    table = random_table(num_images, seed=8, num_objects=(3, 9), crowds=0.2)
    set_samples_per_class(cfg, table.objects_per_class, table.images_per_class)
    labeled = labeled_by(cfg, table)
    row = loss_facts(labeled, {})["rows"][0]
    step = first_step(cfg, labeled.data, zeroed=("cls_score", "bbox_pred"), loss="loss_cls")
    assert row["first_step"]["mean"] == pytest.approx(step, rel=2e-6)


@pytest.mark.parametrize("arm", ["rpn_fl", "rpn_softmax_ce", "rpn_inside"])
def test_the_loss_is_that_of_the_first_step_of_an_rpn(arm):
    keys = {"MODEL__RPN__HEAD_NAME": "PriorRPNHead", "MODEL__FOCAL__RPN__PRIOR_PROB": 0.1}
    keys["MODEL__RPN__BATCH_SIZE_PER_IMAGE"] = 8  # fewer than twice the positives
    cfg = config_of_arm(arm, 3, "faster_rcnn_small.yaml", **keys)
    labeled = labeled_by(cfg, random_table(3, seed=8, num_objects=(3, 9)))
    row = loss_facts(labeled, {})["rows"][0]
    step = first_step(cfg, labeled.data, zeroed=("objectness_logits",), loss="loss_rpn_cls")
    assert row["first_step"]["mean"] == pytest.approx(step, rel=2e-6)


def test_the_shares_of_cross_entropy_are_those_of_its_formula():
    labeled = labeled_by(config(), random_table(3, seed=8, num_objects=(3, 9)))
    ce = loss_facts(labeled, {})["rows"][1]
    positives = labeled.labeling.positives.sum()
    negatives = (labeled.labeling.anchors - labeled.labeling.ignored).sum() - positives
    of_negatives = negatives * 3 * -torch.log(torch.tensor(0.99)).item()
    of_positives = positives * (-torch.log(torch.tensor(0.01)) - 2 * torch.log(torch.tensor(0.99)))
    assert ce["per_positive"] == pytest.approx((of_negatives + of_positives).item() / positives)
    assert ce["negatives_of_loss"] == pytest.approx(
        of_negatives / (of_negatives + of_positives.item()), rel=1e-5
    )
    slopes = negatives * 3 * 0.01, positives * (0.99 + 2 * 0.01)
    assert ce["negatives_of_gradient"] == pytest.approx(slopes[0] / sum(slopes), rel=1e-5)


def test_a_loss_that_returns_only_a_sum_is_called_for_one_anchor_of_each_label():
    start = start_of(read_detector(config()))

    class Total(type(start.cls_loss)):
        has_rows = False

        def per_anchor(self, logits, labels, *, quality=None):
            assert len(labels) == 1
            return super().per_anchor(logits, labels)

    rows = terms_of_labels(start)
    sums = terms_of_labels(start._replace(cls_loss=Total(alpha=0.25, gamma=2.0)))
    for expected, found in zip(rows, sums, strict=True):
        assert torch.equal(expected, found)


def test_a_loss_of_all_logits_is_left_out_if_they_do_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr("focal_plugin.audit.dense_start.MOST_LOGITS", 100)
    labeled = labeled_by(config_of_arm("ghm", 1), random_table(1, seed=8))
    row = loss_facts(labeled, {})["rows"][0]
    assert row["images"] == 0
    assert "per_positive" not in row


def test_the_first_normalizer_counts_the_positives_of_batches():
    cfg = config(SOLVER__IMS_PER_BATCH=2)
    labeled = labeled_by(cfg, random_table(2, seed=8, num_objects=(3, 9)))
    facts = loss_facts(labeled, {})["normalizer"]
    assert facts["positives_per_batch"] == {"mean": labeled.labeling.positives.sum(), "std": 0}
    assert facts["init"] == 100
