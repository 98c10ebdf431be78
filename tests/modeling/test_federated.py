"""Detectron2's federated loss with the images of each class from a key."""

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from .test_fast_rcnn import KEYS, K, losses_of, make, make_from_config, random_predictions
from .toy import NUM_CLASSES
from .toy_rcnn import tiny_rcnn

FEDERATED = (
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", 3,
)  # fmt: skip
COUNTS = (f"{KEYS}.CLS_LOSS.SAMPLES_PER_CLASS", [100, 25, 16, 4, 1])


def cls_loss_of(layers):
    torch.manual_seed(3)
    return losses_of(layers, random_predictions())[0]["loss_cls"]


def test_the_weights_are_a_power_of_the_images():
    layers, _ = make_from_config(*FEDERATED, *COUNTS)
    torch.testing.assert_close(layers.fed_loss_cls_weights, torch.tensor([10.0, 5, 4, 2, 1]))
    options = {"use_sigmoid_ce": True, "use_fed_loss": True, "fed_loss_num_classes": 3}
    stock = make(
        FastRCNNOutputLayers,
        **options,
        get_fed_loss_cls_weights=lambda: torch.tensor([10.0, 5, 4, 2, 1]),
    )
    assert torch.equal(cls_loss_of(layers), cls_loss_of(stock))


def test_the_metadata_of_a_dataset_is_read_as_in_stock():
    counts = [{"id": k, "image_count": 4**k} for k in range(K)]
    MetadataCatalog.get("federated_counts").class_image_count = counts
    try:
        layers, _ = make_from_config(*FEDERATED, "DATASETS.TRAIN", ("federated_counts",))
    finally:
        MetadataCatalog.remove("federated_counts")
    torch.testing.assert_close(layers.fed_loss_cls_weights, 2.0 ** torch.arange(K))


def test_without_the_images_it_can_be_built_but_not_trained():
    layers, _ = make_from_config(*FEDERATED)
    with pytest.raises(ValueError, match=rf"USE_FED_LOSS requires .* {KEYS}\.CLS_LOSS\.SAMPLES"):
        cls_loss_of(layers)


def test_roi_heads_are_built_without_metadata():
    model = tiny_rcnn(*FEDERATED, f"{KEYS}.CLS_LOSS.SAMPLES_PER_CLASS", list(range(NUM_CLASSES)))
    predictor = model.roi_heads.box_predictor
    torch.testing.assert_close(predictor.fed_loss_cls_weights, torch.arange(NUM_CLASSES).sqrt())
