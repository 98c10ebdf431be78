"""RoI heads: comparison with stock's, and of mining with a plain reimplementation."""

import copy
import re

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model, build_roi_heads
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from focal_plugin import get_cfg
from focal_plugin.losses import CLS_LOSS_REGISTRY, SigmoidFocalLoss
from focal_plugin.mining import OHEMMiner, SSDMiner
from focal_plugin.modeling import (
    FocalCascadeROIHeads,
    FocalFastRCNNOutputLayers,
    FocalROIHeads,
    OHEMCascadeROIHeads,
    OHEMROIHeads,
    SampledCascadeROIHeads,
    SampledROIHeads,
)

from ..each import each
from .toy import NARROW, NUM_CLASSES, assert_loads_every_key, gradients_of, toy_batch
from .toy_rcnn import tiny_rcnn, tiny_rcnn_cfg

KEYS = "MODEL.FOCAL.ROI_HEADS"
AGNOSTIC = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
STOCK_OF = {"FocalROIHeads": "StandardROIHeads", "FocalCascadeROIHeads": "CascadeROIHeads"}
OHEM = ("OHEMROIHeads", "OHEMCascadeROIHeads")
SAMPLED = ("SampledROIHeads", "SampledCascadeROIHeads")


def opts_of(name):
    return ["MODEL.ROI_HEADS.NAME", name, *(AGNOSTIC if "Cascade" in name else ())]


# --- stock, at the default keys


@pytest.fixture(params=[(n, a) for n in STOCK_OF for a in (False, True)], ids=str)
def pair(request):
    """Return our heads and stock's of one seed, with both kinds of regression."""
    name, agnostic = request.param
    opts = list(AGNOSTIC) if agnostic else []
    ours, stock = (tiny_rcnn(*opts_of(n), *opts) for n in (name, STOCK_OF[name]))
    assert type(ours.roi_heads) is ROI_HEADS_REGISTRY.get(name)
    return ours, stock


def test_initial_weights_and_state_dict_keys_are_stocks(pair):
    ours, stock = (model.state_dict() for model in pair)
    assert list(ours) == list(stock)
    assert all(torch.equal(ours[key], stock[key]) for key in stock)


@pytest.mark.parametrize("name", [*STOCK_OF, *OHEM, *SAMPLED])
def test_layers_built_after_the_box_head_start_as_in_stock(name):
    built = []
    for heads in (name, STOCK_OF[re.sub("OHEM|Sampled", "Focal", name)]):
        model = tiny_rcnn(*opts_of(heads), "MODEL.MASK_ON", True)
        built.append((model.roi_heads.mask_head.state_dict(), torch.get_rng_state()))
    (ours, random_state), (stock, stock_random_state) = built
    assert all(torch.equal(ours[key], stock[key]) for key in stock)
    assert torch.equal(random_state, stock_random_state)


def test_losses_gradients_logs_and_random_numbers_are_stocks(pair):
    steps = []
    for model in pair:
        torch.manual_seed(1)
        with EventStorage() as storage:
            losses, gradients = _step(model, toy_batch())
        logged = {name: value for name, (value, _) in storage.latest().items()}
        steps.append((losses, gradients, logged, torch.get_rng_state()))
    ours, stock = steps
    assert list(ours[0]) == list(stock[0])
    for name, loss in ours[0].items():
        torch.testing.assert_close(loss, stock[0][name], rtol=2e-6, atol=0)
    assert ours[1].keys() == stock[1].keys()
    for name, gradient in ours[1].items():
        expected = stock[1][name]
        assert (gradient - expected).norm() <= 1e-5 * expected.norm() + 1e-9, name
    of_roi_heads = {k for k in stock[2] if not k.startswith("rpn/")}
    assert {k: ours[2][k] for k in of_roi_heads} == {k: stock[2][k] for k in of_roi_heads}
    assert any("fast_rcnn/cls_accuracy" in name for name in of_roi_heads)
    assert torch.equal(ours[3], stock[3])


def test_detections_are_stocks(pair):
    detections = []
    for model in pair:
        _accept_all(model.eval())
        with torch.no_grad():
            detections.append([x["instances"] for x in model(toy_batch())])
    assert sum(len(x) for x in detections[0]) > 0
    for mine, theirs in zip(*detections, strict=True):
        assert torch.equal(mine.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(mine.scores, theirs.scores)
        assert torch.equal(mine.pred_classes, theirs.pred_classes)


def _accept_all(model):
    """Every score is a detection, for stock's layers and for ours."""
    for module in model.modules():
        if isinstance(module, FastRCNNOutputLayers):
            module.test_score_thresh = 0.0


def _step(model, batch):
    model.zero_grad()
    losses = model(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", OHEM)
def test_inference_with_mining_is_stocks(name):
    focal = name.replace("OHEM", "Focal")
    mask = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]
    ours, plain = (tiny_rcnn(*opts_of(n), *mask).eval() for n in (name, focal))
    for model in (ours, plain):
        _accept_all(model)
    with torch.no_grad():
        mine, theirs = (model(toy_batch())[0]["instances"] for model in (ours, plain))
    assert len(mine) > 0
    assert torch.equal(mine.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(mine.scores, theirs.scores)
    assert torch.equal(mine.pred_masks, theirs.pred_masks)


@pytest.mark.parametrize("name", [*STOCK_OF, *OHEM, *SAMPLED])
@pytest.mark.parametrize("loss", ["SigmoidFocalLoss", "SoftmaxFocalLoss"])
def test_another_loss_and_a_prior_change_no_other_initial_weight(name, loss):
    keys = [f"{KEYS}.CLS_LOSS.NAME", loss, f"{KEYS}.PRIOR_PROB", 0.01]
    ours = tiny_rcnn(*opts_of(name), *keys).state_dict()
    stock = tiny_rcnn(*opts_of(STOCK_OF[re.sub("OHEM|Sampled", "Focal", name)])).state_dict()
    changed = {key for key in stock if not torch.equal(ours[key], stock[key])}
    assert changed
    assert all(key.endswith("cls_score.bias") for key in changed)


def test_each_stage_of_a_cascade_has_its_own_transform_and_loss():
    opts = opts_of("FocalCascadeROIHeads")
    model = tiny_rcnn(*opts, f"{KEYS}.CLS_LOSS.NAME", "SigmoidFocalLoss")
    predictors = model.roi_heads.box_predictor
    assert [p.box2box_transform.weights[0] for p in predictors] == [10.0, 20.0, 30.0]
    assert len({id(p.cls_loss) for p in predictors}) == len(predictors) == 3


# --- all losses, mask and keypoint heads, the zoo's configs


@pytest.mark.slow
@pytest.mark.parametrize("loss", sorted(dict(CLS_LOSS_REGISTRY)))
def test_every_classification_loss_trains_a_model_with_and_without_mining(loss):
    for name in ("FocalROIHeads", "OHEMCascadeROIHeads"):
        opts = (
            *opts_of(name),
            f"{KEYS}.CLS_LOSS.NAME", loss,
            f"{KEYS}.CLS_LOSS.SAMPLES_PER_CLASS", [10] * NUM_CLASSES,
        )  # fmt: skip
        if "OHEM" in name and not CLS_LOSS_REGISTRY.get(loss).has_rows:
            with pytest.raises(ValueError, match=f"{loss} compares all logits"):
                tiny_rcnn(*opts)
            continue
        model = tiny_rcnn(*opts)
        batch = toy_batch()[:2]  # one image with objects, and one without
        losses, gradients = gradients_of(model, batch)
        assert all(value.isfinite() for value in losses.values())
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        with torch.no_grad():
            assert len(model.eval()(batch)) == 2


ZOO = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml": ("FocalROIHeads", "OHEMROIHeads"),
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml": ("FocalROIHeads", "OHEMROIHeads"),
    "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml": ("FocalCascadeROIHeads", "OHEMCascadeROIHeads"),
}
SMALL = [
    *NARROW, "MODEL.FPN.OUT_CHANNELS", 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16], "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8,
]  # fmt: skip


def batch_with_masks(num_classes):
    batch = toy_batch()
    for record in batch:
        instances = record["instances"]
        instances.gt_classes = instances.gt_classes.clamp(max=num_classes - 1)
    add_masks_and_keypoints([record["instances"] for record in batch])
    return batch


def add_masks_and_keypoints(targets):
    for instances in targets:
        corners = instances.gt_boxes.tensor.double()[:, [0, 1, 2, 1, 2, 3, 0, 3]]
        instances.gt_masks = PolygonMasks([[polygon.numpy()] for polygon in corners])
        centers = instances.gt_boxes.get_centers()[:, None].expand(-1, 17, 2)
        visible = torch.full((len(instances), 17, 1), 2.0)
        instances.gt_keypoints = Keypoints(torch.cat([centers, visible], dim=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "name"), [(c, name) for c, names in ZOO.items() for name in names]
)
def test_a_config_of_the_zoo_trains_all_its_heads(config, name):
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(config))
    cfg.merge_from_list([*SMALL, "MODEL.ROI_HEADS.NAME", name])
    torch.manual_seed(0)
    model = build_model(cfg)
    losses, gradients = gradients_of(model, batch_with_masks(cfg.MODEL.ROI_HEADS.NUM_CLASSES))
    assert all(loss.isfinite() for loss in losses.values())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert gradients.keys() == trained
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    heads = [name for name in losses if "mask" in name or "keypoint" in name or "cls" in name]
    assert all(losses[name] > 0 for name in heads)
    assert all(gradients[n].abs().sum() > 0 for n in trained if "_head." in n and "weight" in n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "opts"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", opts_of("FocalROIHeads")),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", opts_of("OHEMROIHeads")),
        (
            "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
            (*opts_of("FocalROIHeads"), f"{KEYS}.CLS_LOSS.NAME", "SigmoidFocalLoss"),
        ),
        ("Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", opts_of("OHEMCascadeROIHeads")),
    ],
    ids=["focal", "ohem", "sigmoid", "cascade_mask"],
)
def test_a_checkpoint_of_the_zoos_model_loads_with_every_key(config, opts, tmp_path, caplog):
    models = []
    for changes in ((), (*opts, "MODEL.PROPOSAL_GENERATOR.NAME", "FocalRPN")):
        cfg = get_cfg()
        cfg.merge_from_file(model_zoo.get_config_file(config))
        cfg.merge_from_list([*SMALL, *changes])
        models.append(build_model(cfg))
    stock, ours = models
    assert_loads_every_key(ours, stock, tmp_path, caplog)


def test_mining_requires_a_predictor_with_a_loss_of_each_roi():
    cfg = tiny_rcnn_cfg(*opts_of("OHEMROIHeads"))
    shapes = {f"p{i}": ShapeSpec(channels=32, stride=2**i) for i in range(3, 6)}
    explicit = OHEMROIHeads.from_config(cfg, shapes)
    explicit["box_predictor"] = FastRCNNOutputLayers(cfg, explicit["box_head"].output_shape)
    with pytest.raises(ValueError, match="FocalFastRCNNOutputLayers, got FastRCNNOutputLayers"):
        OHEMROIHeads(**explicit)


def test_boxes_that_the_head_predicts_may_train_the_mask_head():
    """Stock's cascade does not have this option."""
    opts = ["MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, "MODEL.MASK_ON", True]
    opts += ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 200]  # room for the objects
    model = tiny_rcnn(*opts_of("OHEMROIHeads"), *opts, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8)
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.bias)
    pooled = {}
    for pooler in ("box_pooler", "mask_pooler"):
        getattr(model.roi_heads, pooler).register_forward_pre_hook(
            lambda _, args, pooler=pooler: pooled.update({pooler: args[1][0].tensor})
        )
    losses, _ = gradients_of(model, batch_with_masks(NUM_CLASSES))
    assert losses["loss_mask"] > 0
    assert len(pooled["mask_pooler"]) > 0
    assert torch.cdist(pooled["mask_pooler"], pooled["box_pooler"]).min() > 0


# --- RoI heads alone, on synthetic RoIs

STRIDES = {"p3": 8, "p4": 16, "p5": 32}


def make_heads(name="OHEMROIHeads", *opts):
    torch.manual_seed(0)
    shapes = {level: ShapeSpec(channels=32, stride=stride) for level, stride in STRIDES.items()}
    heads = build_roi_heads(tiny_rcnn_cfg(*opts_of(name), *opts), shapes).train()
    for layer in layers_of(heads):
        nn.init.normal_(layer.cls_score.weight, std=0.5)  # the losses differ
        nn.init.normal_(layer.bbox_pred.weight, std=0.5)
    return heads


def layers_of(heads):
    """Return the output layers, one per stage."""
    return [m for m in heads.modules() if isinstance(m, FocalFastRCNNOutputLayers)]


def random_scene(num_rois=(40, 25, 0, 30), size=256, seed=0):
    """Return features, proposals and targets of images with several objects, the last with none."""
    generator = torch.Generator().manual_seed(seed)
    features = {
        level: torch.randn(len(num_rois), 32, size // s, size // s, generator=generator)
        for level, s in STRIDES.items()
    }
    proposals, targets = [], []
    for image, count in enumerate(num_rois):
        num_objects = 0 if image == len(num_rois) - 1 else 4
        corners = torch.rand(num_objects, 2, generator=generator) * 150
        gt = torch.cat(
            [corners, corners + 50 + torch.rand(num_objects, 2, generator=generator) * 50], 1
        )
        classes = torch.randint(0, NUM_CLASSES, (num_objects,), generator=generator)
        targets.append(Instances((size, size), gt_boxes=Boxes(gt), gt_classes=classes))
        around = gt if num_objects else torch.tensor([[60.0, 60, 140, 140]])
        jitter = (torch.rand(count, 4, generator=generator) - 0.5) * 40
        boxes = Boxes(around[torch.arange(count) % len(around)] + jitter)
        boxes.clip((size, size))
        # every third RoI occurs twice: same box, same features, same loss
        boxes.tensor[1::3] = boxes.tensor[0::3][: len(boxes.tensor[1::3])]
        logits = torch.zeros(count)
        proposals.append(Instances((size, size), proposal_boxes=boxes, objectness_logits=logits))
    return features, proposals, targets


def run(heads, features, proposals, targets):
    """Return the RoIs that are trained on, the losses, and the logged scalars."""
    with EventStorage() as storage:
        kept, losses = heads(None, features, [copy.copy(p) for p in proposals], targets)
    return kept, losses, {name: value for name, (value, _) in storage.latest().items()}


def spy_on_ranking(heads, monkeypatch, tie_to=None):
    """Return a list to which each step appends (losses, proposals) of the ranking."""
    seen = []
    layers = layers_of(heads)[0]
    original = layers.losses_per_roi

    def spy(predictions, proposals):
        losses = original(predictions, proposals)
        if tie_to:
            losses = {k: (v / tie_to).round() * tie_to for k, v in losses.items()}
        seen.append((losses, proposals))
        return losses

    monkeypatch.setattr(layers, "losses_per_roi", spy)
    return seen


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def hardest(loss, labels, boxes, *, num_keep, thresh):
    """Return the kept indices of one image, by loops: suppression per label, then a cut by loss."""
    order = sorted(range(len(loss)), key=lambda i: (-loss[i], i))
    survivors = []
    for i in order:
        rivals = [j for j in survivors if labels[j] == labels[i]]
        if all(iou(boxes[i], boxes[j]) <= thresh for j in rivals):
            survivors.append(i)
    return sorted(survivors[:num_keep])


@pytest.mark.parametrize("name", OHEM)
@pytest.mark.parametrize("rank_by", ["cls", "cls_and_box"])
@pytest.mark.parametrize("tie_to", [None, 2.0], ids=["exact", "many ties"])
@pytest.mark.parametrize(("num_keep", "thresh"), [(8, 0.7), (16, 0.3), (1000, 0.7), (8, 1.0)])
def test_the_rois_kept_are_those_of_a_plain_reimplementation(
    name, rank_by, tie_to, num_keep, thresh, monkeypatch
):
    heads = make_heads(
        name,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", num_keep,
        f"{KEYS}.MINING.NMS_THRESH", thresh,
        f"{KEYS}.MINING.RANK_BY", rank_by,
    )  # fmt: skip
    seen = spy_on_ranking(heads, monkeypatch, tie_to)
    kept, _, _ = run(heads, *random_scene())
    ((losses, candidates),) = seen
    rank = losses["loss_cls"].numpy()
    if rank_by == "cls_and_box":
        rank = rank + losses["loss_box_reg"].numpy()
    sizes = [len(p) for p in candidates]
    assert sizes == [44, 29, 4, 30]  # all RoIs, including the objects
    pairs = zip(np.split(rank, np.cumsum(sizes)), candidates, kept, strict=False)
    for loss, image, chosen in pairs:
        boxes, labels = image.proposal_boxes.tensor.double().numpy(), image.gt_classes.numpy()
        expected = hardest(loss, labels, boxes, num_keep=num_keep, thresh=thresh)
        assert len(chosen) == len(expected) <= num_keep
        assert torch.equal(chosen.proposal_boxes.tensor, image.proposal_boxes.tensor[expected])
        assert torch.equal(chosen.gt_classes, image.gt_classes[expected])


def test_an_image_is_padded_with_rois_that_no_miner_counts():
    heads = make_heads("OHEMROIHeads")
    heads.miner = SSDMiner(num_classes=NUM_CLASSES, empty_image_negatives=3)
    features, proposals, targets = random_scene()
    assert len(proposals[3]) < len(proposals[0])  # so it is padded
    assert len(targets[3]) == 0
    kept, _, _ = run(heads, features, proposals, targets)
    assert kept[3].gt_classes.tolist() == [NUM_CLASSES] * 3


def test_no_two_rois_of_one_label_overlap_by_more_than_the_threshold():
    thresh = [f"{KEYS}.MINING.NMS_THRESH", 0.4]
    heads = make_heads("OHEMROIHeads", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000, *thresh)
    kept, _, _ = run(heads, *random_scene())
    of_other_labels = 0
    for image in kept:
        boxes = image.proposal_boxes.tensor.tolist()
        for i in range(len(boxes)):
            for j in range(i):
                if iou(boxes[i], boxes[j]) > 0.4 + 1e-5:
                    assert image.gt_classes[i] != image.gt_classes[j]
                    of_other_labels += 1
    assert of_other_labels > 0  # labels do not suppress each other


def test_the_hardest_of_the_batch_may_come_from_one_image(monkeypatch):
    heads = make_heads(
        "OHEMROIHeads",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 5,
        f"{KEYS}.MINING.SCOPE", "batch",
        f"{KEYS}.MINING.NMS_THRESH", 1.0,
    )  # fmt: skip
    seen = spy_on_ranking(heads, monkeypatch)
    kept, _, _ = run(heads, *random_scene())
    ((losses, candidates),) = seen
    rank = sum(losses.values())
    threshold = rank.sort(descending=True).values[4 * 5 - 1]
    expected = [int((x >= threshold).sum()) for x in rank.split([len(p) for p in candidates])]
    assert sum(len(image) for image in kept) == 4 * 5
    assert len(set(expected)) > 1
    assert (
        sum(abs(len(k) - e) for k, e in zip(kept, expected, strict=True)) <= 1
    )  # a tie at the cut


@pytest.mark.parametrize("name", OHEM)
def test_all_labeled_rois_compete_and_no_random_number_is_drawn(name):
    heads = make_heads(name)
    features, proposals, targets = random_scene()
    before = torch.get_rng_state()
    _, _, logged = run(heads, features, proposals, targets)
    assert torch.equal(torch.get_rng_state(), before)
    total = logged["before_mining/roi_head/num_fg_samples"]
    total += logged["before_mining/roi_head/num_bg_samples"]
    assert total == pytest.approx((44 + 29 + 4 + 30) / 4)


def test_rois_that_are_neither_object_nor_background_are_left_out():
    bands = ["MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.3, 0.6], "MODEL.ROI_HEADS.IOU_LABELS", [0, -1, 1]]
    heads = make_heads("OHEMROIHeads", *bands, f"{KEYS}.MINING.NAME", "")
    features, proposals, targets = random_scene()
    kept, losses, _ = run(heads, features, proposals, targets)
    assert 4 < len(kept[0]) < 44
    for image, truth in zip(kept, targets, strict=True):
        for box, label in zip(image.proposal_boxes.tensor.tolist(), image.gt_classes, strict=True):
            best = max((iou(box, gt) for gt in truth.gt_boxes.tensor.tolist()), default=0.0)
            assert best >= 0.6 if label < NUM_CLASSES else best < 0.3
    assert all(loss.isfinite() for loss in losses.values())


def test_the_survivors_are_logged_once_per_step():
    heads = make_heads()
    with EventStorage() as storage:
        features, proposals, targets = random_scene()
        kept, _ = heads(None, features, proposals, targets)
        histories = storage.histories()
    labels = torch.cat([image.gt_classes for image in kept])
    for name, count in (
        ("roi_head/num_fg_samples", (labels < NUM_CLASSES).sum()),
        ("roi_head/num_bg_samples", (labels == NUM_CLASSES).sum()),
    ):
        assert [value for value, _ in histories[name].values()] == [pytest.approx(count.item() / 4)]


@pytest.mark.parametrize("name", OHEM)
def test_without_suppression_and_with_a_large_quota_it_trains_on_all(name):
    opts = [f"{KEYS}.MINING.NMS_THRESH", 1.0, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000]
    mined = run(make_heads(name, *opts), *random_scene())
    unmined = run(make_heads(name, f"{KEYS}.MINING.NAME", ""), *random_scene())
    assert sum(len(image) for image in mined[0]) == 44 + 29 + 4 + 30
    for loss, expected in zip(mined[1].values(), unmined[1].values(), strict=True):
        assert torch.equal(loss, expected)


@pytest.mark.parametrize("name", OHEM)
def test_the_losses_that_rank_are_those_that_are_trained(name, monkeypatch):
    opts = [f"{KEYS}.MINING.NMS_THRESH", 1.0, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000]
    heads = make_heads(name, *opts)
    seen = spy_on_ranking(heads, monkeypatch)
    _, losses, _ = run(heads, *random_scene())
    stage = "_stage0" if "Cascade" in name else ""
    for key, per_roi in seen[0][0].items():
        torch.testing.assert_close(losses[key + stage].detach(), per_roi.mean())


# --- use of the survivors


def grid_scene():
    """Return RoIs that share no pixel of a feature map, so that each gradient is of one RoI."""
    corners = [(x, y) for x in range(16, 500, 96) for y in range(16, 500, 96)]
    boxes = torch.tensor([[x, y, x + 32, y + 32] for x, y in corners]).float()
    features, _, _ = random_scene((1,), size=512)
    proposals = Instances((512, 512), proposal_boxes=Boxes(boxes), objectness_logits=boxes[:, 0])
    objects = Instances(
        (512, 512), gt_boxes=Boxes(boxes[[3, 11]].clone()), gt_classes=torch.tensor([7, 5])
    )
    return features, [proposals], [objects], boxes


@pytest.mark.parametrize("name", OHEM)
def test_only_the_survivors_have_a_gradient(name):
    features, proposals, targets, boxes = grid_scene()
    features["p3"].requires_grad_()
    heads = make_heads(name, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 6)
    if "Cascade" in name:  # later stages use the previous stage's boxes, here the RoIs themselves
        for layers in layers_of(heads):
            nn.init.zeros_(layers.bbox_pred.weight)
    kept, losses, _ = run(heads, features, proposals, targets)
    (gradient,) = torch.autograd.grad(sum(losses.values()), features["p3"])
    survivors = set(map(tuple, kept[0].proposal_boxes.tensor.tolist()))
    assert len(survivors) == 6
    for box in boxes.tolist():
        x1, y1, x2, y2 = (int(v) // 8 for v in box)
        moved = gradient[0, :, y1 - 1 : y2 + 1, x1 - 1 : x2 + 1].abs().max() > 0
        assert moved == (tuple(box) in survivors), box


@pytest.mark.parametrize("name", OHEM)
def test_mask_and_keypoint_heads_see_only_survivors(name):
    small = ["MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8]]
    heads = make_heads(name, "MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True, *small)
    features, proposals, targets = random_scene()
    add_masks_and_keypoints(targets)
    seen = {"mask_pooler": [], "keypoint_pooler": []}
    for pooler, boxes_seen in seen.items():
        getattr(heads, pooler).register_forward_pre_hook(
            lambda _, args, boxes_seen=boxes_seen: boxes_seen.append(args[1])
        )
    kept, losses, _ = run(heads, features, proposals, targets)
    assert {"loss_mask", "loss_keypoint"} <= losses.keys()
    assert all(loss.isfinite() for loss in losses.values())
    expected = [image[image.gt_classes < NUM_CLASSES].proposal_boxes.tensor for image in kept]
    assert sum(len(boxes) for boxes in expected) > 0
    for (boxes,) in seen.values():
        assert all(torch.equal(a.tensor, b) for a, b in zip(boxes, expected, strict=True))


class _NoisyHead(nn.Module):
    """Box head with every kind of layer that depends on the training mode."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32 * 25, 16)
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(16)

    def forward(self, x):
        return self.frozen(self.dropout(self.norm(self.fc(x.flatten(1)))))


def _with_noisy_head(name):
    heads = make_heads(name)
    if "Cascade" in name:
        heads.box_head = nn.ModuleList(_NoisyHead() for _ in range(3))
        head = heads.box_head[0]
    else:
        head = heads.box_head = _NoisyHead()
    head.frozen.eval()
    return heads, head


@pytest.mark.parametrize("name", OHEM)
def test_the_ranking_pass_does_not_change_norms_modes_or_random_numbers(name, monkeypatch):
    heads, head = _with_noisy_head(name)
    states, layers = [], layers_of(heads)[0]
    original = layers.losses_per_roi

    def record(*args):
        states.append((torch.get_rng_state(), copy.deepcopy(head.state_dict())))
        return original(*args)

    monkeypatch.setattr(layers, "losses_per_roi", record)
    modes = {module: module.training for module in heads.modules()}
    before = torch.get_rng_state(), copy.deepcopy(head.state_dict())
    run(heads, *random_scene())
    ((rng, state),) = states
    assert torch.equal(rng, before[0])
    assert all(torch.equal(value, before[1][key]) for key, value in state.items())
    assert {module: module.training for module in heads.modules()} == modes
    assert not head.frozen.training
    # the training pass updated them, once
    assert head.norm.num_batches_tracked == 1
    assert head.frozen.num_batches_tracked == 0
    assert not torch.equal(torch.get_rng_state(), before[0])  # because of dropout


@pytest.mark.parametrize("name", OHEM)
def test_modes_are_restored_when_ranking_fails(name, monkeypatch):
    heads, _ = _with_noisy_head(name)

    def fail(*args):
        raise FloatingPointError("simulated NaN")

    monkeypatch.setattr(layers_of(heads)[0], "losses_per_roi", fail)
    modes = {module: module.training for module in heads.modules()}
    with pytest.raises(FloatingPointError):
        run(heads, *random_scene())
    assert {module: module.training for module in heads.modules()} == modes


def test_a_stateful_loss_updates_once_per_step():
    heads = make_heads("OHEMROIHeads", f"{KEYS}.CLS_LOSS.NAME", "EqualizationLossV2")
    alone = copy.deepcopy(heads.box_predictor.cls_loss)
    given = []
    heads.box_predictor.cls_loss.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(args), with_kwargs=True
    )
    run(heads, *random_scene())
    (arguments,) = given
    alone(*arguments)
    for key, value in heads.box_predictor.cls_loss.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[key])


# --- crowds, empty inputs, extreme values


@pytest.mark.parametrize("name", [*STOCK_OF, *OHEM, *SAMPLED])
def test_a_crowd_region_is_no_object(name):
    features, proposals, targets = random_scene()
    crowded = []
    for image in targets:
        crowd = Instances(
            image.image_size,
            gt_boxes=Boxes(torch.tensor([[60.0, 60, 140, 140]])),  # near RoIs of the last image
            gt_classes=torch.tensor([-1]),
        )
        crowded.append(Instances.cat([crowd, image]))
    results = []
    for truth in (targets, crowded):
        heads = make_heads(name)
        for layers in layers_of(heads):
            nn.init.zeros_(layers.bbox_pred.weight)  # all stages of a cascade have the same boxes
        torch.manual_seed(1)
        results.append(run(heads, features, proposals, truth))
    (kept, losses, _), (kept_with, losses_with, _) = results
    assert all(torch.equal(losses[key], losses_with[key]) for key in losses)
    for a, b in zip(kept, kept_with, strict=True):
        assert torch.equal(a.gt_classes, b.gt_classes)


@pytest.mark.parametrize("name", [*STOCK_OF, *OHEM, *SAMPLED])
@each("num_rois", [(0,), (0, 0), (7,), (0, 7)])
def test_few_rois_and_no_objects_are_trained_on(name, num_rois):
    """The last image of a scene has no object. In a scene of one image, no image has one."""
    features, proposals, targets = random_scene(num_rois)
    for level in features.values():
        level.requires_grad_()
    kept, losses, _ = run(make_heads(name), features, proposals, targets)
    assert len(kept[-1]) <= num_rois[-1]
    assert all(loss.isfinite() and loss.requires_grad for loss in losses.values())
    sum(losses.values()).backward()
    assert all(level.grad.isfinite().all() for level in features.values() if level.grad is not None)


@pytest.mark.parametrize("loss", ["", "SigmoidFocalLoss", "SoftmaxFocalLoss"])
@pytest.mark.parametrize("name", OHEM)
def test_saturated_logits_are_ranked_without_a_nan(name, loss, monkeypatch):
    gamma = [f"{KEYS}.CLS_LOSS.NAME", loss, f"{KEYS}.CLS_LOSS.GAMMA", 0.5]
    heads = make_heads(name, *gamma)
    seen = spy_on_ranking(heads, monkeypatch)
    for layers in layers_of(heads):
        nn.init.normal_(layers.cls_score.weight, std=1e3)
    features, proposals, targets = random_scene()
    for level in features.values():
        level.requires_grad_()
    _, losses, _ = run(heads, features, proposals, targets)
    assert all(x.isfinite().all() for x in seen[0][0].values())
    assert seen[0][0]["loss_cls"].max() > 100
    gradients = torch.autograd.grad(sum(losses.values()), list(features.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


# --- construction


def test_can_be_constructed_without_a_config():
    shapes = {level: ShapeSpec(channels=32, stride=stride) for level, stride in STRIDES.items()}
    cfg = tiny_rcnn_cfg(*opts_of("OHEMROIHeads"))
    explicit = OHEMROIHeads.from_config(cfg, shapes)
    explicit["miner"] = OHEMMiner(num_keep=3, nms_thresh=0.7, nms_per_label=True)
    explicit["box_predictor"] = FocalFastRCNNOutputLayers(
        explicit["box_head"].output_shape,
        box2box_transform=explicit["box_predictor"].box2box_transform,
        num_classes=NUM_CLASSES,
        cls_loss=SigmoidFocalLoss(),
    )
    kept, losses, _ = run(OHEMROIHeads(**explicit).train(), *random_scene())
    assert [len(image) for image in kept] == [3, 3, 3, 3]
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("name", OHEM)
def test_the_miner_of_the_config_is_that_of_the_paper(name):
    miner = make_heads(name).miner
    assert type(miner) is OHEMMiner
    assert (miner.num_keep, miner.nms_thresh, miner.nms_per_label) == (32, 0.7, True)
    assert (miner.scope, miner.rank_by) == ("image", "cls_and_box")


@pytest.mark.parametrize(
    "heads",
    [
        FocalROIHeads,
        FocalCascadeROIHeads,
        OHEMROIHeads,
        OHEMCascadeROIHeads,
        SampledROIHeads,
        SampledCascadeROIHeads,
    ],
)
def test_is_registered(heads):
    assert ROI_HEADS_REGISTRY.get(heads.__name__) is heads
