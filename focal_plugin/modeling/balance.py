"""
Balance of classification loss and box loss: `MODEL.FOCAL.BALANCE.NAME`.

The scale of a classification loss differs between losses by orders of magnitude, and the box loss
shares its features. A comparison of two losses is therefore also one of two balances, unless both
have the same one. A balance is independent of the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from yacs.config import CfgNode

from ..checks import check_choice, check_count, check_option
from ..losses.processes import mean_over_processes
from ..registry import (
    DENSE,
    ConfigScope,
    ConfigurableModule,
    Registry,
    build_named,
    configurable,
    require_subclass,
)

BALANCE_REGISTRY = Registry("BALANCE", lambda balance: require_subclass(balance, Balance))
BALANCE_REGISTRY.__doc__ = """
Registry of further balances, for `MODEL.FOCAL.BALANCE.NAME` and its forms for RPN and RoI heads.

A registered class is a :class:`Balance`, constructed as `Balance(cfg)` or with its own keyword
arguments.
"""


GRADIENT_SCALE = 1024.0
"""Factor of the gradients that are measured, which would underflow in half precision."""


class Balance(ConfigurableModule):
    """Base class of the balances. A subclass implements :meth:`balanced`."""

    reads_gradients: ClassVar[bool] = False
    """True if the balance requires the features that both losses share."""

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(
        self,
        loss_cls: Tensor,
        loss_box: Tensor,
        *,
        shared: Sequence[Tensor] = (),
        log_as: str = "balance",
    ) -> tuple[Tensor, Tensor]:
        """
        Balance both losses of a step, and update the state in training mode.

        All processes must call it equally often. The constant weights of the losses multiply the
        result.

        Args:
            loss_cls, loss_box: scalars, divided by their normalizers.
            shared: features on which both losses depend; used if :attr:`reads_gradients`.
            log_as: prefix of the names in the event storage.

        Returns:
            both losses, scalars.
        """
        return self.balanced(loss_cls, loss_box, shared, log_as)

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward

    def balanced(
        self, loss_cls: Tensor, loss_box: Tensor, shared: Sequence[Tensor], log_as: str
    ) -> tuple[Tensor, Tensor]:
        """Balance both losses, see :meth:`forward`."""
        raise NotImplementedError

    def log(self, name: str, factor: Tensor) -> None:
        """Log a factor in training mode."""
        if self.training:
            get_event_storage().put_scalar(name, float(factor))


class FixedBalance(Balance):
    """Balance of stock: constant weights alone."""

    def balanced(
        self, loss_cls: Tensor, loss_box: Tensor, shared: Sequence[Tensor], log_as: str
    ) -> tuple[Tensor, Tensor]:
        return loss_cls, loss_box


class SelfBalance(Balance):
    """
    Balance that multiplies the box loss, by the ratio of both losses.

        period 0:  loss_box * (loss_cls / loss_box), the factor being a constant
        period T:  loss_box * (mean loss_cls + mean loss_box) / mean loss_box, over the last T steps

    The first form is that of Rank & Sort (arXiv:2107.11669 section 4.2), the second that of aLRP
    (arXiv:2009.13592 section 4.3), where T is an epoch. The losses are means over processes.

    Note:
        With period 0 both losses have the same value, so that a curve of the box loss shows the
        classification loss. If one of the losses is 0, the factor stays that of the step before.
    """

    config_keys = {
        "period": "MODEL.FOCAL.BALANCE.PERIOD",
        "init": "MODEL.FOCAL.BALANCE.INIT",
    }

    @configurable
    def __init__(self, *, period: int = 0, init: float = 50.0) -> None:
        """
        Initialize the balance.

        Args:
            period: steps between two changes of the factor; 0: it changes in each step.
            init: the factor before the first change, > 0. With period 0 it is 1.
        """
        super().__init__()
        self.period = check_count("period", period, low=0)
        self.init = check_option("init", init, low=0, open_low=True)
        self.factor: Tensor
        self.sums: Tensor
        self.steps: Tensor
        self.register_buffer(
            "factor", torch.tensor(self.init if self.period else 1.0, dtype=torch.float64)
        )
        self.register_buffer("sums", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def balanced(
        self, loss_cls: Tensor, loss_box: Tensor, shared: Sequence[Tensor], log_as: str
    ) -> tuple[Tensor, Tensor]:
        factor = self.factor.clone()
        if self.training:
            losses = _means(loss_cls, loss_box)
            if self.period:
                self._add(losses)
            else:
                factor = _ratio(losses[0], losses[1], otherwise=factor)
                self.factor.copy_(factor)
        self.log(f"{log_as}/factor_of_loss_box", factor)
        return loss_cls, loss_box * factor.to(loss_box.dtype)

    def _add(self, losses: Tensor) -> None:
        """Add the losses of a step, and change the factor at the end of a period."""
        self.sums += losses
        self.steps += 1
        if self.steps >= self.period:
            of_cls, of_box = self.sums
            self.factor.copy_(_ratio(of_cls + of_box, of_box, otherwise=self.factor))
            self.sums.zero_()
            self.steps.zero_()


class GuidedBalance(Balance):
    """
    Balance that multiplies the classification loss, so that it equals the box loss.

        loss_cls * (scale * loss_box / loss_cls), the factor being a constant

    The factor is that of the step during the first ``iters`` steps and then stays the last one.
    With ``iters`` 0 it is always that of the step. The losses are means over processes.
    (arXiv:1909.04868 section 3.3, guided loss scaling.)

    With ``learned``, both losses are also divided by 2 sigma^2, and log(sigma) is added
    (arXiv:1705.07115). Both sigmas are learned and start at 1. They are stored as sigma - 1, so
    that weight decay draws them to 1.

    Note:
        If one of the losses is 0, as without objects, the factor stays that of the step before.
    """

    config_keys = {
        "scale": "MODEL.FOCAL.BALANCE.SCALE",
        "iters": "MODEL.FOCAL.BALANCE.ITERS",
        "learned": "MODEL.FOCAL.BALANCE.LEARNED",
    }

    @configurable
    def __init__(self, *, scale: float = 1.0, iters: int = 100, learned: bool = False) -> None:
        """
        Initialize the balance.

        Args:
            scale: the classification loss over the box loss, > 0.
            iters: steps until the factor stays constant; 0: never.
            learned: if True, each loss has a learned sigma.
        """
        super().__init__()
        self.scale = check_option("scale", scale, low=0, open_low=True)
        self.iters = check_count("iters", iters, low=0)
        self.learned = check_choice("learned", learned, (True, False))
        self.factor: Tensor
        self.steps: Tensor
        self.register_buffer("factor", torch.ones((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        if self.learned:
            self.sigma_minus_one = nn.Parameter(torch.zeros(2))

    def balanced(
        self, loss_cls: Tensor, loss_box: Tensor, shared: Sequence[Tensor], log_as: str
    ) -> tuple[Tensor, Tensor]:
        if self.training and (self.iters == 0 or self.steps < self.iters):
            of_cls, of_box = _means(loss_cls, loss_box)
            self.factor.copy_(_ratio(self.scale * of_box, of_cls, otherwise=self.factor))
            self.steps += 1
        self.log(f"{log_as}/factor_of_loss_cls", self.factor)
        loss_cls = loss_cls * self.factor.to(loss_cls.dtype)
        if not self.learned:
            return loss_cls, loss_box
        sigma = 1 + self.sigma_minus_one
        halves, logs = 0.5 / sigma.square(), sigma.abs().log()
        return loss_cls * halves[0] + logs[0], loss_box * halves[1] + logs[1]


class EqualGradientBalance(Balance):
    """
    Balance that multiplies the classification loss, so that both gradients have the same norm.

        loss_cls * (scale * norm of d loss_box / dz / norm of d loss_cls / dz)

    z are the last features that both losses share, of all levels. The norms are running means of
    squares over steps and processes, and the factor is a constant. Each training step computes both
    gradients once more, from the losses to z. Steps without one of the gradients do not count.

    The idea is that of gradient normalization, arXiv:1711.02257, without learned weights.
    """

    reads_gradients = True
    config_keys = {
        "scale": "MODEL.FOCAL.BALANCE.SCALE",
        "momentum": "MODEL.FOCAL.BALANCE.MOMENTUM",
    }

    @configurable
    def __init__(self, *, scale: float = 1.0, momentum: float = 0.9) -> None:
        """
        Initialize the balance.

        Args:
            scale: the norm of the classification loss over that of the box loss, > 0.
            momentum: weight of the old squares, in [0, 1).
        """
        super().__init__()
        self.scale = check_option("scale", scale, low=0, open_low=True)
        self.momentum = check_option("momentum", momentum, low=0, high=1, open_high=True)
        self.squares: Tensor
        self.register_buffer("squares", torch.zeros(2, dtype=torch.float64))

    def balanced(
        self, loss_cls: Tensor, loss_box: Tensor, shared: Sequence[Tensor], log_as: str
    ) -> tuple[Tensor, Tensor]:
        if self.training and torch.is_grad_enabled():
            squares = [square_of_gradient(loss, shared) for loss in (loss_cls, loss_box)]
            self._update(mean_over_processes(torch.stack(squares)))
        of_cls, of_box = self.squares.sqrt()
        factor = _ratio(self.scale * of_box, of_cls, otherwise=torch.ones_like(of_cls))
        self.log(f"{log_as}/factor_of_loss_cls", factor)
        return loss_cls * factor.to(loss_cls.dtype), loss_box

    def _update(self, squares: Tensor) -> None:
        # an overflow in half precision is no gradient
        if not (torch.isfinite(squares) & (squares > 0)).all():
            return
        if (self.squares == 0).all():
            self.squares.copy_(squares)
        else:
            self.squares.mul_(self.momentum).add_(squares, alpha=1 - self.momentum)


BALANCES: dict[str, type[Balance]] = {
    "fixed": FixedBalance,
    "self": SelfBalance,
    "guided": GuidedBalance,
    "equal_gradient": EqualGradientBalance,
}


def build_balance(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> Balance:
    """
    Build the balance that `MODEL.FOCAL.BALANCE.NAME` names.

    Args:
        config_scope: the location of the name and the options, if they are moved.

    Raises:
        KeyError: no balance has that name; the message lists the available names.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    known = [*BALANCE_REGISTRY, *BALANCES.items()]
    return build_named(known, "MODEL.FOCAL.BALANCE.NAME", cfg, config_scope=config_scope)


class SharedFeatures:
    """
    Recorder of the features that both losses share, in each forward pass of a module.

    It records nothing unless it is attached. An exported module is in evaluation mode, where it is
    detached, so that the export sees no hook.
    """

    def __init__(self, module: nn.Module, *, of_input: bool) -> None:
        """
        Initialize the recorder.

        Args:
            module: the module that receives the features, or computes them.
            of_input: True if its first argument holds the features, False if its output does.
        """
        self._module = module
        self._of_input = of_input
        self._recorded: list[Tensor] = []
        self._handle: Any = None

    def attach(self, attached: bool) -> None:
        """Start or stop recording."""
        if attached and self._handle is None:
            self._handle = self._module.register_forward_hook(self._record)
        elif not attached and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def take(self) -> list[Tensor]:
        """Return the features since the last call, and forget them."""
        recorded, self._recorded = self._recorded, []
        return recorded

    def _record(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._recorded += _tensors(args[0] if self._of_input else output)


def last_shared_features(head: nn.Module) -> SharedFeatures:
    """
    Return a recorder of the last features that the two outputs of a head share; it is detached.

    They are the output of the module that the head's `last_shared` names, or of the convolution of
    an RPN head. In another head they are its input.
    """
    last = getattr(head, getattr(head, "last_shared", "conv"), None)
    return SharedFeatures(head if last is None else last, of_input=last is None)


def features_shared_by(head: nn.Module, balance: Balance) -> SharedFeatures | None:
    """Return :func:`last_shared_features`, attached; None if the balance does not read them."""
    if not balance.reads_gradients:
        return None
    shared = last_shared_features(head)
    shared.attach(True)  # a new module is in training mode
    return shared


def square_of_gradient(loss: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Return the squared norm of a loss's gradient with respect to all features, float64."""
    wanted = [feature for feature in features if feature.requires_grad]
    total = torch.zeros((), dtype=torch.float64, device=loss.device)
    if not (wanted and loss.requires_grad):
        return total
    upstream = torch.full_like(loss, GRADIENT_SCALE)
    gradients = torch.autograd.grad(loss, wanted, upstream, retain_graph=True, allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            total += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square()
    return total / GRADIENT_SCALE**2


def _tensors(features: Any) -> Iterator[Tensor]:
    if isinstance(features, Tensor):
        yield features
    else:
        for feature in features:
            yield from _tensors(feature)


def _means(loss_cls: Tensor, loss_box: Tensor) -> Tensor:
    """Return both losses as float64 means over processes, (2,)."""
    return mean_over_processes(torch.stack([loss_cls.double(), loss_box.double()]))


def _ratio(numerator: Tensor, denominator: Tensor, *, otherwise: Tensor) -> Tensor:
    """Return the ratio of two scalars, or another one if it is not finite and > 0."""
    ratio = numerator / denominator
    return torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, otherwise)
