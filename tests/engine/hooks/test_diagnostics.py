import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from focal_plugin.diagnostics.loss_balance import read_balance
from focal_plugin.diagnostics.snapshot import read_snapshot
from focal_plugin.engine import Trainer
from focal_plugin.engine.hooks.diagnostics import DiagnosticsHook, gradient_norm
from focal_plugin.engine.hooks.fixed_anchors import (
    dense_parts,
    take_snapshots,
    view_step,
)
from focal_plugin.engine.hooks.fixed_images import load_fixed_images
from focal_plugin.engine.hooks.fixed_losses import measure_losses

from ...modeling.toy import narrow_cfg
from ...modeling.toy_rcnn import STOCK
from ...modeling.two_processes import in_two_processes
from .snapshot_process import losses_after_a_step, snapshot_after_a_step

pytestmark = pytest.mark.slow

RETINANET = "Shapes-Detection/retinanet_small.yaml"
RCNN = "Shapes-Detection/faster_rcnn_small.yaml"
FL = ("MODEL.FOCAL.CLS_LOSS.NAME", "SigmoidFocalLoss")
CE = (
    "MODEL.FOCAL.CLS_LOSS.NAME", "SigmoidCrossEntropyLoss",
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA", -1.0,
)  # fmt: skip
GHM = ("MODEL.FOCAL.CLS_LOSS.NAME", "GHMLoss", "MODEL.FOCAL.CLS_LOSS.GHM_MOMENTUM", 0.5)
EFL = ("MODEL.FOCAL.CLS_LOSS.NAME", "EqualizedFocalLoss")
QFL = ("MODEL.FOCAL.CLS_LOSS.NAME", "QualityFocalLoss")
SOFTMAX = (
    "MODEL.FOCAL.CLS_LOSS.NAME", "SoftmaxFocalLoss",
)  # fmt: skip
OHEM = ("MODEL.FOCAL.MINING.NAME", "OHEMMiner", "MODEL.FOCAL.MINING.DIVIDE_BY", "kept", *CE)
PER_IMAGE = ("MODEL.FOCAL.NORMALIZER.NAME", "per_image", *FL)
GHM_BOX = ("MODEL.FOCAL.BOX_LOSS.NAME", "GHMBoxLoss", *FL)
ISR_P = ("MODEL.FOCAL.REWEIGHT.NAME", "isr_p")
ARMS = {
    "ce": CE,
    "fl": FL,
    "ghm": GHM,
    "efl": EFL,
    "qfl": QFL,
    "softmax": SOFTMAX,
    "ohem": OHEM,
    "per_image": PER_IMAGE,
    "ghm_box": GHM_BOX,
    "isr_p": (*PER_IMAGE, *ISR_P),
}
SETTINGS = (
    "DATASETS.TRAIN", ("tiny_shapes",),
    "DATASETS.TEST", ("tiny_shapes",),
    "DATALOADER.NUM_WORKERS", 0,
    "INPUT.MIN_SIZE_TRAIN", (64,),
    "INPUT.MIN_SIZE_TEST", 64,
    "SOLVER.IMS_PER_BATCH", 4,
    "SOLVER.MAX_ITER", 4,
    "SOLVER.STEPS", (),
    "TEST.EVAL_PERIOD", 2,
)  # fmt: skip


@pytest.fixture
def make_cfg(tiny_shapes, tmp_path):
    """Return a config of an arm, with its own output folder."""

    def make(*opts, base=RETINANET, name="run"):
        return narrow_cfg(base, *SETTINGS, "OUTPUT_DIR", str(tmp_path / name), *opts)

    return make


def model_of(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


def snapshots_of(cfg, **changes):
    arguments = {"iteration": 0, "batch_size": 4, **changes}
    return take_snapshots(model_of(cfg), load_fixed_images(cfg), **arguments)


class Training(Trainer):
    """Trainer without the final evaluation, which is not tested here."""

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {}


def train(cfg):
    """Train, and return the trainer."""
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    trainer = Training(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def validation_of(cfg):
    """Return iteration -> the losses on the fixed images."""
    lines = {line["iteration"]: line for line in metrics_of(cfg)}
    found = {
        i: {name: x for name, x in line.items() if name.startswith("validation/")}
        for i, line in lines.items()
    }
    return {i: losses for i, losses in found.items() if losses}


def balance_of(cfg, moment):
    return read_balance(Path(cfg.OUTPUT_DIR) / "diagnostics" / f"balance_{moment}.json")


def metrics_of(cfg):
    lines = Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("arm", ARMS)
def test_observed_losses_are_those_that_are_trained_on(arm, make_cfg):
    cfg = make_cfg(*ARMS[arm])
    model = model_of(cfg).train()
    batch = load_fixed_images(cfg)[:4]
    optimizer = build_optimizer(cfg, model)
    for _ in range(3):  # a stateful loss differs from the second step on
        tallies = []
        model.observer = lambda step, into=tallies: into.append(view_step(model, step)[1])
        with EventStorage():
            losses = model(batch)
        (tally,) = tallies
        assert tally.divided == pytest.approx(losses["loss_cls"].item(), rel=1e-4)
        box = tally.total("box_divided")
        assert box == pytest.approx(losses["loss_box_reg"].item(), rel=1e-4)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


@pytest.mark.parametrize("opts", [GHM, (*GHM, *ISR_P)], ids=["ghm", "weighted"])
def test_observed_gradient_is_that_of_the_logits(opts, make_cfg):
    model = model_of(make_cfg(*opts)).train()
    views, levels, split = [], [], model._levels
    model.observer = lambda step: views.append(view_step(model, step)[0])
    model._levels = lambda *args: levels.append(split(*args)) or levels[-1]
    with EventStorage():
        losses = model(load_fixed_images(make_cfg())[:4])
    expected = torch.autograd.grad(losses["loss_cls"], levels[-1][0])
    expected = torch.cat([x.flatten(1, -2) for x in expected], 1)
    torch.testing.assert_close(views[0].gradient, expected.abs())


@pytest.mark.parametrize("arm", ["fl", "ghm", "efl", "ohem"])
def test_diagnostics_do_not_change_training_bit_for_bit(arm, make_cfg):
    trained = []
    for period in (0, 2):
        opts = ("MODEL.FOCAL.DIAGNOSTICS.PERIOD", period, *ARMS[arm])
        trainer = train(make_cfg(*opts, name=f"period{period}"))
        trained.append((trainer.model, torch.get_rng_state(), np.random.get_state()[1].tolist()))
    (off, *off_generators), (on, *on_generators) = trained
    for name, value in off.state_dict().items():
        assert torch.equal(value, on.state_dict()[name]), name
    for (name, value), other in zip(off.named_buffers(), on.buffers(), strict=True):
        assert torch.equal(value, other), name
    assert torch.equal(off_generators[0], on_generators[0])
    assert off_generators[1] == on_generators[1]


def test_two_stage_training_is_unchanged_too(make_cfg):
    weights = []
    for period in (0, 2):
        opts = ("MODEL.FOCAL.DIAGNOSTICS.PERIOD", period)
        weights.append(train(make_cfg(*opts, base=RCNN, name=f"p{period}")).model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert read_snapshot_of(make_cfg(base=RCNN, name="p2"), "final_rpn").iteration == 4


def read_snapshot_of(cfg, name):
    return read_snapshot(Path(cfg.OUTPUT_DIR) / "diagnostics" / f"{name}.npz")


def test_taking_a_snapshot_leaves_the_model_as_it_was(make_cfg):
    cfg = make_cfg(*GHM)
    model = model_of(cfg).train()
    model.backbone.bottom_up.eval()  # a frozen part
    with EventStorage():
        sum(model(load_fixed_images(cfg)[:4]).values()).backward()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = copy.deepcopy({name: (x.detach(), x.grad) for name, x in tensors.items()})
    modes = [module.training for module in model.modules()]
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    take_snapshots(model, load_fixed_images(cfg), iteration=0, batch_size=4)
    for name, tensor in tensors.items():
        value, gradient = before[name]
        assert torch.equal(tensor, value), name
        assert (tensor.grad is None) == (gradient is None), name
        assert gradient is None or torch.equal(tensor.grad, gradient), name
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.random.get_state()[1].tolist() == generators[1]
    assert random.getstate() == generators[2]
    assert model.observer is None


def test_a_failing_snapshot_leaves_the_model_as_it_was(make_cfg, monkeypatch):
    cfg = make_cfg(*FL)
    model = model_of(cfg).train()
    monkeypatch.setattr(model.cls_loss, "per_anchor", None)
    with pytest.raises(TypeError):
        take_snapshots(model, load_fixed_images(cfg), iteration=0, batch_size=4)
    assert all(module.training for module in model.modules())
    assert model.observer is None
    assert model.normalizer.mean == 100


def test_every_arm_with_the_same_anchors_has_the_same_sample(make_cfg):
    snapshots = [snapshots_of(make_cfg(*arm))["retinanet"] for arm in ARMS.values()]
    assert len({s.anchors_digest for s in snapshots}) == 1
    assert (
        len({(s.num_pos, s.num_neg, len(s.sample_pos), len(s.sample_neg)) for s in snapshots}) == 1
    )


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.RETINANET.IOU_THRESHOLDS", [0.3, 0.4]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[12, 16, 20], [26, 32, 40], [52, 64, 80]]),
        ("INPUT.MIN_SIZE_TEST", 96),
    ],
)
def test_other_anchors_have_another_digest(opts, make_cfg):
    digests = [snapshots_of(make_cfg(*FL, *x))["retinanet"].anchors_digest for x in ((), opts)]
    assert digests[0] != digests[1]


def test_snapshot_is_the_same_whatever_the_generators_and_augmentation(make_cfg):
    first = snapshots_of(make_cfg(*FL))["retinanet"]
    for seed in (np.random.seed, random.seed):
        seed(11)
    again = snapshots_of(make_cfg(*FL, "INPUT.RANDOM_FLIP", "none", "INPUT.CROP.ENABLED", True))
    for name, value in vars(first).items():
        assert np.array_equal(value, getattr(again["retinanet"], name)), name


def test_images_of_a_batch_do_not_see_each_other(make_cfg):
    # As in evaluation: a batch norm in training mode would mix the images.
    snapshots = [snapshots_of(make_cfg(*CE), batch_size=n)["retinanet"] for n in (3, 4)]
    np.testing.assert_allclose(snapshots[0].sample_neg, snapshots[1].sample_neg, rtol=1e-3)
    assert snapshots[0].anchors_digest == snapshots[1].anchors_digest


def test_sampled_rpn_draws_the_same_anchors_each_time(make_cfg):
    cfg = make_cfg("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32, base=RCNN)
    snapshots = []
    for seed in (1, 2):
        model, images = model_of(cfg), load_fixed_images(cfg)
        torch.manual_seed(seed)
        snapshots.append(take_snapshots(model, images, iteration=0, batch_size=4)["rpn"])
    assert snapshots[0].anchors_digest == snapshots[1].anchors_digest
    assert snapshots[0].loss_sum == snapshots[1].loss_sum
    assert snapshots[0].num_anchors == 32 * 12
    assert snapshots[0].num_classes == 1


def test_snapshot_sums_are_those_of_its_anchors(make_cfg):
    s = snapshots_of(make_cfg(*CE))["retinanet"]
    assert s.num_images == 12
    assert len(s.sample_pos) == s.num_pos > 0
    assert len(s.sample_neg) == s.num_neg > s.num_pos
    assert s.loss_pos == pytest.approx(s.sample_pos.sum(), rel=1e-5)
    assert s.loss_neg == pytest.approx(s.sample_neg.sum(), rel=1e-5)
    assert (np.diff(s.sample_neg) >= 0).all()
    assert s.num_anchors == s.num_pos + s.num_neg == s.level_num_pos.sum() + s.level_num_neg.sum()
    assert s.level_loss_pos.sum() == pytest.approx(s.loss_pos)
    assert s.gradient_counts_pos.sum() == s.num_pos
    assert s.gradient_counts_neg.sum() == s.num_anchors * 5 - s.num_pos
    assert s.levels.tolist() == ["p3", "p4", "p5"]


def test_initial_loss_is_that_of_the_prior(make_cfg):
    s = snapshots_of(make_cfg(*CE))["retinanet"]
    assert s.mean_probability == pytest.approx(0.01, rel=0.1)
    assert s.loss_neg == pytest.approx(s.num_neg * 5 * -np.log(0.99), rel=0.1)
    focal = snapshots_of(make_cfg(*FL))["retinanet"]
    assert focal.loss_neg == pytest.approx(s.loss_neg * 0.75 * 0.01**2, rel=0.3)


def test_mined_snapshot_says_how_many_were_kept(make_cfg):
    s = snapshots_of(make_cfg(*OHEM))["retinanet"]
    assert 0 < s.kept_neg < s.num_neg
    assert (s.sample_neg > 0).sum() == s.kept_neg
    assert s.gradient_counts_neg[0] >= (s.num_neg - s.kept_neg) * 5
    assert s.miner == "OHEMMiner"


def test_two_processes_that_share_statistics_get_the_snapshot_of_one(
    fork_server, make_cfg, tmp_path
):
    cfg = make_cfg(*GHM)
    arguments = (cfg, load_fixed_images(cfg))
    task = (snapshot_after_a_step, (arguments, arguments))
    (first, second) = in_two_processes({"take": task}, tmp_path)["take"]
    alone = snapshot_after_a_step(*arguments)
    assert first.anchors_digest == second.anchors_digest == alone.anchors_digest
    assert first.loss_sum == second.loss_sum == pytest.approx(alone.loss_sum, rel=1e-5)


@pytest.mark.parametrize("arm", ["ghm", "equal_gradient"])
def test_two_processes_that_share_statistics_measure_the_losses_of_one(
    arm, fork_server, make_cfg, tmp_path
):
    opts = {"ghm": GHM, "equal_gradient": ("MODEL.FOCAL.BALANCE.NAME", "equal_gradient", *GHM)}
    cfg = make_cfg(*opts[arm])
    arguments = (cfg, load_fixed_images(cfg))
    task = (losses_after_a_step, (arguments, arguments))
    (first, second) = in_two_processes({"measure": task}, tmp_path)["measure"]
    alone = losses_after_a_step(*arguments)
    assert first == second
    assert first.losses == pytest.approx(alone.losses, rel=1e-5)
    assert first.balance["retinanet"].ratio == (
        pytest.approx(alone.balance["retinanet"].ratio, rel=1e-4)
    )


def test_sample_is_limited_and_drawn_from_all_images(make_cfg, monkeypatch):
    whole = snapshots_of(make_cfg(*FL))["retinanet"]
    monkeypatch.setattr("focal_plugin.engine.hooks.fixed_anchors.MAX_SAMPLE", 50)
    part = snapshots_of(make_cfg(*FL))["retinanet"]
    assert len(part.sample_neg) == 50
    assert np.isin(part.sample_neg, whole.sample_neg).all()
    assert part.loss_neg == whole.loss_neg
    assert part.anchors_digest != whole.anchors_digest


def test_a_run_leaves_scalars_and_two_snapshots(make_cfg):
    cfg = make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 2, *FL, "MODEL.FOCAL.NORMALIZER.NAME", "batch")
    train(cfg)
    start, final = (read_snapshot_of(cfg, f"{when}_retinanet") for when in ("start", "final"))
    assert (start.iteration, final.iteration) == (0, 4)
    assert start.anchors_digest == final.anchors_digest
    assert start.loss_sum != final.loss_sum
    assert len(start.parameter_gradient_norms) == 4
    assert np.array_equal(start.parameter_gradient_norms, final.parameter_gradient_norms)
    (last,) = [line for line in metrics_of(cfg) if line["iteration"] == 3]
    prefix = "diagnostics/retinanet/"
    levels = [f"{level}/{name}" for level in ("p3", "p4", "p5") for name in ("cls_pos", "cls_neg")]
    sides = last[prefix + "cls_pos"] + last[prefix + "cls_neg"]
    assert sum(last[prefix + name] for name in levels) == pytest.approx(sides)
    assert last["diagnostics/parameter_gradient_norm"] == final.parameter_gradient_norms[3]
    assert 0 <= last[prefix + "easy_cls_share"] <= 1
    of_levels = sum(last[f"{prefix}{level}/positives"] for level in ("p3", "p4", "p5"))
    of_classes = sum(last.get(f"{prefix}class_{k}/positives", 0) for k in range(5))
    assert of_levels == of_classes > 0
    assert last[prefix + "positives_per_object"] >= 1
    assert last[prefix + "objects_without_anchor"] == 0
    assert list(Path(cfg.OUTPUT_DIR).glob("events.*"))


@pytest.mark.parametrize("base", [RETINANET, RCNN])
def test_a_run_leaves_its_balance_and_the_losses_at_each_evaluation(base, make_cfg):
    cfg = make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 2, base=base)
    trainer = train(cfg)
    start, final = (balance_of(cfg, moment) for moment in ("start", "final"))
    assert (start.iteration, final.iteration) == (0, 4)
    assert (start.num_images, start.batch_size) == (12, 4)
    assert list(start.parts) == (["retinanet"] if base == RETINANET else ["rpn", "roi_heads"])
    assert start.parts != final.parts
    measured = measure_losses(
        trainer.model, load_fixed_images(cfg), batch_size=4, with_balance=True
    )
    assert measured.balance == final.parts
    losses = validation_of(cfg)
    assert list(losses) == [1, 4]  # 2 steps, and the end
    assert losses[4]["validation/total"] == measured.losses["total_loss"]
    assert losses[4]["validation/box_reg"] == measured.losses["loss_box_reg"]
    assert losses[1].keys() == losses[4].keys()
    assert losses[1] != losses[4]


def test_the_losses_of_a_resumed_run_are_those_of_an_uninterrupted_one(make_cfg):
    opts = ("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2, *GHM)
    opts = (*opts, "SEED", 7, "TEST.EVAL_PERIOD", 3)
    whole, resumed = (make_cfg(*opts, name=name) for name in ("whole", "resumed"))
    expected = train(whole).model.state_dict()
    folder = Path(resumed.OUTPUT_DIR)
    folder.mkdir()
    for name in ("model_0000001.pth", "model_0000001.pth.sha256"):
        (folder / name).write_bytes((Path(whole.OUTPUT_DIR) / name).read_bytes())
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    trainer = Training(resumed)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    trainer.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert validation_of(resumed) == validation_of(whole)
    assert list(validation_of(whole)) == [2, 4]
    assert balance_of(resumed, "final") == balance_of(whole, "final")
    assert balance_of(resumed, "start") is None


def test_a_diverged_detector_has_no_losses_on_fixed_images(make_cfg, monkeypatch, caplog):
    def diverged(*args, **kwargs):
        raise FloatingPointError("planted")

    monkeypatch.setattr("focal_plugin.engine.hooks.loss_recorder.measure_losses", diverged)
    cfg = make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 2)
    with caplog.at_level("WARNING", "focal_plugin"):
        train(cfg)
    assert "No losses on fixed images at iteration 1: planted" in caplog.text
    assert validation_of(cfg) == {}
    assert balance_of(cfg, "start") is None


def test_gradient_norm_is_measured_before_clipping_and_once(make_cfg):
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-4)
    period = ("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 1, "SOLVER.MAX_ITER", 3)
    norms = []
    for name, opts in (("plain", ()), ("clipped", clip)):
        cfg = make_cfg(*CE, *period, *opts, name=name)
        train(cfg)
        norms.append(read_snapshot_of(cfg, "start_retinanet").parameter_gradient_norms)
    assert [len(x) for x in norms] == [3, 3]
    assert norms[0][0] == norms[1][0] > 1e-1  # the first step is the same


def test_gradient_norm_is_the_sgd_step_length_over_its_rate(make_cfg, monkeypatch):
    plain = ("SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.WARMUP_ITERS", 0)
    rate = ("SOLVER.BASE_LR", 0.125, "SOLVER.MAX_ITER", 1, "MODEL.FOCAL.DIAGNOSTICS.PERIOD", 1)
    starts = []
    before_train = Training.before_train

    def remember(self):
        starts.append([p.detach().clone() for p in self.model.parameters()])
        before_train(self)

    monkeypatch.setattr(Training, "before_train", remember)
    cfg = make_cfg(*CE, *plain, *rate)
    moved = zip(train(cfg).model.parameters(), starts[0], strict=True)
    length = sum((now.detach() - then).double().square().sum() for now, then in moved).sqrt()
    (norm,) = read_snapshot_of(cfg, "final_retinanet").parameter_gradient_norms
    assert norm == pytest.approx(length.item() / 0.125, rel=1e-4)


def test_gradient_norm_is_of_all_parameters_together():
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    groups = [{"params": parameters[:1]}, {"params": parameters[1:]}]
    assert gradient_norm(torch.optim.SGD(groups, lr=1.0)) == 5
    parameters[0].grad = parameters[1].grad = None
    assert gradient_norm(torch.optim.SGD(parameters, lr=1.0)) == 0


def test_without_a_period_nothing_is_recorded(make_cfg):
    cfg = make_cfg(*FL)
    train(cfg)
    assert not (Path(cfg.OUTPUT_DIR) / "diagnostics").exists()
    names = {name for line in metrics_of(cfg) for name in line}
    assert not any(name.startswith(("diagnostics", "validation")) for name in names)


def test_stock_detector_records_its_gradient_norm_and_its_losses(make_cfg, caplog):
    cfg = make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 2, *STOCK, base=RCNN)
    with caplog.at_level("INFO", "focal_plugin"):
        train(cfg)
    assert "its dense losses are Detectron2's" in caplog.text
    files = {file.name for file in (Path(cfg.OUTPUT_DIR) / "diagnostics").iterdir()}
    assert files == {"balance_start.json", "balance_final.json"}
    assert list(balance_of(cfg, "final").parts) == ["rpn", "roi_heads"]
    assert validation_of(cfg)[4]["validation/rpn_cls"] > 0
    (last,) = [line for line in metrics_of(cfg) if line["iteration"] == 3]
    assert last["diagnostics/parameter_gradient_norm"] > 0


def test_without_a_test_set_there_are_no_snapshots(make_cfg, caplog):
    cfg = make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 2, *FL, "DATASETS.TEST", ())
    with caplog.at_level("INFO", "focal_plugin"):
        train(cfg)
    assert "DATASETS.TEST has no dataset" in caplog.text
    assert not (Path(cfg.OUTPUT_DIR) / "diagnostics").exists()


def test_failed_run_has_no_final_snapshot_and_keeps_its_own_error(make_cfg, monkeypatch):
    cfg = make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 1, *FL, "SOLVER.BASE_LR", 1e20)
    with pytest.raises(FloatingPointError, match="is nan at iteration"):
        train(cfg)
    folder = Path(cfg.OUTPUT_DIR) / "diagnostics"
    files = sorted(file.name for file in folder.iterdir())
    assert files == ["balance_start.json", "start_retinanet.npz"]


def test_start_is_described_in_the_log(make_cfg, caplog):
    with caplog.at_level("INFO", "focal_plugin"):
        train(make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", 2, *CE))
    lines = [r.message for r in caplog.records if r.name.endswith("hooks.diagnostics")]
    assert sum("retinanet at iteration 0" in line for line in lines) == 1
    assert sum("retinanet, first batch" in line for line in lines) == 1
    assert any("mean probability 0.01" in line for line in lines)


def test_negative_period_is_refused(make_cfg):
    with pytest.raises(ValueError, match=r"DIAGNOSTICS\.PERIOD must be an integer >= 0, got -1"):
        DiagnosticsHook(make_cfg("MODEL.FOCAL.DIAGNOSTICS.PERIOD", -1), torch.nn.Identity())


def test_dense_parts_are_found_by_what_they_are(make_cfg):
    assert list(dense_parts(model_of(make_cfg()))) == ["retinanet"]
    assert list(dense_parts(model_of(make_cfg(base=RCNN)))) == ["rpn"]
    assert dense_parts(model_of(make_cfg(*STOCK, base=RCNN))) == {}
    assert dense_parts(torch.nn.Identity()) == {}
