#!/usr/bin/env python3
"""
Write the generated parts of `docs/catalogue.md` and `docs/rpn-styles.md`.

They come from the registries, the config and the last measurement.

    python tools/write_catalogue.py            # write the pages
    python tools/write_catalogue.py --check    # exit 1 if a page is outdated
    python tools/write_catalogue.py --results runs/catalogue    # use a new measurement

The row of a component comes from its docstring: the first sentence, the first indented formula, the
first arXiv number and the text under `Reported:`.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import fill

from focal_plugin import arms as named_arms
from focal_plugin import assignment, config, get_cfg, losses, mining
from focal_plugin.compare.plan import comparison as plan_of_runs
from focal_plugin.compare.plan.spec_arms import ArmSpec
from focal_plugin.compare.plan.spec_file import read_spec
from focal_plugin.compare.runs.result import AVERAGES
from focal_plugin.compare.runs.run_folder import read_run_folders
from focal_plugin.data.loading.training_set import UNLABELED_POLICIES
from focal_plugin.losses import BAG_LOSS_REGISTRY, BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY
from focal_plugin.losses.build import STOCK_BOX_LOSSES
from focal_plugin.mining import MINER_REGISTRY
from focal_plugin.mining.libra import IOU_RANGES
from focal_plugin.modeling import (
    RETINANET_HEAD_REGISTRY,
    FocalCascadeROIHeads,
    FocalFastRCNNConvFCHead,
    FocalFastRCNNOutputLayers,
    FocalROIHeads,
    FocalRPN,
    OHEMCascadeROIHeads,
    OHEMROIHeads,
    PriorRPNHead,
    SampledCascadeROIHeads,
    SampledROIHeads,
    SoftmaxRPNHead,
    backbones,
    box_heads,
    dense_losses,
    fast_rcnn,
    heads,
    matcher,
    prime_samples,
    retinanet,
    roi_sampler,
    rpn,
)
from focal_plugin.modeling.assigners import ASSIGNERS, MAX_IOU
from focal_plugin.modeling.balance import BALANCES
from focal_plugin.modeling.norcal import NorCal
from focal_plugin.modeling.normalizer import NORMALIZERS, RPN_NORMALIZERS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MEASURED = DOCS / "catalogue.json"
NOT_A_CHOICE = {"OUTPUT_DIR", "SEED"}


@dataclass(frozen=True)
class Comparison:
    """
    File in configs/comparisons.

    Attributes:
        file: name of the file.
        family: family of its arms.
        prefix: prefix of the arm names in tables with arms of several comparisons.
    """

    file: str
    family: str
    prefix: str

    @property
    def reference(self) -> str:
        """Reference of an arm that builds on no other arm."""
        return named_arms.FAMILIES[self.family]

    @functools.cached_property
    def arms(self) -> dict[str, ArmSpec]:
        """Arms by name, in the order of the spec."""
        return read_spec(ROOT / "configs" / "comparisons" / self.file).arms

    def base(self, name: str) -> str:
        """Return the reference of an arm; for the reference itself, return its own name."""
        for full_name in self.arms[name].names[-1:]:
            applied = named_arms.load(full_name.rpartition("/")[2], self.family)
            based_on = applied.reference if applied.name == name else applied.name  # a variant
            if based_on in self.arms:
                return based_on
        return self.reference


ONE_STAGE = (
    Comparison("catalogue.yaml", "retinanet", prefix=""),
    Comparison("second_catalogue.yaml", "retinanet", prefix=""),
)
TWO_STAGE = (
    Comparison("two_stage.yaml", "faster_rcnn", prefix="faster_rcnn_"),
    Comparison("second_two_stage.yaml", "faster_rcnn", prefix="faster_rcnn_"),
)
RPN_STYLES = Comparison("shapes_rpn.yaml", "faster_rcnn", prefix="")
COMPARISONS = (*ONE_STAGE, *TWO_STAGE, RPN_STYLES)


@dataclass(frozen=True)
class Section:
    """Components of one kind, and the config keys that select one of them."""

    title: str
    name_key: str
    components: dict[str, Any]
    prefixes: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ONE_STAGE


def named(*components: type) -> dict[str, type]:
    """Return components that are in a registry of Detectron2, by name."""
    return {component.__name__: component for component in components}


LOSS_KEYS = ("MODEL.FOCAL.CLS_LOSS.", "MODEL.RETINANET.FOCAL_LOSS_")
DENSE_LOSSES = {
    name: loss for name, loss in CLS_LOSS_REGISTRY if loss().num_columns(1) == 1 + loss.softmax
}
SECTIONS = {
    "classification losses": Section(
        "classification loss", "MODEL.FOCAL.CLS_LOSS.NAME", DENSE_LOSSES, LOSS_KEYS
    ),
    "losses of RoI heads": Section(
        "classification loss of RoI heads",
        "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME",
        {name: loss for name, loss in CLS_LOSS_REGISTRY if name not in DENSE_LOSSES},
        ("MODEL.FOCAL.ROI_HEADS.",),
        TWO_STAGE,
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
    "assigners": Section(
        "assigner",
        "MODEL.FOCAL.ASSIGNER.NAME",
        ASSIGNERS,
        ("MODEL.FOCAL.ASSIGNER.", *LOSS_KEYS, "MODEL.FOCAL.BOX_LOSS.", "MODEL.FOCAL.NORMALIZER."),
    ),
    "bag losses": Section(
        "bag loss",
        "MODEL.FOCAL.BAG_LOSS.NAME",
        dict(BAG_LOSS_REGISTRY),
        (
            "MODEL.FOCAL.BAG_LOSS.",
            "MODEL.RETINANET.BBOX_REG_WEIGHTS",
            "MODEL.RETINANET.PRIOR_PROB",
        ),
    ),
    "heads": Section(
        "head", "MODEL.FOCAL.HEAD.NAME", dict(RETINANET_HEAD_REGISTRY), ("MODEL.FOCAL.HEAD.",)
    ),
    "normalizers": Section(
        "normalizer", "MODEL.FOCAL.NORMALIZER.NAME", NORMALIZERS, ("MODEL.FOCAL.NORMALIZER.NAME",)
    ),
    "balances": Section("balance", "MODEL.FOCAL.BALANCE.NAME", BALANCES, ("MODEL.FOCAL.BALANCE.",)),
    "prime samples": Section(
        "weights of positives",
        "MODEL.FOCAL.REWEIGHT.NAME",
        prime_samples.REWEIGHTINGS,
        ("MODEL.FOCAL.REWEIGHT.",),
    ),
    "RPN": Section(
        "proposal generator",
        "MODEL.PROPOSAL_GENERATOR.NAME",
        named(FocalRPN),
        ("MODEL.FOCAL.RPN.STYLE",),
        TWO_STAGE,
    ),
    "RPN heads": Section(
        "RPN head",
        "MODEL.RPN.HEAD_NAME",
        named(PriorRPNHead, SoftmaxRPNHead),
        ("MODEL.RPN.HEAD_NAME", "MODEL.FOCAL.RPN.PRIOR_PROB", "MODEL.FOCAL.RPN.NORM"),
        TWO_STAGE,
    ),
    "RoI heads": Section(
        "RoI heads",
        "MODEL.ROI_HEADS.NAME",
        named(
            FocalROIHeads,
            FocalCascadeROIHeads,
            OHEMROIHeads,
            OHEMCascadeROIHeads,
            SampledROIHeads,
            SampledCascadeROIHeads,
        ),
        ("MODEL.ROI_HEADS.", "MODEL.FOCAL.ROI_HEADS.", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"),
        TWO_STAGE,
    ),
    "output layers": Section(
        "output layers, box head",
        "MODEL.ROI_BOX_HEAD.NAME",
        named(FocalFastRCNNOutputLayers, NorCal, FocalFastRCNNConvFCHead),
        ("MODEL.FOCAL.ROI_BOX_HEAD.", "MODEL.ROI_BOX_HEAD.N", "MODEL.ROI_BOX_HEAD.CONV_DIM"),
        TWO_STAGE,
    ),
}

# Keys that choose among methods that are not classes: key -> values
SWITCHES = {
    "MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY": dense_losses.BOX_WEIGHTS,
    "MODEL.FOCAL.HEAD.CLASSIFIER": heads.CLASSIFIERS,
    "MODEL.FOCAL.FPN.TOP_BLOCK": backbones.TOP_BLOCKS,
    "MODEL.FOCAL.FPN.TOP_LEVELS": backbones.TOP_LEVELS,
    "MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY": matcher.LOW_QUALITY,
    "MODEL.FOCAL.ANCHOR_LABELS.CROWD": retinanet.CROWD_POLICIES,
    "MODEL.FOCAL.ANCHOR_LABELS.UNLABELED": UNLABELED_POLICIES,
    "MODEL.FOCAL.RPN.STYLE": rpn.STYLES,
    "MODEL.FOCAL.RPN.NORMALIZER": RPN_NORMALIZERS,
    "MODEL.FOCAL.RPN.LOW_QUALITY": matcher.LOW_QUALITY,
    "MODEL.FOCAL.RPN.MATCHED": rpn.MATCHED,
    "MODEL.FOCAL.RPN.CROWD": matcher.CROWD_RULES,
    "MODEL.FOCAL.RPN.ASSIGNER": (
        MAX_IOU,
        *(k for k, x in ASSIGNERS.items() if not x.needs_predictions),
    ),
    "MODEL.FOCAL.RPN.MINING.NAME": (*rpn.SAMPLING, *dict(MINER_REGISTRY)),
    "MODEL.FOCAL.ROI_HEADS.NORMALIZER": fast_rcnn.NORMALIZERS,
    "MODEL.FOCAL.ROI_HEADS.BOX_NORMALIZER": fast_rcnn.NORMALIZERS,
    "MODEL.FOCAL.ROI_HEADS.SAMPLER.POSITIVES": roi_sampler.POSITIVES,
    "MODEL.FOCAL.ROI_HEADS.SAMPLER.NEGATIVES": roi_sampler.NEGATIVES,
    "MODEL.FOCAL.ROI_HEADS.SAMPLER.IOU_RANGE": IOU_RANGES,
    "MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER": box_heads.NORM_ORDERS,
}
STOCK_SWITCHES = (
    "DATALOADER.SAMPLER_TRAIN",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
    "MODEL.RETINANET.NORM",
    "MODEL.RETINANET.NUM_CONVS",
    "MODEL.RETINANET.PRIOR_PROB",
    "MODEL.FPN.NORM",
    "MODEL.ROI_BOX_HEAD.NORM",
)


# --- content of docstrings


def sentence(doc: str) -> str:
    """Return the first sentence as one line of Markdown, a noun phrase."""
    first = " ".join(doc.split("\n\n")[0].split())
    first = re.sub(r"^(?:Compute|Return|Select) (?:the )?", "", re.split(r"(?<=\.) ", first)[0])
    return plain(first[0].upper() + first[1:])


def formula(doc: str) -> str:
    """Return the first indented block, one entry per line; "" if there is none."""
    block = re.search(r"\n\n((?: {4}.*\n?)+)", doc + "\n")
    if not block or re.match(r" *(Args|Reported):", doc[block.start() :]):
        return ""
    lines = textwrap.dedent(block[1]).strip("\n").split("\n")
    return "<br>".join(f"`{line.rstrip()}`" for line in lines)


def paper(doc: str) -> str:
    """Return a link to the first cited paper, by its arXiv number or else by its DOI."""
    if found := re.search(r"arXiv:(\d{4}\.\d{5})", doc):
        return f"[{found[1]}](https://arxiv.org/abs/{found[1]})"
    found = re.search(r"doi:(10\.\d+/[^\s),]+)", doc)
    return f"[{found[1]}](https://doi.org/{found[1]})" if found else ""


def reported(doc: str) -> str:
    """Return the text under `Reported:`."""
    found = re.search(r"^Reported:\n((?: +.*\n?)+)", doc, re.MULTILINE)
    return plain(" ".join(found[1].split())) if found else ""


def plain(text: str) -> str:
    """Return a text without the roles of Sphinx."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)


def function_of(component: type) -> Any:
    """Return the function that the docstring of a module names, or the component itself."""
    named = re.match(r"Module of :func:`(\w+)`", inspect.getdoc(component) or "")
    if not named:
        return component
    packages = (losses, mining, assignment)
    return next(getattr(package, named[1]) for package in packages if hasattr(package, named[1]))


# --- the tables


def component_rows(section: Section) -> Iterator[list[str]]:
    """Yield a row for each component, in the order of registration."""
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
            "<br>".join(f"{arm}: {ap}" for arm, ap in arms_about(section, name)),
        ]


def arms_about(section: Section, name: str) -> Iterator[tuple[str, str]]:
    """Yield arms that name a component and differ from the reference only in its section."""
    for comparison in section.comparisons:
        arms = load_arms(comparison)
        for arm, cfg in arms.items():
            different = differing_keys(arms[comparison.reference], cfg)
            if name_of(cfg, section) == name and all(
                key.startswith(section.prefixes) for key in different
            ):
                yield comparison.prefix + arm, ap_of(comparison, arm)


def name_of(cfg: Any, section: Section) -> str:
    """Return the component that a config names; a box loss may have Detectron2's name."""
    if section.name_key == "MODEL.FOCAL.BOX_LOSS.NAME" and not cfg.MODEL.FOCAL.BOX_LOSS.NAME:
        return STOCK_BOX_LOSSES[cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE]
    return read(cfg, section.name_key)


def component_table(section: Section) -> str:
    """Return a table of all components of a section."""
    header = [section.title, "what it is", "formula", "keys, defaults", "paper", "reported", "AP"]
    return markdown(list(component_rows(section)), header)


def switch_table() -> str:
    """Return each switch value, with the arms that differ only in it, and their reference."""
    comments, rows = dict(commented_keys()), []
    for key in (*SWITCHES, *STOCK_SWITCHES):
        shown = [pair for one in (*ONE_STAGE, *TWO_STAGE) for pair in arms_that_switch(one, key)]
        values = SWITCHES.get(key) or dict.fromkeys(read(cfg, key) for _, cfg in shown)
        for value in values:
            tried = [label for label, cfg in shown if read(cfg, key) == value]
            comment = comments.get(key, "Detectron2's own") if value == next(iter(values)) else ""
            rows.append([f"`{key}`", code(value), comment, "<br>".join(tried)])
    return markdown(rows, ["key", "value", "what it says", "AP"])


def arms_that_switch(comparison: Comparison, key: str) -> Iterator[tuple[str, Any]]:
    """
    Yield ("arm: AP", config) of each arm that differs from its reference only in this key.

    The references come first. Values that an RPN's style sets count as set.
    """
    arms = load_arms(comparison)
    alone = [a for a, c in arms.items() if differing_keys(arms[comparison.base(a)], c) == [key]]
    for arm in (*dict.fromkeys(map(comparison.base, alone)), *alone):
        label = f"{comparison.prefix}{arm}: {ap_of(comparison, arm)}"
        yield label, rpn.with_style(arms[arm])


def style_table() -> str:
    """Return the values of each key in the RPN styles; keys in which they differ come first."""
    keys = sorted(
        next(iter(rpn.STYLES.values())),
        key=lambda key: len({str(style[key]) for style in rpn.STYLES.values()}) == 1,
    )
    rows = []
    for key in keys:
        values = [code(style[key]) for style in rpn.STYLES.values()]
        first, *others = values
        rows.append([f"`{key}`", first, *(f"**{x}**" if x != first else x for x in others)])
    return markdown(rows, ["`MODEL.FOCAL.RPN.`", *rpn.STYLES])


def seeds_table() -> str:
    """Return AP of each arm of the style comparison: every seed, mean, standard deviation."""
    by_arm: dict[str, list[Any]] = {}
    for result in results_of(RPN_STYLES):
        by_arm.setdefault(result["arm"], []).append(result["ap"])
    rows = []
    for arm, averages in by_arm.items():
        cells = []
        for name in ("AP", "AP50", "AP75"):
            values = [ap[name] for ap in averages]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        rows.append([arm, ", ".join(percent(ap["AP"]) for ap in averages), *cells])
    return markdown(rows, ["arm", "AP of each seed", "AP", "AP50", "AP75"])


def key_table() -> str:
    """Return every key that the package adds, with its comment in `config.py`."""
    rows = [
        [f"`{key}`", "" if key.endswith("*") else default_of(key), comment]
        for key, comment in commented_keys()
    ]
    return markdown(rows, ["key", "default", "what it says"])


def commented_keys() -> Iterator[tuple[str, str]]:
    """
    Yield (full key, comment above it) of each assignment in `config.py`.

    Consecutive keys share a comment. Options that are copied from another node are one entry, with
    that node instead of a comment.
    """
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
            if value == "new_node()" or value.startswith("_options_of("):
                owners[alias] = owners[f"{owner}.{name}"] = f"{key}."
                if value != "new_node()":
                    yield f"{key}.*", f"options as in `MODEL.FOCAL.{name}`"
            else:
                yield key, comment


def arm_table(comparison: Comparison) -> str:
    """Return AP of each arm, with its reference and the keys in which they differ."""
    arms, results, rows = load_arms(comparison), measured(comparison), []
    for arm, cfg in arms.items():
        base = comparison.base(arm)
        keys = [f"`{k} {read(cfg, k)}`" for k in differing_keys(arms[base], cfg)]
        numbers = [mean_of(results.get(arm, []), x) for x in ("AP50", "AP75", "APs", "APm")]
        gain = None if arm == base else mean_gain(results.get(arm, []), results.get(base, []))
        rows.append(
            [
                arm,
                base if arm != base else "",
                "<br>".join(keys),
                ap_of(comparison, arm),
                *(map(percent, numbers) if arm in results else [""] * 4),
                "" if gain is None else f"{gain:+.1f}",
            ]
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
def load_arms(comparison: Comparison) -> dict[str, Any]:
    """Return arm -> resolved config, in the order of the comparison."""
    configs = {}
    for name, arm in comparison.arms.items():
        configs[name] = get_cfg()
        configs[name].merge_from_file(str(arm.config_file))
        named_arms.apply(configs[name], *arm.names)
        configs[name].merge_from_list(list(arm.opts))
    return configs


@functools.cache
def all_results() -> dict[str, Any]:
    """Return name of a comparison's file -> its versions and results."""
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else {}


def results_of(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the results of a comparison, by arm and seed."""
    return all_results().get(comparison.file, {}).get("results", [])


def measured(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Return arm -> results of its seeds."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for result in results_of(comparison):
        by_arm.setdefault(result["arm"], []).append(result)
    return by_arm


def mean_of(results: list[dict[str, Any]], name: str) -> float | None:
    """Return the mean of an average precision over seeds; None without a number."""
    values = [result["ap"][name] for result in results if result["ap"][name] is not None]
    return statistics.mean(values) if values else None


def mean_gain(results: list[dict[str, Any]], reference: list[dict[str, Any]]) -> float | None:
    """Return the mean gain in AP over the seeds of both; None if there is none."""
    own, other = ({x["seed"]: x["ap"]["AP"] for x in each} for each in (results, reference))
    pairs = [(ap, other.get(seed)) for seed, ap in own.items()]
    gains = [ap - before for ap, before in pairs if ap is not None and before is not None]
    return statistics.mean(gains) if gains else None


def take_over(folder: Path, *, unfinished: bool) -> None:
    """
    Store the results of a comparison that the pages show.

    Args:
        unfinished: True if runs may be missing. Older results of them stay.

    Raises:
        ValueError: no page shows the comparison, or not all of its runs have finished.
    """
    plan = plan_of_runs.Comparison.read(folder)
    file = f"{plan.name}.yaml"
    if file not in {comparison.file for comparison in COMPARISONS}:
        raise ValueError(f"{folder} contains {plan.name}, which no page shows")
    runs = read_run_folders(plan, folder)
    missing = sum(run.state not in {"done", "failed"} for run in runs)
    if missing and not unfinished:
        raise ValueError(f"{folder}: {missing} of {len(runs)} runs have not finished")
    kept: list[dict[str, Any]] = []
    for run in (run for run in runs if run.state in {"done", "failed"}):
        one: dict[str, Any] = {"arm": run.run.arm, "seed": run.run.seed}
        if run.result is None:
            one |= {"ap": dict.fromkeys(AVERAGES), "failed": run.status.reason}
        else:
            one["ap"] = run.result.ap
        kept.append(one)
    if unfinished:
        new = {(one["arm"], one["seed"]) for one in kept}
        older = all_results().get(file, {}).get("results", [])
        kept += [one for one in older if (one["arm"], one["seed"]) not in new]
    versions = next(run.result.versions for run in runs if run.result is not None)
    content = {**all_results(), file: {"versions": versions, "results": kept}}
    MEASURED.write_text(json.dumps(content, indent=1) + "\n")
    all_results.cache_clear()


def ap_of(comparison: Comparison, arm: str) -> str:
    """
    Return AP of an arm, with a remark if it equals that of its reference exactly.

    With several seeds it is the mean and the standard deviation.
    """
    results, base = measured(comparison), comparison.base(arm)
    of_arm = results.get(arm, [])
    done = [result["ap"] for result in of_arm if "failed" not in result]
    failures = [result["failed"] for result in of_arm if "failed" in result]
    if not of_arm:
        return "not measured"
    if not done:
        return f"failed: {failures[0]}"
    text = percent(mean_of(of_arm, "AP"))
    if len(done) > 1:
        text += f" ± {statistics.stdev(ap['AP'] for ap in done):.1f} ({len(done)} seeds)"
    if failures:
        text += f"; {len(failures)} of {len(of_arm)} seeds failed: {failures[0]}"
    same = arm != base and done == [result["ap"] for result in results.get(base, [])]
    return text + (f" (exactly {base}'s)" if same else "")


def code(value: Any) -> str:
    """Return the value of a key as it is written in a config."""
    if isinstance(value, float):
        value = f"{value:.4g}"
    return f"`{value}`" if value != "" else '`""`'


def percent(value: float | None) -> str:
    """Return a number with one digit; COCO has no number if there are no objects."""
    return "-" if value is None else f"{value:.1f}"


def read(cfg: Any, full_key: str) -> Any:
    """Return the value of a key."""
    return functools.reduce(lambda node, part: node[part], full_key.split("."), cfg)


def default_of(full_key: str) -> str:
    """Return the default of a key; a float that is a fraction has few digits."""
    value = read(get_cfg(), full_key)
    return f"{value:.4g}" if isinstance(value, float) else str(value) or '""'


def differing_keys(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Return the full keys in which two configs differ, except for the output folder."""
    found = []
    for key, value in one.items():
        if isinstance(value, dict):
            found += differing_keys(value, other[key], f"{prefix}{key}.")
        elif value != other[key] and key not in NOT_A_CHOICE:
            found.append(prefix + key)
    return found


def markdown(rows: list[list[str]], header: list[str]) -> str:
    """Return a GitHub table with escaped bars, not padded, so that a change affects one line."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- the page


def generated() -> dict[Path, dict[str, str]]:
    """Return page -> mark in it -> content between it and the end mark."""
    catalogue = {name: component_table(section) for name, section in SECTIONS.items()}
    catalogue["switches"] = switch_table()
    catalogue["keys"] = key_table()
    for title, comparisons in {"arms": ONE_STAGE, "two-stage arms": TWO_STAGE}.items():
        catalogue[title], catalogue[f"second {title}"] = map(arm_table, comparisons)
    styles = {"styles": style_table(), "seeds": seeds_table()}
    return {DOCS / "catalogue.md": catalogue, DOCS / "rpn-styles.md": styles}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    parser.add_argument(
        "--results", type=Path, metavar="RUNS_DIR", help="output folder of `focal-compare run`"
    )
    parser.add_argument(
        "--unfinished",
        action="store_true",
        help="with --results: runs may be missing, and keep their older results",
    )
    args = parser.parse_args()
    if args.results:
        take_over(args.results, unfinished=args.unfinished)
    current = True
    for file, tables in generated().items():
        old = file.read_text(encoding="utf-8")
        new = old
        for name, table in tables.items():
            new = fill(new, name, "write_catalogue", table)
        current = current and new == old
        if not args.check:
            file.write_text(new, encoding="utf-8")
    return int(args.check and not current)


if __name__ == "__main__":
    sys.exit(main())
