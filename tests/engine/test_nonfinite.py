"""Steps with a NaN or infinite loss or gradient, in a training loop of Detectron2."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from focal_plugin import get_cfg
from focal_plugin.engine.finite import check_solver, weights_are_finite
from focal_plugin.engine.nonfinite import (
    GuardedTrainer,
    NonFiniteError,
    NonFinitePolicy,
    StepGuard,
)


class NanGradient(torch.autograd.Function):
    """Loss that is finite, with a gradient that is not, like a focal loss with gamma 0.5."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


class Detector(nn.Module):
    """Detector whose loss is stated by the images of the batch."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.norm = nn.BatchNorm1d(1)
        self.cls_score = nn.Linear(1, 1)
        self.register_buffer("mean_positives", torch.tensor(100.0), persistent=False)

    def forward(self, batch):
        x = torch.stack([image["image"] for image in batch])
        self.mean_positives += 1
        loss = self.cls_score(self.norm(self.backbone(x))).pow(2).sum()
        fault = next((image["fault"] for image in batch if "fault" in image), "")
        if fault == "raise":
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")
        if fault == "gradient":
            loss = NanGradient.apply(loss)
        if fault == "loss":
            loss = loss * math.inf
        return {"loss_cls": loss, "loss_box_reg": 0 * loss.detach() + 0.5}


def image(number, value=1.0, **more):
    return {
        "image_id": number,
        "file_name": f"images/{number:06d}.png",
        "image": torch.tensor([value]),
        **more,
    }


GOOD = [image(1, 0.3), image(2, -0.7)]


def make_trainer(batches, policy="raise", roll_back=lambda: False, **limits):
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "FocalRetinaNet"
    cfg.MODEL.FOCAL.NONFINITE.POLICY = policy
    cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH = 0.1, 2
    for key, value in limits.items():
        cfg.MODEL.FOCAL.NONFINITE[key] = value
    model = Detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    trainer = GuardedTrainer(model, batches, optimizer)
    trainer.guard = StepGuard(cfg, model, roll_back=roll_back, seed=lambda: (0, trainer.iter))
    return trainer


def run(trainer, steps):
    with EventStorage() as storage:
        for trainer.iter in range(steps):
            storage.iter = trainer.iter
            trainer.run_step()
    return storage


def state_of(trainer):
    return [x.clone() for x in [*trainer.model.parameters(), *trainer.model.buffers()]]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("fault", ["loss", "gradient", "raise"])
def test_by_default_it_ends_the_run_and_the_weights_stay_as_they_were(fault):
    trainer = make_trainer([GOOD, [image(3), image(4, fault=fault)]])
    run(trainer, 1)
    weights = [x.clone() for x in trainer.model.parameters()]
    momentum = [x["momentum_buffer"].clone() for x in trainer.optimizer.state.values()]
    with pytest.raises(NonFiniteError):
        run(trainer, 1)
    assert equal(weights, trainer.model.parameters())
    assert equal(momentum, [x["momentum_buffer"] for x in trainer.optimizer.state.values()])


def test_the_message_says_term_iteration_images_logit_and_learning_rate():
    trainer = make_trainer([GOOD, GOOD, [image(3), image(41, fault="loss")]])
    with pytest.raises(NonFiniteError) as caught:
        run(trainer, 3)
    first, *others = str(caught.value).splitlines()
    assert "loss_cls is inf at iteration 2" in first
    text = "\n".join(others)
    assert "images: 3 (images/000003.png), 41 (images/000041.png)" in text
    assert "losses: loss_cls inf, loss_box_reg nan" in text
    assert "largest |logit|:" in text
    assert "in cls_score" in text
    # 0.01 / 16 * 2 = 0.00125
    assert "SOLVER.BASE_LR 0.1 for 2 images per step" in text
    assert "scales to 0.00125, so yours is 80 times as high" in text


def test_the_message_names_parameters_whose_gradient_is_the_fault():
    trainer = make_trainer([[image(7, fault="gradient"), image(8)]])
    with pytest.raises(NonFiniteError, match="a gradient is not finite at iteration 0") as caught:
        run(trainer, 1)
    assert "gradient: not finite for backbone.weight and 5 others" in str(caught.value)


def test_the_message_names_the_first_layer_that_is_not_finite():
    trainer = make_trainer([[image(7, math.inf), image(8)]])
    with pytest.raises(NonFiniteError) as caught:
        run(trainer, 1)
    assert "first layer with an output that is not finite: backbone" in str(caught.value)
    assert "largest |logit|: nan, in cls_score" in str(caught.value)


@pytest.mark.parametrize("fault", ["loss", "gradient", "raise"])
def test_a_skipped_step_has_no_effect(fault):
    bad = [image(3, 5.0), image(4, fault=fault)]
    skipping = make_trainer([GOOD, bad, bad, GOOD], "skip")
    storage = run(skipping, 4)
    plain = make_trainer([GOOD, GOOD])
    run(plain, 2)
    assert equal(state_of(skipping), state_of(plain))
    assert skipping.guard.left_out == 2
    assert storage.latest()["nonfinite/left_out"][0] == 2


def test_running_statistics_that_a_bad_image_poisons_are_restored():
    trainer = make_trainer([[image(3, math.nan), image(4)]], "skip")
    before = state_of(trainer)
    run(trainer, 1)
    assert equal(before, state_of(trainer))


def test_skipping_ends_where_too_many_steps_in_a_row_are_bad():
    bad = [image(3), image(4, fault="loss")]
    trainer = make_trainer([bad, bad, GOOD, bad, bad, bad], "skip", MAX_IN_A_ROW=2)
    with pytest.raises(NonFiniteError, match="the last 2 steps were skipped"):
        run(trainer, 6)
    assert trainer.iter == 5
    assert trainer.guard.left_out == 4


def test_rollbacks_are_called_counted_and_limited():
    bad = [image(3), image(4, fault="loss")]
    calls = []
    trainer = make_trainer(
        [bad, GOOD, bad, GOOD, bad],
        "rollback",
        roll_back=lambda: calls.append(trainer.iter) or True,
        MAX_ROLLBACKS=2,
    )
    with pytest.raises(NonFiniteError, match="training already went back 2 times"):
        run(trainer, 5)
    assert calls == [0, 2]


def test_without_a_checkpoint_a_rollback_ends_the_run():
    trainer = make_trainer([[image(3), image(4, fault="loss")]], "rollback")
    with pytest.raises(NonFiniteError, match="there is no periodic checkpoint to go back to"):
        run(trainer, 1)


def test_gradients_whose_squares_overflow_are_finite():
    layer = nn.Linear(2, 2)
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    assert weights_are_finite(layer)
    layer.bias.grad[1] = math.inf
    assert not weights_are_finite(layer)
    layer.bias.grad[1] = math.nan
    assert not weights_are_finite(layer)


def test_weights_without_gradients_are_checked_too():
    layer = nn.Linear(2, 2)
    assert weights_are_finite(layer)
    with torch.no_grad():
        layer.weight[1, 0] = -math.inf
    assert not weights_are_finite(layer)
    assert not weights_are_finite(layer, gradients=False)


@pytest.mark.parametrize("option", ["lr", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
def test_an_optimizer_with_a_number_that_is_not_finite_changes_no_weight(option, value):
    trainer = make_trainer([GOOD, GOOD])
    run(trainer, 1)
    before = [x.clone() for x in trainer.model.parameters()]
    trainer.optimizer.param_groups[0][option] = value
    with pytest.raises(NonFiniteError, match=f"the optimizer's {option} is .* at iteration 0"):
        run(trainer, 1)
    assert equal(before, trainer.model.parameters())


def poison(trainer):
    with torch.no_grad():
        trainer.model.cls_score.bias.fill_(math.nan)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_weights_that_are_not_finite_end_the_run_with_their_names(policy):
    trainer = make_trainer([GOOD], policy)
    poison(trainer)
    with pytest.raises(NonFiniteError, match=r"of cls_score\.bias are not finite") as caught:
        run(trainer, 1)
    assert "No gradient of this step is the cause" in str(caught.value)
    assert ("skipping a step does not repair this" in str(caught.value)) == (policy == "skip")


def test_a_rollback_repairs_weights_that_are_not_finite():
    def repair():
        nn.init.zeros_(trainer.model.cls_score.bias)
        return True

    trainer = make_trainer([GOOD, GOOD], "rollback", roll_back=repair)
    poison(trainer)
    run(trainer, 2)
    assert trainer.guard.rollbacks == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("BASE_LR", x) for x in (math.nan, math.inf, -math.inf, 1e39, 10**400)),
        *(("MOMENTUM", math.nan), ("WEIGHT_DECAY", math.inf), ("WEIGHT_DECAY_NORM", math.nan)),
        *(("WEIGHT_DECAY_BIAS", math.nan), ("BIAS_LR_FACTOR", math.inf), ("GAMMA", math.nan)),
        *(("WARMUP_FACTOR", math.nan), ("BASE_LR_END", math.inf), ("STEPS", (3, math.nan))),
        ("CLIP_GRADIENTS.CLIP_VALUE", math.nan),
    ],
)
def test_a_number_of_the_solver_that_is_not_finite_is_refused_by_its_key(key, value):
    cfg = get_cfg()
    node, _, name = key.rpartition(".")
    (cfg.SOLVER[node] if node else cfg.SOLVER)[name] = value
    with pytest.raises(ValueError, match=rf"^SOLVER\.{key} must be a finite number, at"):
        check_solver(cfg)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("BASE_LR", -0.1), ("MOMENTUM", -1.0), ("WEIGHT_DECAY", -1e-9)),
        *(("WEIGHT_DECAY_BIAS", "nan"), ("WEIGHT_DECAY_BIAS", -1.0), ("WEIGHT_DECAY_BIAS", "x")),
    ],
)
def test_a_negative_rate_and_a_text_are_refused_by_their_key(name, value):
    cfg = get_cfg()
    cfg.SOLVER[name] = value
    with pytest.raises(ValueError, match=rf"^SOLVER\.{name} must be (a number|>= 0), got "):
        check_solver(cfg)


def test_an_infinite_norm_and_limit_of_gradients_are_legal():
    cfg = get_cfg()
    check_solver(cfg)
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = math.inf
    check_solver(cfg)


def test_a_model_without_gradients_is_finite():
    assert weights_are_finite(nn.Linear(2, 2))


def test_counts_survive_a_checkpoint():
    trainer = make_trainer([[image(3), image(4, fault="loss")]], "skip")
    run(trainer, 1)
    resumed = make_trainer([], "skip")
    resumed.guard.load_state_dict(trainer.guard.state_dict())
    assert resumed.guard.state_dict() == {"left_out": 1, "rollbacks": 0, "in_a_row": 1}


@pytest.mark.parametrize(
    ("key", "value"), [("POLICY", "ignore"), ("MAX_IN_A_ROW", 0), ("MAX_ROLLBACKS", -1)]
)
def test_an_illegal_value_names_its_key(key, value):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NONFINITE[key] = value
    with pytest.raises(ValueError, match=f"MODEL.FOCAL.NONFINITE.{key} must be"):
        NonFinitePolicy.from_config(cfg)
