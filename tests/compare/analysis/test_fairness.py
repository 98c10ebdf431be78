from detectron2.config import CfgNode

from focal_plugin import arms, get_cfg
from focal_plugin.compare.analysis.fairness import (
    ABSENT,
    LAYER_KEYS,
    LOSS_KEYS,
    SharedStart,
    config_differences,
    is_loss_key,
    shared_start,
)
from focal_plugin.compare.runs.start import Start, TensorDigest

from ...conftest import ROOT
from ...each import each

SHAPES = ROOT / "configs" / "Shapes-Detection"


def arm(name, *opts):
    cfg = get_cfg()
    cfg.merge_from_file(str(SHAPES / "retinanet_small.yaml"))
    arms.apply(cfg, name)
    cfg.merge_from_list(list(opts))
    return cfg


def full_keys(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from full_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


# --- configs


def test_every_key_in_which_arms_differ_is_listed_with_every_arms_value():
    arms = {"CE": arm("ce"), "FL": arm("fl"), "OHEM": arm("ohem")}
    found = {d.key: d.values for d in config_differences(arms)}
    assert found == {
        "MODEL.FOCAL.CLS_LOSS.NAME": {
            "CE": "SigmoidCrossEntropyLoss",
            "FL": "SigmoidFocalLoss",
            "OHEM": "SigmoidCrossEntropyLoss",
        },
        "MODEL.FOCAL.MINING.NAME": {"CE": "", "FL": "", "OHEM": "OHEMMiner"},
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": {"CE": -1.0, "FL": 0.25, "OHEM": -1.0},
    }


def test_a_difference_of_the_first_arm_to_the_last_alone_is_found():
    arms = {"a": arm("fl"), "b": arm("fl"), "c": arm("fl", "SOLVER.BASE_LR", 0.3)}
    (difference,) = config_differences(arms)
    assert difference.values == {"a": 0.05, "b": 0.05, "c": 0.3}


def test_keys_that_are_not_of_the_loss_are_flagged():
    fair, unfair = arm("ce"), arm("fl", "SOLVER.BASE_LR", 0.3, "INPUT.MIN_SIZE_TEST", 256)
    flagged = [d.key for d in config_differences({"a": fair, "b": unfair}) if not d.is_loss]
    assert flagged == ["INPUT.MIN_SIZE_TEST", "SOLVER.BASE_LR"]


def test_equal_arms_and_a_single_one_differ_in_nothing():
    assert config_differences({"a": arm("fl"), "b": arm("fl")}) == []
    assert config_differences({"a": arm("fl")}) == []


def test_the_folder_of_a_run_does_not_count():
    assert config_differences({"a": arm("fl", "OUTPUT_DIR", "x"), "b": arm("fl")}) == []
    named = arm("fl", "MODEL.FOCAL.CLASS_NAMES", ["a", "b"])  # "b" is a run of an older version
    assert config_differences({"a": named, "b": arm("fl")}) == []


def test_a_missing_key_is_a_difference():
    with_it, without = arm("fl"), arm("fl")
    del without.MODEL.FOCAL.NORMALIZER["NAME"]
    (difference,) = config_differences({"a": with_it, "b": without})
    assert (difference.key, difference.values) == (
        "MODEL.FOCAL.NORMALIZER.NAME",
        {"a": "ema", "b": ABSENT},
    )


def test_every_own_key_is_in_a_known_node():
    """A new key outside the known nodes must be added to one of the tables."""
    ours = {f"MODEL.FOCAL.{key}" for key in full_keys(get_cfg().MODEL.FOCAL)}
    others = {key.rpartition(".")[0] for key in ours if not is_loss_key(key)}
    nodes = {"AMP", "DATA", "DIAGNOSTICS", "FPN", "HEAD", "NONFINITE"}
    nodes |= {"ROI_BOX_HEAD", "RPN", "SMALL_RESNET"}
    assert others == {"MODEL.FOCAL", *(f"MODEL.FOCAL.{node}" for node in nodes)}
    assert not is_loss_key("MODEL.FOCAL.RPN.NORM")
    assert is_loss_key("MODEL.FOCAL.RPN.NORMALIZER")


@each("entry", [*LOSS_KEYS, *LAYER_KEYS])
def test_an_entry_of_the_tables_is_the_start_of_a_key(entry):
    assert any(key.startswith(entry) for key in full_keys(get_cfg()))


@each(
    "key",
    [
        "SOLVER.BASE_LR",
        "INPUT.MIN_SIZE_TRAIN",
        "DATASETS.TRAIN",
        "MODEL.DEVICE",
        "MODEL.WEIGHTS",
        "MODEL.BACKBONE.NAME",
        "MODEL.RETINANET.NUM_CONVS",
        "MODEL.FOCAL.HEAD.CLASSIFIER",
        "MODEL.FOCAL.INIT",
        "MODEL.ROI_HEADS.NAME",
        "SEED",
    ],
)
def test_data_schedule_and_model_are_not_the_loss(key):
    assert not is_loss_key(key)


# --- how runs started


def tensor(content, shape=(2, 3)):
    return TensorDigest(shape, content)


def start(weights, data=("d0", "d1")):
    return Start(weights, tuple(data))


REFERENCE = start({"a": tensor("1"), "b": tensor("2"), "head": tensor("3", (5,))})


def compare(arm_start):
    return shared_start({"CE": REFERENCE, "FL": arm_start}, "CE")["FL"]


def test_equal_starts_are_equal():
    shared = compare(REFERENCE)
    assert shared == SharedStart("FL", "CE", 3, (), (), (), (), 2, None)
    assert (shared.same_weights, shared.same_data) == (True, True)


def test_a_tensor_with_other_values_is_named():
    shared = compare(start({**REFERENCE.weights, "b": tensor("x")}))
    assert (shared.equal, shared.other_values, shared.same_weights) == (2, ("b",), False)


def test_a_tensor_of_another_shape_or_of_one_arm_is_named_and_does_not_count():
    weights = {"a": tensor("1"), "head": tensor("3", (6,)), "new": tensor("4")}
    shared = compare(start(weights))
    assert (shared.equal, shared.same_weights) == (1, True)
    assert (shared.other_shape, shared.only_arm, shared.only_reference) == (
        ("head",),
        ("new",),
        ("b",),
    )


def test_arms_without_a_common_tensor_do_not_have_the_same_weights():
    shared = compare(start({"other": tensor("1")}))
    assert not shared.same_weights


def test_the_first_batch_that_differs_is_named():
    shared = compare(start(REFERENCE.weights, ["d0", "x"]))
    assert (shared.same_data, shared.first_other_batch) == (False, 1)


def test_data_are_compared_as_far_as_both_were_recorded():
    shared = compare(start(REFERENCE.weights, ["d0"]))
    assert (shared.same_data, shared.batches) == (True, 1)
    unknown = compare(start(REFERENCE.weights, []))
    assert not unknown.same_data


def test_every_arm_but_the_reference_is_compared_and_none_without_it():
    starts = {"CE": REFERENCE, "FL": REFERENCE, "OHEM": REFERENCE}
    assert list(shared_start(starts, "CE")) == ["FL", "OHEM"]
    assert shared_start({"FL": REFERENCE}, "CE") == {}
