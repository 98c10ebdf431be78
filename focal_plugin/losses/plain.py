"""
Losses that are plain modules: two tensors in, a sum out.

They are registered like the others. The registry wraps them, so that a detector can use them.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes
    V: anchors that are not ignored, or boxes
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..ops import FormulaError
from ..registry import RegistrationError, configurable, is_outside, require_subclass
from .base import BoxLoss, ClassificationLoss
from .one_vs_rest import check_inputs

_Base = TypeVar("_Base", bound=nn.Module)


class PlainClassificationLoss(ClassificationLoss):
    """
    Classification loss that calls a plain module.

    The module's `forward(logits, labels)` receives the anchors that are not ignored: float32
    logits (V, K), or (V, K+1) if :attr:`softmax`, and int64 labels (V,) in 0..K, K is background.
    It returns the sum over them, or one loss per anchor, (V,), or one per logit, (V, K).

    The module may have `config_keys` and the class attributes :attr:`softmax`,
    :attr:`own_normalizer` and :attr:`decomposes`.
    """

    plain: ClassVar[type[nn.Module]]

    @configurable
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.module = self.plain(**options)

    def extra_repr(self) -> str:
        return ""

    def check(self, num_classes: int) -> None:
        """
        Call the module on four anchors.

        Raises:
            ValueError: it fails on them, or its result has another shape, no gradient, or is no
                sum.
        """
        if any(tensor.is_meta for tensor in (*self.parameters(), *self.buffers())):
            return
        labels = torch.tensor([0, num_classes - 1, num_classes, num_classes], device="cpu")
        with _trial(self.module) as module:
            logits = torch.randn(4, self.num_columns(num_classes), device="cpu").requires_grad_()
            loss = _try(module, type(self).__name__, logits, labels)
            if self.decomposes and not self.own_normalizer:
                parts = module(logits[:1], labels[:1]).sum() + module(logits[1:], labels[1:]).sum()
                if not torch.allclose(loss.sum(), parts, rtol=1e-3, atol=1e-6):
                    raise ValueError(
                        f"{type(self).__name__} of 4 anchors is {loss.sum():.4g}, but the sum over "
                        f"1 and 3 of them is {parts:.4g}: return a sum, not a mean, or set "
                        "own_normalizer = True"
                    )
            self.has_rows = _has_rows(module, loss, logits, labels)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        check_inputs(logits, labels, num_classes=logits.shape[-1] - self.softmax)
        counted = labels >= 0
        loss = torch.zeros(labels.shape, device=logits.device)
        if not counted.any():
            return loss + logits[counted].sum()
        rows = _loss_of_rows(self.module, logits[counted].float(), labels[counted].long())
        return loss.masked_scatter(counted, rows)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        check_inputs(logits, labels, num_classes=logits.shape[-1] - self.softmax)
        counted = labels >= 0
        logits, labels = logits[counted].float(), labels[counted].long()
        loss: Tensor = self.module(logits, labels) if len(labels) else logits
        return loss.sum()


class PlainBoxLoss(BoxLoss):
    """
    Box loss that calls a plain module.

    The module's `forward(pred, target)` receives float32 deltas (V, 4), or boxes if
    :attr:`on_boxes`. It returns the sum over the boxes, or one loss per box, (V,), or one per
    coordinate, (V, 4). It may have `config_keys`, :attr:`on_boxes` and :attr:`own_normalizer`.
    """

    plain: ClassVar[type[nn.Module]]

    @configurable
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.module = self.plain(**options)

    def extra_repr(self) -> str:
        return ""

    def check(self) -> None:
        """
        Call the module on four boxes.

        Raises:
            ValueError: it fails on them, or its result has another shape, or no gradient.
        """
        if any(tensor.is_meta for tensor in (*self.parameters(), *self.buffers())):
            return
        with _trial(self.module) as module:
            pred = torch.rand(4, 4, device="cpu")
            pred[:, 2:] += 1  # a box, too
            target = pred + 0.1
            loss = _try(module, type(self).__name__, pred.requires_grad_(), target)
            self.has_rows = _has_rows(module, loss, pred, target)

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        if not len(pred):
            return pred.float().sum(dim=1)
        return _loss_of_rows(self.module, pred.float(), target.float())

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.module(pred.float(), target.float()) if len(pred) else pred.float()
        return loss.sum()


def prepare_cls_loss(loss: Any) -> type[ClassificationLoss]:
    """
    Return a registered class as a classification loss, wrapped if it is a plain module.

    Raises:
        RegistrationError: it is neither, or a formula of it does not compute what it says.
    """
    if not _is_plain(loss, ClassificationLoss):
        component = require_subclass(loss, ClassificationLoss)
        if is_outside(component.__module__):
            _check_formulas(component)
        return component
    attributes = ("softmax", "own_normalizer", "decomposes")
    return _wrap(loss, PlainClassificationLoss, "logits and labels", attributes)


def prepare_box_loss(loss: Any) -> type[BoxLoss]:
    """
    Return a registered class as a box loss, wrapped if it is a plain module.

    Raises:
        RegistrationError: it is neither.
    """
    if not _is_plain(loss, BoxLoss):
        return require_subclass(loss, BoxLoss)
    return _wrap(loss, PlainBoxLoss, "pred and target", ("on_boxes", "own_normalizer"))


def _check_formulas(loss: type[ClassificationLoss]) -> None:
    """Check the formulas at the default options. A loss without them is checked when built."""
    try:
        loss().check(num_classes=3)
    except FormulaError as error:
        raise RegistrationError(f"{loss.__name__} of {loss.__module__}: {error}") from error
    except Exception:  # it requires options, or another number of classes
        return


def _is_plain(loss: Any, base: type[nn.Module]) -> bool:
    return isinstance(loss, type) and issubclass(loss, nn.Module) and not issubclass(loss, base)


def _wrap(
    loss: type[nn.Module], base: type[_Base], tensors: str, attributes: tuple[str, ...]
) -> type[_Base]:
    """Return a subclass of ``base`` that calls a plain module, with its name and attributes."""
    try:
        inspect.signature(loss.forward).bind(None, None, None)
    except TypeError as error:
        raise RegistrationError(
            f"{loss.__name__} of {loss.__module__}: forward must take two tensors, {tensors}"
        ) from error

    @functools.wraps(loss.__init__)
    def init(self: _Base, **options: Any) -> None:
        base.__init__(self, **options)

    names = ("__module__", "__qualname__", "__doc__", "config_keys", *attributes)
    own = {name: getattr(loss, name) for name in names if hasattr(loss, name)}
    return type(loss.__name__, (base,), {**own, "plain": loss, "__init__": configurable(init)})


@contextlib.contextmanager
def _trial(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of a module to call, and keep the random state."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        yield copy.deepcopy(module)


def _try(module: nn.Module, name: str, *tensors: Tensor) -> Tensor:
    """Return the result of a module for four rows, once it is checked."""
    try:
        loss = module(*tensors)
    except Exception as error:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(
            f"{name}.forward fails on tensors {shapes}: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    rows = len(tensors[0])
    if not (isinstance(loss, Tensor) and (loss.dim() == 0 or len(loss) == rows)):
        what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"{name}.forward must return a sum, or one loss for each of {rows} rows, got {what}"
        )
    if not loss.requires_grad:
        raise ValueError(f"{name}.forward returns a loss without a gradient")
    if not torch.isfinite(loss).all():
        raise ValueError(f"{name}.forward returns NaN or infinity for usual inputs")
    return loss


def _has_rows(module: nn.Module, loss: Tensor, *tensors: Tensor) -> bool:
    """Return True if the losses of the rows are available, and sum to the loss."""
    try:
        rows = _loss_of_rows(module, *tensors)
    except ValueError:
        return False
    return torch.allclose(rows.sum(), loss.sum().float(), rtol=1e-3, atol=1e-6)


def _loss_of_rows(module: nn.Module, *tensors: Tensor) -> Tensor:
    """
    Return the loss of each row, also of a module that returns a sum.

    Raises:
        ValueError: the module returns a sum, and PyTorch cannot vectorize it.
    """
    loss: Tensor = module(*tensors)
    if loss.dim() == 0:
        try:
            loss = torch.func.vmap(lambda *row: module(*(x.unsqueeze(0) for x in row)))(*tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{type(module).__name__}.forward returns a sum, but mining, diagnostics and "
                "divisors per image need one loss per row: return shape (V,)"
            ) from error
    return loss.flatten(1).sum(dim=1).float() if loss.dim() > 1 else loss.float()
