"""Content of the two files of `focal-plugin init`: the base config and the spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from .. import arms
from .design import ARMS, Design
from .sources import Sources
from .yaml_files import config_text, path_text, spec_text

BASE, SPEC = "base.yaml", "compare.yaml"

REFERENCE = ARMS[0]
"""Arm that the others are compared with: no remedy."""


def base_text(size: str, sources: Sources, found: Design) -> str:
    """Return the text of `base.yaml`."""
    flags = "".join(f" --dataset {data.name}=JSON:IMAGES" for data in sources.files)
    header = [
        f"Written by `focal-plugin init --size {size}`; change what you know better.",
        f"{SPEC} compares answers to imbalance on top of it. To train it alone:",
        f"    python train_net.py --config-file {BASE}{flags}",
    ]
    return config_text(header, found.draft.settings.values())


def compare_text(
    name: str,
    command: str,
    folder: Path,
    sources: Sources,
    found: Design,
    *,
    seeds: int,
    imports: Sequence[str],
) -> str:
    """
    Return the text of `compare.yaml`.

    Args:
        name: of the comparison.
        command: runs it.
        folder: of the file, or a folder beside it.
        imports: modules and files of `--import`.
    """
    schedule = found.schedule
    iterations = len(ARMS) * seeds * schedule.iterations
    entries: list[tuple[str, Any, str]] = [
        ("name", name, "title of the report, and folder below runs/"),
        ("base", BASE, "what all arms share"),
    ]
    if imports:
        modules = [_import_text(name, folder) for name in imports]
        entries.append(("imports", modules, "modules that register datasets or components"))
    if sources.files:
        entries.append(("datasets", _datasets(sources, found, folder), "paths seen from this file"))
    entries += [
        ("arms", [(name, _about(found.draft.cfg, name)) for name in ARMS], ""),
        ("reference", REFERENCE, "no remedy: every other arm is compared with it"),
        ("seeds", seeds, "fewer than 4 give no verdict; more find smaller differences"),
        (
            "budget",
            {
                "iterations": (schedule.iterations, "of each run; STEPS and WARMUP_ITERS scale"),
                "total_iterations": (iterations, "of all runs; a larger comparison is refused"),
            },
            "",
        ),
    ]
    header = [
        "Which answer to imbalance helps on these images?",
        f"    {command}",
    ]
    return spec_text(header, entries)


def _about(cfg: CfgNode, name: str) -> str:
    arm = arms.load_for(cfg, name)
    loss = " The loss is that of the base, focal loss." if arm.family == arms.DATA else ""
    return f"{arm.about}{loss}"


def _datasets(sources: Sources, found: Design, folder: Path) -> dict[str, tuple[str, str]]:
    tables = {sources.train: found.train, sources.test: found.test}
    return {
        data.name: (
            f"{path_text(data.json_file, folder)}:{path_text(data.image_root, folder)}",
            f"{len(tables[data.name].file_names)} images",
        )
        for data in sources.files
    }


def _import_text(name: str, folder: Path) -> str:
    return path_text(Path(name), folder) if name.endswith(".py") else name
