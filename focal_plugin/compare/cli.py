"""The command `focal-compare`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detectron2.data import MetadataCatalog

from .pictures import SCORE_THRESHOLD, CocoImages, draw_detections
from .report import best, format_table, write_report
from .results import Result
from .runner import refuse_another_config, run_all
from .spec import Run, load_spec

EXAMPLES = """
examples:
  focal-compare run configs/comparisons/demo.yaml
      three losses on the built-in data set, into runs/demo; interrupted, it goes on where it was
  focal-compare run my_comparison.yaml --output runs/mine
  focal-compare report configs/comparisons/demo.yaml
      the table of what is finished so far

a spec is a YAML file:
  arms:                       # name: config file, relative to the spec
    CE: retinanet_ce.yaml
    FL: retinanet_fl.yaml
  seeds: [1, 2, 3]
  opts: [SOLVER.MAX_ITER, 1000]   # optional, the same for all arms
"""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    output = args.output or Path("runs") / args.spec.stem
    try:
        runs = load_spec(args.spec, output)
        if args.command == "report":
            return _report(runs, _finished(runs), output)
        results, failures = run_all(runs)
        _report(runs, results, output)
    except (ValueError, KeyError, FileNotFoundError) as error:
        print(f"focal-compare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. What is finished stays in {output}; the same command goes on there.",
            file=sys.stderr,
        )
        return 130
    for failure in failures:
        print(f"focal-compare: failed: {failure.splitlines()[0]}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="focal-compare",
        description="Train the arms of a comparison, and put what came out into one table.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | report")
    for name, what in (
        ("run", "train what is not finished, then report"),
        ("report", "the table and the picture of what is finished"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("spec", type=Path, metavar="SPEC", help="YAML file, see --help")
        command.add_argument("--output", type=Path, help="default: runs/<name of the spec>")
    return parser


def _finished(runs: list[Run]) -> list[Result]:
    for run in runs:
        refuse_another_config(run)
    results = [Result.read(run.folder) for run in runs]
    return [result for result in results if result is not None]


def _report(runs: list[Run], results: list[Result], output: Path) -> int:
    if not results:
        print(f"focal-compare: no finished run in {output}", file=sys.stderr)
        return 1
    markdown, data = write_report(results, output)
    print(f"\n{format_table(results)}\n")
    winner = best(results)
    run = next(run for run in runs if (run.arm, run.seed) == (winner.arm, winner.seed))
    picture = output / "detections.png"
    _draw(run, picture)
    print(f"Highest AP: {run.name}. So few seeds do not show that a small difference is real.")
    print(f"Its detections (score >= {SCORE_THRESHOLD}; white: ground truth): {picture}")
    print(f"This table: {markdown} and {data}")
    return 0


def _draw(run: Run, picture: Path) -> None:
    metadata = MetadataCatalog.get(run.resolved_cfg().DATASETS.TEST[0])
    images = CocoImages(Path(metadata.json_file), Path(metadata.image_root))
    draw_detections(images, run.folder / "inference" / "coco_instances_results.json", picture)


if __name__ == "__main__":
    sys.exit(main())
