"""Differences of our trainer from Detectron2's; tests/faults contains whole runs."""

import json
import math
import os
import re
import signal
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks

from focal_plugin import get_cfg
from focal_plugin.engine import Trainer
from focal_plugin.engine.amp import amp_precision
from focal_plugin.engine.nonfinite import NonFiniteError

from ..cached_configs import read_cfg
from ..conftest import ROOT
from ..each import each
from ..forked import NARROW

pytestmark = pytest.mark.slow

TWO_STAGE = ROOT / "configs/quick_schedules/faster_rcnn_small_instant_test.yaml"
CONFIG = ROOT / "configs/quick_schedules/retinanet_small_instant_test.yaml"
SMALL = (
    *(part for pair in NARROW.items() for part in pair),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64),
)


@pytest.fixture
def cfg(tiny_shapes, tmp_path):
    cfg = read_cfg(CONFIG, *SMALL)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_shapes",), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.DEVICE = "cpu"
    cfg.SEED = 3
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 3, 2
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


def test_the_compiled_evaluator_is_used_only_if_available(tiny_shapes, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    evaluator = Trainer.build_evaluator(cfg, "tiny_shapes")
    assert evaluator._use_fast_impl == any(Path(detectron2.__path__[0]).glob("_C*.so"))
    assert evaluator._output_dir == str(tmp_path / "inference")


AUGMENTED = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (96,))


@each("file", [CONFIG, TWO_STAGE])
def test_an_evaluation_with_augmentation_follows_the_last_one(cfg, file):
    cfg.merge_from_file(str(file))
    cfg.merge_from_list([*SMALL, "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list(["DATASETS.TRAIN", ("tiny_shapes",), "DATASETS.TEST", ("tiny_shapes",)])
    cfg.merge_from_list(["SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 2])
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    cfg.merge_from_list([*AUGMENTED, "TEST.EXPECTED_RESULTS", [["bbox_TTA", "AP", 0.0, 100.0]]])
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / file.stem)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert list(results) == ["bbox", "bbox_TTA"]
    metrics = json.loads(Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()[-1])
    for task in results:
        assert metrics[f"{task}/AP"] == pytest.approx(results[task]["AP"])
    for folder in ("inference", "inference_TTA"):
        assert Path(cfg.OUTPUT_DIR, folder, "coco_instances_results.json").is_file()
    assert trainer.model.training


def test_each_dataset_has_its_results_and_its_folder_with_augmentation(cfg, tmp_path):
    DatasetCatalog.register("again", lambda: DatasetCatalog.get("tiny_shapes"))
    MetadataCatalog.get("again").set(
        **MetadataCatalog.get("tiny_shapes").as_dict() | {"name": "again"}
    )
    cfg.merge_from_list(["DATASETS.TEST", ("tiny_shapes", "again"), *AUGMENTED])
    try:
        model = Trainer.build_model(cfg).eval()
        results = Trainer.test_all(cfg, model)
    finally:
        DatasetCatalog.remove("again")
        MetadataCatalog.remove("again")
    assert results.keys() == {"bbox", "bbox_TTA", "tiny_shapes", "again"}
    for name in ("tiny_shapes", "again"):
        assert results[name].keys() == {"bbox", "bbox_TTA"}
    assert sorted(x.name for x in (tmp_path / "inference_TTA").iterdir()) == [
        "again",
        "tiny_shapes",
    ]
    assert not model.training


def test_without_augmentation_there_is_one_evaluation(cfg, tmp_path):
    cfg.DATASETS.TEST = ("tiny_shapes",)
    assert list(Trainer.test_all(cfg, Trainer.build_model(cfg).eval())) == ["bbox"]
    assert not (tmp_path / "inference_TTA").exists()


def test_a_detector_that_cannot_be_augmented_is_refused_before_it_is_built(cfg):
    cfg.merge_from_list([*AUGMENTED, "MODEL.META_ARCHITECTURE", "ProposalNetwork"])
    with pytest.raises(ValueError, match=r"TEST\.AUG\.ENABLED does not support"):
        Trainer.build_model(cfg)


def test_a_seed_is_required(cfg):
    cfg.SEED = -1
    with pytest.raises(ValueError, match="requires SEED >= 0, got -1"):
        Trainer(cfg)


def test_what_a_step_draws_depends_on_the_seed_and_its_number_only(cfg):
    class Drawing(HookBase):
        def before_step(self):
            draws[self.trainer.iter] = torch.rand(()).item()
            torch.rand(self.trainer.iter)  # other draws do not affect later steps

    def run(**changes):
        trainer = Trainer(cfg)
        trainer.register_hooks([Drawing()])
        trainer.resume_or_load(**changes)
        trainer.train()

    draws = {}
    run(resume=False)
    first, draws = draws, {}
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000001.pth")
    run(resume=True)
    assert list(draws) == [2]
    assert draws[2] == first[2]
    assert len(set(first.values())) == 3


@pytest.fixture
def release_0_6(monkeypatch):
    """Emulate Detectron2 0.6: the trainer's state has no optimizer; `after_backward` is missing."""
    monkeypatch.delattr(DefaultTrainer, "state_dict")
    monkeypatch.delattr(DefaultTrainer, "load_state_dict")
    monkeypatch.delattr(TrainerBase, "after_backward")
    monkeypatch.delattr(DefaultTrainer, "after_backward", raising=False)
    monkeypatch.setattr("focal_plugin.engine.trainer._STOCK_SAVES_OPTIMIZER", False)


def check_momentum_and_counts(cfg):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    content = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)
    state = content["trainer"]["_trainer"]["optimizer"]["state"]
    assert all(entry["momentum_buffer"].abs().sum() > 0 for entry in state.values())
    assert content["trainer"]["nonfinite"]["left_out"] == 0
    assert content["trainer"]["iteration"] == 2
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    for key, entry in resumed.optimizer.state_dict()["state"].items():
        assert torch.equal(entry["momentum_buffer"], state[key]["momentum_buffer"])


def test_a_checkpoint_holds_momentum_and_counts(cfg):
    check_momentum_and_counts(cfg)


def test_a_checkpoint_of_release_0_6_holds_momentum_too(cfg, release_0_6):
    cfg.SOLVER.AMP.ENABLED = True  # without after_backward
    check_momentum_and_counts(cfg)


class PoisonedHook(HookBase):
    """Hook that makes the weights of the score layer infinite from an iteration on."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            with torch.no_grad():
                self.trainer.model.head.cls_score.bias.fill_(float("inf"))


def test_a_rollback_restores_weights_and_momentum(cfg):
    cfg.MODEL.FOCAL.NONFINITE.POLICY = "rollback"
    trainer = Trainer(cfg)
    trainer.register_hooks([PoisonedHook(2)])
    trainer.resume_or_load(resume=False)
    trainer.train()
    folder = Path(cfg.OUTPUT_DIR)
    before, after = (
        torch.load(folder / name, weights_only=True)
        for name in ("model_0000001.pth", "model_final.pth")
    )
    assert after["trainer"]["nonfinite"]["rollbacks"] == 1
    assert after["iteration"] == 2
    for name, tensor in before["model"].items():
        assert torch.equal(after["model"][name], tensor), name
    states = [x["trainer"]["_trainer"]["optimizer"]["state"] for x in (before, after)]
    for key, entry in states[0].items():
        assert torch.equal(entry["momentum_buffer"], states[1][key]["momentum_buffer"])


class SignalHook(HookBase):
    """Hook that asks the run to end at an iteration, as a scheduler does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_rollback_after_a_request_to_end_goes_back_as_far_as_without(cfg):
    cfg.MODEL.FOCAL.NONFINITE.POLICY = "rollback"
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 5, 2
    folder = Path(cfg.OUTPUT_DIR)

    def run(name, *more, resume=False):
        cfg.OUTPUT_DIR = str(folder / name)
        Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
        torch.manual_seed(0)  # for the initial weights
        trainer = Trainer(cfg)
        trainer.register_hooks([PoisonedHook(3), *more])
        trainer.resume_or_load(resume=resume)
        trainer.train()

    run("whole")
    with pytest.raises(SystemExit):
        run("stopped", SignalHook(2))
    assert (folder / "stopped" / "model_0000002.pth").exists()
    run("stopped", resume=True)
    whole, stopped = (
        torch.load(folder / name / "model_final.pth", weights_only=True)
        for name in ("whole", "stopped")
    )
    assert whole["trainer"]["nonfinite"]["rollbacks"] == 1
    for name, tensor in whole["model"].items():
        assert torch.equal(stopped["model"][name], tensor), name


def test_proposals_from_predictions_that_are_not_finite_do_not_end_a_skipped_step(cfg):
    two_stage = cfg.clone()
    two_stage.merge_from_file(str(TWO_STAGE))
    two_stage.DATASETS.TRAIN, two_stage.DATASETS.TEST = cfg.DATASETS.TRAIN, ()
    two_stage.OUTPUT_DIR, two_stage.SEED = cfg.OUTPUT_DIR, cfg.SEED
    two_stage.MODEL.FOCAL.NONFINITE.POLICY = "skip"
    two_stage.SOLVER.IMS_PER_BATCH, two_stage.SOLVER.MAX_ITER = 2, 2
    two_stage.DATALOADER.NUM_WORKERS = 0
    trainer = Trainer(two_stage)

    def spoil(model, inputs):
        if trainer.iter == 1:
            inputs[0][0]["image"] = inputs[0][0]["image"] * math.nan

    trainer.model.register_forward_pre_hook(spoil)
    trainer.resume_or_load(resume=False)
    trainer.train()
    state = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)
    assert state["trainer"]["nonfinite"] == {"left_out": 1, "rollbacks": 0, "in_a_row": 1}


def test_a_run_with_infinite_weights_ends_and_saves_no_more(cfg):
    trainer = Trainer(cfg)
    trainer.register_hooks([PoisonedHook(2)])
    trainer.resume_or_load(resume=False)
    with pytest.raises(NonFiniteError, match=r"head.cls_score.bias are not finite at iteration 2"):
        trainer.train()
    assert sorted(x.name for x in Path(cfg.OUTPUT_DIR).glob("*.pth")) == ["model_0000001.pth"]


def train(cfg):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


@pytest.mark.parametrize("config", [CONFIG, TWO_STAGE], ids=lambda config: config.stem)
def test_mixed_precision_on_the_cpu_is_bfloat16(cfg, config):
    """Convolutions compute in bfloat16; weights, gradients and losses stay in float32."""

    class Watching(HookBase):
        def before_train(self):
            for module in self.trainer.model.modules():
                if isinstance(module, torch.nn.Conv2d):
                    module.register_forward_hook(lambda *args: dtypes.add(args[-1].dtype))

        def after_step(self):
            parameters = list(self.trainer.model.parameters())
            assert {x.dtype for x in parameters} == {torch.float32}
            assert {x.grad.dtype for x in parameters if x.grad is not None} == {torch.float32}
            assert "loss_cls" in self.trainer.storage.latest()

    dtypes = set()
    cfg.SOLVER.AMP.ENABLED = True
    cfg.merge_from_file(str(config))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.OUTPUT_DIR = ("tiny_shapes",), (), cfg.OUTPUT_DIR
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.DATALOADER.NUM_WORKERS = 2, 2, 0
    trainer = Trainer(cfg)
    trainer.register_hooks([Watching()])
    trainer.resume_or_load(resume=False)
    before = trainer.model.state_dict()["backbone.fpn_lateral3.weight"].clone()
    trainer.train()
    assert dtypes == {torch.bfloat16}
    assert not torch.equal(trainer.model.state_dict()["backbone.fpn_lateral3.weight"], before)


def test_mixed_precision_resumes_and_guards_its_gradients(cfg):
    cfg.SOLVER.AMP.ENABLED = True
    train(cfg)
    cfg.SOLVER.MAX_ITER = 4
    trainer = Trainer(cfg, allowed_changes=("SOLVER.MAX_ITER",))
    trainer.register_hooks([PoisonedHook(3)])
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 3
    with pytest.raises(NonFiniteError, match=r"head.cls_score.bias are not finite at iteration 3"):
        trainer.train()


def test_float16_is_refused_on_the_cpu(cfg):
    cfg.SOLVER.AMP.ENABLED, cfg.MODEL.FOCAL.AMP.PRECISION = True, "float16"
    with pytest.raises(ValueError, match=r"MODEL\.FOCAL\.AMP\.PRECISION must be bfloat16"):
        Trainer(cfg)


@pytest.mark.parametrize(
    ("device", "name", "precision"),
    [
        ("cpu", "", torch.bfloat16),
        ("cuda", "", torch.float16),
        ("cuda", "bfloat16", torch.bfloat16),
        ("cuda", "float16", torch.float16),
    ],
)
def test_the_precision_depends_on_the_device_and_a_key(cfg, device, name, precision):
    cfg.MODEL.DEVICE, cfg.MODEL.FOCAL.AMP.PRECISION = device, name
    assert amp_precision(cfg) is None
    cfg.SOLVER.AMP.ENABLED = True
    assert amp_precision(cfg) == precision


def test_the_log_has_losses_and_the_time_left(cfg, caplog):
    """Detectron2's CommonMetricPrinter prints the mean over its window."""
    cfg.SOLVER.CHECKPOINT_PERIOD = 1000
    cfg.SOLVER.MAX_ITER = 21  # it prints after 20 iterations, and at the end
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    with caplog.at_level("INFO", logger="detectron2.utils.events"):
        trainer = train(cfg)
    lines = [x.getMessage() for x in caplog.records if x.name == "detectron2.utils.events"]
    assert [re.search(r"iter: (\d+)", line)[1] for line in lines] == ["19", "20"]
    for line in lines:
        assert re.search(r"total_loss: [\d.]+  loss_cls: [\d.]+  loss_box_reg: [\d.]+", line)
    assert "eta: 0:00:" in lines[0]
    history = trainer.storage.history("loss_cls")
    assert f"loss_cls: {history.median(20):.4g}" in lines[-1]


def test_a_failure_is_not_hidden_by_later_failures(caplog):
    class Failing(HookBase):
        def after_train(self):
            raise OSError("the disk is still full")

    class Ending(HookBase):
        ended = False

        def after_train(self):
            self.ended = True

    class Loop(TrainerBase):
        after_train = Trainer.after_train

        def run_step(self):
            raise ValueError("the first failure")

    loop, ending = Loop(), Ending()
    evaluation = hooks.EvalHook(0, lambda: pytest.fail("a failed run is evaluated"))
    loop.register_hooks([Failing(), ending, evaluation])
    with pytest.raises(ValueError, match="the first failure"):
        loop.train(0, 1)
    assert ending.ended
    assert "Failing could not finish: the disk is still full" in caplog.text


def test_a_failure_at_the_end_of_a_good_run_is_raised():
    class Failing(HookBase):
        def after_train(self):
            raise OSError("disk full")

    class Loop(TrainerBase):
        after_train = Trainer.after_train

        def run_step(self):
            pass

    loop = Loop()
    loop.register_hooks([Failing()])
    with pytest.raises(OSError, match="disk full"):
        loop.train(0, 1)


def test_precise_statistics_of_a_resumed_run_are_of_the_images_that_come_next(cfg):
    cfg.TEST.PRECISE_BN.ENABLED, cfg.TEST.PRECISE_BN.NUM_ITER, cfg.TEST.EVAL_PERIOD = True, 3, 1
    cfg.MODEL.RETINANET.NORM = "BN"
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    final = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)["model"]
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000001.pth")
    trainer = Trainer(cfg)
    assert any(isinstance(hook, hooks.PreciseBN) for hook in trainer._hooks)
    trainer.resume_or_load(resume=True)
    trainer.train()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, final[name]), name
