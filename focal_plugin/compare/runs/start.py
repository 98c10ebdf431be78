"""Content of the `start.json` of a run: digests of what it started from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...json_file import read_object
from ...run_folder import START_FILE


@dataclass(frozen=True)
class TensorDigest:
    """Shape and digest of the values of a tensor."""

    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Start:
    """
    Digests of the initial weights and of the first batches of a run.

    Attributes:
        weights: name -> digest, for each tensor of the model.
        data: digests of the first batches, in order.
    """

    weights: dict[str, TensorDigest]
    data: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Start | None:
        """
        Read `start.json`; return None if the run did not get that far.

        Raises:
            DamagedFileError: the file cannot be read, or holds no digests.
        """
        return read_object(cls, folder / START_FILE)
