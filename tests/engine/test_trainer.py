import pytest
import torch
from detectron2.engine import DefaultTrainer

from focal_plugin import get_cfg
from focal_plugin.doctor import has_compiled_ops
from focal_plugin.engine import Trainer


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 0.003
    cfg.SOLVER.WEIGHT_DECAY = 0.02
    return cfg


@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))


def test_default_optimizer_is_stocks(cfg, model):
    ours = Trainer.build_optimizer(cfg, model)
    stock = DefaultTrainer.build_optimizer(cfg, model)
    assert type(ours).__name__ == type(stock).__name__ == "SGD"
    assert ours.state_dict()["param_groups"] == stock.state_dict()["param_groups"]


def test_adamw_has_the_solvers_learning_rate_and_weight_decays(cfg, model):
    cfg.MODEL.FOCAL.OPTIMIZER = "AdamW"
    optimizer = Trainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {0.003}
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay[id(model[0].weight)] == 0.02
    assert decay[id(model[1].weight)] == cfg.SOLVER.WEIGHT_DECAY_NORM


def test_adamw_clips_gradients_if_the_solver_says_so(cfg, model):
    cfg.MODEL.FOCAL.OPTIMIZER = "AdamW"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    optimizer = Trainer.build_optimizer(cfg, model)
    model[0].weight.grad = torch.full_like(model[0].weight, 100.0)
    optimizer.step()
    assert model[0].weight.grad.abs().max() <= cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE


def test_another_optimizer_is_an_error_that_names_the_key(cfg, model):
    cfg.MODEL.FOCAL.OPTIMIZER = "Adam"
    with pytest.raises(ValueError, match=r"MODEL\.FOCAL\.OPTIMIZER.*'Adam'"):
        Trainer.build_optimizer(cfg, model)


def test_evaluates_with_pycocotools_where_nothing_is_compiled(cfg, tiny_shapes, tmp_path):
    cfg.OUTPUT_DIR = str(tmp_path)
    evaluator = Trainer.build_evaluator(cfg, "tiny_shapes")
    assert evaluator._use_fast_impl == has_compiled_ops()
