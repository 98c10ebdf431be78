"""Faults and breakpoints that are planted into a process before it trains."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

PATIENCE_S = 300


class Plant(Protocol):
    """Fault or breakpoint."""

    def plant(self, control: Path) -> None:
        """Plant the fault into this process; it may write files for the test into ``control``."""


def wrap(place: str, wrapper: Callable[..., Any]) -> None:
    """Replace "module:Class.method" by ``wrapper(stock, *args, **kwargs)``."""
    module, _, path = place.partition(":")
    *parents, name = path.split(".")
    holder = importlib.import_module(module)
    for parent in parents:
        holder = getattr(holder, parent)
    stock = getattr(holder, name)
    setattr(holder, name, lambda *args, **kwargs: wrapper(stock, *args, **kwargs))


def is_here(rank: int | None) -> bool:
    return rank in {None, comm.get_rank()}


def tell(file: Path, content: Any) -> None:
    """Write a file atomically, so that the test never reads a part of it."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(json.dumps(content))
    unfinished.rename(file)


@dataclass(frozen=True)
class Change:
    """Plant that changes the value of "module:NAME"."""

    place: str
    value: Any

    def plant(self, control: Path) -> None:
        module, _, name = self.place.partition(":")
        setattr(importlib.import_module(module), name, self.value)


@dataclass(frozen=True)
class Hold:
    """
    Plant that waits before a call until the test continues; `held0` has the process id of rank 0.

    Args:
        place: "module:Class.method".
        call: number of the call to wait at, from 1.
        about: count only calls with this text in an argument.
        rank: wait only in this process.
    """

    place: str
    call: int = 1
    about: str = ""
    rank: int | None = None

    def plant(self, control: Path) -> None:
        calls = 0

        def hold(stock, *args, **kwargs):
            nonlocal calls
            calls += any(self.about in str(getattr(x, "__dict__", x)) for x in args)
            if calls == self.call and is_here(self.rank):
                calls += 1
                tell(control / f"held{comm.get_rank()}", os.getpid())
                deadline = time.monotonic() + PATIENCE_S
                while not (control / "go").exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
            return stock(*args, **kwargs)

        wrap(self.place, hold)


def hold_at(iteration: int, **options: Any) -> Hold:
    """Return a plant that waits before this iteration of a run that starts at 0."""
    return Hold("focal_plugin.engine.trainer:Trainer.before_step", iteration + 1, **options)


@dataclass(frozen=True)
class Raise:
    """Plant that raises in one process at the beginning of an iteration."""

    iteration: int
    rank: int
    text: str

    def plant(self, control: Path) -> None:
        def fail(stock, trainer):
            if trainer.iter == self.iteration and is_here(self.rank):
                raise ValueError(self.text)
            return stock(trainer)

        wrap("focal_plugin.engine.trainer:Trainer.before_step", fail)


@dataclass(frozen=True)
class NotFinite:
    """
    Plant that makes the classification loss of one iteration, or only its gradient, NaN.

    `images0` receives the files of the images of rank 0 in that iteration.

    Args:
        where: "loss" or "gradient".
    """

    iteration: int
    where: str
    rank: int | None = None

    def plant(self, control: Path) -> None:
        def forward(stock, model, images):
            losses = stock(model, images)
            if not model.training or get_event_storage().iter != self.iteration:
                return losses
            names = [image["file_name"] for image in images]
            tell(control / f"images{comm.get_rank()}", names)
            if is_here(self.rank):
                loss = losses["loss_cls"]
                if self.where == "loss":
                    losses["loss_cls"] = loss * float("nan")
                elif loss.requires_grad:
                    loss.register_hook(lambda gradient: gradient * float("nan"))
            return losses

        wrap("focal_plugin.modeling.retinanet:FocalRetinaNet.forward", forward)


@dataclass(frozen=True)
class SpoiledImages:
    """Plant that makes the pixels of one process NaN, so that its proposals are not finite."""

    iteration: int
    rank: int

    def plant(self, control: Path) -> None:
        def forward(stock, model, images):
            if model.training and get_event_storage().iter == self.iteration and is_here(self.rank):
                images = [{**image, "image": image["image"] * math.nan} for image in images]
            return stock(model, images)

        wrap("detectron2.modeling:GeneralizedRCNN.forward", forward)


@dataclass(frozen=True)
class Overflow:
    """Plant that makes a BatchNorm variance infinite, which no training loss shows."""

    iteration: int

    def plant(self, control: Path) -> None:
        def overflow(stock, trainer):
            if trainer.iter == self.iteration:
                buffers = dict(trainer.model.named_buffers())
                next(x for name, x in buffers.items() if name.endswith("running_var"))[0] = math.inf
            return stock(trainer)

        wrap("focal_plugin.engine.trainer:Trainer.before_step", overflow)


@dataclass(frozen=True)
class DrawnSeed:
    """Plant that sets the drawn seed of a run."""

    seed: int

    def plant(self, control: Path) -> None:
        wrap("detectron2.utils.comm:shared_random_seed", lambda stock: self.seed)


@dataclass(frozen=True)
class RecordConnections:
    """Plant that writes each connection attempt to another machine into `connections`."""

    def plant(self, control: Path) -> None:
        def listen(event, arguments):
            if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
                with (control / "connections").open("a") as file:
                    file.write(f"{event} {arguments[-1]}\n")

        sys.addaudithook(listen)
