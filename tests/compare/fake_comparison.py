"""Folders of untrained comparisons, with detections from a seeded generator."""

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.plan.collection import Collection
from focal_plugin.compare.plan.comparison import Comparison, Run, slug
from focal_plugin.compare.plan.setting import EQUAL, Grid, Origin
from focal_plugin.compare.report import report_all
from focal_plugin.compare.runs.result import AVERAGES, Result
from focal_plugin.compare.runs.status import Status
from focal_plugin.diagnostics.loss_balance import GradientNorms, LossBalance, write_balance
from focal_plugin.diagnostics.snapshot import Snapshot, write_snapshot

ITERATIONS = 40
CLASSES = ("rare", "common", "middling")  # not sorted by frequency
TRAINED = (3, 90, 20)
TRIAL_SEEDS = (101, 102, 103)
WEIGHT = "MODEL.FOCAL.CLS_LOSS.WEIGHT"
VERSIONS = {"python": "3.11", "torch": "2.11"}


@dataclass
class FakeArm:
    """
    Attributes:
        skill: share of the objects that it finds, slightly different for each seed.
        without: seed -> state instead of a result: "failed", "running", "missing", or "empty" for a
            run without detections.
        config: additions to the common config.
    """

    skill: float = 0.6
    without: dict[int, str] = field(default_factory=dict)
    config: str = ""


def write_comparison(
    folder: Path,
    arms: dict[str, FakeArm],
    seeds=(1, 2),
    *,
    classes=CLASSES,
    factors=(),
    weights=(),
    best=None,
    snapshots=False,
) -> Comparison:
    """
    Args:
        factors: learning rate factors that each arm tries (``skill`` times factor).
        weights: the same for the loss weight; every pair of both is tried.
        best: arm -> setting of its runs of role "best".
    """
    data = write_ground_truth(folder / "data", classes)
    runs = [_run(arm, seed) for seed in seeds for arm in arms]
    grid = Grid(tuple(factors), tuple(weights), TRIAL_SEEDS) if factors or weights else None
    settings = grid.settings if grid else ()
    runs += [_run(a, seed, "tuning", s) for seed in TRIAL_SEEDS for a in arms for s in settings]
    runs += [_run(a, seed, "best", s) for a, s in (best or {}).items() for seed in seeds]
    origin = Origin(0.01, WEIGHT, 2.0) if weights else Origin(0.01)
    comparison = Comparison(
        name="fake",
        arms=tuple(arms),
        reference=next(iter(arms)),
        seeds=tuple(seeds),
        runs=tuple(runs),
        grid=grid,
        origins=dict.fromkeys(arms, origin) if grid else {},
    )
    comparison.write(folder)
    for run in runs:
        arm = arms[run.arm]
        state = arm.without.get(run.seed, "done") if run.role == "equal" else "done"
        if state != "missing":
            _write_run(folder / run.id, run, arm, state, data, snapshots)
    return comparison


def write_collection(
    folder: Path, members: dict[str, dict[str, FakeArm]], *, kind="dataset", **options
) -> Collection:
    """
    Args:
        members: dataset -> arms of the comparison on it.
        options: see :func:`write_comparison`.
    """
    comparisons = []
    for name, arms in members.items():
        own = folder / slug(name)
        own.mkdir(parents=True)
        comparisons.append(replace(write_comparison(own, arms, **options), part=name))
        comparisons[-1].write(own)
    collection = Collection.of("fake", kind, comparisons)
    collection.write(folder)
    return collection


def light_reports(monkeypatch) -> None:
    """Replace the reports of single datasets by summaries; figures take most of the time."""

    def write(folder, **options):
        summary = summarize(folder, **options)
        for name in ("report.html", "report.md"):
            (folder / name).write_text(summary.name)
        return SimpleNamespace(summary=summary, html=folder / "report.html")

    monkeypatch.setattr(report_all, "write_report", write)


def write_ground_truth(folder: Path, classes=CLASSES) -> dict:
    """Write eight images with three small objects each, and return their `env.json` entry."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 9):
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        for place in range(3):
            box = [2 + 20 * place, 5 + int(rng.integers(20)), 12, 14]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": place + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "annotations.json"
    file.write_text(json.dumps(coco))
    return {
        "name": "fake_val",
        "json_file": str(file),
        "image_root": str(folder / "images"),
        "json_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "images": len(images),
        "annotations": len(annotations),
        "crowds": 0,
        "classes": list(classes),
        "category_ids": [1, 2, 3],
        "annotations_per_class": list(TRAINED),
        "images_per_class": [min(n, 50) for n in TRAINED],
    }


def fake_detections(data: dict, skill: float, seed: int) -> list[dict]:
    """Return detections of the share ``skill`` of the objects, and false ones."""
    coco = json.loads(Path(data["json_file"]).read_text())
    rng = np.random.default_rng(seed)
    found = []
    for annotation in coco["annotations"]:
        right = rng.random() < skill
        x, y, w, h = annotation["bbox"]
        box = (
            [x + float(rng.normal(0, 0.4)), float(y), w, h] if right else [float(x + 9), 1.0, 9, 9]
        )
        found.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": box,
                "score": float(0.5 + 0.5 * rng.random()) if right else float(0.6 * rng.random()),
            }
        )
    return found


def fake_snapshot(**more) -> Snapshot:
    """Return a snapshot with ten positives and a hundred negatives of one level."""
    fields = {
        **dict.fromkeys(("iteration", "num_classes", "divisor"), 1),
        **{"part": "retinanet", "loss": "SigmoidFocalLoss", "options": "", "miner": ""},
        **{"num_images": 4, "num_anchors": 110, "num_pos": 10, "num_neg": 100},
        **{"kept_pos": 10, "kept_neg": 100, "anchors_digest": "a"},
        **{"loss_pos": 5.0, "loss_neg": 2.0, "divided_pos": 0.5, "divided_neg": 0.2},
        **{"box_loss": 1.0, "box_divided": 0.1, "mean_probability": 0.01, "easy_share": 0.9},
        **{"easy_loss_share": 0.2, "easy_gradient_share": 0.1},
        **{"gradient_pos": 0.4, "gradient_neg": 0.3},
        "levels": np.array(["p3"]),
        **{
            f"level_{name}": np.ones(1)
            for name in (
                *("num_pos", "num_neg", "loss_pos", "loss_neg"),
                *("divided_pos", "divided_neg", "box_loss"),
            )
        },
        "sample_pos": np.linspace(0.1, 1, 10),
        "sample_neg": np.linspace(0, 0.04, 100),
        "gradient_edges": np.array([0.0, 1e-6, 1e-4, 1e-2, 1.0]),
        "gradient_counts_pos": np.array([0, 0, 4, 6]),
        "gradient_counts_neg": np.array([60, 30, 10, 0]),
        "parameter_gradient_norms": np.array([8.0, 4.0, 2.0]),
    }
    return Snapshot(**{**fields, **more})


def change_balance(run_folder: Path, moment: str, **ratios: float | None):
    """Write the balance of a run; a ratio of None has no box loss."""
    parts = {
        part: GradientNorms(1.0, 0.0) if ratio is None else GradientNorms(ratio, 1.0)
        for part, ratio in ratios.items()
    }
    balance = LossBalance(0 if moment == "start" else ITERATIONS, 32, 8, parts)
    write_balance(run_folder / "diagnostics" / f"balance_{moment}.json", balance)


def _run(arm, seed, role="equal", setting=EQUAL) -> Run:
    content = hashlib.sha256(f"{arm} {seed} {role} {setting}".encode()).hexdigest()
    opts = ("SEED", str(seed))
    return Run(arm, seed, "/config.yaml", opts, (), content, ITERATIONS, role, setting)


def _write_run(folder, run, arm, state, data, snapshots):
    folder.mkdir()
    write_env(folder, data, run.seed, **(_split(data) if run.role == "tuning" else {}))
    start = {
        "weights": {"conv": {"shape": [2], "sha256": f"{run.seed}"}},
        "data": [f"{run.seed} {i}" for i in range(8)],
    }
    (folder / "start.json").write_text(json.dumps(start))
    lr = 0.01 * run.setting.lr_factor
    (folder / "config.yaml").write_text(
        f"SEED: {run.seed}\nOUTPUT_DIR: {folder}\nSOLVER: {{BASE_LR: {lr}}}\n{arm.config}\n"
    )
    if snapshots:
        write_snapshot(folder / "diagnostics" / "start_retinanet.npz", fake_snapshot(iteration=0))
        write_snapshot(folder / "diagnostics" / "final_retinanet.npz", fake_snapshot(iteration=40))
        change_balance(folder, "start", retinanet=2.0)
        change_balance(folder, "final", retinanet=1.0)
    done = state in ("done", "empty")
    steps = [
        {"iteration": i, **_losses(i, run.seed)} for i in range(19, ITERATIONS if done else 20, 20)
    ]
    if not done:
        write_metrics(folder, steps)
        reason = "Loss became infinite" if state == "failed" else None
        code = 1 if state == "failed" else None
        Status(state, reason, code, ("the last line",) if code else (), attempts=2).write(folder)
        return
    factor = run.setting.lr_factor * run.setting.weight_factor
    skill = arm.skill * (factor if run.role == "tuning" else 1)
    found = [] if state == "empty" else fake_detections(data, skill, run.seed)
    write_detections(folder, found)
    ap = {name: _percent(value) for name, value in _averages(data, found).items()}
    write_metrics(folder, [*steps, {"iteration": ITERATIONS, "bbox/AP": ap["AP"] or math.nan}])
    Result(
        arm=run.arm,
        seed=run.seed,
        ap=ap,
        ap_per_class={},
        iterations=ITERATIONS,
        iteration_s=0.1 + 0.01 * run.seed,
        peak_memory_mib=900.0,
        config_hash=run.config_hash,
    ).write(folder)
    Status("done", attempts=1).write(folder)


def _split(data):
    """Return the datasets of a trial: 32 images to train, and the fake ones to test."""
    parts = {"train": {"images": 32}, "test": {}}
    return {"datasets": {u: [{**data, "name": f"trials_{u}", **x}] for u, x in parts.items()}}


def write_env(folder, data, seed=1, **more):
    env = {
        "versions": VERSIONS,
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "platform": "Linux",
        "device": "cpu",
        "threads": 1,
        "seed": seed,
        "datasets": {"train": [{**data, "name": "fake_train"}], "test": [data]},
    }
    (folder / "env.json").write_text(json.dumps({**env, **more}))


def write_metrics(folder, lines):
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_detections(folder, detections):
    (folder / "inference").mkdir(exist_ok=True)
    (folder / "inference" / "coco_instances_results.json").write_text(json.dumps(detections))


def change_result(folder: Path, **more):
    """Rewrite the result of a run with other values."""
    replace(Result.read(folder), **more).write(folder)


def folder_of(folder: Path, comparison: Comparison, arm: str, seed: int, role="equal") -> Path:
    """Return the folder of one run."""
    (run,) = [r for r in comparison.runs if (r.arm, r.seed, r.role) == (arm, seed, role)]
    return folder / run.id


def _losses(iteration, seed):
    return {
        "total_loss": 3.0 / (iteration + seed),
        "loss_cls": 2.0 / (iteration + seed),
        "diagnostics/parameter_gradient_norm": 1.0 * seed,
        "time": 0.1,
    }


_MEASURED = {}
"""Digest of a ground truth, and detections -> averages."""


def _averages(data, found):
    if not found:
        return dict.fromkeys(AVERAGES, math.nan)
    key = data["json_sha256"], json.dumps(found)
    if key not in _MEASURED:
        evaluation = evaluate(Path(data["json_file"]), found)
        _MEASURED[key] = evaluation.average_precision(metrics=AVERAGES).averages
    return _MEASURED[key]


def _percent(fraction):
    return None if math.isnan(fraction) else 100 * fraction
