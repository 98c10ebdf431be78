"""Content of the `env.json` of a run: versions, machine and datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...json_file import read_object
from ...run_folder import ENVIRONMENT_FILE


@dataclass(frozen=True)
class RecordedData:
    """
    Facts of a dataset as a run recorded them; None if the dataset is not a COCO json.

    Attributes:
        json_sha256: digest of the annotation file.
        classes: names, in the order of the category ids.
        annotations_per_class: in the order of ``classes``.
        images_per_class: images with such an annotation, in the order of ``classes``.
    """

    name: str
    json_file: str | None = None
    image_root: str | None = None
    json_sha256: str | None = None
    images: int | None = None
    annotations: int | None = None
    crowds: int | None = None
    classes: tuple[str, ...] | None = None
    annotations_per_class: tuple[int, ...] | None = None
    images_per_class: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for key in ("annotations_per_class", "images_per_class"):
            counts = getattr(self, key)
            if counts is not None and len(counts) != len(self.classes or ()):
                raise ValueError(f"{key} of {self.name} must have one entry per class")


@dataclass(frozen=True)
class RecordedSets:
    """Datasets of a run by their use."""

    train: tuple[RecordedData, ...] = ()
    test: tuple[RecordedData, ...] = ()


@dataclass(frozen=True)
class Checkout:
    """Commit of the code; ``dirty`` if the repository had uncommitted changes."""

    commit: str | None = None
    dirty: bool = False


@dataclass(frozen=True)
class Environment:
    """
    Versions, machine and datasets of a run; None for what it did not record.

    Attributes:
        versions: package name -> version; None for a package that is not installed.
        git: state of the repository of the code; None outside of one.
        components: components from outside of this package -> digest of their source.
        started: time of the last start, ISO 8601 in UTC.
        load_average: processes that wanted a processor in the minute before it.
        processors: number of processors of the machine.
    """

    versions: dict[str, str | None] = field(default_factory=dict)
    git: Checkout | None = None
    platform: str | None = None
    device: str | None = None
    threads: int | None = None
    components: dict[str, str] = field(default_factory=dict)
    datasets: RecordedSets = RecordedSets()
    started: str | None = None
    load_average: float | None = None
    processors: int | None = None

    @property
    def train(self) -> tuple[RecordedData, ...]:
        """Training sets of the run."""
        return self.datasets.train

    @property
    def test(self) -> tuple[RecordedData, ...]:
        """Test sets of the run."""
        return self.datasets.test

    @classmethod
    def read(cls, folder: Path) -> Environment | None:
        """
        Read `env.json`; return None if the run did not get that far.

        Raises:
            DamagedFileError: the file cannot be read, or does not describe a run.
        """
        return read_object(cls, folder / ENVIRONMENT_FILE)
