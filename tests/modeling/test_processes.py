"""
Comparison of two processes, each with half of the data, with one process that has all of it.

DistributedDataParallel averages gradients over processes.
"""

import functools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.nn.modules.batchnorm import _BatchNorm

from focal_plugin import arms
from focal_plugin.losses import (
    EqualizationLossV2,
    EqualizedFocalLoss,
    GHMBoxLoss,
    GHMLoss,
    SeesawLoss,
)
from focal_plugin.losses.processes import mean_over_processes, sum_over_processes
from focal_plugin.modeling.prior import without_automatic_priors

from ..cached_configs import read_cfg
from .two_processes import (
    balance_factors,
    divisors,
    in_two_processes,
    loss_steps,
    model_gradients,
    reductions,
)

K = 5
SIZE = 96  # size of every image, so that none is padded


def _cfg(*opts):
    """Return a small model whose layers are all trained."""
    return read_cfg(
        "Base-FocalRetinaNet.yaml",
        *("MODEL.BACKBONE.NAME", "build_small_resnet_fpn_backbone"),
        *("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.DEVICE", "cpu"),
        *("MODEL.RETINANET.NUM_CONVS", 1, "MODEL.RETINANET.NUM_CLASSES", K),
        *opts,
    )


def _images(objects_of_images):
    """Return one image for each number of objects."""
    generator = torch.Generator().manual_seed(len(objects_of_images) + sum(objects_of_images))
    batch = []
    for objects in objects_of_images:
        top_left = torch.rand(objects, 2, generator=generator) * 40
        extent = 20 + torch.rand(objects, 2, generator=generator) * 30
        instances = Instances(
            (SIZE, SIZE),
            gt_boxes=Boxes(torch.cat([top_left, top_left + extent], dim=1)),
            gt_classes=torch.randint(0, K, (objects,), generator=generator),
        )
        image = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": SIZE, "width": SIZE})
    return batch


# Objects in the two images of each process
HALVES = {
    "unequal": ([4, 1], [1, 0]),
    "one half without objects": ([2, 1], [0, 0]),
    "no objects at all": ([0, 0], [0, 0]),
}
BATCHES = {name: _images(first + second) for name, (first, second) in HALVES.items()}

NORMALIZERS = {
    name: _cfg("MODEL.FOCAL.NORMALIZER.NAME", name, "MODEL.FOCAL.CLS_LOSS.NAME", "SigmoidFocalLoss")
    for name in ("batch", "global")
}
GHM = _cfg("MODEL.FOCAL.CLS_LOSS.NAME", "GHMLoss", "MODEL.FOCAL.BOX_LOSS.NAME", "GHMBoxLoss")

# Number of positives per image at each step, in each process
NUM_POS = ([[40, 0], [0, 0], [3, 4]], [[6, 4], [0, 0], [50, 50]])


def _anchors(num_anchors, seed, columns=K):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_anchors, columns, generator=generator) * 2 - 1
    return logits, torch.randint(-1, K + 1, (num_anchors,), generator=generator)


def _boxes(num_boxes, seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(num_boxes, 4, generator=generator)
    return target + torch.randn(num_boxes, 4, generator=generator) * 0.05, target


def _halves(step, num_first):
    return tuple(x[:num_first] for x in step), tuple(x[num_first:] for x in step)


ANCHORS = [_anchors(200, seed=0), _anchors(300, seed=1), _anchors(100, seed=2)]
ANCHORS_OF_PROCESS = tuple(zip(*map(_halves, ANCHORS, (150, 100, 50)), strict=True))
ROIS = [_anchors(200, seed=0, columns=K + 2), _anchors(90, seed=1, columns=K + 2)]
ROIS_OF_PROCESS = tuple(zip(*map(_halves, ROIS, (150, 60)), strict=True))
BOXES = [_boxes(40, seed=0), _boxes(30, seed=1), _boxes(60, seed=2)]
# in the second step, the other process has no positives
BOXES_OF_PROCESS = tuple(zip(*map(_halves, BOXES, (10, 30, 20)), strict=True))

# name -> (loss, steps of one process, steps of each of the two)
LOSSES = {
    "GHMLoss": (functools.partial(GHMLoss, momentum=0.5), ANCHORS, ANCHORS_OF_PROCESS),
    "GHMBoxLoss": (functools.partial(GHMBoxLoss, momentum=0.5), BOXES, BOXES_OF_PROCESS),
    "EqualizedFocalLoss": (
        functools.partial(EqualizedFocalLoss, num_classes=K),
        ANCHORS,
        ANCHORS_OF_PROCESS,
    ),
    "EqualizationLossV2": (
        functools.partial(EqualizationLossV2, num_classes=K),
        ANCHORS,
        ANCHORS_OF_PROCESS,
    ),
    "SeesawLoss": (functools.partial(SeesawLoss, num_classes=K), ROIS, ROIS_OF_PROCESS),
}
# slopes of classification loss and box loss in each step, of both processes; and the means by
# which one process has the same factors: of the losses, or the root of that of the squares
SLOPES = ([(1.0, 2.0), (5.0, 1.0)], [(3.0, 8.0), (1.0, 2.0)])
LOSSES_OF_BOTH = [(2.0, 5.0), (3.0, 1.5)]
NORMS_OF_BOTH = [(5.0**0.5, 34.0**0.5), (13.0**0.5, 2.5**0.5)]
MEANS = {"self": LOSSES_OF_BOTH, "guided": LOSSES_OF_BOTH, "equal_gradient": NORMS_OF_BOTH}

# Arms whose state, divisor or weights depend on the batch. Both processes must call as many
# reductions, even if one has no objects.
ARMS = (
    "alrp_authors", "atss_centerness", "dr_authors", "fl_balance_equal_gradient", "free_anchor",
    "gfl", "paa", "pisa", "rank_sort_authors", "sampling_free", "tal",
)  # fmt: skip


def _cfg_of_arm(name):
    cfg = NORMALIZERS["global"].clone()
    arms.apply(cfg, f"retinanet/{name}")
    return without_automatic_priors(cfg)


HARMONISED = ("GHMLoss", "GHMBoxLoss")
EQUALIZED = ("EqualizedFocalLoss", "EqualizationLossV2")


def _model_tasks(cfg):
    return {
        halves: (model_gradients, ((cfg, batch[:2]), (cfg, batch[2:])))
        for halves, batch in BATCHES.items()
    }


@pytest.fixture(scope="module")
def both(fork_server, tmp_path_factory):
    """Return the results of each process, by task."""
    tasks = {
        **{
            (name, halves): task
            for name, cfg in {**NORMALIZERS, "GHM": GHM}.items()
            for halves, task in _model_tasks(cfg).items()
        },
        **{
            name: (divisors, tuple((name, steps) for steps in NUM_POS))
            for name in ("ema", "ema_global", "global")
        },
        **{
            name: (loss_steps, tuple((make, steps) for steps in steps_of_process))
            for name, (make, _, steps_of_process) in LOSSES.items()
        },
        **{
            f"balance {name}": (balance_factors, tuple((name, steps) for steps in SLOPES))
            for name in MEANS
        },
        **{arm: _model_tasks(_cfg_of_arm(arm))["one half without objects"] for arm in ARMS},
        "reductions": (reductions, (([1.0, 2.0],), ([10.0, -4.0],))),
    }
    return in_two_processes(tasks, tmp_path_factory.mktemp("two_processes"))


def _deviation(gradients, expected):
    """Return the largest difference of a gradient, relative to its parameter's largest gradient."""
    assert gradients.keys() == expected.keys()
    return max(
        ((gradients[name] - g).abs().max() / g.abs().max().clamp(min=1e-12)).item()
        for name, g in expected.items()
    )


def test_all_of_the_model_is_trained_and_no_layer_has_statistics_of_its_batch():
    model = build_model(NORMALIZERS["global"])
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    gradients = model_gradients(NORMALIZERS["global"], BATCHES["unequal"])
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("halves", HALVES)
def test_normalizer_global_trains_as_one_process_with_the_whole_batch(both, halves):
    expected = model_gradients(NORMALIZERS["batch"], BATCHES[halves])
    for gradients in both["global", halves]:
        assert _deviation(gradients, expected) < 1e-5


@pytest.mark.parametrize("halves", HALVES)
def test_normalizer_batch_does_not(both, halves):
    expected = model_gradients(NORMALIZERS["batch"], BATCHES[halves])
    for gradients in both["batch", halves]:
        assert _deviation(gradients, expected) > 0.1


@pytest.mark.parametrize("halves", HALVES)
def test_ghm_losses_train_as_one_process_with_the_whole_batch(both, halves):
    """Rounding may move a gradient norm into another bin, with a difference of up to 1e-4."""
    expected = model_gradients(GHM, BATCHES[halves])
    for gradients in both["GHM", halves]:
        assert _deviation(gradients, expected) < 2e-3


def test_ema_global_is_the_running_mean_of_the_mean_over_processes(both):
    mean, expected = 100.0, []
    for positives in (50, 1, 107):  # over both processes, at least 1
        mean = 0.9 * mean + 0.1 * positives / 2
        expected.append(mean)
    assert both["ema_global"] == [pytest.approx(expected, rel=1e-6)] * 2


def test_each_process_has_its_own_ema(both):
    for rank, of_rank in enumerate(both["ema"]):
        mean, expected = 100.0, []
        for num_pos in NUM_POS[rank]:
            mean = 0.9 * mean + 0.1 * max(sum(num_pos), 1)
            expected.append(mean)
        assert of_rank == pytest.approx(expected, rel=1e-6)
    assert both["ema"][0] != both["ema"][1]


def test_global_is_the_mean_over_processes_in_both(both):
    assert both["global"] == [[25.0, 0.5, 53.5]] * 2


@pytest.mark.parametrize("name", HARMONISED)
def test_mean_over_processes_of_a_ghm_loss_is_the_loss_of_one_process(both, name):
    make, steps, _ = LOSSES[name]
    expected, _ = loss_steps(make, steps)
    first, second = (pairs for pairs, _ in both[name])
    for one, two, (value, gradient) in zip(first, second, expected, strict=True):
        torch.testing.assert_close((one[0] + two[0]) / 2, value)
        torch.testing.assert_close(torch.cat([one[1], two[1]]) / 2, gradient)


@pytest.mark.parametrize("name", EQUALIZED)
def test_a_loss_weighted_by_its_gradients_so_far_has_each_anchors_gradient_of_one_process(
    both, name
):
    make, steps, steps_of_process = LOSSES[name]
    expected, _ = loss_steps(make, steps)
    first, second = (pairs for pairs, _ in both[name])
    for one, two, (value, gradient) in zip(first, second, expected, strict=True):
        torch.testing.assert_close(one[0] + two[0], value)
        torch.testing.assert_close(torch.cat([one[1], two[1]]), gradient)
    alone, _ = loss_steps(make, steps_of_process[0])
    assert not torch.allclose(alone[-1][1], first[-1][1], rtol=1e-2), "processes hardly differ"


@pytest.mark.parametrize("name", EQUALIZED)
def test_gradient_ratio_is_that_of_one_process(both, name):
    make, steps, _ = LOSSES[name]
    _, expected = loss_steps(make, steps)
    for _, buffers in both[name]:
        torch.testing.assert_close(_ratio(buffers), _ratio(expected), rtol=1e-6, atol=0)


def _ratio(buffers):
    return buffers["gradients.positive"] / buffers["gradients.negative"]


def test_the_seesaw_loss_counts_the_rois_of_both_processes_before_each_loss(both):
    make, steps, steps_of_process = LOSSES["SeesawLoss"]
    expected, buffers = loss_steps(make, steps)
    first, second = (pairs for pairs, _ in both["SeesawLoss"])
    for one, two, (value, gradient) in zip(first, second, expected, strict=True):
        torch.testing.assert_close(one[0] + two[0], value)
        torch.testing.assert_close(torch.cat([one[1], two[1]]), gradient)
    assert torch.equal(both["SeesawLoss"][0][1]["counts"], buffers["counts"])
    alone, _ = loss_steps(make, steps_of_process[0])
    assert not torch.allclose(alone[-1][1], first[-1][1], rtol=1e-3), "processes hardly differ"


@pytest.mark.parametrize("name", LOSSES)
def test_buffers_are_the_same_in_both_processes(both, name):
    (_, first), (_, second) = both[name]
    assert first
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert any(buffer.any() for buffer in first.values()), "nothing was learned"


@pytest.mark.parametrize("name", MEANS)
def test_both_processes_have_the_balance_of_their_mean(both, name):
    expected, buffers = balance_factors(name, MEANS[name])
    for found, of_rank in both[f"balance {name}"]:
        assert found == [pytest.approx(factors, rel=1e-5) for factors in expected]
        torch.testing.assert_close(of_rank, buffers)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_trains_in_both_processes_if_one_has_no_objects(both, arm):
    first, second = both[arm]
    for name, gradient in first.items():
        assert gradient.isfinite().all(), name
        torch.testing.assert_close(gradient, second[name], rtol=0, atol=0)
    assert any(gradient.any() for gradient in first.values())


def test_reductions_are_over_processes_without_gradient_and_leave_their_input(both):
    total, mean = [11.0, -2.0], [5.5, -1.0]
    assert both["reductions"] == [
        (total, mean, [1.0, 2.0], False),
        (total, mean, [10.0, -4.0], False),
    ]


@pytest.mark.parametrize("reduce", [sum_over_processes, mean_over_processes])
def test_in_a_single_process_reductions_are_a_copy(reduce):
    statistic = torch.tensor([1.0, 2.0], requires_grad=True)
    copy = reduce(statistic)
    assert not copy.requires_grad
    copy += 1
    assert statistic.tolist() == [1.0, 2.0]
