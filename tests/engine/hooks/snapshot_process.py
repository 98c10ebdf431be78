"""Functions that test_diagnostics.py runs in two processes of the fork server."""

import torch
from detectron2.modeling import build_model
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from focal_plugin.engine.hooks.fixed_anchors import take_snapshots
from focal_plugin.engine.hooks.fixed_losses import measure_losses


def snapshot_after_a_step(cfg, images):
    """Return the snapshot of a RetinaNet whose loss has learned from its first batch."""
    model = _model_after_a_step(cfg)
    return take_snapshots(model, images, iteration=0, batch_size=4)["retinanet"]


def losses_after_a_step(cfg, images):
    """Return losses and balance of such a RetinaNet."""
    return measure_losses(_model_after_a_step(cfg), images, batch_size=4, with_balance=True)


def _model_after_a_step(cfg):
    torch.manual_seed(0)
    model = build_model(cfg)
    model.cls_loss.update(torch.zeros(1, 4, 5), torch.zeros(1, 4, dtype=torch.int64))
    if distributed.is_initialized():
        model = DistributedDataParallel(model, broadcast_buffers=False).module
    return model
