"""The command `focal-plugin`: what can be found out before training."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import focal_plugin_doctor as doctor

if TYPE_CHECKING:
    from .data import Report
    from .data.checks.rules import Severity

EXAMPLES = """
Look before you train: what is wrong with a data set in COCO format.

examples:
  focal-plugin check-data train.json:images val.json:images
      files as they are: JSON:IMAGES, the annotations and the folder of their images
  focal-plugin check-data train.json:images --num-classes 3 --images
      also against the NUM_CLASSES of a model, and with every image opened and decoded
  focal-plugin check-data --config-file FILE
      the data sets of a config, as train_net.py would check them before it trains
  focal-plugin check-data --config-file FILE --dataset mine=train.json:images \\
      DATASETS.TRAIN "('mine',)" MODEL.RETINANET.NUM_CLASSES 3
      the same with a data set of yours, and keys of the config changed
  focal-plugin check-data train.json:images --strict --report findings.json
      warnings are errors; all counts and the first 20 findings of each rule as JSON

An error would train wrong, evaluate wrong or end the run later. A warning is left out by Detectron2
without a word, or likely a mistake. A note is as it should be.

Exit code: 0 no errors; 1 errors, with --strict also warnings; 2 a mistake in what was asked.
"""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def main(argv: list[str] | None = None) -> int:
    """
    Returns:
        0 if all is well; 1 for errors in the data, or if training cannot work here; 2 for a mistake
        in what was asked.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["doctor"]:
        return doctor.main(argv[1:])
    parser = _parser()
    args = parser.parse_args(argv)
    from .data import DataError

    try:
        return _check_data(args)
    except KeyboardInterrupt:
        print("\nfocal-plugin: interrupted", file=sys.stderr)
        return 130
    except DataError as error:
        print(f"focal-plugin: {error}", file=sys.stderr)
        return 1
    except (ValueError, KeyError, AssertionError, OSError) as error:
        # str() of a KeyError is the representation of its message
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"focal-plugin: {message}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="focal-plugin", description="What can be found out before training."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="check-data | doctor")
    check = commands.add_parser(
        "check-data",
        help="what is wrong with a data set in COCO format",
        description=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(check)
    # Listed here; its arguments are its own
    commands.add_parser("doctor", help="what is installed, and what does not fit together")
    return parser


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "given",
        nargs="*",
        metavar="JSON:IMAGES",
        help="annotations and image folder; after --config-file: KEY VALUE pairs of the config",
    )
    parser.add_argument("--config-file", metavar="FILE", help="check the data sets that it names")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="a data set that the config may name; without a config it is checked under this name",
    )
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument("--images", action="store_true", help="open and decode every image")
    parser.add_argument(
        "--allow-outside-root",
        action="store_true",
        help="images may lie outside the image folder, by '..', an absolute name or a link",
    )
    parser.add_argument(
        "--max-json-mib",
        type=float,
        default=2048,
        metavar="N",
        help="a larger JSON is not read (default: 2048)",
    )
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="the NUM_CLASSES of the model, if no config is"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all findings as JSON")


def _check_data(args: argparse.Namespace) -> int:
    from .data import write_reports

    reports, strict = _of_config(args) if args.config_file else (_of_files(args), args.strict)
    for report in reports:
        print("\n".join(_text(report)), end="\n\n")
    if args.report is not None:
        write_reports(args.report, reports)
        print(f"All findings: {args.report}")
    bad = [report.title() for report in reports if report.is_bad(strict=strict)]
    print(f"To be mended: {', '.join(bad)}" if bad else "Ready to train.")
    return 1 if bad else 0


def _of_config(args: argparse.Namespace) -> tuple[list[Report], bool]:
    """Also whether warnings are errors, which the config may say too."""
    from .config import get_cfg
    from .config_file import find_config_file
    from .data import (
        is_strict,
        parse_dataset_argument,
        register_coco_dataset,
        report_datasets,
    )

    if args.num_classes is not None:
        raise ValueError("--num-classes is the config's where there is a --config-file")
    for text in args.dataset:
        register_coco_dataset(parse_dataset_argument(text))
    cfg = get_cfg()
    cfg.merge_from_file(str(find_config_file(args.config_file)))
    cfg.merge_from_list(args.given)
    strict = args.strict or is_strict(cfg)
    reports = report_datasets(
        cfg,
        allow_outside_root=args.allow_outside_root,
        decode_images=args.images,
        max_json_mib=args.max_json_mib,
    )
    return reports, strict


def _of_files(args: argparse.Namespace) -> list[Report]:
    from .data import check_coco, parse_dataset_argument

    datasets = [parse_dataset_argument(text) for text in args.dataset]
    files = [("", *_parse_files(text)) for text in args.given]
    if not (datasets or files):
        raise ValueError("nothing to check: give JSON:IMAGES or --config-file FILE")
    reports = []
    for name, json_file, image_root in (*files, *datasets):
        report = check_coco(
            json_file,
            image_root,
            allow_outside_root=args.allow_outside_root,
            decode_images=args.images,
            max_json_mib=args.max_json_mib,
        )
        reports.append(_with_num_classes(replace(report, name=name), args.num_classes))
    return reports


def _parse_files(text: str) -> tuple[Path, Path]:
    json_file, _, image_root = text.rpartition(":")
    if not (json_file and image_root):
        raise ValueError(f"a data set is given as JSON:IMAGES, got {text!r}")
    return Path(json_file).expanduser(), Path(image_root).expanduser()


def _with_num_classes(report: Report, num_classes: int | None) -> Report:
    classes = report.facts["classes"]
    if num_classes is None or classes is None or len(classes) == num_classes:
        return report
    message = f"--num-classes is {num_classes}, the file has {len(classes)} categories"
    return report.with_finding("num-classes", message)


def _text(report: Report) -> list[str]:
    table = [
        f"  {severity:<8} {number:>9}  {rule}"
        for severity in SEVERITIES
        for rule, number in report.counts.items()
        if report.severity_of(rule) == severity
    ]
    details = [line for severity in SEVERITIES for line in report.lines([severity])]
    return [report.summary(), *table, *([""] if details else []), *details]


if __name__ == "__main__":
    sys.exit(main())
