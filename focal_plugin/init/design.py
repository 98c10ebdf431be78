"""
Decisions of `focal-plugin init`: from images and a machine to a config, each with its reason.

Shape shorthand:
    M: number of annotations
    K: number of classes
"""

from __future__ import annotations

import ast
import math
import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .. import arms
from ..audit.object_table import ObjectTable, read_test_set, read_training_set
from ..audit.proposal import propose_anchors
from ..data import DataError, check_datasets, count_objects
from ..engine.timed_steps import bytes_per_image, seconds_per_step, seconds_per_test_image
from ..engine.trial import build_without_memory
from .draft import Draft
from .duration import duration_argument
from .machine import Machine
from .recipes import Recipe
from .schedule import Schedule, Task, fit_batch, fit_schedule, linear_rate
from .weights import can_fetch

ARMS = ("ce", "alpha_ce", "fl", "fl_cls_x4", "ohem", "class_balanced", "repeat_factor")
"""Arms of the comparison, the reference first."""

TRIAL_BATCH = 2
"""Images of the steps that find out memory and time."""

TRIAL_STEPS = 3
"""Timed steps of each arm, after one that is not."""

TRIAL_S = 60.0
"""Longest time for the steps of all arms at the chosen batch, in seconds."""

LONG_SIDE = 2
"""Longest side of an input, in units of its shorter side; a longer image is scaled down."""

MOST_WORKERS = 4
"""Most processes that read images, Detectron2's default."""

SCORE_THRESHOLD = 0.001
"""Score below which a detection is dropped before AP is computed."""


@dataclass
class Design:
    """
    All decisions.

    Attributes:
        draft: the config.
        train, test: images and objects.
        facts: label -> sentence on what was decided, for people.
    """

    draft: Draft
    train: ObjectTable
    test: ObjectTable
    schedule: Schedule
    facts: dict[str, str] = field(default_factory=dict)


def design(
    recipe: Recipe,
    train: str,
    test: str,
    *,
    seeds: int,
    budget_s: float,
    machine: Machine,
    input_size: int | None = None,
) -> Design:
    """
    Decide the config of a comparison of :data:`ARMS`.

    Args:
        train, test: registered datasets.
        seeds: seeds of each arm.
        budget_s: time for all runs on this machine, in seconds.
        input_size: shorter side of an input, in pixels; None: as the objects require.

    Raises:
        DataError: training on the data would be refused, or it has no objects.
        ValueError: the budget is too small.
    """
    draft = Draft(recipe.settings)
    facts = {"model": recipe.about}
    _set_weights(draft, recipe, facts)
    _set_data(draft, train, test)
    objects, tested = read_training_set(draft.cfg), read_test_set(test)
    facts["data"] = _data_fact(draft.cfg, objects, tested)
    _set_input(draft, recipe, objects, input_size, facts)
    _set_anchors(draft, objects, facts, larger_input=input_size is None)
    _set_detections(draft, objects, tested)
    _set_workers(draft, machine)
    with _threads(machine.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # train_net.py shows them in its log
        batch = _set_batch(draft, recipe, machine, facts)
        task = Task(
            budget_s,
            runs=len(ARMS) * seeds,
            jobs=machine.jobs,
            train_images=len(objects.file_names),
            test_images=len(tested.file_names),
        )
        schedule = _set_schedule(draft, recipe, task, batch, facts)
    return Design(draft, objects, tested, schedule, facts)


def _set_weights(draft: Draft, recipe: Recipe, facts: dict[str, str]) -> None:
    if recipe.weights and can_fetch(recipe.weights):
        why = "trained on ImageNet: weights trained with one of the losses would favor it"
        draft.set("MODEL.WEIGHTS", recipe.weights, why)
        return
    why = "random weights"
    if recipe.weights:
        why = f"random weights, because {recipe.weights} cannot be fetched here"
        facts["weights"] = f"{why}; this needs far more iterations"
    draft.set("MODEL.WEIGHTS", "", why)
    for setting in recipe.from_scratch:
        draft.set(*setting)


def _set_data(draft: Draft, train: str, test: str) -> None:
    """
    Set the datasets and their classes.

    Raises:
        DataError: training on the data would be refused, or it has no objects.
    """
    draft.set("DATASETS.TRAIN", [train], "compare.yaml registers it")
    draft.set("DATASETS.TEST", [test], "the AP of the verdicts is on it")
    draft.set(
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "images without objects show background"
    )
    names = list(MetadataCatalog.get(train).get("thing_classes") or ())
    num_classes = len(names) or _largest_class(train) + 1
    draft.set("MODEL.RETINANET.NUM_CLASSES", num_classes, f"the categories of {train}")
    if names and "CLASS_NAMES" in draft.cfg.MODEL.FOCAL:
        draft.set("MODEL.FOCAL.CLASS_NAMES", names, "for pictures and tables")
    check_datasets(draft.cfg)
    for name, use in ((train, "learn"), (test, "evaluate")):
        if not any(count_objects([name], num_classes=num_classes)):
            raise DataError(f"{name} has no objects: there is nothing to {use}")


def _largest_class(name: str) -> int:
    """Return the largest class index of a dataset that does not name its classes."""
    found = (x["category_id"] for d in DatasetCatalog.get(name) for x in d.get("annotations", ()))
    return max(found, default=0)


def _data_fact(cfg: CfgNode, train: ObjectTable, test: ObjectTable) -> str:
    counts = train.objects_per_class(cfg.MODEL.RETINANET.NUM_CLASSES)
    parts = [
        f"{len(train.file_names)} training and {len(test.file_names)} validation images",
        f"{int(counts.sum())} objects of {len(counts)} classes",
    ]
    most, least = int(counts.argmax()), int(np.where(counts, counts, counts.max() + 1).argmin())
    if counts[most] > counts[least]:
        ratio = f"{counts[most] / counts[least]:.3g} : 1"
        parts.append(f"{_class_name(train, most)} to {_class_name(train, least)} {ratio}")
    return ", ".join(parts)


def _class_name(objects: ObjectTable, index: int) -> str:
    return objects.class_names[index] if objects.class_names else f"class {index}"


def _set_input(
    draft: Draft, recipe: Recipe, objects: ObjectTable, given: int | None, facts: dict[str, str]
) -> None:
    size, why = given, "as given"
    if size is None:
        name, share = _smallest_class(objects)
        needed = recipe.object_px / share
        size = next((s for s in recipe.input_sizes if s >= needed), recipe.input_sizes[-1])
        why = f"the smallest class, {name}, has a median size of {share * size:.0f} px then"
    draft.set("INPUT.MIN_SIZE_TRAIN", [size], f"shorter side: {why}")
    draft.set("INPUT.MIN_SIZE_TEST", size, "as in training")
    draft.set("INPUT.MAX_SIZE_TRAIN", LONG_SIDE * size, "longer images are scaled down")
    draft.set("INPUT.MAX_SIZE_TEST", LONG_SIDE * size, "as in training")
    facts["input"] = f"{size} px, the shorter side: {why}"


def _smallest_class(objects: ObjectTable) -> tuple[str, float]:
    """Return the class with the smallest objects: name, median size over the image's short side."""
    boxes = objects.boxes[objects.is_object]
    sides = np.sqrt(np.prod((boxes[:, 2:] - boxes[:, :2]).clip(0), axis=1))
    shares = sides / objects.image_sizes[objects.image[objects.is_object]].min(axis=1)
    classes = objects.classes[objects.is_object]
    medians = {int(c): float(np.median(shares[classes == c])) for c in np.unique(classes)}
    smallest = min(medians, key=lambda c: medians[c])
    return _class_name(objects, smallest), max(medians[smallest], 1e-6)


def _set_anchors(
    draft: Draft, objects: ObjectTable, facts: dict[str, str], *, larger_input: bool
) -> None:
    """Set the anchors that the audit proposes, and the input that they are for."""
    proposal = propose_anchors(draft.cfg, objects, larger_input=larger_input)
    before, opts = proposal["before"]["recall"], proposal["opts"]
    if not opts:
        kept = draft.settings["MODEL.ANCHOR_GENERATOR.SIZES"]
        facts["anchors"] = f"{before:.1%} of the objects have one of IoU .5; {kept.why}"
        draft.set(kept.key, kept.value, facts["anchors"])
        return
    gain = f"{proposal['after']['recall']:.1%} of the objects have one of IoU .5, not {before:.1%}"
    facts["anchors"] = f"proposed by the audit: {gain}"
    for key, text in zip(opts[::2], opts[1::2], strict=True):
        draft.set(key, ast.literal_eval(text), f"proposed by the audit: {gain}")
    if proposal["cost"] > 1:
        size = draft.cfg.INPUT.MIN_SIZE_TEST
        facts["input"] = f"{size} px, the shorter side: a smaller one leaves objects without anchor"


def _set_detections(draft: Draft, train: ObjectTable, test: ObjectTable) -> None:
    """Keep as many detections as the fullest image has objects, if the default drops some."""
    most = max(int(np.bincount(table.image[table.is_object]).max()) for table in (train, test))
    if most > draft.cfg.TEST.DETECTIONS_PER_IMAGE:
        why = f"the fullest image has {most} objects; COCO's AP counts at most 100 of an image"
        draft.set("TEST.DETECTIONS_PER_IMAGE", math.ceil(most / 100) * 100, why)


def _set_workers(draft: Draft, machine: Machine) -> None:
    workers = min(MOST_WORKERS, max(1, machine.threads - 1))
    why = f"processes that read images; a run has {machine.threads} processors"
    draft.set("DATALOADER.NUM_WORKERS", workers, why)


def _set_batch(draft: Draft, recipe: Recipe, machine: Machine, facts: dict[str, str]) -> int:
    trial = _with_batch(draft.cfg, TRIAL_BATCH)
    image_bytes = bytes_per_image(trial)
    weights = sum(x.numel() for x in build_without_memory(trial).parameters())
    batch = fit_batch(recipe, image_bytes=image_bytes, weights=weights, memory=machine.memory)
    needed = batch * image_bytes / 2**30
    why = f"{needed:.2g} of {machine.memory / 2**30:.2g} GiB"
    draft.set("SOLVER.IMS_PER_BATCH", batch, f"a step keeps {why}")
    rate = f"{recipe.lr:g} for {recipe.lr_batch} images, in proportion"
    draft.set("SOLVER.BASE_LR", linear_rate(recipe, batch), rate)
    facts["batch"] = f"{batch} images, {why}; learning rate {linear_rate(recipe, batch):g}: {rate}"
    return batch


def _set_schedule(
    draft: Draft, recipe: Recipe, task: Task, batch: int, facts: dict[str, str]
) -> Schedule:
    step_s = _step_seconds(draft.cfg, batch)
    image_s = seconds_per_test_image(draft.cfg)
    found = fit_schedule(task, recipe, batch=batch, step_s=step_s, test_image_s=image_s)
    steps = tuple(max(1, round(share * found.iterations)) for share in recipe.steps)
    passes = f"{found.iterations * batch / task.train_images:.1f}"
    runs = f"{task.runs} runs of {step_s:.2g} s a step"
    total = f"{duration_argument(found.total_s)} of {duration_argument(task.budget_s)}"
    draft.set("SOLVER.MAX_ITER", found.iterations, f"{passes} passes over the images; {runs}")
    draft.set("SOLVER.STEPS", list(steps), "the learning rate falls tenfold after each")
    warmup = min(recipe.warmup, found.iterations // 4)
    draft.set("SOLVER.WARMUP_ITERS", warmup, "the learning rate rises from almost 0")
    period = -(-found.iterations // found.evaluations)
    draft.set("SOLVER.CHECKPOINT_PERIOD", -(-found.iterations // 2), "a lost run resumes there")
    draft.set("TEST.EVAL_PERIOD", period, f"{task.test_images} images of {image_s:.2g} s each time")
    draft.set("MODEL.RETINANET.SCORE_THRESH_TEST", SCORE_THRESHOLD, "AP counts low scores, too")
    facts["schedule"] = f"{found.iterations} iterations a run, {passes} passes; {runs}"
    facts["time"] = f"{total} for all runs"
    if found.is_full:
        facts["time"] += "; more would not help a run, but more --seeds would help the verdict"
    if found.is_short:
        facts["time"] += (
            f"; WARNING: a comparison needs about {recipe.enough} iterations, so --budget "
            f"{duration_argument(found.enough_s)}, fewer --seeds or a smaller --input-size"
        )
    return found


def _step_seconds(cfg: CfgNode, batch: int) -> float:
    """Return the mean time of a step over the arms; if that takes long, an estimate from one."""
    trial_s = seconds_per_step(_with_batch(cfg, TRIAL_BATCH), warm_up=1, timed=TRIAL_STEPS)
    estimate = trial_s * batch / TRIAL_BATCH
    if estimate * (TRIAL_STEPS + 1) * len(ARMS) > TRIAL_S:
        return estimate
    seconds = []
    for name in ARMS:
        own = _with_batch(cfg, batch)
        arms.apply(own, name)
        seconds.append(seconds_per_step(own, warm_up=1, timed=TRIAL_STEPS))
    return statistics.mean(seconds)


def _with_batch(cfg: CfgNode, batch: int) -> CfgNode:
    cfg = cfg.clone()
    cfg.SOLVER.IMS_PER_BATCH = batch
    return cfg


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with as many threads as a run has."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
