"""MODEL.FOCAL.INIT: models of different arms have equal initial weights in their common parts."""

import copy
import functools
import json
import random

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from torch import nn

from focal_plugin.engine import Trainer, initial_weights
from focal_plugin.engine.initial_weights import RandomFills, draw_by_name

from ..cached_configs import read_arm, shapes_arms
from ..forked import NARROW

ONE_STAGE, TWO_STAGE = "fl", "stock"
# Arms with another structure -> tensors with another constant
ARMS = {
    (ONE_STAGE, "p6_maxpool"): set(),
    (ONE_STAGE, "p6_p5"): set(),
    (ONE_STAGE, "p6_res5"): set(),
    (ONE_STAGE, "head_depth"): set(),
    (ONE_STAGE, "head_shared_tower"): set(),
    (ONE_STAGE, "head_bn"): set(),
    (ONE_STAGE, "prior_half"): {"head.cls_score.bias"},
    (TWO_STAGE, "head_conv"): set(),
    (TWO_STAGE, "rpn_head_softmax"): set(),
    (TWO_STAGE, "roi_cascade"): set(),
}


def config_of(arm, *, init="by_name", seed=3):
    arms = {**shapes_arms("faster_rcnn"), **shapes_arms("retinanet")}
    cfg = read_arm(arms[arm], "MODEL.DEVICE", "cpu")
    cfg.MODEL.FOCAL.INIT = init
    cfg.SEED = seed
    return cfg


@functools.cache
def start_of(arm, *, init="by_name", seed=3):
    """Return the state dict of a new model."""
    seed_all_rng(seed)  # as Detectron2's default_setup does
    return Trainer.build_model(config_of(arm, init=init, seed=seed)).state_dict()


def shared(a, b):
    return [key for key in a if key in b and a[key].shape == b[key].shape]


def differing(a, b):
    return {key for key in shared(a, b) if not torch.equal(a[key], b[key])}


@functools.cache
def random_tensors(arm):
    """Return the tensors that Detectron2 draws: another seed changes their values."""
    one, other = (start_of(arm, init="stock", seed=seed) for seed in (3, 4))
    return differing(one, other)


@pytest.mark.parametrize(("reference", "arm"), ARMS, ids=lambda arm: arm)
def test_arms_have_equal_initial_values_in_common_tensors(reference, arm):
    ours, theirs = start_of(reference), start_of(arm)
    assert differing(ours, theirs) == ARMS[reference, arm]
    assert len(random_tensors(reference) & set(shared(ours, theirs))) >= 20


@pytest.mark.parametrize("arm", [ONE_STAGE, TWO_STAGE])
def test_without_by_name_one_more_layer_changes_later_ones(arm):
    other = {ONE_STAGE: "p6_res5", TWO_STAGE: "head_conv"}[arm]
    assert differing(start_of(arm, init="stock"), start_of(other, init="stock"))


@pytest.mark.parametrize("arm", [ONE_STAGE, TWO_STAGE])
def test_every_random_tensor_and_no_other_depends_on_the_seed(arm):
    assert differing(start_of(arm), start_of(arm, seed=4)) == random_tensors(arm)
    constant = shared(start_of(arm), start_of(arm, init="stock"))
    constant = [key for key in constant if key not in random_tensors(arm)]
    assert not differing(start_of(arm), start_of(arm, init="stock")) & set(constant)


@pytest.mark.parametrize("arm", [ONE_STAGE, TWO_STAGE])
def test_the_distribution_is_that_of_the_module(arm):
    ours, stock = start_of(arm), start_of(arm, init="stock")
    large = [key for key in random_tensors(arm) if stock[key].numel() > 2000]
    assert len(large) > 10
    for key in large:
        torch.testing.assert_close(ours[key].std(), stock[key].std(), rtol=0.08, atol=0, msg=key)
        spread = stock[key].std().item()
        assert abs(ours[key].mean().item()) < 5 * spread / stock[key].numel() ** 0.5
        # Largest of n values: sqrt(3) standard deviations if uniform, far above if normal.
        uniform, same = (x[key].abs().max() < 2 * x[key].std() for x in (stock, ours))
        assert uniform == same, key


def test_tensors_of_the_same_shape_have_different_values():
    start = start_of(ONE_STAGE)
    assert not torch.equal(start["head.cls_subnet.0.weight"], start["head.bbox_subnet.0.weight"])


def test_the_state_of_the_generators_is_kept():
    seed_all_rng(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    Trainer.build_model(config_of(TWO_STAGE))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_other_draws_during_building_have_no_effect():
    def build(cfg):
        np.random.rand()
        random.random()
        return nn.Linear(2, 2)

    before = np.random.get_state()[2], random.getstate()
    initial_weights.build_initialized(config_of(ONE_STAGE), build)
    assert (np.random.get_state()[2], random.getstate()) == before


@pytest.mark.parametrize("arm", [ONE_STAGE, TWO_STAGE])
def test_stock_equals_detectron2_bit_for_bit_including_the_generator(arm, monkeypatch):
    monkeypatch.setattr(initial_weights, "RandomFills", None)  # calling it would raise
    cfg = config_of(arm, init="stock")
    seed_all_rng(3)
    ours = Trainer.build_model(cfg).state_dict()
    after = torch.get_rng_state()
    seed_all_rng(3)
    theirs = build_model(cfg).state_dict()
    assert list(ours) == list(theirs)
    assert not differing(ours, theirs)
    assert torch.equal(after, torch.get_rng_state())


def test_an_unknown_initialization_raises():
    with pytest.raises(ValueError, match=r"MODEL.FOCAL.INIT must be one of 'stock', 'by_name'"):
        Trainer.build_model(config_of(ONE_STAGE, init="by name"))


def test_by_name_without_a_seed_raises():
    with pytest.raises(ValueError, match=r"MODEL.FOCAL.INIT by_name requires a SEED >= 0, got -1"):
        Trainer.build_model(config_of(ONE_STAGE, seed=-1))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_arms_of_different_models_see_the_same_batches(tiny_shapes, tmp_path, num_workers):
    def first_batches(arm, *, diagnostics):
        cfg = config_of(arm)
        cfg.MODEL.FOCAL.DIAGNOSTICS.PERIOD = diagnostics
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny_shapes",)
        cfg.DATALOADER.NUM_WORKERS = num_workers
        cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 2, 2
        cfg.INPUT.MIN_SIZE_TRAIN = (48, 56, 64, 72, 80)
        cfg.merge_from_list([part for pair in NARROW.items() for part in pair])
        cfg.OUTPUT_DIR = str(tmp_path / arm)
        (tmp_path / arm).mkdir()  # as Detectron2's default_setup does, which also seeds
        seed_all_rng(cfg.SEED)
        trainer = Trainer(cfg)
        trainer.test = lambda *_: {}
        trainer.train()
        return json.loads((tmp_path / arm / "start.json").read_text())["data"]

    reference = first_batches(ONE_STAGE, diagnostics=0)
    assert len(set(reference)) == 2
    for arm in ("p6_maxpool", "head_depth", TWO_STAGE):
        assert first_batches(arm, diagnostics=1) == reference


# Small modules for cases that Detectron2's models lack


def drawn(build, *, seed=3, position=0):
    """Return ``build()`` drawn by name; ``position`` advances the generator before."""
    torch.manual_seed(position)
    with RandomFills() as fills:
        module = build()
    draw_by_name(module, fills, seed=seed)
    return module


def test_operations_in_place_on_a_random_tensor_are_repeated():
    def build():
        module = nn.Linear(64, 64)
        nn.init.trunc_normal_(module.weight, mean=3.0, std=0.5, a=2.5, b=3.5)
        with torch.no_grad():
            module.bias.uniform_(1, 2).mul_(10)
        module.tail = nn.Parameter(torch.empty(3))  # PyTorch draws the tail by another method
        nn.init.trunc_normal_(module.tail, a=1.0, b=3.0)
        return module

    one, other = drawn(build, position=0), drawn(build, position=1)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.tail, other.tail)
    assert one.tail.min() >= 1
    assert one.tail.max() <= 3
    assert one.weight.min() >= 2.5
    assert one.weight.max() <= 3.5
    assert one.weight.std() > 0.2
    assert one.bias.min() >= 10
    assert one.bias.max() <= 20


def test_constants_after_a_random_fill_are_kept():
    def build():
        module = nn.Linear(4, 4)
        nn.init.zeros_(module.weight)
        nn.init.constant_(module.bias, -4.6)
        return module

    module = drawn(build)
    assert not module.weight.any()
    assert (module.bias == -4.6).all()


def test_a_partly_overwritten_tensor_does_not_change():
    def build():
        return nn.Embedding(5, 3, padding_idx=2)

    torch.manual_seed(0)
    stock = build()
    assert torch.equal(drawn(build).weight, stock.weight)


def test_tensors_computed_from_others_do_not_change():
    def build():
        module = nn.Linear(4, 4)
        nn.init.orthogonal_(module.weight)
        with torch.no_grad():
            module.bias.add_(torch.ones(4))
        module.scale = nn.Parameter(torch.randn(4))
        module.shift = nn.Parameter(torch.normal(0.0, 1.0, (4,), out=torch.empty(4)))
        module.slope = nn.Parameter(torch.empty(4).normal_())
        with torch.no_grad():
            torch._foreach_mul_([module.slope], 2.0)
        return module

    torch.manual_seed(0)
    stock = build().state_dict()
    assert not differing(drawn(build).state_dict(), stock)


def test_constants_in_reused_memory_do_not_change():
    """The memory of a freed tensor is reused by the next one of its size."""

    def build():
        module = nn.Module()
        for i in range(20):
            torch.empty(4096).normal_()
            module.register_buffer(f"ones{i}", torch.ones(4096))
        return module

    assert all((x == 1).all() for x in drawn(build).buffers())


def test_a_tensor_with_two_names_uses_the_first():
    def tied():
        module = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        module["b"].weight = module["a"].weight
        return module

    def single():
        return nn.ModuleDict({"a": nn.Linear(4, 4)})

    module = drawn(tied)
    assert module["b"].weight is module["a"].weight
    assert torch.equal(module["a"].weight, drawn(single)["a"].weight)


@pytest.mark.parametrize("by", ["deepcopy", "load_state_dict", "copy_"])
def test_a_copy_stays_a_copy(by):
    def build():
        module = nn.ModuleDict({"student": nn.Linear(4, 4), "teacher": nn.Linear(4, 4)})
        if by == "deepcopy":
            module["teacher"] = copy.deepcopy(module["student"])
        elif by == "load_state_dict":
            module["teacher"].load_state_dict(module["student"].state_dict())
        else:
            with torch.no_grad():
                module["teacher"].weight.copy_(module["student"].weight)
                module["teacher"].bias.copy_(module["student"].bias)
        return module

    one, other = drawn(build, position=0), drawn(build, position=1)
    assert torch.equal(one["teacher"].weight, one["student"].weight)
    assert torch.equal(one["teacher"].bias, one["student"].bias)
    assert torch.equal(one["teacher"].weight, other["teacher"].weight)


@pytest.mark.parametrize(
    "place",
    [
        torch.float64,  # also a move
        pytest.param(
            torch.device("cuda"),
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
        ),
    ],
    ids=["type", "device"],
)
def test_a_model_that_was_moved_is_drawn_too(place):
    one, other = (drawn(lambda: nn.Linear(4, 4).to(place), position=p) for p in (0, 1))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_buffers_are_drawn_and_integers_and_empty_tensors_are_ignored():
    def build():
        module = nn.BatchNorm1d(3)
        module.register_buffer("noise", torch.empty(8).normal_())
        module.register_buffer("nothing", torch.empty(0).normal_())
        return module

    one, other = drawn(build, position=0), drawn(build, position=1)
    assert not differing(one.state_dict(), other.state_dict())
    assert one.num_batches_tracked == 0
