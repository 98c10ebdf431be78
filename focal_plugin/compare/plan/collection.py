"""Comparisons of one spec on several datasets or folds, and the file that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...files import write_json
from ...json_file import DamagedFileError, read_object
from .comparison import Comparison, slug

COLLECTION_FILE = "collection.json"
KINDS = ("dataset", "fold")


@dataclass(frozen=True)
class Member:
    """
    Comparison on one dataset or fold.

    Attributes:
        folder: its folder below that of the collection.
    """

    name: str
    folder: str


@dataclass(frozen=True)
class Collection:
    """
    Comparisons of the same arms, each in a folder of its own.

    Attributes:
        name: name in the spec, or else of its file.
        kind: one of :data:`KINDS`.
        members: in the order of the spec.
    """

    name: str
    kind: str
    members: tuple[Member, ...]

    @classmethod
    def of(cls, name: str, kind: str, comparisons: Sequence[Comparison]) -> Collection:
        """Return the collection of the comparisons of a spec."""
        return cls(name, kind, tuple(Member(c.part, slug(c.part)) for c in comparisons))

    def write(self, folder: Path) -> None:
        """Write `collection.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / COLLECTION_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Collection | None:
        """
        Read `collection.json`; None if the folder is that of a comparison on one dataset.

        Raises:
            ValueError: the file is damaged.
        """
        file = folder / COLLECTION_FILE
        try:
            found = read_object(cls, file)
        except DamagedFileError as error:
            raise ValueError(f"{error}. Delete it; `focal-compare run` writes it again") from error
        if found is not None and (found.kind not in KINDS or not found.members):
            raise ValueError(f"{file} is damaged. Delete it; `focal-compare run` writes it again")
        return found


def folder_of(comparison: Comparison, output: Path) -> Path:
    """Return the folder of a comparison, below that of its spec if that has several."""
    return output / slug(comparison.part) if comparison.part else output
