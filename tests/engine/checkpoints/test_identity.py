"""Identity of a run."""

import hashlib

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from focal_plugin import get_cfg
from focal_plugin.engine.checkpoints import identity as identity_module
from focal_plugin.engine.checkpoints.identity import (
    WITHOUT_INFLUENCE,
    differences,
    environment_identity,
    run_identity,
)

# key -> a value that differs from the default
CHANGES_NOTHING = {
    "OUTPUT_DIR": "elsewhere",
    "VERSION": 3,
    "DATALOADER.NUM_WORKERS": 7,
    "SOLVER.CHECKPOINT_PERIOD": 7,
    "VIS_PERIOD": 7,
    "CUDNN_BENCHMARK": True,
    "MODEL.DEVICE": "cuda:1",
    "MODEL.WEIGHTS": "other.pth",
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.1,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 7,
    "INPUT.MIN_SIZE_TEST": 7,
    "TEST.EVAL_PERIOD": 7,
    "TEST.DETECTIONS_PER_IMAGE": 7,
    "TEST.PRECISE_BN.NUM_ITER": 7,
    "DATASETS.TEST": ("other",),
    "DATASETS.PROPOSAL_FILES_TEST": ("other",),
    "MODEL.FOCAL.CLASS_NAMES": ["a", "b"],
    "MODEL.FOCAL.DIAGNOSTICS.PERIOD": 7,
    "MODEL.FOCAL.DATA.IMAGE_CACHE_MIB": 7,
    "MODEL.FOCAL.DATA.MAX_UNREADABLE_IMAGES": 7,
    "MODEL.FOCAL.DATA.CHECK": "strict",
    "MODEL.FOCAL.NONFINITE.POLICY": "skip",
}
CHANGES_THE_RESULT = {
    "SEED": 7,
    "SOLVER.MAX_ITER": 7,
    "SOLVER.BASE_LR": 0.7,
    "SOLVER.IMS_PER_BATCH": 7,
    "SOLVER.AMP.ENABLED": True,
    "INPUT.MIN_SIZE_TRAIN": (7, 8),
    "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
    "DATALOADER.ASPECT_RATIO_GROUPING": False,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 1.5,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 7,
    "MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0],
    "MODEL.FOCAL.CLS_LOSS.NAME": "SigmoidHingeLoss",
    "MODEL.FOCAL.NORMALIZER.NAME": "batch",
    "MODEL.FOCAL.INIT": "by_name",
    "MODEL.FOCAL.DATA.CHECK": "drop",
    "TEST.PRECISE_BN.ENABLED": True,
}


def with_keys(changes):
    cfg = get_cfg()
    cfg.merge_from_list([part for pair in changes.items() for part in pair])
    return cfg


def keys_of(cfg, prefix=""):
    for key, value in cfg.items():
        nested = isinstance(value, CfgNode)
        yield from keys_of(value, f"{prefix}{key}.") if nested else [prefix + key]


@pytest.mark.parametrize("key", CHANGES_NOTHING)
def test_a_key_without_influence_keeps_the_identity(key):
    changed = with_keys({key: CHANGES_NOTHING[key]})
    assert run_identity(changed) == run_identity(get_cfg())


@pytest.mark.parametrize("key", CHANGES_THE_RESULT)
def test_a_key_with_influence_changes_the_identity(key):
    changed = run_identity(with_keys({key: CHANGES_THE_RESULT[key]}))
    assert key in differences(run_identity(get_cfg()), changed)


def test_evaluation_periods_matter_where_they_set_batch_norm():
    on = {"TEST.PRECISE_BN.ENABLED": True}
    for key in ("TEST.EVAL_PERIOD", "TEST.PRECISE_BN.NUM_ITER"):
        other = differences(run_identity(with_keys(on)), run_identity(with_keys({**on, key: 7})))
        assert list(other) == [key]


def test_every_exception_is_a_key_or_a_node():
    keys = list(keys_of(get_cfg()))
    for name in WITHOUT_INFLUENCE:
        assert any(key == name or key.startswith(f"{name}.") for key in keys), name


def test_yaml_and_checkpoints_support_all_values():
    identity = run_identity(get_cfg())
    assert yaml.safe_load(yaml.safe_dump(identity)) == identity
    assert identity["SOLVER.STEPS"] == [30000]


def test_the_identity_contains_the_training_data_only(tiny_shapes):
    data = ("tiny_shapes",)
    identity = run_identity(with_keys({"DATASETS.TRAIN": data, "DATASETS.TEST": data}))
    json_file = MetadataCatalog.get("tiny_shapes").json_file
    with open(json_file, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    about_data = {key: value for key, value in identity.items() if "tiny_shapes" in key}
    classes = list(MetadataCatalog.get("tiny_shapes").thing_classes)
    assert about_data == {
        "DATASETS.TRAIN[tiny_shapes].json_sha256": digest,
        "DATASETS.TRAIN[tiny_shapes].classes": classes,
    }


def test_the_environment_says_versions_processes_threads_and_device():
    environment = environment_identity()
    assert environment["torch"] == torch.__version__
    assert type(environment["torch"]) is str
    assert environment["processes"] == 1
    assert environment["threads"] == torch.get_num_threads()
    assert environment["device"] == "cpu"
    assert {"numpy", "detectron2", "focal_plugin"} < environment.keys()


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def missing(_):
        raise identity_module.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(identity_module.importlib.metadata, "version", missing)
    assert environment_identity()["focal_plugin"] is None


def test_differences_tell_both_values_and_what_is_absent():
    stored = {"same": 1, "SEED": 1, "old": None}
    found = differences(stored, {"same": 1, "SEED": 2, "new": [1]})
    assert found == {
        "SEED": "1 in the checkpoint, 2 now",
        "old": "None in the checkpoint, absent now",
        "new": "absent in the checkpoint, [1] now",
    }


def test_a_long_value_is_truncated():
    [text] = differences({"classes": ["a"] * 1000}, {"classes": []}).values()
    assert len(text) < 300
    assert "..." in text
