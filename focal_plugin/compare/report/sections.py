"""Sections of a report: their order, titles and content, the same for every format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby

from ...pages.table import Table
from ..analysis.scores import Standing
from ..analysis.summary import Summary
from . import (
    class_tables,
    csv_tables,
    end_sentences,
    merging,
    operating_tables,
    recipe_table,
    sentences,
    tables,
    tuning_section,
)
from .balance_section import balance_rows, balance_sentences, balance_table
from .csv_tables import Cell
from .files_section import LEAD, file_rows, file_sentences, file_table
from .how_to_report import bibtex, how_to_report
from .list_section import list_rows, list_sentences, list_table
from .uncertainty_table import uncertainty_rows, uncertainty_table

CHAPTERS = {
    "before": "Before training",
    "verdict": "Verdict",
    "certainty": "Certainty",
    "sources": "Sources of the differences",
    "operating": "Operating points and calibration",
    "training": "Training",
    "cost": "Cost",
    "fairness": "Fairness",
    "provenance": "Provenance",
    "citation": "How to report this",
}
"""Id of a chapter -> its title, in the order of the report."""

Rows = Callable[[Summary], Iterable[Iterable[Cell]]]


@dataclass(frozen=True)
class Section:
    """
    One section of a report. Everything but its place and title is optional.

    Attributes:
        chapter: one of :data:`CHAPTERS`.
        title: heading, or function that makes it; "" for none.
        table: function that makes the table, or several tables.
        figures: names of figures; `*` stands for any text.
        sentences: function that makes the list of sentences.
        lead: function that makes the paragraph before everything else; "" for none.
        code: function that makes text to copy, at the end; "" for none.
        csv: CSV file -> function that makes its rows.
        standing: function that returns the standing that the section is about. Without a standing
            there is no section, and with only one of two its title is left out.
        trained: True for a section that only runs have, False for one that only judged files have.
    """

    name: str
    chapter: str
    title: str | Callable[[Summary], str] = ""
    table: Callable[[Summary], Table | list[Table] | None] = lambda summary: None
    figures: tuple[str, ...] = ()
    sentences: Callable[[Summary], list[str]] = lambda summary: []
    lead: Callable[[Summary], str] = lambda summary: ""
    code: Callable[[Summary], str] = lambda summary: ""
    csv: tuple[tuple[str, Rows], ...] = ()
    standing: Callable[[Summary], Standing | None] | None = None
    trained: bool | None = None


def _verdict_section(
    name: str,
    title: Callable[[Summary], str],
    figure: str,
    standing: Callable[[Summary], Standing | None],
    **more: Rows,
) -> Section:
    """Return the section of the verdicts at one choice of settings."""

    def of(summary: Summary) -> Standing:
        found = standing(summary)
        assert found is not None  # `contents` skips the section otherwise
        return found

    return Section(
        name=name,
        chapter="verdict",
        title=title,
        table=lambda summary: tables.verdict_table(summary, of(summary)),
        sentences=lambda summary: merging.standing_lines(of(summary), summary.reference),
        figures=(figure,),
        csv=tuple((f"{file}.csv", rows) for file, rows in more.items()),
        standing=standing,
    )


SECTIONS = (
    Section(
        "audit",
        "before",
        lead=sentences.audit_lead,
        sentences=lambda summary: list(summary.red),
        trained=True,
    ),
    Section("recipe", "before", "Recipe", recipe_table.recipe_table),
    _verdict_section(
        "verdicts",
        tuning_section.at_equal,
        "forest",
        lambda summary: summary.equal,
        arms=csv_tables.arm_rows,
        differences=csv_tables.difference_rows,
    ),
    _verdict_section(
        "verdicts-best",
        tuning_section.at_best,
        "forest-best",
        lambda summary: summary.best,
    ),
    Section(
        "test-sets",
        "verdict",
        "Every test set",
        tables.test_set_table,
        csv=(("test_sets.csv", csv_tables.test_set_rows),),
        trained=True,
    ),
    Section(
        "tuning",
        "verdict",
        lambda summary: f"Tuning of the {tuning_section.tuned_name(summary)}",
        tuning_section.tuning_table,
        csv=(("tuning.csv", tuning_section.tuning_rows),),
        trained=True,
    ),
    Section(
        "seeds",
        "certainty",
        "Number of seeds to find a difference",
        lead=sentences.spread_lead,
        sentences=lambda summary: [
            *merging.recommendation_lines(summary),
            *sentences.unusual_sentences(summary),
        ],
    ),
    Section(
        "uncertainty",
        "certainty",
        "Seeds and test images",
        uncertainty_table,
        csv=(("uncertainty.csv", uncertainty_rows),),
    ),
    Section(
        "images",
        "certainty",
        "Other test images",
        tables.image_table,
        csv=(("images.csv", csv_tables.image_rows),),
    ),
    Section(
        "averages",
        "sources",
        "Averages",
        tables.averages_table,
        ("ap-by-size",),
        lambda summary: sentences.problem_sentences(summary.detections.problems, summary.reference),
    ),
    Section(
        "lists",
        "sources",
        "Detections and score cut-off",
        list_table,
        sentences=list_sentences,
        csv=(("detections.csv", list_rows),),
    ),
    Section(
        "classes",
        "sources",
        "Classes",
        tables.class_table,
        ("ap-by-class",),
        csv=(("per_class.csv", csv_tables.class_rows),),
    ),
    Section(
        "class-differences",
        "sources",
        "Differences by class and by size",
        class_tables.difference_tables,
        ("difference-by-class",),
        lead=class_tables.secondary_lead,
        csv=(
            ("class_differences.csv", class_tables.class_difference_rows),
            ("part_differences.csv", class_tables.part_difference_rows),
        ),
    ),
    Section(
        "errors",
        "sources",
        "Error types",
        tables.error_table,
        ("error-types",),
        csv=(("error_types.csv", csv_tables.error_rows),),
    ),
    Section("curves", "sources", "Precision and recall", figures=("precision-recall",)),
    Section("pictures", "sources", "Images on which the arms differ most"),
    Section(
        "operating-points",
        "operating",
        "Precision, recall and F1",
        operating_tables.operating_tables,
        lead=operating_tables.operating_lead,
        csv=(("decisions.csv", operating_tables.decision_rows),),
    ),
    Section(
        "thresholds",
        "operating",
        "Thresholds of the classes",
        operating_tables.threshold_table,
        csv=(("decisions_by_class.csv", operating_tables.class_decision_rows),),
    ),
    Section(
        "confusion",
        "operating",
        "Confusion",
        operating_tables.confusion_table,
        ("confusion",),
        csv=(("confusion.csv", operating_tables.confusion_rows),),
    ),
    Section(
        "calibration",
        "operating",
        "Calibration of the scores",
        operating_tables.calibration_tables,
        ("reliability",),
        csv=(("reliability.csv", operating_tables.reliability_rows),),
    ),
    Section("olrp", "operating", "Localisation recall precision", operating_tables.lrp_tables),
    Section(
        "progress",
        "training",
        "AP over training",
        figures=("ap-over-training",),
        sentences=end_sentences.end_of_training_sentences,
    ),
    Section(
        "losses",
        "training",
        "Losses and gradients",
        figures=("training", "gradient-norms"),
        lead=sentences.training_lead,
        csv=(("curves.csv", csv_tables.curve_rows),),
        trained=True,
    ),
    Section(
        "anchors",
        "training",
        "Loss of single anchors",
        tables.audit_tables,
        ("loss-cdf-*", "gradient-histogram-*"),
        lambda summary: sentences.problem_sentences(summary.losses.problems, summary.reference),
        sentences.anchors_lead,
        csv=(("loss_audit.csv", csv_tables.audit_rows),),
        trained=True,
    ),
    Section(
        "costs",
        "cost",
        "",
        tables.cost_table,
        ("cost",),
        end_sentences.machine_sentences,
        sentences.cost_lead,
        trained=True,
    ),
    Section(
        "fairness",
        "fairness",
        lead=lambda summary: sentences.FAIRNESS,
        sentences=sentences.fairness_sentences,
        trained=True,
    ),
    Section(
        "configs",
        "fairness",
        "Config keys in which arms differ",
        tables.config_table,
        csv=(("configs.csv", csv_tables.config_rows),),
        trained=True,
    ),
    Section("starts", "fairness", "Start of training", tables.start_table, trained=True),
    Section(
        "balance",
        "fairness",
        "Balance of classification and box loss",
        balance_table,
        sentences=balance_sentences,
        csv=(("balance.csv", balance_rows),),
        trained=True,
    ),
    Section(
        "versions",
        "provenance",
        "Versions",
        tables.fact_table,
        sentences=lambda summary: sentences.provenance_sentences(summary.provenance),
        lead=sentences.versions_lead,
        trained=True,
    ),
    Section("data", "provenance", "Datasets", tables.data_table),
    Section(
        "runs",
        "provenance",
        "All runs",
        tables.run_table,
        lead=lambda summary: sentences.AP_SOURCE,
        sentences=lambda summary: sentences.problem_sentences(summary.problems, summary.reference),
        csv=(("runs.csv", csv_tables.run_rows),),
        trained=True,
    ),
    Section(
        "files",
        "provenance",
        "Judged files",
        file_table,
        lead=lambda summary: LEAD,
        sentences=file_sentences,
        csv=(("files.csv", file_rows),),
        trained=False,
    ),
    Section("citation", "citation", lead=how_to_report, code=bibtex),
)
"""All sections, in the order of the report."""


@dataclass(frozen=True)
class Content:
    """
    Content of one section for one summary.

    Attributes:
        figures: names of the figures that were drawn.
    """

    section: Section
    title: str
    lead: str
    sentences: list[str]
    tables: list[Table]
    figures: list[str]
    code: str


def _title(section: Section, summary: Summary) -> str:
    return section.title if isinstance(section.title, str) else section.title(summary)


def sections_of(summary: Summary) -> list[Section]:
    """Return the sections that a summary can have: of runs, or of judged files."""
    return [s for s in SECTIONS if s.trained is None or s.trained == summary.trained]


def contents(
    summary: Summary, figures: Collection[str] = (), more: Collection[str] = ()
) -> list[Content]:
    """
    Return the sections that have any content, in the order of the report.

    Args:
        figures: names of the figures that were drawn.
        more: names of sections that the writer adds content of its own to.
    """
    found = []
    for section in sections_of(summary):
        if section.standing is not None and section.standing(summary) is None:
            continue
        made = section.table(summary)
        content = Content(
            section=section,
            title="" if section.standing and summary.best is None else _title(section, summary),
            lead=section.lead(summary),
            sentences=section.sentences(summary),
            tables=made if isinstance(made, list) else [made] if made else [],
            figures=[name for p in section.figures for name in figures if fnmatch(name, p)],
            code=section.code(summary),
        )
        has_own = content.lead or content.sentences or content.tables or content.figures
        if has_own or section.name in more:
            found.append(content)
    return found


def chapters(shown: Iterable[Content]) -> list[tuple[str, str, list[Content]]]:
    """Return id, title and sections of each chapter, in the order of the report."""
    return [
        (id_, CHAPTERS[id_], list(of_chapter))
        for id_, of_chapter in groupby(shown, key=lambda content: content.section.chapter)
    ]
