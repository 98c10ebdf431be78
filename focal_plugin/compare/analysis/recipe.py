"""Recipe of a comparison: data, input, anchors, schedule and hardware, from the runs' own files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ..runs.environment import Environment, RecordedData
from ..runs.run_folder import RunFolder


@dataclass(frozen=True)
class Ingredient:
    """
    One line of the recipe.

    Attributes:
        values: value as text -> arms with it, in the order of the arms.
    """

    name: str
    values: dict[str, tuple[str, ...]]

    @property
    def differs(self) -> bool:
        """True if not all arms have the same value."""
        return len(self.values) > 1


def recipe(by_arm: Mapping[str, list[RunFolder]]) -> tuple[Ingredient, ...]:
    """
    Return what the runs were made of, as their `config.yaml` and `env.json` have it.

    Args:
        by_arm: arm -> its runs.

    Returns:
        One ingredient per line; () if no run has started. An arm that has not started is left out.
    """
    started = {
        arm: [(f.config, f.environment) for f in folders if f.config is not None]
        for arm, folders in by_arm.items()
    }
    started = {arm: found for arm, found in started.items() if found}
    if not started:
        return ()
    made = [_ingredient(name, text, started) for name, text in _LINES.items()]
    return tuple(each for each in (*made, _dates(started)) if each.values)


Started = Mapping[str, list[tuple[CfgNode, Environment | None]]]
Line = Callable[[CfgNode, Environment], str]


def _ingredient(name: str, text: Line, started: Started) -> Ingredient:
    arms: dict[str, list[str]] = {}
    for arm, found in started.items():
        texts = dict.fromkeys(_attempt(text, cfg, env) for cfg, env in found)
        if joined := "; ".join(filter(None, texts)):
            arms.setdefault(joined, []).append(arm)
    return Ingredient(name, {value: tuple(of_value) for value, of_value in arms.items()})


def _dates(started: Started) -> Ingredient:
    """Return the first and the last day on which a run was started."""
    environments = [env for found in started.values() for _, env in found if env is not None]
    days = sorted({env.started[:10] for env in environments if env.started})
    text = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
    return Ingredient("date", {text: tuple(started)} if text else {})


def _attempt(text: Line, cfg: CfgNode, environment: Environment | None) -> str:
    """Return a line; "" if the config of a run has no such key."""
    try:
        return text(cfg, environment or Environment())
    except (AttributeError, KeyError, TypeError, IndexError):
        return ""


_RESNETS = {
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
}
"""Backbones of Detectron2 whose depth is `MODEL.RESNETS.DEPTH`."""


def _detector(cfg: CfgNode, _: Environment) -> str:
    backbone = cfg.MODEL.BACKBONE.NAME
    depth = f", ResNet-{cfg.MODEL.RESNETS.DEPTH}" if backbone in _RESNETS else ""
    return f"{cfg.MODEL.META_ARCHITECTURE}{depth} ({backbone})"


def _weights(cfg: CfgNode, _: Environment) -> str:
    name = str(cfg.MODEL.WEIGHTS).rpartition("/")[2]
    return name or "random"


def _sets(of: Callable[[Environment], Iterable[RecordedData]], names: Any, env: Environment) -> str:
    recorded = {data.name: data for data in of(env)}
    return "; ".join(_data(name, recorded.get(name)) for name in names)


def _data(name: str, data: RecordedData | None) -> str:
    if data is None or data.images is None:
        return name
    objects = (data.annotations or 0) - (data.crowds or 0)
    classes = f", {len(data.classes)} classes" if data.classes else ""
    return f"{name}: {data.images:,} images, {objects:,} objects{classes}"


def _input(cfg: CfgNode, _: Environment) -> str:
    train, test = _listed(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MIN_SIZE_TEST
    to = " to " if cfg.INPUT.get("MIN_SIZE_TRAIN_SAMPLING") == "range" else ", "
    short = to.join(map(str, train))
    text = f"short side {short} px, at most {cfg.INPUT.MAX_SIZE_TRAIN} px"
    if (list(train), cfg.INPUT.MAX_SIZE_TRAIN) == ([test], cfg.INPUT.MAX_SIZE_TEST):
        return f"{text}; test the same"
    return f"{text}; test {test} px, at most {cfg.INPUT.MAX_SIZE_TEST} px"


def _anchors(cfg: CfgNode, _: Environment) -> str:
    sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    levels = "; ".join(" ".join(f"{size:.4g}" for size in _listed(level)) for level in sizes)
    first = " ".join(f"{ratio:g}" for ratio in _listed(_listed(ratios)[0]))
    return f"sizes {levels} px, one group per level; aspect ratios {first}"


def _batch(cfg: CfgNode, _: Environment) -> str:
    return f"{cfg.SOLVER.IMS_PER_BATCH} images"


def _learning_rate(cfg: CfgNode, _: Environment) -> str:
    solver = cfg.SOLVER
    clipped = ""
    if solver.CLIP_GRADIENTS.ENABLED:
        clip = solver.CLIP_GRADIENTS
        clipped = f", gradients clipped by {clip.CLIP_TYPE} at {clip.CLIP_VALUE:g}"
    return (
        f"{solver.BASE_LR:g}, SGD with momentum {solver.MOMENTUM:g}, weight decay "
        f"{solver.WEIGHT_DECAY:g}{clipped}"
    )


def _schedule(cfg: CfgNode, _: Environment) -> str:
    solver = cfg.SOLVER
    steps = ", ".join(f"{step:,}" for step in _listed(solver.STEPS))
    text = f"{solver.MAX_ITER:,} iterations"
    if steps and "MultiStep" in solver.LR_SCHEDULER_NAME:
        text += f", rate x {solver.GAMMA:g} at {steps}"
    elif "MultiStep" not in solver.LR_SCHEDULER_NAME:
        text += f", {solver.LR_SCHEDULER_NAME}"
    return f"{text}, warm-up of {solver.WARMUP_ITERS:,}" if solver.WARMUP_ITERS else text


def _evaluation(cfg: CfgNode, _: Environment) -> str:
    retina = "retina" in cfg.MODEL.META_ARCHITECTURE.lower()
    head = cfg.MODEL.RETINANET if retina else cfg.MODEL.ROI_HEADS
    return (
        f"last checkpoint, scores from {head.SCORE_THRESH_TEST:g}, NMS at IoU "
        f"{head.NMS_THRESH_TEST:g}, {cfg.TEST.DETECTIONS_PER_IMAGE} detections per image"
    )


def _precision(cfg: CfgNode, _: Environment) -> str:
    return "mixed" if cfg.SOLVER.AMP.ENABLED else "float32"


def _hardware(_: CfgNode, env: Environment) -> str:
    if env.device is None:
        return ""
    threads = f", {env.threads} thread{'' if env.threads == 1 else 's'}" if env.threads else ""
    return f"{env.device}{threads}, {env.platform}"


def _software(_: CfgNode, env: Environment) -> str:
    names = ("focal_plugin", "detectron2", "torch")
    return ", ".join(f"{name} {env.versions[name]}" for name in names if env.versions.get(name))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


_LINES: dict[str, Line] = {
    "detector": _detector,
    "initial weights": _weights,
    "training data": lambda cfg, env: _sets(lambda e: e.train, cfg.DATASETS.TRAIN, env),
    "test data": lambda cfg, env: _sets(lambda e: e.test, cfg.DATASETS.TEST, env),
    "input": _input,
    "anchors": _anchors,
    "batch": _batch,
    "learning rate": _learning_rate,
    "schedule": _schedule,
    "precision": _precision,
    "evaluation": _evaluation,
    "hardware": _hardware,
    "software": _software,
}
