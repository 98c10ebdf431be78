"""Registries of classification and box losses, and their construction from a config."""

from __future__ import annotations

from collections.abc import Iterable

from yacs.config import CfgNode

from ..registry import DENSE, ConfigScope, Registry, build_named, require_subclass
from .base import BagLoss, BoxLoss, ClassificationLoss
from .plain import prepare_box_loss, prepare_cls_loss

CLS_LOSS_REGISTRY = Registry("CLS_LOSS", prepare_cls_loss)
CLS_LOSS_REGISTRY.__doc__ = """
Registry of classification losses, chosen by `MODEL.FOCAL.CLS_LOSS.NAME`.

A registered class is a :class:`ClassificationLoss`, constructed as `Loss(cfg)` or with its own
keyword arguments. Any other module with `forward(logits, labels)` is wrapped into one, see
:class:`~focal_plugin.losses.plain.PlainClassificationLoss`.
"""


BOX_LOSS_REGISTRY = Registry("BOX_LOSS", prepare_box_loss)
BOX_LOSS_REGISTRY.__doc__ = """
Registry of box losses, chosen by `MODEL.FOCAL.BOX_LOSS.NAME`.

A registered class is a :class:`BoxLoss`, constructed as `Loss(cfg)` or with its own keyword
arguments. Any other module with `forward(pred, target)` is wrapped into one, see
:class:`~focal_plugin.losses.plain.PlainBoxLoss`.
"""

BAG_LOSS_REGISTRY = Registry("BAG_LOSS", lambda loss: require_subclass(loss, BagLoss))
BAG_LOSS_REGISTRY.__doc__ = """
Registry of losses that need no label per anchor, chosen by `MODEL.FOCAL.BAG_LOSS.NAME`.

A registered class is a :class:`BagLoss`, constructed as `Loss(cfg)` or with its own keyword
arguments.
"""

STOCK_BOX_LOSSES = {
    "smooth_l1": "SmoothL1Loss",
    "giou": "GIoULoss",
    "diou": "DIoULoss",
    "ciou": "CIoULoss",
}
"""Registered name of each value of Detectron2's key `MODEL.RETINANET.BBOX_REG_LOSS_TYPE`."""


def build_cls_loss(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> ClassificationLoss:
    """
    Build the loss that `MODEL.FOCAL.CLS_LOSS.NAME` names.

    Args:
        config_scope: the location of the name and the options, if not `MODEL.FOCAL`.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range, and the message names its full key; or
            the loss does not compute what it says, see :meth:`ClassificationLoss.check`.
    """
    losses: Iterable[tuple[str, type[ClassificationLoss]]] = CLS_LOSS_REGISTRY
    loss = build_named(losses, "MODEL.FOCAL.CLS_LOSS.NAME", cfg, config_scope=config_scope)
    loss.check(config_scope.read(cfg, "MODEL.RETINANET.NUM_CLASSES"))
    return loss


def build_box_loss(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> BoxLoss:
    """
    Build the loss that `MODEL.FOCAL.BOX_LOSS.NAME` names.

    If that name is empty, Detectron2's own `MODEL.RETINANET.BBOX_REG_LOSS_TYPE` names the loss.

    Args:
        config_scope: the location of the names and the options, if they are moved.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range, and the message names its full key; or
            the loss does not compute what it says, see :meth:`BoxLoss.check`.
    """
    losses: Iterable[tuple[str, type[BoxLoss]]] = BOX_LOSS_REGISTRY
    if config_scope.read(cfg, "MODEL.FOCAL.BOX_LOSS.NAME"):
        loss = build_named(losses, "MODEL.FOCAL.BOX_LOSS.NAME", cfg, config_scope=config_scope)
        loss.check()
        return loss
    by_name = dict(losses)
    stock = [(name, by_name[ours]) for name, ours in STOCK_BOX_LOSSES.items()]
    return build_named(stock, "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", cfg, config_scope=config_scope)


def build_bag_loss(cfg: CfgNode) -> BagLoss | None:
    """
    Build the loss that `MODEL.FOCAL.BAG_LOSS.NAME` names.

    Returns:
        the loss; None if the name is empty, and then each anchor has a label.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    if not cfg.MODEL.FOCAL.BAG_LOSS.NAME:
        return None
    losses: Iterable[tuple[str, type[BagLoss]]] = BAG_LOSS_REGISTRY
    return build_named(losses, "MODEL.FOCAL.BAG_LOSS.NAME", cfg)


def stock_box_loss(loss_type: str, *, smooth_l1_beta: float) -> BoxLoss:
    """
    Build the loss that Detectron2's detectors use for a ``box_reg_loss_type``.

    Args:
        loss_type: "smooth_l1", "giou", "diou" or "ciou".
        smooth_l1_beta: for "smooth_l1" only.
    """
    options = {"beta": smooth_l1_beta} if loss_type == "smooth_l1" else {}
    loss: type[BoxLoss] = BOX_LOSS_REGISTRY.get(STOCK_BOX_LOSSES[loss_type])
    return loss(**options)
