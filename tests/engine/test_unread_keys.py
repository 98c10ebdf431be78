"""Keys that no part of a run reads: each is known, and a config that sets one is told."""

import pickle

import pytest
from detectron2.config import get_cfg as get_detectron2_cfg

from focal_plugin import get_cfg
from focal_plugin.engine import Trainer
from focal_plugin.engine.unread_keys import READ_LATER, RecordingCfgNode, warn_of_unread
from focal_plugin.modeling import build_tta

from ..cached_configs import read_cfg
from ..each import each
from ..key_walk import keys_of, read
from ..modeling.toy import narrow_cfg

SWITCHES = (
    "INPUT.CROP.ENABLED", True, "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.AMP.ENABLED", True,
    "TEST.AUG.ENABLED", True, "TEST.PRECISE_BN.ENABLED", True, "MODEL.LOAD_PROPOSALS", False,
    "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler",
    "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR",
)  # fmt: skip
"""Options that switch other options on."""

BY_DESIGN = {
    "VERSION": "of the format, for old config files",
    "GLOBAL.HACK": "for code of one's own",
    "CUDNN_BENCHMARK": "read by default_setup",
    "FLOAT32_PRECISION": "read by default_setup",
    "SOLVER.REFERENCE_WORLD_SIZE": "read by auto_scale_workers, before the trainer",
    "TEST.EXPECTED_RESULTS": "read after the last evaluation",
    "DATASETS.PROPOSAL_FILES_TRAIN": "for LOAD_PROPOSALS",
    "DATASETS.PROPOSAL_FILES_TEST": "for LOAD_PROPOSALS",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "for LOAD_PROPOSALS",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "for LOAD_PROPOSALS",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "read in every step",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": "read in every step",
    "SOLVER.NUM_DECAYS": "for WarmupStepWithFixedGammaLR",
    "SOLVER.GAMMA": "for the other schedulers",
    "SOLVER.STEPS": "for WarmupMultiStepLR",
}
"""Keys outside of `MODEL` that no part reads here, and the reason."""

NEWER = {"FLOAT32_PRECISION"}
"""Keys of Detectron2 since August 2024."""


@pytest.fixture
def cfg(tiny_shapes, tmp_path):
    names = ("DATASETS.TRAIN", ("tiny_shapes",), "DATASETS.TEST", ("tiny_shapes",))
    cfg = narrow_cfg("Shapes-Detection/retinanet_small.yaml", *names, "OUTPUT_DIR", str(tmp_path))
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def test_a_run_reads_every_key_outside_of_the_model(cfg):
    cfg.merge_from_list(list(SWITCHES))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    for name in trainer.cfg.DATASETS.TEST:
        Trainer.build_test_loader(trainer.cfg, name)
        Trainer.build_evaluator(trainer.cfg, name)
    build_tta(trainer.cfg, trainer.model)
    unread = {key for key in keys_of(cfg) if key not in trainer.cfg.reads}
    by_design = BY_DESIGN.keys() - (NEWER - set(keys_of(cfg)))
    assert {key for key in unread if not key.startswith("MODEL.")} == by_design
    engine = ("INIT", "AMP", "DIAGNOSTICS", "DATA", "NONFINITE")
    assert not {key for key in unread if key.split(".")[2:3] and key.split(".")[2] in engine}


def test_the_keys_that_are_read_later_exist():
    keys = set(keys_of(get_cfg()))
    later = set(READ_LATER) - NEWER
    assert all(any(f"{key}.".startswith(f"{node}.") for key in keys) for node in later)


@each(
    "key, value",
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", 3),
        ("MODEL.RPN.NMS_THRESH", 0.5),
        ("MODEL.FOCAL.MINING.NUM_KEEP", 64),
        ("MODEL.FOCAL.CLS_LOSS.GHM_BINS", 10),
        ("MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER", "relu_norm"),
        ("MODEL.FOCAL.NORMALIZER.VALUE", 7.0),
        ("SOLVER.BASE_LR_END", 0.1),
        ("INPUT.CROP.SIZE", [0.5, 0.5]),
        ("TEST.AUG.MIN_SIZES", (64,)),
        ("DATALOADER.REPEAT_THRESHOLD", 0.1),
    ],
)
def test_a_key_without_an_effect_is_named_with_its_value(cfg, caplog, key, value):
    before = read(cfg, key)
    cfg.merge_from_list([key, value])
    caplog.clear()
    Trainer(cfg)
    (record,) = [x for x in caplog.records if "no effect" in x.message]
    assert record.message == f"Keys that have no effect in this run: {key} = {value!r}"
    cfg.merge_from_list([key, before])


def test_a_key_with_an_effect_is_not_named(cfg, caplog):
    cfg.merge_from_list(["MODEL.FOCAL.MINING.NAME", "TopKMiner", "MODEL.FOCAL.MINING.NUM_KEEP", 64])
    cfg.merge_from_list([*SWITCHES, "INPUT.CROP.SIZE", [0.5, 0.5], "TEST.AUG.MIN_SIZES", (64,)])
    cfg.merge_from_list(["SOLVER.STEPS", (30000,), "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5])
    cfg.merge_from_list(
        ["MODEL.WEIGHTS", "model.pth", "TEST.EXPECTED_RESULTS", [["bbox", "AP", 0, 1]]]
    )
    Trainer(cfg)
    assert "no effect" not in caplog.text


def test_several_keys_are_named_in_one_line(caplog):
    cfg = RecordingCfgNode.of(read_cfg("Shapes-Detection/retinanet_small.yaml", "SEED", 5))
    assert {"SEED", "MODEL.RETINANET.NUM_CLASSES"} <= cfg.unread.keys()
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 5
    assert "MODEL.RETINANET.NUM_CLASSES" not in cfg.unread
    warn_of_unread(cfg)
    (record,) = caplog.records
    assert "SEED = 5" in record.message
    assert "\n" not in record.message


@each("make", [get_cfg, get_detectron2_cfg])
@each("frozen", [True, False])
def test_a_recording_config_is_a_config_like_the_other(make, frozen):
    cfg = make()
    if frozen:
        cfg.freeze()
    recording = RecordingCfgNode.of(cfg)
    assert recording == cfg
    assert recording.dump() == cfg.dump()
    assert recording.is_frozen() is frozen
    assert recording.reads == set()
    copy = recording.clone()
    assert copy.SOLVER["BASE_LR"] == cfg.SOLVER.BASE_LR
    assert recording.reads == {"SOLVER.BASE_LR"}, "a read of a copy counts"
    assert pickle.loads(pickle.dumps(recording)) == cfg


def test_frozen_tensors_that_no_checkpoint_gives_are_named(cfg, caplog):
    Trainer(cfg).resume_or_load(resume=False)
    assert "random values" not in caplog.text
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    Trainer(cfg).resume_or_load(resume=True)
    assert "3 frozen tensors keep their random values, such as backbone.bottom_up" in caplog.text
