"""Content of the `start.json` of a run: digests of what it started from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...run_folder import START_FILE


class TensorDigest(NamedTuple):
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
            ValueError: the file is not valid JSON.
        """
        file = folder / START_FILE
        if not file.exists():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        weights = {
            name: TensorDigest(tuple(tensor["shape"]), tensor["sha256"])
            for name, tensor in content["weights"].items()
        }
        return cls(weights, tuple(content["data"]))
