"""Balanced sampling of RoIs: published plans, draws that obey them, and their distribution."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from focal_plugin.mining import instance_balanced_positives, iou_balanced_negatives
from focal_plugin.mining.libra import instance_balanced_plan, iou_balanced_plan

from ..each import each

CASES = json.loads((Path(__file__).parent / "libra.json").read_text())


def inputs_of(case):
    return torch.tensor(case["inputs"]["max_iou"]), torch.tensor(case["inputs"]["is_negative"])


def random_iou(seed, size=80):
    generator = torch.Generator().manual_seed(seed)
    iou = (torch.rand(size, generator=generator) - 0.2).clamp(min=0)
    return iou, iou < 0.5


@each("case", CASES["iou_balanced"])
def test_the_plan_of_negatives_is_the_published_one(case):
    expected = case["expected"]
    plan = iou_balanced_plan(*inputs_of(case), **case["options"])
    assert plan.pool.tolist() == expected["pool"]
    assert plan.floor.tolist() == expected["floor"]
    assert plan.pool_quota == expected["pool_quota"]
    assert [members.tolist() for members in plan.bins] == expected["bins"]
    assert plan.quota_per_bin == expected["quota_per_bin"]
    assert plan.edges.tolist() == pytest.approx(expected["edges"], abs=1e-7)


@each("case", CASES["iou_balanced"])
def test_every_draw_of_negatives_obeys_the_published_numbers(case):
    expected = case["expected"]
    iou, is_negative = inputs_of(case)
    for seed in range(30):
        torch.manual_seed(seed)
        chosen = iou_balanced_negatives(iou, is_negative, **case["options"]).tolist()
        assert len(set(chosen)) == case["options"]["num_expected"]
        assert is_negative[chosen].all()
        for members, drawn in zip(expected["bins"], expected["drawn_from_bins"], strict=True):
            assert len(set(members) & set(chosen)) >= drawn


@each("floor_thr", [-1.0, 0.0, 0.1])
@each("range_of", ["negatives", "all"])
@each("floor_fraction", [0.0, 0.5])
def test_a_draw_takes_each_step_of_the_rule_in_turn(floor_thr, range_of, floor_fraction):
    options = {"floor_thr": floor_thr, "range_of": range_of, "floor_fraction": floor_fraction}
    for seed in range(4):
        iou, is_negative = random_iou(seed)
        for num in (0, 1, 7, 20, 40, 55):
            plan = iou_balanced_plan(iou, is_negative, num_expected=num, **options)
            drawn = iou_balanced_negatives(iou, is_negative, num_expected=num, **options)
            chosen = set(drawn.tolist())
            assert len(chosen) == min(num, int(is_negative.sum()))
            floor, pool = set(plan.floor.tolist()), set(plan.pool.tolist())
            assert floor | pool == set(is_negative.nonzero().flatten().tolist())
            if len(chosen) < num:
                continue
            of_floor = min(len(floor), num - min(len(pool), plan.pool_quota))
            assert len(chosen & floor) == of_floor
            if len(pool) > plan.pool_quota:
                for members in plan.bins:
                    members = set(members.tolist())
                    assert len(chosen & members) >= min(len(members), plan.quota_per_bin)


def test_bins_are_balanced_where_a_random_draw_is_not():
    iou = torch.cat([torch.full((900,), 0.01), torch.full((50,), 0.2), torch.full((51,), 0.4)])
    iou[-1] = 0.45
    torch.manual_seed(0)
    chosen = iou_balanced_negatives(iou, torch.ones(1001, dtype=torch.bool), num_expected=90)
    assert Counter(round(x, 2) for x in iou[chosen].tolist()) == {0.01: 30, 0.2: 30, 0.4: 30}


def test_as_published_the_third_bin_is_empty_and_boxes_without_overlap_come_last():
    iou, is_negative = random_iou(0)
    iou[0], is_negative[0] = 1.0, False  # an appended object
    plan = iou_balanced_plan(iou, is_negative, num_expected=30, range_of="all", floor_thr=0.0)
    assert not len(plan.bins[2])
    assert (iou[plan.floor] == 0).all()
    few = int((is_negative & (iou > 0)).sum())
    torch.manual_seed(0)
    options = {"range_of": "all", "floor_thr": 0.0}
    assert (iou[iou_balanced_negatives(iou, is_negative, num_expected=few, **options)] > 0).all()


def test_a_shortfall_is_drawn_uniformly_from_the_rest():
    """Two boxes of the first bin and one of none: each remaining one is as likely."""
    iou = torch.tensor([0.0, 0.0, 0.9, 0.9, 0.9])
    counts = Counter()
    torch.manual_seed(0)
    for _ in range(1000):
        chosen = iou_balanced_negatives(
            iou, torch.ones(5, dtype=torch.bool), num_expected=2, num_bins=2
        )
        counts.update(chosen.tolist())
    # the first bin gives one of two; the boxes of the largest IoU are in no bin
    assert counts[0] + counts[1] == pytest.approx(1250, rel=0.05)
    assert counts[2] == pytest.approx(250, rel=0.15)


@each("case", CASES["instance_balanced"])
def test_the_plan_of_positives_is_the_published_one(case):
    objects, expected = torch.tensor(case["inputs"]["object_of_positive"]), case["expected"]
    plan = instance_balanced_plan(objects, **case["options"])
    assert plan.quota_per_object == expected["quota_per_object"]
    names = map(str, objects.unique().tolist())
    assert dict(zip(names, plan.taken.tolist(), strict=True)) == expected["taken"]
    assert (plan.extra, plan.dropped) == (expected["extra"], expected["dropped_at_random"])


@each("case", CASES["instance_balanced"])
def test_every_draw_of_positives_obeys_its_plan_without_duplicates(case):
    objects, num = (
        torch.tensor(case["inputs"]["object_of_positive"]),
        case["options"]["num_expected"],
    )
    plan = instance_balanced_plan(objects, num_expected=num)
    for seed in range(30):
        torch.manual_seed(seed)
        chosen = instance_balanced_positives(objects, num_expected=num)
        assert len(chosen.unique()) == len(chosen) == min(num, len(objects))
        counts = Counter(objects[chosen].tolist())
        if len(objects) > num and not plan.extra:
            assert max(counts.values()) <= plan.quota_per_object


def test_a_half_is_rounded_to_even():
    assert instance_balanced_plan(torch.tensor([1, 1, 2, 2, 2, 2]), num_expected=5).taken.max() <= 3
    plan = instance_balanced_plan(torch.arange(2).repeat(20), num_expected=5)
    assert plan.quota_per_object == 3  # 2.5 becomes 2


@each("sampler", ["negatives", "positives"])
def test_a_seed_determines_the_draw_and_enough_rois_need_no_random_number(sampler):
    iou, is_negative = random_iou(1)

    def sample(num):
        if sampler == "negatives":
            return iou_balanced_negatives(iou, is_negative, num_expected=num)
        return instance_balanced_positives((iou * 9).long(), num_expected=num)

    torch.manual_seed(3)
    first = sample(20)
    torch.manual_seed(3)
    assert torch.equal(sample(20), first)
    assert not torch.equal(sample(20), first)
    before = torch.get_rng_state()
    sample(80)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_to_draw_from_gives_nothing():
    nothing = torch.zeros(0)
    assert not len(iou_balanced_negatives(nothing, nothing.bool(), num_expected=5))
    assert not len(instance_balanced_positives(nothing.long(), num_expected=5))
    assert not len(iou_balanced_plan(nothing, nothing.bool(), num_expected=5).pool)
    assert instance_balanced_plan(nothing.long(), num_expected=0).extra == 0


@each(
    ("options", "message"),
    [
        ({"num_bins": 0}, "num_bins must be an integer >= 1"),
        ({"floor_thr": -2.0}, "floor_thr must be >= -1"),
        ({"floor_fraction": 1.5}, "floor_fraction must be >= 0"),
        ({"range_of": "positives"}, "range_of must be one of 'negatives', 'all'"),
    ],
)
def test_an_illegal_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        iou_balanced_plan(*random_iou(0), num_expected=3, **options)
