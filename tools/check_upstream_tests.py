#!/usr/bin/env python3
"""
Run the unmodified tests of Detectron2 or fvcore on the components of this package.

    python tools/check_upstream_tests.py CHECKOUT
    python tools/check_upstream_tests.py CHECKOUT --file modeling --only RetinaNet

CHECKOUT is a folder with the repository of Detectron2 or fvcore; nothing is downloaded, and nothing
is written there. Each test runs twice: with the installed library alone, and with our components in
the place of the library's. `upstream_components.py` makes the substitution.

The table shows each test that used our components, or that did not pass. The exit code is 1 if a
test passes with stock and not with ours, or if no test used our components. Two tests of fvcore are
known to differ in the last bit. A run without network gives random weights to the models of the
model zoo, and the table names these tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tabulate import tabulate

TOOLS = Path(__file__).resolve().parent

SUITES: dict[str, tuple[str, ...]] = {
    "detectron2": (
        "tests/modeling/test_model_e2e.py",
        "tests/modeling/test_rpn.py",
        "tests/modeling/test_roi_heads.py",
        "tests/modeling/test_fast_rcnn.py",
        "tests/test_model_analysis.py",
        "tests/test_export_torchscript.py",
        "tests/test_export_onnx.py",
    ),
    "fvcore": ("tests/test_focal_loss.py",),
}
"""Package in a checkout -> its files of tests that concern us."""

LAST_BIT = "compares all bits with torch's cross entropy, and ours differs in the last one"

KNOWN = {
    "tests/test_focal_loss.py::TestFocalLoss::test_focal_loss_equals_ce_loss_multi_class": LAST_BIT,
    "tests/test_focal_loss.py::TestFocalLoss::test_mean_focal_loss_equals_ce_loss": LAST_BIT,
}
"""Test that our components are known to fail -> reason."""

SIDES = ("stock", "ours")

TIMEOUT_S = 7200


@dataclass(frozen=True)
class Outcome:
    """
    Outcome of a test.

    Attributes:
        outcome: "passed", "failed" or "skipped".
        reason: why it did not pass, or "".
        used: our components that it used.
        replaced: what it would have downloaded.
    """

    outcome: str
    reason: str = ""
    used: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Outcomes of one test with stock's components and with ours."""

    test: str
    stock: Outcome
    ours: Outcome

    @property
    def is_regression(self) -> bool:
        return self.stock.outcome == "passed" != self.ours.outcome and self.test not in KNOWN

    @property
    def is_shown(self) -> bool:
        return bool(self.ours.used) or {self.stock.outcome, self.ours.outcome} != {"passed"}

    def cells(self) -> tuple[str, ...]:
        reason = self.ours.reason or self.stock.reason
        if self.ours.outcome == "failed":
            reason = KNOWN.get(self.test, reason)
        notes = [*self.ours.replaced, *filter(None, [reason])]
        used = ", ".join(self.ours.used)
        return (self.test, self.stock.outcome, self.ours.outcome, used, "; ".join(notes))


ABSENT = Outcome("absent", "pytest did not report it")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit code."""
    args = _parser().parse_args(argv)
    checkout = args.checkout.resolve()
    files = [file for file in files_of(checkout) if args.file in file]
    if not files:
        print(f"{checkout} has none of the tests: {', '.join(chain(*SUITES.values()))}")
        return 2
    pairs = []
    for file in files:
        print(file, file=sys.stderr, flush=True)
        pairs += run_file(checkout, file, args.only)
    print(table(pairs))
    print(summary(pairs))
    return int(any(p.is_regression for p in pairs) or not any(p.ours.used for p in pairs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of the repository")
    parser.add_argument("--file", default="", help="part of the path of a file with tests")
    parser.add_argument("--only", default="", help="expression of names, as pytest's -k")
    return parser


def files_of(checkout: Path) -> list[str]:
    """Return the files of the suite that the checkout has."""
    suites = [files for package, files in SUITES.items() if (checkout / package).is_dir()]
    return [file for files in suites for file in files if (checkout / file).is_file()]


def run_file(checkout: Path, file: str, only: str) -> list[Pair]:
    """Run the tests of a file with stock's components and with ours."""
    stock, ours = (run_side(checkout, file, only, side) for side in SIDES)
    names = dict.fromkeys([*stock, *ours])
    return [Pair(name, stock.get(name, ABSENT), ours.get(name, ABSENT)) for name in names]


def run_side(checkout: Path, file: str, only: str, side: str) -> dict[str, Outcome]:
    """Return the outcomes by name; a crash is an outcome of the file."""
    with tempfile.TemporaryDirectory(prefix="upstream_tests_") as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        outcomes = folder / "outcomes.jsonl"
        outcomes.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "upstream_components"]
        command += ["-p", "no:cacheprovider", "-p", "no:warnings", "--import-mode", "importlib"]
        command += ["-c", str(folder / "pytest.ini"), "--rootdir", str(checkout), "-k", only]
        paths = [os.environ.get("PYTHONPATH", ""), str(TOOLS), str(TOOLS.parent)]
        environment = {
            **os.environ,
            "FOCAL_COMPONENTS": side,
            "FOCAL_OUTCOMES": str(outcomes),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CI": "1",  # Detectron2's CI leaves out its slowest tests where there is no GPU
        }
        try:
            result = subprocess.run(
                [*command, str(checkout / file)],
                capture_output=True,
                text=True,
                cwd=folder,
                env=environment,
                timeout=TIMEOUT_S,
            )
            crash = crash_of(result)
        except subprocess.TimeoutExpired:
            crash = f"not finished after {TIMEOUT_S} s"
        found = read_outcomes(outcomes.read_text().splitlines())
    if crash:
        found.setdefault(file, Outcome("failed", crash))
    return found


def crash_of(result: subprocess.CompletedProcess[str]) -> str:
    """Return why pytest did not run all tests, or ""."""
    if result.returncode in (0, 1, 5):  # all passed, some failed, none selected
        return ""
    lines = (result.stderr + result.stdout).strip().splitlines()
    return f"exit code {result.returncode}: {(lines or ['no message'])[-1]}"


def read_outcomes(lines: Iterable[str]) -> dict[str, Outcome]:
    """Return the outcomes by name; a failure in a test's tear-down replaces its success."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return {
        row["test"]: Outcome(
            row["outcome"], row["reason"], tuple(row["used"]), tuple(row["replaced"])
        )
        for row in rows
    }


def table(pairs: Sequence[Pair]) -> str:
    headers = ("test", "stock", "ours", "our components", "note")
    cells = [pair.cells() for pair in pairs if pair.is_shown]
    return tabulate(cells, headers=headers, tablefmt="github", disable_numparse=True)


def summary(pairs: Sequence[Pair]) -> str:
    """Return the numbers of tests by outcome, of those with our components and of all."""
    used = [pair for pair in pairs if pair.ours.used]
    counts = Counter(pair.ours.outcome for pair in used)
    words = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) or "none"
    failing = Counter(pair.ours.outcome for pair in pairs if pair not in used)
    others = ", ".join(f"{n} {outcome}" for outcome, n in sorted(failing.items())) or "none"
    regressions = sum(pair.is_regression for pair in pairs)
    known = sum(pair.ours.outcome == "failed" and pair.test in KNOWN for pair in pairs)
    return (
        f"{len(used)} tests used our components: {words}\n"
        f"{len(pairs) - len(used)} tests did not: {others}\n"
        f"{regressions} tests pass with stock and not with ours; {known} more are known to differ"
    )


if __name__ == "__main__":
    sys.exit(main())
