#!/usr/bin/env python3
"""
Write the generated parts of `docs/catalogue.md` from the registries, the config and the last
measurement.

    python tools/write_catalogue.py            # write the page
    python tools/write_catalogue.py --check    # exit 1 if it is not current
    python tools/write_catalogue.py --results runs/catalogue/table.json    # a new measurement

A component's row is its own docstring: the first sentence, the first indented formula, the first
arXiv number and the line under `Reported:`.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from focal_plugin import config, get_cfg, losses, mining
from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY
from focal_plugin.losses.build import STOCK_BOX_LOSSES
from focal_plugin.mining import MINER_REGISTRY
from focal_plugin.modeling import (
    RETINANET_HEAD_REGISTRY,
    PriorRPNHead,
    SoftmaxRPNHead,
    backbones,
    heads,
    matcher,
    retinanet,
)
from focal_plugin.modeling.normalizer import NORMALIZERS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "catalogue.md"
MEASURED = ROOT / "docs" / "catalogue.json"
SPEC = ROOT / "configs" / "comparisons" / "catalogue.yaml"
BASES = {"ohem": "ce", "ohem_1_3": "ce", "ssd_3_1": "ce", "top_k": "ce"}
BASES |= {"p6_p5": "p6_res5", "p6_maxpool": "p6_res5", "norm_global": "norm_batch"}
NOT_A_CHOICE = {"OUTPUT_DIR", "SEED"}


@dataclass(frozen=True)
class Section:
    """Components of one kind, and the keys by which an arm may be about one of them."""

    title: str
    name_key: str
    components: dict[str, Any]
    prefixes: tuple[str, ...]


LOSS_KEYS = ("MODEL.FOCAL.CLS_LOSS.", "MODEL.RETINANET.FOCAL_LOSS_")
SECTIONS = {
    "classification losses": Section(
        "classification loss", "MODEL.FOCAL.CLS_LOSS.NAME", dict(CLS_LOSS_REGISTRY), LOSS_KEYS
    ),
    "box losses": Section(
        "box loss",
        "MODEL.FOCAL.BOX_LOSS.NAME",
        dict(BOX_LOSS_REGISTRY),
        ("MODEL.FOCAL.BOX_LOSS.", "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA"),
    ),
    "miners": Section(
        "miner",
        "MODEL.FOCAL.MINING.NAME",
        dict(MINER_REGISTRY),
        ("MODEL.FOCAL.MINING.", *LOSS_KEYS),
    ),
    "heads": Section(
        "head", "MODEL.FOCAL.HEAD.NAME", dict(RETINANET_HEAD_REGISTRY), ("MODEL.FOCAL.HEAD.",)
    ),
    "RPN heads": Section(
        "RPN head",
        "MODEL.RPN.HEAD_NAME",
        {head.__name__: head for head in (PriorRPNHead, SoftmaxRPNHead)},
        ("MODEL.RPN.HEAD_NAME", "MODEL.FOCAL.RPN."),
    ),
    "normalisers": Section(
        "normaliser", "MODEL.FOCAL.NORMALIZER", NORMALIZERS, ("MODEL.FOCAL.NORMALIZER",)
    ),
}

# Keys that choose among ways of doing one thing, of which none is a class: key -> values
SWITCHES = {
    "MODEL.FOCAL.HEAD.CLASSIFIER": heads.CLASSIFIERS,
    "MODEL.FOCAL.FPN.TOP_BLOCK": backbones.TOP_BLOCKS,
    "MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY": matcher.LOW_QUALITY,
    "MODEL.FOCAL.ANCHOR_LABELS.CROWD": retinanet.CROWD_POLICIES,
}
STOCK_SWITCHES = (
    "MODEL.RETINANET.NORM",
    "MODEL.RETINANET.NUM_CONVS",
    "MODEL.RETINANET.PRIOR_PROB",
    "MODEL.FPN.NORM",
)


# --- what a docstring says


def sentence(doc: str) -> str:
    """The first sentence, as one line of Markdown."""
    first = " ".join(doc.split("\n\n")[0].split())
    return plain(re.split(r"(?<=\.) ", first)[0])


def formula(doc: str) -> str:
    """The first indented block, a line each; nothing if there is none."""
    block = re.search(r"\n\n((?: {4}.*\n?)+)", doc + "\n")
    if not block or re.match(r" *(Args|Reported):", doc[block.start() :]):
        return ""
    lines = textwrap.dedent(block[1]).strip("\n").split("\n")
    return "<br>".join(f"`{line.rstrip()}`" for line in lines)


def paper(doc: str) -> str:
    """A link to the first paper that is cited."""
    found = re.search(r"arXiv:(\d{4}\.\d{5})", doc)
    return f"[{found[1]}](https://arxiv.org/abs/{found[1]})" if found else ""


def reported(doc: str) -> str:
    """What stands under `Reported:`."""
    found = re.search(r"^Reported:\n((?: +.*\n?)+)", doc, re.MULTILINE)
    return plain(" ".join(found[1].split())) if found else ""


def plain(text: str) -> str:
    """Without the roles of Sphinx."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)


def function_of(component: type) -> Any:
    """The function that a module's docstring says it is one of; itself if there is none."""
    named = re.match(r"Module of :func:`(\w+)`", inspect.getdoc(component) or "")
    if not named:
        return component
    return getattr(losses, named[1], None) or getattr(mining, named[1])


# --- the tables


def component_rows(section: Section, arms: dict[str, Any]) -> Iterator[list[str]]:
    """A row for each component, in the order of registration."""
    for name, component in section.components.items():
        doc, class_doc = (inspect.getdoc(x) or "" for x in (function_of(component), component))
        keys = getattr(component, "config_keys", {}).values()
        yield [
            f"`{name}`",
            sentence(doc),
            formula(doc),
            "<br>".join(f"`{key}` {default_of(key)}" for key in keys),
            paper(doc) or paper(class_doc),
            reported(class_doc),
            "<br>".join(f"{arm}: {ap}" for arm, ap in arms_about(section, name, arms)),
        ]


def arms_about(section: Section, name: str, arms: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Arms that name a component and differ from the reference in nothing beside its section."""
    for arm, cfg in arms.items():
        different = differing_keys(arms["fl"], cfg)
        if name_of(cfg, section) == name and all(
            key.startswith(section.prefixes) for key in different
        ):
            yield arm, ap_of(arm)


def name_of(cfg: Any, section: Section) -> str:
    """The component that a config names; a box loss may have Detectron2's name."""
    if section.name_key == "MODEL.FOCAL.BOX_LOSS.NAME" and not cfg.MODEL.FOCAL.BOX_LOSS.NAME:
        return STOCK_BOX_LOSSES[cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE]
    return read(cfg, section.name_key)


def component_table(section: Section, arms: dict[str, Any]) -> str:
    """All components of a section."""
    header = [section.title, "what it is", "formula", "keys, defaults", "paper", "reported", "AP"]
    return markdown(list(component_rows(section, arms)), header)


def switch_table(arms: dict[str, Any]) -> str:
    """Each value of the switches, with the arms that differ in it alone, and their reference."""
    comments, rows = dict(commented_keys()), []
    for key in (*SWITCHES, *STOCK_SWITCHES):
        alone = [a for a, c in arms.items() if differing_keys(arms[BASES.get(a, "fl")], c) == [key]]
        shown = [*dict.fromkeys(BASES.get(arm, "fl") for arm in alone), *alone]
        values = SWITCHES.get(key) or dict.fromkeys(read(arms[arm], key) for arm in shown)
        for value in values:
            tried = [f"{arm}: {ap_of(arm)}" for arm in shown if read(arms[arm], key) == value]
            comment = comments.get(key, "Detectron2's own") if value == next(iter(values)) else ""
            rows.append(
                [f"`{key}`", f"`{value}`" if value else '`""`', comment, "<br>".join(tried)]
            )
    return markdown(rows, ["key", "value", "what it says", "AP"])


def key_table() -> str:
    """Every key that the package adds, with the comment that it has in `config.py`."""
    rows = [[f"`{key}`", default_of(key), comment] for key, comment in commented_keys()]
    return markdown(rows, ["key", "default", "what it says"])


def commented_keys() -> Iterator[tuple[str, str]]:
    """(full key, comment above it) of each assignment in `config.py`; keys in a row share one."""
    assignment = re.compile(r"(?:(\w+) = )?([\w.]+)\.([A-Z\d_]+) = (.+)")
    owners, comment, fresh = {"cfg.MODEL": "MODEL."}, "", True
    for line in map(str.strip, inspect.getsource(config.add_focal_config).split("\n")):
        if line.startswith("# "):
            comment, fresh = (line[2:] if fresh else f"{comment} {line[2:]}"), False
            continue
        fresh = True
        if found := assignment.fullmatch(line):
            alias, owner, name, value = found.groups()
            key = owners[owner] + name
            if value == "new_node()":
                owners[alias] = owners[f"{owner}.{name}"] = f"{key}."
            else:
                yield key, comment


def arm_table(arms: dict[str, Any]) -> str:
    """AP of each arm, beside the arm that it differs from by what the third column says."""
    results, rows = measured(), []
    for arm, cfg in arms.items():
        base = BASES.get(arm, "fl")
        keys = [f"`{k} {read(cfg, k)}`" for k in differing_keys(arms[base], cfg)]
        if arm not in results:
            rows.append([arm, base, "<br>".join(keys), ap_of(arm), *[""] * 5])
            continue
        ap, reference = results[arm]["ap"], results[base]["ap"]["AP"]
        numbers = [ap[name] for name in ("AP50", "AP75", "APs", "APm")]
        compares = arm != base and None not in (ap["AP"], reference)
        gain = f"{ap['AP'] - reference:+.1f}" if compares else ""
        reference_arm = base if arm != base else ""
        rows.append(
            [arm, reference_arm, "<br>".join(keys), ap_of(arm), *map(percent, numbers), gain]
        )
    header = [
        "arm",
        "reference",
        "differs in",
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "AP - reference",
    ]
    return markdown(rows, header)


# --- configs and results


@functools.cache
def load_arms() -> dict[str, Any]:
    """Arm -> resolved config, in the order of the comparison."""
    spec, arms = yaml.safe_load(SPEC.read_text()), {}
    for arm, file in spec["arms"].items():
        arms[arm] = get_cfg()
        arms[arm].merge_from_file(str((SPEC.parent / file).resolve()))
    return arms


@functools.cache
def measured() -> dict[str, Any]:
    """Arm -> what it was measured to be."""
    if not MEASURED.exists():
        return {}
    return {result["arm"]: result for result in json.loads(MEASURED.read_text())["results"]}


def take_over(table: Path) -> None:
    """Keep of a comparison's `table.json` what the page shows."""
    results = json.loads(table.read_text())
    kept = [{"arm": r["arm"], "seed": r["seed"], "ap": r["ap"]} for r in results]
    content = {"versions": results[0]["versions"], "results": kept}
    MEASURED.write_text(json.dumps(content, indent=1) + "\n")
    measured.cache_clear()


def ap_of(arm: str) -> str:
    """AP of an arm, with a remark where it is another's, digit by digit."""
    if arm not in measured():
        return "not measured"
    ap, base = measured()[arm]["ap"], BASES.get(arm, "fl")
    same = arm != base and ap == measured().get(base, {}).get("ap")
    return percent(ap["AP"]) + (f" (exactly {base}'s)" if same else "")


def percent(value: float | None) -> str:
    """One digit; COCO has no number where there is nothing to find."""
    return "-" if value is None else f"{value:.1f}"


def read(cfg: Any, full_key: str) -> Any:
    """The value of a key."""
    return functools.reduce(lambda node, part: node[part], full_key.split("."), cfg)


def default_of(full_key: str) -> str:
    """The default of a key, a float that is a fraction in few digits."""
    value = read(get_cfg(), full_key)
    return f"{value:.4g}" if isinstance(value, float) else str(value) or '""'


def differing_keys(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Full keys in which two configs differ, but for where a run goes."""
    found = []
    for key, value in one.items():
        if isinstance(value, dict):
            found += differing_keys(value, other[key], f"{prefix}{key}.")
        elif value != other[key] and key not in NOT_A_CHOICE:
            found.append(prefix + key)
    return found


def markdown(rows: list[list[str]], header: list[str]) -> str:
    """A table for GitHub, in which a bar is no border; not padded, so that a change is one line."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- the page


def generated() -> dict[str, str]:
    """Mark in the page -> what belongs between it and the end mark."""
    arms = load_arms()
    tables = {name: component_table(section, arms) for name, section in SECTIONS.items()}
    tables["switches"] = switch_table(arms)
    return {**tables, "keys": key_table(), "arms": arm_table(arms)}


def fill(page: str) -> str:
    """The page with today's tables between its marks."""
    for name, table in generated().items():
        begin, end = f"<!-- {name}: tools/write_catalogue.py -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"{PAGE} has no {begin} ... {end}")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if not current")
    parser.add_argument(
        "--results", type=Path, help="table.json of configs/comparisons/catalogue.yaml"
    )
    args = parser.parse_args()
    if args.results:
        take_over(args.results)
    page = PAGE.read_text(encoding="utf-8")
    current = fill(page)
    if args.check:
        return int(current != page)
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
