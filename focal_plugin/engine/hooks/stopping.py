"""Hook that stops a run on a signal or Ctrl-C, with a checkpoint to resume from."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ...signals import INTERRUPTED, JOB_SIGNALS, STOPPED
from ..checkpoints.checkpointer import Checkpointer
from ..model_trainer import ModelTrainer
from ..processes.agreement import on_any_process
from ..processes.stop_requests import StopRequests

logger = logging.getLogger(__name__)

_ANSWER = "\n{}: the run ends after this step, with a checkpoint; a second one ends it at once\n"


class StopHook(HookBase):
    """
    Hook that stops a run on SIGTERM, SIGUSR1 or Ctrl-C.

    The current step is finished, a checkpoint is saved, and SystemExit is raised, with code 130
    after Ctrl-C and 143 otherwise. All processes do so together, whichever received the signal. A
    second request ends the process at once.

    It must be the last hook of each process. A single process interrupts an evaluation; several
    processes finish it first. Ignored signals stay ignored. An existing handler is called too,
    except that of Ctrl-C, and is restored when training ends. Signals can only be handled in the
    main thread.
    """

    trainer: ModelTrainer

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer
        self._received: signal.Signals | None = None
        self._requests = StopRequests()
        self._previous: dict[signal.Signals, Callable[..., Any] | int | None] = {}
        self._handle: Any = None

    def before_train(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            logger.info("Signals end this run at once: it does not train in the main thread")
            return
        for number in JOB_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)
        self._handle = self.trainer.model.register_forward_pre_hook(self._break_off_evaluation)

    def after_step(self) -> None:
        if on_any_process(self._received is not None, self._device()):
            self._stop()

    def after_train(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._handle is not None:
            self._handle.remove()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._requests.is_new():
            return
        if self._received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._received = signal.Signals(number)
        if comm.is_main_process():  # not by a logger, which may be in use now
            os.write(2, _ANSWER.format(self._received.name).encode())
        previous = self._previous[self._received]
        if callable(previous) and number != signal.SIGINT:  # Python's raises an error
            previous(number, frame)

    def _break_off_evaluation(self, model: nn.Module, _: Any) -> None:
        if self._received is not None and not model.training and comm.get_world_size() == 1:
            self._stop()

    def _stop(self) -> None:
        """Stop after the step of `trainer.iter`, or after the last step."""
        iteration = min(self.trainer.iter, self.trainer.max_iter - 1)
        name = f"model_{iteration:07d}"
        saved = Path(self._checkpointer.get_checkpoint_file()).name
        final = iteration + 1 == self.trainer.max_iter and saved == "model_final.pth"
        if not final and saved != f"{name}.pth":
            self._checkpointer.save(name, iteration=iteration)
        comm.synchronize()  # rank 0 has saved before another process ends
        reason = self._received.name if self._received else "A signal to another process"
        logger.info(
            f"{reason}: ended after iteration {iteration}; the same command with --resume "
            "continues the run"
        )
        raise SystemExit(INTERRUPTED if self._received is signal.SIGINT else STOPPED)

    def _device(self) -> Any:
        return next(self.trainer.model.parameters()).device
