"""
Losses and gradients that are NaN or infinite, and what becomes of their step:
`MODEL.FOCAL.NONFINITE`.

Detectron2 looks at the loss only, after the backward pass, in one process. A loss that is finite
can have a NaN in its gradient; the optimizer then writes it into the weights, and a checkpoint
keeps it.
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
from .processes.agreement import on_any_process
from .wrapping import unwrapped

logger = logging.getLogger(__name__)

POLICIES = ("raise", "skip", "rollback")
"""What `MODEL.FOCAL.NONFINITE.POLICY` may be."""

REFERENCE_IMAGES = 16
REFERENCE_LR = {"RetinaNet": 0.01, "FocalRetinaNet": 0.01, "GeneralizedRCNN": 0.02}
"""Learning rates of Detectron2's own configs, for 16 images a step."""

LOGIT_LAYERS = ("cls_score", "objectness_logits")
"""What Detectron2 calls a layer that scores anchors, or boxes, in all its detectors."""


class NonFiniteError(FloatingPointError):
    """A loss or a gradient was NaN or infinite, and the policy ends the run."""


class StepLeftOutError(Exception):
    """Ends a step before the optimizer's; caught where steps are run."""


@dataclass(frozen=True)
class NonFinitePolicy:
    """
    Attributes:
        name: "raise", "skip" or "rollback".
        max_in_a_row: steps that "skip" may leave out one after the other, >= 1.
        max_rollbacks: how often "rollback" may go back, >= 1.
    """

    name: str = "raise"
    max_in_a_row: int = 10
    max_rollbacks: int = 3

    @classmethod
    def from_config(cls, cfg: CfgNode) -> NonFinitePolicy:
        """
        Raises:
            ValueError: a key of `MODEL.FOCAL.NONFINITE` has no legal value.
        """
        key, node = "MODEL.FOCAL.NONFINITE", cfg.MODEL.FOCAL.NONFINITE
        return cls(
            check_choice(f"{key}.POLICY", node.POLICY, POLICIES),
            check_count(f"{key}.MAX_IN_A_ROW", node.MAX_IN_A_ROW, low=1),
            check_count(f"{key}.MAX_ROLLBACKS", node.MAX_ROLLBACKS, low=1),
        )


class StepGuard:
    """
    Looks at each step between its backward pass and the optimizer; all processes decide alike.

    Args:
        model: as it is trained, in DistributedDataParallel where there are several processes.
        roll_back: loads the last checkpoint; False if there is none.
        seed: of the step, for the generators, so that the model can be asked again.
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
        model.register_forward_pre_hook(self._see)

    def check(self, losses: Mapping[str, Tensor] | None, *, gradients: bool = True) -> None:
        """
        Args:
            losses: of this process; None: the model found by itself that they are not finite.
            gradients: whether they must be finite, too.

        Raises:
            StepLeftOutError: the optimizer must not be called for this step.
            NonFiniteError: training must end.
        """
        bad = losses is None or not all(torch.isfinite(x).all() for x in losses.values())
        if not bad and gradients:
            bad = not gradients_are_finite(self._module)
        if not on_any_process(bad, self._device):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        getattr(self, f"_{self.policy.name}")(losses)
        get_event_storage().put_scalar("nonfinite/left_out", self.left_out, smoothing_hint=False)
        raise StepLeftOutError

    def state_dict(self) -> dict[str, int]:
        """What has been left out so far, for a checkpoint."""
        return {"left_out": self.left_out, "rollbacks": self.rollbacks, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """As :meth:`state_dict` returned it."""
        self.left_out, self.rollbacks = state["left_out"], state["rollbacks"]
        self._in_a_row = state["in_a_row"]

    def _see(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not model.training:
            return
        self._batch = inputs[0]
        if self.policy.name == "skip":  # a forward pass alone changes running statistics
            self._buffers_before = [x.clone() for x in model.buffers()]

    def _raise(self, losses: Mapping[str, Tensor] | None, why: str = "") -> None:
        raise NonFiniteError(self._describe(losses, why))

    def _skip(self, losses: Mapping[str, Tensor] | None) -> None:
        if self._in_a_row > self.policy.max_in_a_row:
            self._raise(losses, f"{self.policy.max_in_a_row} steps in a row were left out before")
        with torch.no_grad():
            for buffer, before in zip(self._model.buffers(), self._buffers_before, strict=True):
                buffer.copy_(before)
        self.left_out += 1
        logger.warning(
            f"Step left out, the {self.left_out}. so far: {self._what_and_where(losses)}"
        )

    def _rollback(self, losses: Mapping[str, Tensor] | None) -> None:
        if self.rollbacks == self.policy.max_rollbacks:
            self._raise(losses, f"training went back to a checkpoint {self.rollbacks} times before")
        what = self._what_and_where(losses)
        if not self._roll_back():
            self._raise(losses, "there is no checkpoint yet to go back to")
        self.rollbacks += 1
        self.left_out += 1
        logger.warning(f"Back to the last checkpoint, the {self.rollbacks}. time: {what}")

    def _what(self, losses: Mapping[str, Tensor] | None) -> tuple[str, str]:
        """What is not finite, and the images, of all processes; all must call this."""
        here = (_worst(losses), [_name_of(image) for image in self._batch])
        everywhere = comm.all_gather(here)
        loss = next((text for text, _ in everywhere if text), "a gradient is not finite")
        images = ", ".join(name for _, names in everywhere for name in names)
        return f"{loss} at iteration {get_event_storage().iter}", f"images: {images}"

    def _what_and_where(self, losses: Mapping[str, Tensor] | None) -> str:
        return "; ".join(self._what(losses))

    def _describe(self, losses: Mapping[str, Tensor] | None, why: str) -> str:
        """Asks the model again, so that the state of the run is of no use afterwards."""
        what, images = self._what(losses)
        lines = [f"{what}. The weights are as before this step"]
        if why:
            lines.append(why)
        lines.append(images)
        if losses is not None:
            terms = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            lines.append(f"losses: {terms}")
        bad = [name for name, x in self._module.named_parameters() if not _is_finite(x.grad)]
        if bad:
            others = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
            lines.append(f"gradient: not finite for {bad[0]}{others}")
        lines += self._ask_again()
        lines.append(self._describe_learning_rate())
        if self.policy.name == "raise":
            lines.append(
                "MODEL.FOCAL.NONFINITE.POLICY says what else can be done than to end the run"
            )
        return "\n  ".join(lines)

    def _ask_again(self) -> list[str]:
        """The largest logit, and the first layer that is not finite, of the same batch."""
        seed_all(*self._seed())
        with torch.no_grad(), _Watch(self._module) as watch:
            try:
                self._model(self._batch)
            except Exception as error:  # such as Detectron2's own, of boxes that are not finite
                logger.debug("The model, asked again, failed", exc_info=error)
        lines = []
        if watch.logits:
            layer, largest = max(watch.logits.items(), key=lambda item: _rank(item[1]))
            lines.append(f"largest |logit|: {largest:g}, of {layer}")
        if watch.first:
            lines.append(f"first layer whose output is not finite: {watch.first}")
        return lines

    def _describe_learning_rate(self) -> str:
        images, rate = self._cfg.SOLVER.IMS_PER_BATCH, self._cfg.SOLVER.BASE_LR
        text = f"learning rate: SOLVER.BASE_LR {rate:g} for {images} images a step"
        reference = REFERENCE_LR.get(self._cfg.MODEL.META_ARCHITECTURE)
        if reference is None:
            return text
        scaled = reference * images / REFERENCE_IMAGES
        return (
            f"{text}; Detectron2's {reference:g} for {REFERENCE_IMAGES} is {scaled:g} for as many, "
            f"so that yours is {rate / scaled:.3g} times that"
        )


def gradients_are_finite(model: nn.Module) -> bool:
    """Of all parameters that have one; one synchronisation with the GPU."""
    gradients = [x.grad for x in model.parameters() if x.grad is not None]
    if not gradients:
        return True
    # the largest element: a sum of squares may be infinite where all gradients are finite
    norms = [torch.linalg.vector_norm(x, math.inf) for x in gradients]
    return bool(torch.isfinite(torch.stack(norms)).all())


class _Guarded(SimpleTrainer):
    """What Detectron2's trainers of one step have in common when a guard looks at each step."""

    guard: StepGuard
    scales_gradients = False

    def run_step(self) -> None:
        try:
            super().run_step()
        except StepLeftOutError:
            pass
        except NonFiniteError:
            raise
        except FloatingPointError:  # raised by the model, in this process alone
            if comm.get_world_size() > 1:
                raise
            self._check_alone()

    def _check_alone(self) -> None:
        try:
            self.guard.check(None)
        except StepLeftOutError:
            self.optimizer.zero_grad()

    def _write_metrics(self, loss_dict: Any, *args: Any, **kwargs: Any) -> None:
        """Called between the backward pass and the optimizer."""
        losses = {"total_loss": loss_dict} if isinstance(loss_dict, Tensor) else loss_dict
        self.guard.check(losses, gradients=not self.scales_gradients)
        super()._write_metrics(loss_dict, *args, **kwargs)


class GuardedTrainer(_Guarded):
    """
    Same interface as :class:`detectron2.engine.SimpleTrainer`, but its ``guard`` looks at each step
    before the optimizer is called.
    """


class GuardedAMPTrainer(_Guarded, AMPTrainer):
    """
    Same interface as :class:`detectron2.engine.AMPTrainer`, but its ``guard`` looks at the losses.
    The gradients are scaled, and may be infinite: the scaler leaves out such a step by itself.
    """

    scales_gradients = True


class GuardedBFloat16Trainer(_Guarded, BFloat16Trainer):
    """
    Same interface as :class:`~focal_plugin.engine.amp.BFloat16Trainer`, but its ``guard`` looks at
    each step before the optimizer is called.
    """


class _Watch:
    """While it is entered, looks at what the layers of a model return."""

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
                if not self.first and not _is_finite(tensor):
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


def _is_finite(tensor: Tensor | None) -> bool:
    return tensor is None or bool(torch.isfinite(tensor).all())


def _rank(value: float) -> float:
    """NaN is larger than anything."""
    return math.inf if math.isnan(value) else value


def _worst(losses: Mapping[str, Tensor] | None) -> str:
    """The first loss that is not finite, "" if all are."""
    if losses is None:
        return "the model's predictions are not finite"
    bad = (f"{name} is {x.item():g}" for name, x in losses.items() if not _is_finite(x))
    return next(bad, "")


def _name_of(image: Mapping[str, Any]) -> str:
    return f"{image.get('image_id', '?')} ({image.get('file_name', 'no file')})"
