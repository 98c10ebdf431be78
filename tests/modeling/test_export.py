"""TorchScript export, by tracing and by scripting: exported modules return the eager outputs."""

import io
import itertools
import re

import pytest
import torch
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.layers import ShapeSpec
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    build_box_head,
)
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY, ClassificationLoss
from focal_plugin.mining import MINER_REGISTRY
from focal_plugin.modeling import RETINANET_HEAD_REGISTRY, build_retinanet_head
from focal_plugin.modeling.normalizer import RPN_NORMALIZERS

from ..cached_configs import coco_arms, shapes_arms
from .pairs import CASCADE, KEYPOINT, MASK, PAIRS, RCNN, RETINANET, SMALL, make_model, make_pair
from .toy import narrow_cfg

FIELDS = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor}
RCNN_FIELDS = {**FIELDS, "proposal_boxes": Boxes, "objectness_logits": Tensor}
RCNN_FIELDS |= dict.fromkeys(("pred_masks", "pred_keypoints", "pred_keypoint_heatmaps"), Tensor)


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")]


@pytest.fixture(autouse=True)
def _without_optimization():
    """Disable graph optimization, which takes longer than a few runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad(), torch.jit.optimized_execution(False):
        yield
    torch.set_num_threads(threads)


def make_image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator).float()


def is_rcnn(model):
    return hasattr(model, "roi_heads")


def detect(model, *images):
    """Return the detections in a list of images, in pixels of the network's input."""
    inputs = [{"image": image} for image in images]
    if is_rcnn(model):
        return model.inference(inputs, do_postprocess=False)
    return [x["instances"] for x in model(inputs)]


def fields_of(instances):
    fields = instances.get_fields()
    return {name: getattr(value, "tensor", value) for name, value in fields.items()}


def assert_same_fields(exported, eager):
    assert exported.keys() == eager.keys() >= FIELDS.keys()
    assert len(eager["scores"]) > 0
    for name, expected in eager.items():
        torch.testing.assert_close(exported[name], expected, rtol=1e-5, atol=1e-4, msg=name)


def trace(model, *images):
    adapter = TracingAdapter(model, images, detect).eval()
    return adapter, torch.jit.trace(adapter, images, check_trace=False)


def others_of(model, examples):
    """Return images of other sizes and numbers of detections, which a trace must not fix."""
    counts = [len(x) for x in detect(model, *examples)]
    for seed in range(10):
        images = [make_image(96, 64 + 32 * k, seed=seed) for k, _ in enumerate(examples)]
        if all(a != len(b) for a, b in zip(counts, detect(model, *images), strict=True)):
            return images
    raise AssertionError(f"always {counts} detections")


def assert_traces(model, *examples):
    """Check a trace of one image, or of several, on these and on other images."""
    adapter, traced = trace(model, *examples)
    for images in (examples, others_of(model, examples)):
        exported = adapter.outputs_schema(traced(*images))
        for mine, theirs in zip(exported, detect(model, *images), strict=True):
            assert_same_fields(fields_of(mine), fields_of(theirs))


def script(model):
    return scripting_with_instances(model, RCNN_FIELDS if is_rcnn(model) else FIELDS)


def detect_scripted(model, scripted, image):
    """Return the detections like :func:`detect`, from the static class of a scripted model."""
    if is_rcnn(model):
        found = scripted.inference([{"image": image}], do_postprocess=False)[0]
    else:
        found = scripted([{"image": image}])[0]
    names = [name for name in RCNN_FIELDS if found.has(name)]
    instances = Instances(tuple(image.shape[1:]))
    for name in names:
        value = getattr(found, name)
        instances.set(name, value if isinstance(value, Tensor) else Boxes(value.tensor))
    # eager RetinaNet always postprocesses, and a scripted one never does
    return instances if is_rcnn(model) else detector_postprocess(instances, *image.shape[1:])


def assert_scripts(model, image):
    found = detect_scripted(model, script(model), image)
    assert_same_fields(fields_of(found), fields_of(detect(model, image)[0]))


# --- 1. heads


SHAPES = [ShapeSpec(channels=32, stride=stride) for stride in (8, 16)]
SIGMOID = ("MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME", "SigmoidFocalLoss")
SOFTMAX = ("MODEL.FOCAL.CLS_LOSS.NAME", "SoftmaxFocalLoss")
GUMBEL = ("MODEL.FOCAL.CLS_LOSS.NAME", "GumbelLoss")


def make_features(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(height >> level, width >> level) for level in range(len(SHAPES))]
    return [torch.randn(2, 32, *size, generator=generator) for size in sizes]


def randomized(module):
    """Set values with which no norm is the identity and no logit is constant."""
    generator = torch.Generator().manual_seed(1)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return module.eval()


def assert_head_exports(head):
    examples, others = make_features(8, 12), make_features(16, 8, seed=1)
    adapter = TracingAdapter(head, (examples,)).eval()
    traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    scripted = torch.jit.script(head)
    for features in (examples, others):
        eager = [list(outputs) for outputs in head(features)]
        for exported in (adapter.outputs_schema(traced(*features)), scripted(features)):
            assert len(exported) == len(eager) == 2
            for outputs, expected in zip(exported, eager, strict=True):
                torch.testing.assert_close(list(outputs), expected)


HEADS = [name for name, _ in RETINANET_HEAD_REGISTRY if name != "RetinaNetHead"]
RETINANET_HEADS = [
    ("RetinaNetHead", "conv", (), ""),
    ("RetinaNetHead", "conv", (), "GN"),  # TorchScript rejects Detectron2's own "BN"
    *itertools.product(HEADS, ("conv", "cosine"), ((), SOFTMAX, GUMBEL), ("",)),
    *itertools.product(HEADS, ("conv",), ((), SOFTMAX), ("BN",)),
    *itertools.product(HEADS, ("cosine",), ((),), ("GN",)),
]
RPN_HEADS = [
    ("StandardRPNHead", ""),
    *itertools.product(("PriorRPNHead", "SoftmaxRPNHead"), ("", "GN", "BN")),
]


def test_every_registered_head_is_here():
    assert {name for name, *_ in RETINANET_HEADS} == set(dict(RETINANET_HEAD_REGISTRY))
    assert {name for name, _ in RPN_HEADS} == set(dict(RPN_HEAD_REGISTRY))


@pytest.mark.parametrize(("name", "classifier", "loss", "norm"), RETINANET_HEADS)
def test_every_retinanet_head_exports(name, classifier, loss, norm):
    opts = ("MODEL.FOCAL.HEAD.NAME", name, "MODEL.FOCAL.HEAD.CLASSIFIER", classifier, *loss)
    opts += ("MODEL.RETINANET.NUM_CONVS", 1, "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32]])
    cfg = narrow_cfg(RETINANET, *SMALL, *opts, "MODEL.RETINANET.NORM", norm)
    assert_head_exports(randomized(build_retinanet_head(cfg, SHAPES)))


@pytest.mark.parametrize("conv_dims", [[-1], [32, 64]], ids=str)
@pytest.mark.parametrize(("name", "norm"), RPN_HEADS)
def test_every_rpn_head_exports(name, conv_dims, norm):
    opts = ("MODEL.FOCAL.RPN.NORM", norm, "MODEL.RPN.CONV_DIMS", conv_dims)
    cfg = narrow_cfg(RCNN, *opts, "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32]])
    assert_head_exports(randomized(RPN_HEAD_REGISTRY.get(name)(cfg, SHAPES)))


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
@pytest.mark.parametrize("order", ["norm_relu", "relu_norm"])
@pytest.mark.parametrize("name", sorted(dict(ROI_BOX_HEAD_REGISTRY)))
def test_every_box_head_exports(name, order, norm):
    opts = ("MODEL.ROI_BOX_HEAD.NAME", name, "MODEL.ROI_BOX_HEAD.NORM", norm)
    opts += ("MODEL.ROI_BOX_HEAD.NUM_CONV", 2, "MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER", order)
    cfg = narrow_cfg(RCNN, *SMALL, *opts)
    head = randomized(build_box_head(cfg, ShapeSpec(channels=32, height=5, width=5)))
    traced = torch.jit.trace(head, torch.randn(4, 32, 5, 5), check_trace=False)
    scripted = torch.jit.script(head)
    for pooled in (torch.randn(4, 32, 5, 5), torch.randn(7, 32, 5, 5), torch.zeros(0, 32, 5, 5)):
        torch.testing.assert_close(traced(pooled), head(pooled))
        torch.testing.assert_close(scripted(pooled), head(pooled))


# --- 2. training-only components


class Detector(nn.Module):
    """Module with a component that it does not call in evaluation."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


PARTS = [*CLS_LOSS_REGISTRY, *BOX_LOSS_REGISTRY, *MINER_REGISTRY, *RPN_NORMALIZERS.items()]


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_a_detector_with_any_part_for_training_can_be_scripted(name, part):
    scripted = torch.jit.script(Detector(part()).eval())
    assert scripted(torch.zeros(1)).item() == 1


# --- 3. one-stage detectors


@pytest.mark.parametrize(
    "opts",
    [
        (),
        SOFTMAX,
        GUMBEL,
        ("MODEL.RETINANET.NORM", "BN", "MODEL.FOCAL.MINING.NAME", "OHEMMiner"),
    ],
    ids=["defaults", "softmax", "Gumbel", "BN"],
)
def test_a_retinanet_exports(opts):
    model = make_model(RETINANET, *opts)
    assert_traces(model, make_image(64, 80))
    assert_scripts(model, make_image(64, 80))


def test_a_batch_of_two_images_is_traced_too():
    assert_traces(make_model(RCNN, *SIGMOID), make_image(64, 80), make_image(48, 64))


def test_a_traced_detector_survives_a_file():
    model, image = make_model(RCNN, *SIGMOID), make_image(64, 80)
    adapter, traced = trace(model, image)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    other = make_image(80, 64, seed=7)
    exported = adapter.outputs_schema(torch.jit.load(file)(other))
    assert_same_fields(fields_of(exported[0]), fields_of(detect(model, other)[0]))


@pytest.mark.parametrize(("file", "opts"), [(RETINANET, SOFTMAX), (RCNN, SIGMOID)])
def test_a_trace_with_detections_also_finds_none(file, opts):
    model = make_model(file, *opts)
    images = [make_image(64, 80, seed=1), make_image(96, 64, seed=2)]
    best = [detect(model, image)[0].scores.max() for image in images]
    threshold = float(sum(best) / 2)
    part = model.roi_heads.box_predictor if is_rcnn(model) else model
    part.test_score_thresh = threshold
    some, none = (images[i] for i in torch.stack(best).argsort(descending=True))
    adapter, traced = trace(model, some)
    for image, is_empty in ((some, False), (none, True)):
        (exported,) = adapter.outputs_schema(traced(image))
        (eager,) = detect(model, image)
        assert (len(eager) == 0) == is_empty
        for field, expected in fields_of(eager).items():
            torch.testing.assert_close(fields_of(exported)[field], expected, rtol=1e-5, atol=1e-4)


# --- 4. parts of two-stage detectors, with as many proposals as no trace has seen


class RoIHeads(nn.Module):
    """RoI heads from tensors to tensors."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads.eval()

    def forward(self, boxes, logits, *levels):
        proposals = Instances((64, 80), proposal_boxes=Boxes(boxes), objectness_logits=logits)
        images = ImageList(levels[0], [(64, 80)])
        features = dict(zip(self.heads.box_in_features, levels, strict=True))
        found = fields_of(self.heads(images, features, [proposals])[0][0])
        return tuple(found[name] for name in sorted(found))


class Proposals(RoIHeads):
    """Region proposal network from tensors to tensors."""

    def forward(self, image, *levels):
        images = ImageList(image, [tuple(image.shape[-2:])])
        found = fields_of(
            self.heads(images, dict(zip(self.heads.in_features, levels, strict=True)))[0][0]
        )
        return tuple(found[name] for name in sorted(found))


def trace_part(part, example):
    with patch_builtin_len():
        return torch.jit.trace(part, example, check_trace=False)


def levels_of(model, names, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    strides = [model.backbone.output_shape()[name].stride for name in names]
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    return [torch.randn(1, 32, *size, generator=generator) for size in sizes]


def proposals_of(count):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 40
    size = torch.rand(count, 2, generator=generator) * 30 + 2
    return torch.cat([corner, corner + size], dim=1), torch.randn(count, generator=generator)


ROI_HEADS = {
    "FocalROIHeads": SIGMOID,
    "FocalCascadeROIHeads": CASCADE,
    "OHEMROIHeads": MASK,
    "OHEMCascadeROIHeads": (*CASCADE, *SIGMOID),
    "SampledROIHeads": ("MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME", "SeesawLoss"),
    "SampledCascadeROIHeads": CASCADE,
}


def test_every_one_of_our_roi_heads_is_here():
    ours = {name for name, x in ROI_HEADS_REGISTRY if x.__module__.startswith("focal_plugin")}
    assert ours == ROI_HEADS.keys()


@pytest.mark.parametrize("name", ROI_HEADS)
def test_traced_roi_heads_take_any_number_of_proposals(name):
    model = make_model(RCNN, *ROI_HEADS[name], "MODEL.ROI_HEADS.NAME", name)
    heads = RoIHeads(model.roi_heads)
    levels = levels_of(model, model.roi_heads.box_in_features, 64, 80)
    traced = trace_part(heads, (*proposals_of(10), *levels))
    for count in (7, 25, 0):
        given = (*proposals_of(count), *levels)
        torch.testing.assert_close(traced(*given), heads(*given), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, _ in RPN_HEAD_REGISTRY])
def test_a_traced_rpn_makes_any_number_of_proposals(name):
    model = make_model(RCNN, "MODEL.RPN.HEAD_NAME", name)
    part = Proposals(model.proposal_generator)
    names = model.proposal_generator.in_features

    def inputs(height, width):
        return (torch.zeros(1, 3, height, width), *levels_of(model, names, height, width))

    traced = trace_part(part, inputs(64, 80))
    counts = set()
    for size in ((64, 80), (32, 32), (160, 96)):
        expected = part(*inputs(*size))
        torch.testing.assert_close(traced(*inputs(*size)), expected, rtol=1e-5, atol=1e-4)
        counts.add(len(expected[0]))
    assert len(counts) == 3


# --- 5. two-stage arms


TRAINING_PARTS = {"cls_loss", "box_loss", "normalizer", "miner"}
TRAINING_OPTIONS = {
    "batch_size_per_image", "box_reg_loss_type", "cls_normalizer", "crowd_rule",
    "logs_precision_recall", "loss_weight", "matches_inside_only", "positive_fraction", "samples",
    "smooth_l1_beta",
}  # fmt: skip


def inference_of(model):
    """Return the modules and options that a model uses in evaluation."""
    description = []
    for name, module in model.named_modules():
        if isinstance(module, ClassificationLoss):  # a box head decodes with it
            kind = type(module)
            description.append((name, kind.softmax, kind.probabilities, kind.sigmoid_logits))
        if TRAINING_PARTS.intersection(name.split(".")):
            continue
        options = {
            key: vars(value) if key == "box2box_transform" else value
            for key, value in vars(module).items()
            if not key.startswith("_") and key not in TRAINING_PARTS | TRAINING_OPTIONS
        }
        plain = (bool, int, float, str, tuple, list, dict)
        options = {key: value for key, value in options.items() if isinstance(value, plain)}
        description.append((name, type(module), repr(options)))
    return str(description)


# tests/test_configs.py shows that an arm has the same keys on both bases
ARMS = {
    **{f"shapes {name}": arm for name, arm in shapes_arms("faster_rcnn").items()},
    **{
        f"coco {name}": arm
        for name, arm in coco_arms("faster_rcnn").items()
        if name == "stock" or name not in shapes_arms("faster_rcnn")
    },
}


EXPORTED = set()


@pytest.mark.parametrize("arm", ARMS)
def test_every_two_stage_arm_exports(arm):
    """Arms that differ only in training are the same detector in evaluation, exported once."""
    counts = ("MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS", [30, 2])  # by train_net.py
    model = make_model(ARMS[arm], *counts)
    inference = inference_of(model)
    if inference in EXPORTED:
        return
    assert_traces(model, make_image(64, 80))
    if not isinstance(model.roi_heads, CascadeROIHeads):  # cascades cannot be scripted, see below
        assert_scripts(model, make_image(64, 80))
    EXPORTED.add(inference)


@pytest.mark.parametrize("head", ["DistributionRetinaNetHead", "CenternessRetinaNetHead"])
def test_a_retinanet_with_more_outputs_of_boxes_exports(head):
    model = make_model(RETINANET, "MODEL.FOCAL.HEAD.NAME", head)
    assert_traces(model, make_image(64, 80))
    assert_scripts(model, make_image(64, 80))


@pytest.mark.parametrize("opts", [(), ("MODEL.ROI_HEADS.NAME", "OHEMROIHeads", *SIGMOID)])
def test_a_mask_rcnn_exports(opts):
    model = make_model(RCNN, *MASK, *opts)
    assert "pred_masks" in fields_of(detect(model, make_image(64, 80))[0])
    assert_traces(model, make_image(64, 80))
    assert_scripts(model, make_image(64, 80))


def test_a_cascade_with_masks_and_sigmoids_is_traced():
    assert_traces(make_model(RCNN, *CASCADE, *MASK, *SIGMOID), make_image(64, 80))


def test_a_keypoint_rcnn_exports():
    model = make_model(RCNN, *KEYPOINT)
    assert "pred_keypoints" in fields_of(detect(model, make_image(64, 80))[0])
    assert_traces(model, make_image(64, 80))
    assert_scripts(model, make_image(64, 80))


@pytest.mark.parametrize("name", ["CascadeROIHeads", "FocalCascadeROIHeads"])
def test_torchscript_rejects_every_cascade_by_scripting(name):
    """Detectron2's own heads have no annotations, and ours inherit their code."""
    model = make_model(RCNN, *CASCADE, "MODEL.ROI_HEADS.NAME", name)
    with pytest.raises(RuntimeError, match=r"features\[f\] for f in self\.box_in_features"):
        script(model)


# --- 6. the exported graph is stock's


def graph_text(module):
    """Return the graph of a traced or scripted module, without class names and line numbers."""
    graph = module.inlined_graph.copy()
    torch._C._jit_pass_canonicalize(graph)
    text = re.sub(r"(#|, scope:).*", "", str(graph))
    return re.sub(r"__torch__\.[\w.]+", "Class", text)


@pytest.mark.parametrize("name", PAIRS)
def test_the_traced_graph_is_stocks(name):
    ours, stock = (trace(model, make_image(64, 80))[1] for model in make_pair(name))
    text = graph_text(ours)
    assert text.count("\n") > 1000
    assert text == graph_text(stock)


def test_the_scripted_graph_of_a_retinanet_is_stocks():
    """Losses and normalizer are for training, so they are not in the graph."""
    ours, stock = (graph_text(script(model)) for model in make_pair("retinanet"))
    assert "cls_loss" not in ours
    assert ours == stock


def test_the_graph_of_another_head_is_not_stocks():
    """The comparisons above can therefore fail."""
    pair = make_model(RETINANET), make_model(RETINANET, "MODEL.FOCAL.HEAD.CLASSIFIER", "cosine")
    texts = [graph_text(trace(model, make_image(64, 80))[1]) for model in pair]
    assert texts[0] != texts[1]
