"""
Command lines of `focal-compare` and `focal-plugin`.

The parsers import nothing of the package, which takes seconds because of PyTorch. So `--help`,
`--version` and a typo answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

COMPARE_EXAMPLES = """
examples:
  focal-compare run configs/comparisons/demo.yaml
      train four arms on the built-in dataset into runs/demo; the same command resumes
  focal-compare run my_comparison.yaml --output runs/mine --jobs 8
  focal-compare report runs/demo
      write the report of the finished runs: runs/demo/report.html
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
  base: Shapes-Detection/retinanet_small.yaml    # relative to the spec, or a shipped config
  arms:                             # or a list of named arms: [ce, ohem, fl]
    CE: ce                          # a named arm, see `focal-compare arms`
    mine: my_config.yaml            # a config file
    gamma 1: [MODEL.RETINANET.FOCAL_LOSS_GAMMA, 1]    # KEY, VALUE, ... on top of base
    OHEM 64: {arm: ohem, opts: [MODEL.FOCAL.MINING.NUM_KEEP, 64]}    # several of these
  seeds: 6                          # 1 to 6, or a list; fewer than 6 cannot decide anything
  reference: CE                     # the arm that others are compared with; default: the first
  opts: [SOLVER.BASE_LR, 0.01]      # for all arms
  budget: {iterations: 400, total_iterations: 20000}
  imports: [my_losses.py, my_package.losses]    # modules that register a loss of your own
  datasets: {my_train: train.json:images, my_val: val.json:images}
  learning_rates: {factors: [0.5, 1, 2], seeds: [101]}  # tunes each arm; reported separately

examples:
  focal-compare run configs/comparisons/demo.yaml
  focal-compare run spec.yaml --dry-run                 # what it would train
  focal-compare run spec.yaml --jobs 4                  # four at a time; default: one per GPU
  focal-compare run spec.yaml --retry-failed            # failed runs are not retried otherwise
  focal-compare run spec.yaml --engine ray --address auto --gpus-per-run 1
  focal-compare run spec.yaml --engine slurm --slurm slurm_partition=gpu timeout_min=240

After Ctrl-C, the same command continues. Several commands, also on several machines that share the
folder, divide the runs among themselves.
"""

REPORT_DESCRIPTION = """
Write report.html, report.md, report.json, tables/*.csv and figures/* into the folder of a
comparison, and print the verdicts. The comparison may still be running: the report lists what is
missing and what failed.
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

ARMS_DESCRIPTION = """
List the named arms: published answers to imbalance, each as the config keys that differ. Use a name
in a spec (`arms: [ce, ohem, fl]`) or with `train_net.py --arm NAME`, on any base of its family.
"""

CHECK_DATA_DESCRIPTION = """
Check datasets in COCO format before training.

examples:
  focal-plugin check-data train.json:images val.json:images
      check files: JSON:IMAGES, the annotations and the folder of their images
  focal-plugin check-data train.json:images --num-classes 3 --images
      compare with the NUM_CLASSES of a model, and decode every image
  focal-plugin check-data --config-file FILE
      check the datasets of a config as train_net.py does before training
  focal-plugin check-data --config-file FILE --dataset mine=train.json:images \\
      DATASETS.TRAIN "('mine',)" MODEL.RETINANET.NUM_CLASSES 3
      the same with a dataset of your own, and with other keys of the config
  focal-plugin check-data train.json:images --strict --report findings.json
      treat warnings as errors; write all counts and the first 20 findings of each rule as JSON

An error would train wrong, evaluate wrong or end the run later. A warning is data that Detectron2
drops silently, or a likely mistake. A note needs no action.

Exit code: 0 no errors; 1 errors, or warnings with --strict; 2 a mistake in the command.
"""

ENGINES = ("local", "ray", "slurm")
REPLICATES = 1000
"""Resamples of the test images per arm."""
MAX_LINE = 1000
"""Characters of a line of an error."""
NOT_ALL_DONE = 3
"""Exit code of `focal-compare report --strict` for an unfinished comparison."""


class Command(NamedTuple):
    """
    Subcommand of `focal-compare`.

    Attributes:
        help: one line of the list of commands.
        add_arguments: function that adds its arguments to a parser.
        module: module whose function `main` takes the parsed arguments.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    module: str


class _Version(argparse.Action):
    """Option that prints the installed version and exits."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version"
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"{parser.prog} {version('focal_plugin')}")
        parser.exit()


def focal_compare(argv: list[str] | None = None) -> int:
    """
    Run the command `focal-compare`.

    Returns:
        0 on success; 1 if runs failed; 2 for a mistake in the command; 3 for an unfinished
        comparison with `report --strict`; 128 plus the signal number after a signal.
    """
    args = _compare_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int]
    try:
        command = importlib.import_module(COMPARE_COMMANDS[args.command].module).main
        return command(args)
    except KeyboardInterrupt:
        print("\nfocal-compare: interrupted", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError, ImportError) as error:
        print(f"focal-compare: {message_of(error)}", file=sys.stderr)
        return 2


def focal_plugin(argv: list[str] | None = None) -> int:
    """
    Run the command `focal-plugin`.

    Returns:
        0 on success; 1 for errors in the data, or if training cannot work here; 2 for a mistake in
        the command.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["doctor"]:  # it must work if the package cannot be imported
        import focal_plugin_doctor

        return focal_plugin_doctor.main(argv[1:])
    args = _plugin_parser().parse_args(argv)
    from focal_plugin import check_data_command

    return check_data_command.main(args)


def message_of(error: BaseException) -> str:
    """Return the message of an error, whose lines may hold a name of any length, in short lines."""
    # the text of a KeyError is a quoted string otherwise
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return "\n".join(shortened(line, MAX_LINE) for line in str(message).split("\n"))


def shortened(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters; a longer one loses its middle."""
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]}...{text[-half:]}"


def _compare_parser() -> argparse.ArgumentParser:
    parser = _parser(
        prog="focal-compare",
        description="Train the arms of a comparison with several seeds, and report which "
        "differences are larger than chance.",
        epilog=COMPARE_EXAMPLES,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar=" | ".join(COMPARE_COMMANDS)
    )
    for name, command in COMPARE_COMMANDS.items():
        command.add_arguments(
            commands.add_parser(
                name, help=command.help, formatter_class=argparse.RawDescriptionHelpFormatter
            )
        )
    return parser


def _plugin_parser() -> argparse.ArgumentParser:
    parser = _parser(prog="focal-plugin", description="Check a dataset and the installation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="check-data | doctor")
    _add_check_data_arguments(
        commands.add_parser(
            "check-data",
            help="find faults in a dataset in COCO format",
            description=CHECK_DATA_DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    # focal_plugin_doctor parses its arguments
    commands.add_parser("doctor", help="report installed packages and how to fix conflicts")
    return parser


def _parser(**options: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    parser.add_argument("--version", action=_Version)
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = RUN_DESCRIPTION
    parser.epilog = RUN_EPILOG
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML file, see below")
    parser.add_argument("--output", type=Path, help="default: runs/<name of the spec>")
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
        help="default: 1 if there is a GPU; .5: two runs share one",
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


def _add_import_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="import a module of your own, such as my_package.losses or my_losses.py; can be "
        "repeated",
    )


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = REPORT_DESCRIPTION
    parser.add_argument(
        "runs", type=Path, metavar="RUNS_DIR", help="output folder of `focal-compare run`"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"exit with {NOT_ALL_DONE} if a run has failed or has not finished",
    )
    parser.add_argument(
        "--replicates",
        type=int,
        default=REPLICATES,
        metavar="N",
        help=f"resamples of the test images per arm; default: {REPLICATES}; 0 saves most of the "
        "time on a large test set",
    )


def _add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = EXPLAIN_DESCRIPTION
    parser.epilog = EXPLAIN_EPILOG
    _add_import_argument(parser)
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
    parser.add_argument("--family", choices=("retinanet", "faster_rcnn"), help="default: both")
    parser.add_argument("names", nargs="*", metavar="NAME", help="show these arms with their keys")


def _add_check_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "given",
        nargs="*",
        metavar="JSON:IMAGES",
        help="annotations and image folder; with --config-file: KEY VALUE pairs of the config",
    )
    parser.add_argument("--config-file", metavar="FILE", help="check the datasets of this config")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a dataset for the config; without a config, check it under this name",
    )
    _add_import_argument(parser)
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument("--images", action="store_true", help="decode every image")
    parser.add_argument(
        "--allow-outside-root",
        action="store_true",
        help="allow images outside the image folder, by '..', an absolute name or a link",
    )
    parser.add_argument(
        "--max-json-mib",
        type=float,
        default=2048,
        metavar="N",
        help="do not read a larger JSON file (default: 2048)",
    )
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="NUM_CLASSES of the model, without a config"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all findings as JSON")


COMPARE_COMMANDS = {
    "run": Command(
        "train the unfinished runs, then report",
        _add_run_arguments,
        "focal_plugin.compare.run_command",
    ),
    "report": Command(
        "write verdicts, tables and figures of the finished runs",
        _add_report_arguments,
        "focal_plugin.compare.report_command",
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

if __name__ == "__main__":
    sys.exit(focal_compare())
