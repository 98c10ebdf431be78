"""
Handling of losses and gradients that are NaN or infinite: `MODEL.FOCAL.NONFINITE`.

Detectron2 checks only the loss, after the backward pass, in one process. A finite loss can have a
NaN in its gradient. The optimizer then writes the NaN into the weights, and a checkpoint keeps it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..checks import check_choice, check_count
from ..random_state import seed_all
from .amp import BFloat16Trainer
from .finite import is_finite, weights_are_finite, wrong_option, wrong_weight
from .processes.agreement import on_any_process
from .wrapping import unwrapped

logger = logging.getLogger(__name__)

POLICIES = ("raise", "skip", "rollback")
"""Supported values of `MODEL.FOCAL.NONFINITE.POLICY`."""

REFERENCE_IMAGES = 16
REFERENCE_LR = {"RetinaNet": 0.01, "FocalRetinaNet": 0.01, "GeneralizedRCNN": 0.02}
"""Learning rates of Detectron2's own configs, for 16 images per step."""

LOGIT_LAYERS = ("cls_score", "objectness_logits")
"""Detectron2's names for layers that score anchors or boxes."""


class NonFiniteError(FloatingPointError):
    """Error that ends the run because a loss or a gradient is NaN or infinite."""


class StepLeftOutError(Exception):
    """Exception that ends a step before the optimizer runs; the trainer catches it."""


@dataclass(frozen=True)
class NonFinitePolicy:
    """
    Policy for steps with a NaN or an infinity.

    Attributes:
        name: "raise", "skip" or "rollback".
        max_in_a_row: maximum number of consecutive steps that "skip" skips, >= 1.
        max_rollbacks: maximum number of times that "rollback" goes back, >= 1.
    """

    name: str = "raise"
    max_in_a_row: int = 10
    max_rollbacks: int = 3

    @classmethod
    def from_config(cls, cfg: CfgNode) -> NonFinitePolicy:
        """
        Read the policy from a config.

        Raises:
            ValueError: a key of `MODEL.FOCAL.NONFINITE` has an invalid value.
        """
        key, node = "MODEL.FOCAL.NONFINITE", cfg.MODEL.FOCAL.NONFINITE
        return cls(
            check_choice(f"{key}.POLICY", node.POLICY, POLICIES),
            check_count(f"{key}.MAX_IN_A_ROW", node.MAX_IN_A_ROW, low=1),
            check_count(f"{key}.MAX_ROLLBACKS", node.MAX_ROLLBACKS, low=1),
        )


class StepGuard:
    """
    Guard that checks each step between its backward pass and the optimizer.

    All processes take the same decision.

    Args:
        model: the trained model, in DistributedDataParallel if there are several processes.
        roll_back: loads the last checkpoint; returns False if there is none.
        seed: returns the seed of the step, so that a forward pass can be repeated.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        *,
        roll_back: Callable[[], bool],
        seed: Callable[[], tuple[int | str, ...]],
    ) -> None:
        self.policy = NonFinitePolicy.from_config(cfg)
        self.left_out = 0
        self.rollbacks = 0
        self._in_a_row = 0
        self._cfg = cfg
        self._roll_back = roll_back
        self._seed = seed
        self._model = model
        self._module = unwrapped(model)
        self._device = next(model.parameters()).device
        self._batch: list[dict[str, Any]] = []
        self._buffers_before: list[Tensor] = []
        self._diverged = False
        self._ruin = ""
        model.register_forward_pre_hook(self._see)
        self._let_proposals_go_on()

    def check(
        self,
        losses: Mapping[str, Tensor] | None,
        optimizer: torch.optim.Optimizer,
        *,
        gradients: bool = True,
    ) -> None:
        """
        Check a step.

        Args:
            losses: losses of this process; None if the model itself raised the error.
            optimizer: its options, such as the learning rate, must be finite too.
            gradients: also require finite gradients.

        Raises:
            StepLeftOutError: the optimizer must not run in this step.
            NonFiniteError: training must end.
        """
        bad = losses is None or self._diverged
        bad = bad or not all(torch.isfinite(x).all() for x in (losses or {}).values())
        bad = bad or not weights_are_finite(self._module, gradients=gradients)
        bad = bad or bool(wrong_option(optimizer))
        if not on_any_process(bad, self._device):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        ruins = comm.all_gather(wrong_weight(self._module) or wrong_option(optimizer))
        self._ruin = next(filter(None, ruins), "")
        getattr(self, f"_{self.policy.name}")(losses)
        get_event_storage().put_scalar("nonfinite/left_out", self.left_out, smoothing_hint=False)
        raise StepLeftOutError

    def state_dict(self) -> dict[str, int]:
        """Return the counts of skipped steps and rollbacks, for a checkpoint."""
        return {"left_out": self.left_out, "rollbacks": self.rollbacks, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the counts that :meth:`state_dict` returned."""
        self.left_out, self.rollbacks = state["left_out"], state["rollbacks"]
        self._in_a_row = state["in_a_row"]

    def _see(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not model.training:
            return
        self._batch = inputs[0]
        self._diverged = False
        if self.policy.name == "skip":  # even a forward pass changes running statistics
            self._buffers_before = [x.clone() for x in model.buffers()]

    def _let_proposals_go_on(self) -> None:
        """
        Make proposals from the anchors where Detectron2 raises, because a prediction is not finite.

        One process must not leave a step alone: the others wait for it in the losses of the RoI
        heads and in the backward pass. :meth:`check` then ends the step in all processes.
        """
        rpn = getattr(self._module, "proposal_generator", None)
        stock = getattr(rpn, "predict_proposals", None)
        if stock is None:
            return

        def predict_proposals(anchors: Any, logits: Any, deltas: Any, image_sizes: Any) -> Any:
            try:
                return stock(anchors, logits, deltas, image_sizes)
            except FloatingPointError:
                self._diverged = True
                zeros = [[torch.zeros_like(x) for x in levels] for levels in (logits, deltas)]
                return stock(anchors, *zeros, image_sizes)

        rpn.predict_proposals = predict_proposals  # type: ignore[union-attr]

    def _raise(self, losses: Mapping[str, Tensor] | None, why: str = "") -> None:
        raise NonFiniteError(self._describe(losses, why))

    def _skip(self, losses: Mapping[str, Tensor] | None) -> None:
        if self._ruin:
            self._raise(losses, "skipping a step does not repair this")
        if self._in_a_row > self.policy.max_in_a_row:
            self._raise(losses, f"the last {self.policy.max_in_a_row} steps were skipped")
        with torch.no_grad():
            for buffer, before in zip(self._model.buffers(), self._buffers_before, strict=True):
                buffer.copy_(before)
        self.left_out += 1
        logger.warning(f"Skipped step ({self.left_out} so far): {self._what_and_where(losses)}")

    def _rollback(self, losses: Mapping[str, Tensor] | None) -> None:
        if self.rollbacks == self.policy.max_rollbacks:
            self._raise(losses, f"training already went back {self.rollbacks} times")
        what = self._what_and_where(losses)
        if not self._roll_back():
            self._raise(losses, "there is no periodic checkpoint to go back to")
        self.rollbacks += 1
        self.left_out += 1
        logger.warning(f"Went back to the last checkpoint ({self.rollbacks} times so far): {what}")

    def _what(self, losses: Mapping[str, Tensor] | None) -> tuple[str, str]:
        """Return the nonfinite value and the images of all processes; all must call this."""
        worst = _worst(None if self._diverged else losses)
        everywhere = comm.all_gather((worst, [_name_of(image) for image in self._batch]))
        loss = next((text for text, _ in everywhere if text), "a gradient is not finite")
        loss = self._ruin or loss
        images = ", ".join(name for _, names in everywhere for name in names)
        return f"{loss} at iteration {get_event_storage().iter}", f"images: {images}"

    def _what_and_where(self, losses: Mapping[str, Tensor] | None) -> str:
        return "; ".join(self._what(losses))

    def _describe(self, losses: Mapping[str, Tensor] | None, why: str) -> str:
        """Describe the error. A repeated forward pass makes the state of the run unusable."""
        what, images = self._what(losses)
        lines = [f"{what}. The weights are those before this step"]
        if self._ruin:
            lines = [f"{what}. No gradient of this step is the cause"]
        if why:
            lines.append(why)
        lines.append(images)
        if losses is not None:
            terms = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            lines.append(f"losses: {terms}")
        bad = [name for name, x in self._module.named_parameters() if not is_finite(x.grad)]
        if bad:
            others = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
            lines.append(f"gradient: not finite for {bad[0]}{others}")
        lines += self._ask_again()
        lines.append(self._describe_learning_rate())
        if self.policy.name == "raise":
            lines.append("MODEL.FOCAL.NONFINITE.POLICY offers alternatives to ending the run")
        return "\n  ".join(lines)

    def _ask_again(self) -> list[str]:
        """Repeat the forward pass to find the largest logit and the first nonfinite layer."""
        seed_all(*self._seed())
        with torch.no_grad(), _Watch(self._module) as watch:
            try:
                self._model(self._batch)
            except Exception as error:  # such as Detectron2's own, for boxes that are not finite
                logger.debug("The repeated forward pass failed", exc_info=error)
        lines = []
        if watch.logits:
            layer, largest = max(watch.logits.items(), key=lambda item: _rank(item[1]))
            lines.append(f"largest |logit|: {largest:g}, in {layer}")
        if watch.first:
            lines.append(f"first layer with an output that is not finite: {watch.first}")
        return lines

    def _describe_learning_rate(self) -> str:
        images, rate = self._cfg.SOLVER.IMS_PER_BATCH, self._cfg.SOLVER.BASE_LR
        text = f"learning rate: SOLVER.BASE_LR {rate:g} for {images} images per step"
        reference = REFERENCE_LR.get(self._cfg.MODEL.META_ARCHITECTURE)
        if reference is None:
            return text
        scaled = reference * images / REFERENCE_IMAGES
        return (
            f"{text}; Detectron2's {reference:g} for {REFERENCE_IMAGES} images scales to "
            f"{scaled:g}, so yours is {rate / scaled:.3g} times as high"
        )


class _Guarded(SimpleTrainer):
    """Common part of the guarded trainers."""

    guard: StepGuard
    scales_gradients = False

    def run_step(self) -> None:
        try:
            super().run_step()
        except StepLeftOutError:
            pass
        except NonFiniteError:
            raise
        except FloatingPointError:  # raised by the model, in this process only
            if comm.get_world_size() > 1:
                raise
            self._check_alone()

    def _check_alone(self) -> None:
        try:
            self.guard.check(None, self.optimizer)
        except StepLeftOutError:
            self.optimizer.zero_grad()

    def _write_metrics(self, loss_dict: Any, *args: Any, **kwargs: Any) -> None:
        """Check the step; Detectron2 calls this method between backward pass and optimizer."""
        losses = {"total_loss": loss_dict} if isinstance(loss_dict, Tensor) else loss_dict
        self.guard.check(losses, self.optimizer, gradients=not self.scales_gradients)
        super()._write_metrics(loss_dict, *args, **kwargs)


class GuardedTrainer(_Guarded):
    """
    :class:`detectron2.engine.SimpleTrainer` with a ``guard``.

    The guard checks each step before the optimizer runs.
    """


class GuardedAMPTrainer(_Guarded, AMPTrainer):
    """
    :class:`detectron2.engine.AMPTrainer` with a ``guard`` that checks the losses.

    The gradients are scaled and may be infinite: the scaler itself skips such a step.
    """

    scales_gradients = True


class GuardedBFloat16Trainer(_Guarded, BFloat16Trainer):
    """
    :class:`~focal_plugin.engine.amp.BFloat16Trainer` with a ``guard``.

    The guard checks each step before the optimizer runs.
    """


class _Watch:
    """Context that observes the outputs of a model's layers."""

    def __init__(self, model: nn.Module) -> None:
        self.first = ""
        self.logits: dict[str, float] = {}
        self._model = model
        self._handles: list[Any] = []

    def __enter__(self) -> _Watch:
        for name, module in self._model.named_modules():
            if not any(True for _ in module.children()):
                self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def see(_: nn.Module, __: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if not self.first and not is_finite(tensor):
                    self.first = name
                if name.rpartition(".")[2] in LOGIT_LAYERS and tensor.numel():
                    largest = tensor.abs().max().item()
                    self.logits[name] = max(self.logits.get(name, 0.0), largest, key=_rank)

        return see


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))


def _rank(value: float) -> float:
    """Return a sort key in which NaN is larger than any number."""
    return math.inf if math.isnan(value) else value


def _worst(losses: Mapping[str, Tensor] | None) -> str:
    """Return the first loss that is not finite, or "" if all are finite."""
    if losses is None:
        return "the model's predictions are not finite"
    bad = (f"{name} is {x.item():g}" for name, x in losses.items() if not is_finite(x))
    return next(bad, "")


def _name_of(image: Mapping[str, Any]) -> str:
    return f"{image.get('image_id', '?')} ({image.get('file_name', 'no file')})"
