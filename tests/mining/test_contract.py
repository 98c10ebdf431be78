"""Contract of every registered miner."""

import inspect

import pytest
import torch

from focal_plugin.mining import MINER_REGISTRY

from ..each import each
from .reference import (
    FUNCTIONS,
    MINER_CLASSES,
    NAMES,
    RATIO_NAMES,
    K,
    call_function,
    mine,
    random_batch,
    reference_mask,
)

OPTIONS = {
    "OHEMMiner": [
        {"num_keep": 10},
        {"num_keep": 10, "nms_thresh": 0.2},
        {"num_keep": 60, "nms_thresh": 0.7, "nms_per_label": True},
        {"num_keep": 10, "nms_per_label": True},
        {"num_keep": 200, "pre_nms_topk": 25},
        {"num_keep": 200, "nms_thresh": 1.0},
        {"num_keep": 200, "nms_thresh": 0.0},
    ],
    "OHEMRatioMiner": [
        {"num_keep": 8},
        {"num_keep": 20, "neg_pos_ratio": 1.5, "nms_thresh": 0.7},
        {"num_keep": 128, "nms_per_label": True, "neg_pos_ratio": 0.4},
        {"num_keep": 30, "pre_nms_topk": 25, "neg_pos_ratio": 1},
    ],
    "SSDMiner": [{}, {"neg_pos_ratio": 0.5}, {"neg_pos_ratio": 0.3}, {"neg_pos_ratio": 50.0}],
    "TopKMiner": [{"num_keep": 10}, {"num_keep": 1}, {"num_keep": 500}],
}
CASES = [(name, options) for name in NAMES for options in OPTIONS[name]]


@each("ties", [False, True])
@each("scope", ["image", "batch"])
@each(("name", "options"), CASES)
def test_the_selection_is_that_of_a_loop_over_anchors(name, options, scope, ties):
    for seed in range(2):
        batch = random_batch(seed=seed, ties=ties)
        expected = reference_mask(name, *batch, scope=scope, **options)
        assert torch.equal(mine(name, *batch, scope=scope, **options), expected)
        assert expected.any()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_module_is_its_function_image_by_image(name, options):
    batch = random_batch()
    expected = [call_function(name, *image, **options) for image in zip(*batch, strict=True)]
    assert torch.equal(mine(name, *batch, **options), torch.stack(expected))


@pytest.mark.parametrize("name", NAMES)
def test_the_module_has_the_defaults_of_its_function(name):
    of_module = inspect.signature(MINER_CLASSES[name].__init__).parameters
    of_function = inspect.signature(FUNCTIONS[name]).parameters
    shared = (of_module.keys() & of_function.keys()) - {"self", "kwargs"}
    if name == "OHEMRatioMiner":
        shared.remove("neg_pos_ratio")  # None in the function, which serves both miners
    assert shared
    for option in shared:
        assert of_module[option].default == of_function[option].default, option


@each("scope", ["image", "batch"])
@each("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_ignored_anchors_are_never_kept_and_have_no_effect(name, garbage, scope):
    loss, labels, boxes = random_batch()
    expected = mine(name, loss, labels, boxes, scope=scope)
    ignored = labels == -1
    loss = loss.masked_fill(ignored, garbage)
    boxes = torch.where(ignored.unsqueeze(-1), torch.tensor([-1e4, -1e4, 1e4, 1e4]), boxes)
    keep = mine(name, loss, labels, boxes, scope=scope)
    assert not keep[ignored].any()
    assert torch.equal(keep, expected)


@each("scope", ["image", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_kept_where_all_anchors_are_ignored(name, scope):
    loss, labels, boxes = random_batch()
    keep = mine(name, loss, torch.full_like(labels, -1), boxes, scope=scope)
    assert keep.shape == labels.shape
    assert not keep.any()


@each("scope", ["image", "batch"])
@each("shape", [(2, 0), (0, 5), (0, 0)])
@pytest.mark.parametrize("name", NAMES)
def test_no_anchor_and_no_image_give_an_empty_mask(name, shape, scope):
    loss, labels, boxes = torch.zeros(shape), torch.zeros(shape).long(), torch.zeros(*shape, 4)
    for num_classes in (K, None):
        keep = MINER_CLASSES[name](num_classes=num_classes, scope=scope)(loss, labels, boxes)
        assert keep.shape == shape
        assert keep.dtype == torch.bool


@pytest.mark.parametrize("name", NAMES)
def test_the_function_accepts_zero_anchors(name):
    keep = call_function(name, torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, 4))
    assert keep.shape == (0,)
    assert keep.dtype == torch.bool


@each("num_classes", [None, K])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"TopKMiner"}))
def test_the_background_defaults_to_the_largest_label_present(name, num_classes):
    batch = random_batch()
    expected = mine(name, *batch)
    assert torch.equal(MINER_CLASSES[name](num_classes=num_classes)(*batch), expected)
    image = [x[0] for x in batch]
    assert torch.equal(call_function(name, *image, num_classes=num_classes), expected[0])


@pytest.mark.parametrize("name", RATIO_NAMES)
def test_without_background_the_number_of_classes_must_be_given(name):
    loss, labels, boxes = random_batch(num_images=1)
    labels.fill_(2)  # objects only
    boxes += torch.arange(120.0).view(120, 1) * 100  # far apart
    expected = {None: 3, K: 32 if name == "OHEMRatioMiner" else 120}
    for num_classes, num_kept in expected.items():
        keep = MINER_CLASSES[name](num_classes=num_classes)(loss, labels, boxes)
        assert keep.sum() == num_kept
        image = [loss[0], labels[0], boxes[0]]
        assert torch.equal(call_function(name, *image, num_classes=num_classes), keep[0])


@pytest.mark.parametrize("name", NAMES)
def test_images_in_another_order_keep_their_masks(name):
    batch = random_batch(num_images=4)
    order = torch.tensor([2, 0, 3, 1])
    keep = mine(name, *batch)
    assert torch.equal(mine(name, *(x[order] for x in batch)), keep[order])
    # This also holds for the whole batch, because no two losses are equal.
    together = mine(name, *batch, scope="batch")
    assert torch.equal(mine(name, *(x[order] for x in batch), scope="batch"), together[order])


@pytest.mark.parametrize("name", ["OHEMMiner", "TopKMiner"])
def test_the_batch_keeps_what_its_images_keep_but_where_the_losses_are(name):
    loss, labels, boxes = random_batch()
    loss[0] += 10  # one image is hard
    each = mine(name, loss, labels, boxes, num_keep=3)
    together = mine(name, loss, labels, boxes, num_keep=3, scope="batch")
    assert each.sum(dim=1).tolist() == [3, 3, 3]
    assert together.sum(dim=1).tolist() == [9, 0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_of_equal_losses_the_lower_index_is_kept(name):
    labels = torch.full((1, 400), K)
    labels[0, :20] = 1
    boxes = torch.arange(400.0).view(1, -1, 1) * 50 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    keep = mine(name, torch.ones(1, 400), labels, boxes)
    num_kept = int(keep.sum())
    assert num_kept == (80 if "neg_pos_ratio" in MINER_CLASSES[name].config_keys else 128)
    assert keep[0, :num_kept].all()


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_is_kept_so_that_the_trainer_sees_it(name):
    loss, labels, boxes = random_batch(num_images=1)
    negative = int((labels[0] == K).nonzero()[5])
    for value in (float("nan"), float("inf")):
        loss[0, negative] = value
        assert mine(name, loss, labels, boxes)[0, negative], value


@pytest.mark.parametrize("name", NAMES)
def test_the_random_state_does_not_change_and_no_graph_is_built(name):
    loss, labels, boxes = random_batch()
    loss, boxes = loss.requires_grad_(), boxes.requires_grad_()
    state = torch.get_rng_state()
    masks = [mine(name, loss, labels, boxes), mine(name, loss, labels, boxes)]
    images = zip(loss, labels, boxes, strict=True)
    masks.append(torch.stack([call_function(name, *image) for image in images]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(mask, masks[0]) and not mask.requires_grad for mask in masks)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_off_while_it_selects(name, monkeypatch):
    enabled = []
    select = MINER_CLASSES[name].select

    def spy(*args, **kwargs):
        enabled.append(torch.is_grad_enabled())
        return select(*args, **kwargs)

    monkeypatch.setattr(MINER_CLASSES[name], "select", spy)
    mine(name, *random_batch())
    assert enabled == [False] * 3


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_not_modified(name):
    batch = random_batch()
    copies = [x.clone() for x in batch]
    mine(name, *batch)
    assert all(torch.equal(x, copy) for x, copy in zip(batch, copies, strict=True))


@each("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_boxes_of_another_precision_are_compared_in_float32(name, dtype):
    loss, labels, boxes = random_batch()
    loss, boxes = loss.to(dtype), boxes.to(dtype)
    expected = mine(name, loss.float(), labels, boxes.float())
    assert torch.equal(mine(name, loss, labels, boxes), expected)


@pytest.mark.parametrize("name", NAMES)
def test_losses_that_differ_by_less_than_float32_holds_are_equal(name):
    loss, labels, boxes = random_batch(ties=True)
    rising = loss.double() + torch.linspace(0, 1e-9, loss.shape[1], dtype=torch.float64)
    expected = mine(name, loss + 1, labels, boxes)
    assert torch.equal(mine(name, rising + 1, labels, boxes), expected)


UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("name", NAMES)
@each("dtype", [torch.int8, torch.int16, torch.int32, *UNSIGNED])
def test_labels_may_have_any_integer_dtype(name, dtype):
    loss, labels, boxes = random_batch()
    if dtype in UNSIGNED:
        labels = labels.clamp(min=0)
    expected = mine(name, loss, labels, boxes)
    assert torch.equal(mine(name, loss, labels.to(dtype), boxes), expected)


@pytest.mark.parametrize("name", NAMES)
def test_mismatched_inputs_are_refused(name):
    loss, labels, boxes = random_batch()
    with pytest.raises(ValueError, match=r"\(3, 119\)"):
        mine(name, loss[:, 1:], labels, boxes)
    with pytest.raises(ValueError, match=r"\(3, 119, 4\)"):
        mine(name, loss, labels, boxes[:, 1:])
    for dtype in (torch.float32, torch.bool):
        with pytest.raises(ValueError, match="integers"):
            mine(name, loss, labels.to(dtype), boxes)
    for wrong in (-2, K + 1):
        labels[1, 7] = wrong
        with pytest.raises(ValueError, match=str(wrong)):
            mine(name, loss, labels, boxes)


@pytest.mark.parametrize("name", [name for name in NAMES if MINER_CLASSES[name].needs_boxes])
def test_a_miner_that_needs_boxes_requires_them(name):
    loss, labels, _ = random_batch()
    with pytest.raises(ValueError, match="boxes"):
        mine(name, loss, labels, None)


@pytest.mark.parametrize("name", [name for name in NAMES if not MINER_CLASSES[name].needs_boxes])
def test_a_miner_that_needs_no_boxes_ignores_them(name):
    loss, labels, boxes = random_batch()
    assert torch.equal(mine(name, loss, labels, None), mine(name, loss, labels, boxes))


@pytest.mark.parametrize("name", NAMES)
def test_a_scripted_detector_may_hold_a_miner(name):
    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.miner = MINER_REGISTRY.get(name)(num_classes=K)

        def forward(self, x: torch.Tensor):
            return x

    scripted = torch.jit.script(Detector().eval())
    assert scripted(torch.ones(1)).item() == 1
