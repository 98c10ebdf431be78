"""Command `focal-plugin check-data`: find faults in datasets before training."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from detectron2.data import DatasetCatalog

from .components import import_components
from .config import get_cfg
from .data import (
    DatasetArgument,
    Report,
    check_coco,
    compare_with_training,
    is_strict,
    parse_dataset_argument,
    registered,
    report_dataset,
    report_datasets,
    write_reports,
)
from .data.checks.rules import Severity
from .data.dataset_arguments import refuse_unknown_categories
from .data.ignore_regions import IgnoreRegions, convert_ignore_regions
from .dataset_config import config_of_flags, parse_files

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def main(args: argparse.Namespace) -> int:
    """
    Check the datasets and print the findings.

    Returns:
        0 if there are no errors; 1 for errors in the data; 2 for a mistake in the command.
    """
    import_components(args.imports)
    reports, strict = _of_config(args) if args.config_file else (_of_files(args), args.strict)
    for report in reports:
        print("\n".join(_text(report)), end="\n\n")
    if args.report is not None:
        write_reports(args.report, reports)
        print(f"All findings: {args.report}")
    bad = [report.title() for report in reports if report.is_bad(strict=strict)]
    print(f"To fix: {', '.join(bad)}" if bad else "Ready to train.")
    return 1 if bad else 0


def _of_config(args: argparse.Namespace) -> tuple[list[Report], bool]:
    """Return the reports, and whether warnings are errors, which the config may say too."""
    if args.num_classes is not None:
        raise ValueError("--num-classes is the config's where there is a --config-file")
    cfg = config_of_flags(
        args.config_file,
        datasets=args.dataset,
        ignored=args.ignore_category,
        opts=args.given,
    )
    strict = args.strict or is_strict(cfg)
    reports = report_datasets(
        cfg,
        allow_outside_root=args.allow_outside_root,
        decode_images=args.images,
        max_json_mib=args.max_json_mib,
    )
    return reports, strict


def _of_files(args: argparse.Namespace) -> list[Report]:
    known = [text for text in args.dataset if text in DatasetCatalog.list()]
    datasets = [parse_dataset_argument(text) for text in args.dataset if text not in known]
    files = [("", *parse_files(text)) for text in args.given]
    if not (known or datasets or files):
        raise ValueError("nothing to check: give JSON:IMAGES or --config-file FILE")
    options = {
        "allow_outside_root": args.allow_outside_root,
        "decode_images": args.images,
        "max_json_mib": args.max_json_mib,
    }
    reports = [_compared_with_training(report_dataset(name, **options)) for name in known]
    found: set[str] = set()
    for name, given, image_root in (*files, *datasets):
        regions = _convert(given, args)
        found.update(regions.categories)
        report = check_coco(regions.json_file, image_root, **options)
        title = name
        if str(regions):
            report = report.with_finding("ignore-regions", str(regions))
            title = name or str(given)
        with _registered(report) as of_name:
            reports.append(replace(_compared_with_training(of_name), name=title))
    classes = [report.facts.get("classes") for report in reports]
    if all(classes):  # otherwise a report says what is wrong with a file
        names = dict.fromkeys(name for of_file in classes for name in of_file or ())
        refuse_unknown_categories(args.ignore_category, found, names)
    return [_with_num_classes(report, args.num_classes) for report in reports]


@contextmanager
def _registered(report: Report) -> Iterator[Report]:
    """Provide the report of a file under a registered name, if the file has no errors."""
    if report.num("error") or report.file is None or report.image_root is None:
        yield report
        return
    name = f"check-data {report.file}"
    with registered([DatasetArgument(name, report.file, report.image_root)]):
        yield replace(report, name=name)


def _convert(json_file: Path, args: argparse.Namespace) -> IgnoreRegions:
    """Return the file with crowd regions for its ignore regions; a missing file stays missing."""
    if not json_file.is_file():
        return IgnoreRegions(json_file)
    return convert_ignore_regions(json_file, args.ignore_category, max_json_mib=args.max_json_mib)


def _compared_with_training(report: Report) -> Report:
    """Compare a registered dataset without errors with what training on its boxes would see."""
    if report.num("error") or not report.name:
        return report
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (report.name,)
    return compare_with_training(cfg, report)


def _with_num_classes(report: Report, num_classes: int | None) -> Report:
    classes = report.facts.get("classes")
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
