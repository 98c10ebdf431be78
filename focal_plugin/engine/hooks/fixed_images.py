"""Fixed images of the test set, and a state of the detector in which its losses are measured."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ...data.labeled_categories import completely_labeled
from ...data.loading.crowd_mapper import CrowdDatasetMapper
from ...modeling import knows_crowds
from ...random_state import generators_kept

NUM_IMAGES = 32
"""Number of images, the first of the test set."""

SEED = 1708_02002
"""Seed of the random draws of a batch, such as an RPN's sample."""

MIXES_OR_DRAWS = (_BatchNorm, _DropoutNd)
"""Layers that mix the images of a batch in training, or draw random numbers."""


def load_fixed_images(cfg: CfgNode) -> list[dict[str, Any]]:
    """
    Load the first images of the first test set with their annotations, without augmentation.

    As in the evaluation, every image counts as completely labeled.

    Returns:
        the model's training input; [] if there is no test set or it has no annotations.
    """
    if not cfg.DATASETS.TEST:
        return []
    mapper_class = CrowdDatasetMapper if knows_crowds(cfg) else DatasetMapper
    mapper = mapper_class(cfg, is_train=True)  # a mapper for inference drops annotations
    mapper.augmentations = T.AugmentationList(build_augmentation(cfg, is_train=False))
    with generators_kept(_device()):  # even a resize to one size makes a random draw
        dicts = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:NUM_IMAGES]
        images = [mapper(copy.deepcopy(completely_labeled(x))) for x in dicts]
    return images if all("instances" in x for x in images) else []


def batches_of(
    images: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[Sequence[dict[str, Any]]]:
    """Yield the images in batches; the last one may be smaller."""
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]


@contextlib.contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """
    Prepare a detector for the losses of one batch, and restore all of its state on exit.

    It is in training mode, but the backbone and :data:`MIXES_OR_DRAWS` are in evaluation mode, so
    that an image does not change another one. The random generators start from :data:`SEED`. All
    that is logged is dropped. Buffers (such as those of normalizers), numbers in attributes (such
    as the normalizer of Detectron2's RetinaNet), modes and generators are restored.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [(module, dict(module._buffers)) for module in modes]
    values = [
        {name: x.clone() for name, x in of_module.items() if x is not None}
        for _, of_module in buffers
    ]
    numbers = {module: _numbers(module) for module in modes}
    try:
        with generators_kept(_device()), EventStorage():
            torch.manual_seed(SEED)
            _set_modes(model)
            yield
    finally:
        for module, mode in modes.items():
            module.train(mode)
        with torch.no_grad():
            for (module, of_module), of_values in zip(buffers, values, strict=True):
                module._buffers.update(of_module)
                for name, value in of_values.items():
                    module._buffers[name].copy_(value)  # type: ignore[union-attr]  # not None
        for module, known in numbers.items():
            for name in _numbers(module).keys() - known.keys():
                delattr(module, name)
            vars(module).update(known)


def _set_modes(model: nn.Module) -> None:
    model.train()
    for name, module in model.named_modules():
        if name == "backbone" or isinstance(module, MIXES_OR_DRAWS):
            module.eval()


def _numbers(module: nn.Module) -> dict[str, float]:
    """Return the attributes that are numbers, except for the mode."""
    attributes = vars(module).items()
    return {n: x for n, x in attributes if isinstance(x, int | float) and n != "training"}


def _device() -> str:
    """Return the device whose generator is kept beside that of the CPU."""
    return "cuda" if torch.cuda.is_initialized() else "cpu"
