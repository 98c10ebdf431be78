"""Command line of `focal-compare`: its subcommands and their arguments."""

from __future__ import annotations

import argparse
from pathlib import Path

from .command import Command, add_import_argument, build_parser, run_command

COMPARE_EXAMPLES = """
examples:
  focal-compare run configs/comparisons/demo.yaml
      train four arms on the built-in dataset into runs/demo; the same command resumes
  focal-compare run my_comparison.yaml --output runs/mine --jobs 8
  focal-compare plan my_comparison.yaml --std 1.5
      how many seeds it takes to find 1 AP, and what they cost
  focal-compare report runs/demo
      write the report of the finished runs: runs/demo/report.html
  focal-compare judge val.json --arm A=a1.json,a2.json --arm B=b1.json,b2.json
      the same report for detections of any framework; nothing is trained
  focal-compare export runs/demo --to csv
      copy the finished runs to CSV files, Weights & Biases, MLflow or trackio
  focal-compare arms --family retinanet
      list the named arms: losses, miners, heads, normalizers
  focal-compare explain SigmoidCrossEntropyLoss SigmoidFocalLoss:gamma=0.5
      draw loss and gradient over the logit, without training

`focal-compare run --help` describes the keys of a spec.
"""

RUN_DESCRIPTION = """
Train every arm of a comparison with every seed, and write the report. Each run is a process of its
own. Finished runs are not trained again, and interrupted runs resume.
"""

RUN_EPILOG = """
A spec is a YAML file. Only arms and seeds are required:
  name: cells                       # title of the report, folder below runs/; default: the file's
  base: Shapes-Detection/retinanet_small.yaml    # relative to the spec, or a shipped config
  arms:                             # or a list of named arms: [ce, ohem, fl]
    CE: ce                          # a named arm, see `focal-compare arms`
    mine: my_config.yaml            # a config file
    gamma 1: [MODEL.RETINANET.FOCAL_LOSS_GAMMA, 1]    # KEY, VALUE, ... on top of base
    OHEM 64: {arm: ohem, opts: [MODEL.FOCAL.MINING.NUM_KEEP, 64]}    # several of these
  seeds: 6                          # 1 to 6, or a list; fewer than 4 cannot decide anything
  # seeds: {looks: [6, 9, 12], effect: 2.0}    # decided arms stop early, see `focal-compare plan`
  margin: 1.0                       # smaller differences do not matter: equivalent, not worse
  reference: CE                     # the arm that others are compared with; default: the first
  opts: [SOLVER.BASE_LR, 0.01]      # for all arms
  budget: {iterations: 400, total_iterations: 20000}
  imports: [my_losses.py, my_package.losses]    # modules that register a loss of your own
  datasets: {my_train: train.json:images, my_val: val.json:images}
  # datasets: {cells: {train: c.json:c, test: d.json:c}, signs: {...}}    # compared on each
  # folds: 5                        # cross-validation of the training set
  learning_rates: {factors: [0.5, 1, 2]}  # tunes each arm on a split of its training set
  loss_weights: {factors: [1, 4]}   # the same for the weight of the classification loss
  score_threshold: stock            # keep the score cut-offs of the configs; default: 0.001
  evaluations: 10                   # of each run, for AP over training; default: as configured
  trainer_flags: [allow-outside-root, trust-pickle]     # of train_net.py, for every run

examples:
  focal-compare run configs/comparisons/demo.yaml
  focal-compare run spec.yaml --dry-run                 # what it would train
  focal-compare run spec.yaml --jobs 4                  # four at a time; default: one per GPU
  focal-compare run spec.yaml --retry-failed            # failed runs are not retried otherwise
  focal-compare run spec.yaml --engine ray --address auto --gpus-per-run 1
  focal-compare run spec.yaml --engine slurm --slurm slurm_partition=gpu timeout_min=240

After Ctrl-C, the same command continues. Several commands, also on several machines that share the
folder, divide the runs among themselves. On a CPU, memory has large pages, which saves
time; FOCAL_PLUGIN_ALLOCATOR=default keeps the allocator of the system.
"""

PLAN_DESCRIPTION = """
Show what each design of a comparison finds and costs, before anything is trained: a fixed number of
seeds, and planned looks at the results. At a look, arms stop that are decided, or for which the
difference to find is out of reach.
"""

PLAN_EPILOG = """
The cost depends on how much AP varies from seed to seed. This standard deviation is from --std,
from finished comparisons (--pilot), or from the earlier ones in runs/ with the same base config.

examples:
  focal-compare plan spec.yaml --std 1.5               # to find 1 AP and 2 AP
  focal-compare plan spec.yaml --pilot runs/pilot --effects 0.5 --power 0.9
  focal-compare plan spec.yaml --std 1.5 --time        # with hours, from a few iterations

Then write one of the designs into the spec:
  seeds: 17
  seeds: {looks: [6, 9, 12, 15, 18], effect: 2.0}
  seeds: auto                       # looks for 2 AP, planned when the comparison starts
"""

REPORT_DESCRIPTION = """
Write report.html, report.md, report.json, report.tex, tables/* and figures/* into the folder of a
comparison, and print the verdicts. The comparison may still be running: the report lists what is
missing and what failed. A comparison on several datasets or folds has a report on each, and one
over all of them.
"""

JUDGE_DESCRIPTION = """
Write the report of a comparison for detections that exist already, of any framework. Nothing is
trained. The report has the verdicts, AP by class and size, error types, recall, score cut-offs and
resampled test images. It has no chapters on training, cost and fairness.
"""

JUDGE_EPILOG = """
A file of detections is a JSON list in COCO's result format, one entry for each box:
  [{"image_id": 42, "category_id": 18, "bbox": [x, y, width, height], "score": 0.236}, ...]
Detectron2 writes it in each evaluation (inference/coco_instances_results.json), MMDetection with
outfile_prefix, Ultralytics with save_json=True. Boxes are in pixels of the original image, and ids
are those of the annotations.

Each arm is one method, and each of its files one training run with a seed of its own. File i of
each arm is compared with file i of the reference, so give the files of one seed the same place. One
file each shows how the methods differ; a verdict requires four.

examples:
  focal-compare judge val2017.json --arm FL=fl_1.json,fl_2.json --arm CE=ce_1.json,ce_2.json
      writes judged/report.html; the reference is the first arm
  focal-compare judge val.json --arm A=a.json --arm B=b.json --reference B --output reports/ab
  focal-compare judge val.json --arm A=a.json --arm B=b.json --images val2017
      with the images on which the arms differ most
  focal-compare judge lvis_v1_val.json --arm A=a.json --arm B=b.json --replicates 0
      a large test set: resampling its images takes most of the time

Keep detections of low scores, from .001 on: a score cut-off lowers AP, and by how much depends on
the method. AP is that of COCO, with 100 detections per class and image. One file is in memory at a
time. If a file is malformed, the message names file and entry, and nothing is written.
"""

EXPLAIN_DESCRIPTION = """
Draw loss and |gradient| of registered classification losses over x_t = y * x, with the logit x and
the truth y = +-1: Figure 1 of the focal loss paper. Nothing is trained.
"""

EXPLAIN_EPILOG = """
examples:
  focal-compare explain
  focal-compare explain SigmoidCrossEntropyLoss SigmoidFocalLoss:gamma=0.5,alpha=None --output a.svg
  focal-compare explain --import my_losses.py MyLoss:power=3
"""

DEFAULT_LOSSES = (
    "SigmoidCrossEntropyLoss",
    "SigmoidFocalLoss:gamma=0.5,alpha=None",
    "SigmoidFocalLoss:gamma=2,alpha=None",
    "SigmoidFocalLoss",
    "SigmoidFocalStarLoss",
    "SigmoidHingeLoss",
)
"""Losses that `focal-compare explain` draws by default."""

EXPORT_DESCRIPTION = """
Copy the finished runs of a comparison to where you keep yours: config, logged numbers, final AP and
the table of verdicts. Training writes nothing there.

examples:
  focal-compare export runs/demo --to csv
      runs.csv, metrics.csv, config.csv and verdicts.csv in runs/demo/export/csv
  focal-compare export runs/demo --to mlflow --out shared/mlflow
      an SQLite store, or that of the environment variable MLFLOW_TRACKING_URI
  WANDB_MODE=offline focal-compare export runs/demo --to wandb
      files that `wandb sync` sends later; without the variable, to your account
  focal-compare export runs/demo --to trackio

Each target but csv needs its package: pip install 'focal_plugin[wandb]', [mlflow] or [trackio]. The
same export again adds only the runs that have finished since.
"""

ARMS_DESCRIPTION = """
List the named arms: published answers to imbalance, each as the config keys that differ. Use a name
in a spec (`arms: [ce, ohem, fl]`) or with `train_net.py --arm NAME`, on any base of its family. The
arms of `data` choose the training images, and every base accepts them.
"""

ENGINES = ("local", "ray", "slurm")
TARGETS = ("csv", "wandb", "mlflow", "trackio")
REPLICATES = 1000
"""Resamples of the test images per arm."""
NOT_ALL_DONE = 3
"""Exit code of `focal-compare report --strict` for an unfinished comparison."""


def focal_compare(argv: list[str] | None = None) -> int:
    """
    Run the command `focal-compare`.

    Returns:
        0 on success; 1 if runs failed; 2 for a mistake in the command; 3 for an unfinished
        comparison with `report --strict`; 128 plus the signal number after a signal.
    """
    return run_command(_parser(), COMMANDS, argv)


def _parser() -> argparse.ArgumentParser:
    return build_parser(
        "focal-compare",
        "Train the arms of a comparison with several seeds, and report which differences are "
        "larger than chance.",
        COMMANDS,
        epilog=COMPARE_EXAMPLES,
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = RUN_DESCRIPTION
    parser.epilog = RUN_EPILOG
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML file, see below")
    parser.add_argument("--output", type=Path, help="default: runs/NAME")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, and show what would be trained and what it can decide",
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="with --dry-run: train a few iterations of each arm to estimate the time",
    )
    parser.add_argument("--retry-failed", action="store_true", help="retry runs that failed before")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="where the runs are trained: processes of this machine (default), Ray, or Slurm",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time; default: one per GPU, or one"
    )
    parser.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="N",
        help="default: 1 if there is a GPU, or a share if there are more jobs; .5: two share one",
    )
    parser.add_argument(
        "--cpus-per-run", type=int, metavar="N", help="default: the processors divided by --jobs"
    )
    parser.add_argument("--address", help="address of a Ray cluster; default: this machine")
    parser.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="parameters of submitit's executor",
    )


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = PLAN_DESCRIPTION
    parser.epilog = PLAN_EPILOG
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML file; its seeds do not count")
    spread = parser.add_mutually_exclusive_group()
    spread.add_argument(
        "--std", type=float, metavar="AP", help="standard deviation of a difference between seeds"
    )
    spread.add_argument(
        "--pilot", type=Path, nargs="+", default=[], metavar="RUNS_DIR", help="finished comparisons"
    )
    parser.add_argument(
        "--effects",
        type=float,
        nargs="+",
        default=[1.0, 2.0],
        metavar="AP",
        help="differences to find; default: 1 2",
    )
    parser.add_argument(
        "--power", type=float, default=0.8, help="probability of finding them; default: 0.8"
    )
    parser.add_argument(
        "--time", action="store_true", help="train a few iterations of each arm to tell the hours"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time, for the hours")


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = REPORT_DESCRIPTION
    parser.add_argument(
        "runs", type=Path, metavar="RUNS_DIR", help="output folder of `focal-compare run`"
    )
    parser.add_argument(
        "--reference",
        metavar="ARM",
        help="compare with this arm instead of the reference of the plan, which does not change; "
        "nothing is trained",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"exit with {NOT_ALL_DONE} if a run has failed or has not finished",
    )
    _add_replicates(parser)


def _add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = JUDGE_DESCRIPTION
    parser.epilog = JUDGE_EPILOG
    parser.add_argument(
        "ground_truth", type=Path, metavar="ANNOTATIONS", help="COCO json of the test set"
    )
    parser.add_argument(
        "--arm",
        action="append",
        required=True,
        dest="arms",
        metavar="NAME=FILE[,FILE...]",
        help="a method and its files of detections, one per seed; give it once for each method",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="the arm that others are compared with; default: the first",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("judged"),
        metavar="DIR",
        help="folder of the report; default: judged",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the test images, to show some"
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="AP",
        help="difference in AP that does not matter; adds the verdicts equivalent and not worse",
    )
    parser.add_argument(
        "--title", metavar="TEXT", help="title of the report; default: the name of ANNOTATIONS"
    )
    _add_replicates(parser)


def _add_replicates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replicates",
        type=int,
        default=REPLICATES,
        metavar="N",
        help=f"resamples of the test images per arm; default: {REPLICATES}; 0 saves most of the "
        "time on a large test set",
    )


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = EXPORT_DESCRIPTION
    parser.add_argument(
        "runs", type=Path, metavar="RUNS_DIR", help="output folder of `focal-compare run`"
    )
    parser.add_argument("--to", required=True, choices=TARGETS, help="where the runs go")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for what the target writes here; default: RUNS_DIR/export/TARGET",
    )


def _add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = EXPLAIN_DESCRIPTION
    parser.epilog = EXPLAIN_EPILOG
    add_import_argument(parser)
    parser.add_argument(
        "losses",
        nargs="*",
        default=DEFAULT_LOSSES,
        metavar="NAME[:option=value,...]",
        help=f"registered losses; default: {' '.join(DEFAULT_LOSSES)}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("losses.png"),
        metavar="FIGURE",
        help="a .png or .svg file; a .csv file beside it has the curves (default: losses.png)",
    )


def _add_arms_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = ARMS_DESCRIPTION
    parser.add_argument(
        "--family", choices=("retinanet", "faster_rcnn", "data"), help="default: all"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="show these arms with their keys")


COMMANDS = {
    "run": Command(
        "train the unfinished runs, then report",
        _add_run_arguments,
        "focal_plugin.compare.run_command",
    ),
    "plan": Command(
        "show what numbers of seeds find and cost",
        _add_plan_arguments,
        "focal_plugin.compare.plan_command",
    ),
    "report": Command(
        "write verdicts, tables and figures of the finished runs",
        _add_report_arguments,
        "focal_plugin.compare.report_command",
    ),
    "judge": Command(
        "report detections of any framework, without training",
        _add_judge_arguments,
        "focal_plugin.compare.judge_command",
    ),
    "export": Command(
        "copy the finished runs to CSV files or an experiment tracker",
        _add_export_arguments,
        "focal_plugin.compare.export_command",
    ),
    "arms": Command(
        "list the named arms", _add_arms_arguments, "focal_plugin.compare.arms_command"
    ),
    "explain": Command(
        "draw losses and their gradients",
        _add_explain_arguments,
        "focal_plugin.compare.explain_command",
    ),
}
