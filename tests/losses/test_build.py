import pytest
from detectron2.config import LazyCall, instantiate

from focal_plugin import get_cfg
from focal_plugin.losses import SigmoidFocalLoss, build_cls_loss


def test_the_default_config_builds_stock_focal_loss():
    loss = build_cls_loss(get_cfg())
    assert isinstance(loss, SigmoidFocalLoss)
    assert (loss.alpha, loss.gamma) == (0.25, 2.0)


def test_an_unknown_loss_is_an_error_that_lists_the_registered_ones():
    cfg = get_cfg()
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "FocalLos"
    with pytest.raises(KeyError, match=r"MODEL\.FOCAL\.CLS_LOSS\.NAME.*SigmoidFocalLoss"):
        build_cls_loss(cfg)


def test_an_implementation_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'cuda'"):
        SigmoidFocalLoss(impl="cuda")


def test_a_lazy_config_can_instantiate_it():
    loss = instantiate(LazyCall(SigmoidFocalLoss)(gamma=1.5, alpha=None))
    assert (loss.alpha, loss.gamma) == (None, 1.5)
