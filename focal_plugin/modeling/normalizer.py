"""
Divisors of a summed dense loss: `MODEL.FOCAL.NORMALIZER.NAME`.

Both losses of RetinaNet, classification and box, are sums over anchors. Division by a number of
positive anchors makes them comparable between images. The choice of this number (of the batch, of
each image, a running mean) is independent of the loss. It acts as a learning rate that varies with
the data.

Shape shorthand:
    N: number of images
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..checks import check_count, check_option
from ..losses.processes import sum_over_processes
from ..registry import (
    DENSE,
    ConfigScope,
    ConfigurableModule,
    Registry,
    build_named,
    configurable,
    require_subclass,
)

NORMALIZER_REGISTRY = Registry(
    "NORMALIZER", lambda normalizer: require_subclass(normalizer, Normalizer)
)
NORMALIZER_REGISTRY.__doc__ = """
Registry of further normalizers, for `MODEL.FOCAL.NORMALIZER.NAME` and `MODEL.FOCAL.RPN.NORMALIZER`.

A registered class is a :class:`Normalizer`, constructed as `Normalizer(cfg)` or with its own
keyword arguments.
"""


class Normalizer(ConfigurableModule):
    """
    Base class of the normalizers.

    The loss of a batch is the sum over its images of (sum over the image's anchors) / divisor.
    """

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, num_pos: Tensor) -> Tensor:
        """
        Compute the divisors of a batch.

        Args:
            num_pos: (N,), int64, number of positive anchors of each image.

        Returns:
            float32, the divisors, all > 0: (N,), or (1,) if all images share one.
        """
        return self.divisors(num_pos)

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward

    def divisors(self, num_pos: Tensor) -> Tensor:
        """Compute the divisors, see :meth:`forward`. A subclass implements it."""
        raise NotImplementedError

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_both_losses(
        self, num_pos: Tensor, *, num_counted: Tensor, num_boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Compute the divisors of the classification loss and of the box loss; here they are equal.

        Args:
            num_pos: (N,), int64, number of positive anchors of each image.
            num_counted: (N,), int64, number of anchors in the classification loss.
            num_boxes: (N,), int64, number of anchors in the box loss.

        Returns:
            the result of :meth:`forward`, twice.
        """
        divisors = self(num_pos)
        return divisors, divisors


class EMANormalizer(Normalizer):
    """
    Running mean of the number of positive anchors in a batch, as in stock RetinaNet.

        mean <- momentum * mean + (1 - momentum) * max(sum of num_pos, 1)

    Every call updates the mean, in training or not, and each process has its own.

    Note:
        Stock RetinaNet loses this state when it resumes. Here every checkpoint has it. It is not an
        entry of the state dict, whose keys stay stock's. It is part of the state dict's metadata,
        where PyTorch stores the versions of modules. A checkpoint without it (a model-zoo file)
        leaves the mean unchanged. A checkpoint with it overrides ``init``, even if it is only
        loaded as `MODEL.WEIGHTS`. The mean then adapts to the new data within some 20 steps.
    """

    config_keys = {
        "init": "MODEL.FOCAL.NORMALIZER.INIT",
        "momentum": "MODEL.FOCAL.NORMALIZER.MOMENTUM",
    }

    @configurable
    def __init__(self, *, init: float = 100.0, momentum: float = 0.9) -> None:
        """
        Initialize the mean.

        Args:
            init: the mean before the first batch, > 0. It should not be too small.
            momentum: in [0, 1); 0 uses the number of this batch.
        """
        super().__init__()
        self.init = float(check_option("init", init, low=0, open_low=True))
        self.momentum = check_option("momentum", momentum, low=0, high=1, open_high=True)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(self.init), persistent=False)

    @torch.no_grad()
    def divisors(self, num_pos: Tensor) -> Tensor:
        batch = self.positives_of_batch(num_pos).to(self.mean.dtype)
        self.mean.mul_(self.momentum).add_(batch, alpha=1 - self.momentum)
        return self.mean.clone().unsqueeze(0)

    def positives_of_batch(self, num_pos: Tensor) -> Tensor:
        """Return the number that the running mean averages, a scalar."""
        return num_pos.sum().clamp(min=1)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):  # absent if the caller passes its own dict
            destination._metadata[prefix[:-1]]["mean"] = self.mean.item()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        if "mean" in local_metadata:
            self.mean.fill_(local_metadata["mean"])


class GlobalEMANormalizer(EMANormalizer):
    """
    Variant of :class:`EMANormalizer` with the mean over processes.

    All processes therefore divide by the same number.
    """

    def positives_of_batch(self, num_pos: Tensor) -> Tensor:
        return _mean_positives(num_pos)


class BatchNormalizer(Normalizer):
    """Number of positive anchors of the batch, at least 1."""

    def divisors(self, num_pos: Tensor) -> Tensor:
        return num_pos.sum().clamp(min=1).float().unsqueeze(0)


class GlobalNormalizer(Normalizer):
    """
    Number of positive anchors of all processes, at least 1, over the number of processes.

    DistributedDataParallel averages gradients over processes. With this divisor, and only with it,
    the average equals the gradient of one process with the whole batch and "batch".
    """

    def divisors(self, num_pos: Tensor) -> Tensor:
        return _mean_positives(num_pos).unsqueeze(0)


class PerImageNormalizer(Normalizer):
    """
    Number of positive anchors of each image, at least 1, as in torchvision.

    The loss of the batch is then the mean over its images.
    """

    def divisors(self, num_pos: Tensor) -> Tensor:
        return num_pos.clamp(min=1).float() * len(num_pos)


class FixedNormalizer(Normalizer):
    """Constant divisor of the whole batch."""

    config_keys = {"value": "MODEL.FOCAL.NORMALIZER.VALUE"}

    @configurable
    def __init__(self, *, value: float = 100.0) -> None:
        """
        Initialize the normalizer.

        Args:
            value: the divisor, > 0.
        """
        super().__init__()
        self.value = float(check_option("value", value, low=0, open_low=True))

    def divisors(self, num_pos: Tensor) -> Tensor:
        return torch.full((1,), self.value, device=num_pos.device)


class SampleSizeNormalizer(Normalizer):
    """Constant number of sampled anchors per image, as in stock RPN."""

    config_keys = {"batch_size_per_image": "MODEL.RPN.BATCH_SIZE_PER_IMAGE"}

    @configurable
    def __init__(self, *, batch_size_per_image: int = 256) -> None:
        """
        Initialize the normalizer.

        Args:
            batch_size_per_image: number of anchors per image, >= 1, even if fewer are sampled.
        """
        super().__init__()
        self.batch_size_per_image = check_count("batch_size_per_image", batch_size_per_image, low=1)

    def divisors(self, num_pos: Tensor) -> Tensor:
        divisor = float(self.batch_size_per_image * len(num_pos))
        return torch.full((1,), divisor, device=num_pos.device)


class MeanNormalizer(Normalizer):
    """
    Number of summed elements in the batch, at least 1, so that each loss is a mean.

    The classification loss counts anchors. The box loss counts the 4 coordinates of each positive
    anchor (matterport's RPN).
    """

    def of_both_losses(
        self, num_pos: Tensor, *, num_counted: Tensor, num_boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute both divisors, which differ, see :meth:`Normalizer.of_both_losses`."""
        counted, coordinates = num_counted.sum(), 4 * num_boxes.sum()
        return _at_least_one(counted), _at_least_one(coordinates)


NORMALIZERS: dict[str, type[Normalizer]] = {
    "ema": EMANormalizer,
    "ema_global": GlobalEMANormalizer,
    "batch": BatchNormalizer,
    "global": GlobalNormalizer,
    "per_image": PerImageNormalizer,
    "fixed": FixedNormalizer,
}


RPN_NORMALIZERS: dict[str, type[Normalizer]] = {
    "batch_size": SampleSizeNormalizer,
    "mean": MeanNormalizer,
    **NORMALIZERS,
}
"""Legal values of `MODEL.FOCAL.RPN.NORMALIZER`."""


def build_normalizer(
    cfg: CfgNode,
    normalizers: Mapping[str, type[Normalizer]] = NORMALIZERS,
    config_scope: ConfigScope = DENSE,
) -> Normalizer:
    """
    Build the normalizer that `MODEL.FOCAL.NORMALIZER.NAME` names.

    Args:
        normalizers: name -> class of those that are available besides NORMALIZER_REGISTRY.
        config_scope: the location of the name, if it is moved. The options do not move.

    Raises:
        KeyError: no normalizer has that name; the message lists the available names.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    registered: Iterable[tuple[str, type[Normalizer]]] = NORMALIZER_REGISTRY
    known = [*registered, *normalizers.items()]
    return build_named(known, "MODEL.FOCAL.NORMALIZER.NAME", cfg, config_scope=config_scope)


def _at_least_one(count: Tensor) -> Tensor:
    """Return max(count, 1), () -> float32 (1,)."""
    return count.clamp(min=1).float().unsqueeze(0)


def _mean_positives(num_pos: Tensor) -> Tensor:
    """Return max(positives of all processes, 1) / number of processes, a float32 scalar."""
    counts = torch.stack([num_pos.sum(), num_pos.new_ones(())]).float()
    positives, processes = sum_over_processes(counts)
    return positives.clamp(min=1) / processes
