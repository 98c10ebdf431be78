"""Record of the balance between classification loss and box loss, a small JSON file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import write_json
from ..json_file import read_object


@dataclass(frozen=True)
class GradientNorms:
    """
    Gradient norms of both losses of one part of a detector, at the features that both share.

    Attributes:
        cls: norm of d loss_cls / dz, >= 0; None if it is not finite.
        box: norm of d loss_box / dz, >= 0; None if it is not finite.
    """

    cls: float | None
    box: float | None

    @property
    def ratio(self) -> float | None:
        """Norm of the classification loss over that of the box loss; None unless both are > 0."""
        return self.cls / self.box if self.cls and self.box else None


@dataclass(frozen=True)
class LossBalance:
    """
    Gradient norms of all parts of a detector on fixed images, at one iteration of a training run.

    Attributes:
        iteration: number of training steps of the weights.
        num_images: number of fixed images.
        batch_size: images of a batch, as in a training step of one process.
        parts: "retinanet", "rpn" or "roi_heads" -> norms.
    """

    iteration: int
    num_images: int
    batch_size: int
    parts: dict[str, GradientNorms]


def write_balance(file: Path, balance: LossBalance) -> None:
    """Write a record atomically. Create missing folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(balance))


def read_balance(file: Path) -> LossBalance | None:
    """
    Read a record; None if the file does not exist.

    Raises:
        DamagedFileError: the file cannot be read, or holds no such record.
    """
    return read_object(LossBalance, file)
