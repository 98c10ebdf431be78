"""Names of the classes of a run: `MODEL.FOCAL.CLASS_NAMES`, from the config or the dataset."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data import describe_dataset, num_classes_of_model

KEY = "MODEL.FOCAL.CLASS_NAMES"


def check_class_names(cfg: CfgNode) -> None:
    """
    Check the names that a config gives; none are legal.

    Raises:
        ValueError: a name is no text, or their number is not that of the model's classes.
    """
    names = cfg.MODEL.FOCAL.CLASS_NAMES
    others = [name for name in names if not isinstance(name, str)]
    if others:
        raise ValueError(f"{KEY} must be a list of names, got {others[0]!r} in it")
    key, num_classes = num_classes_of_model(cfg) or (None, len(names))
    if names and len(names) != num_classes:
        raise ValueError(
            f"{KEY} has {len(names)} names, but {key} is {num_classes}: name every class, or leave "
            "it empty for the names of the training set"
        )


def settle_class_names(cfg: CfgNode, *, training: bool) -> str | None:
    """
    Set empty `MODEL.FOCAL.CLASS_NAMES` to those of the first training set.

    An evaluation takes those of its first test set. Names of the config stay: a user may rename a
    class for pictures and tables.

    Args:
        cfg: checked, with registered datasets.
        training: True if the run trains.

    Returns:
        a sentence on renamed classes; None if there are none.

    Raises:
        ValueError: the config has the names of the dataset in another order, so that boxes would
            bear the name of another class.
    """
    dataset = (cfg.DATASETS.TRAIN if training else cfg.DATASETS.TEST)[0]
    names, of_data = cfg.MODEL.FOCAL.CLASS_NAMES, _names_of(dataset)
    if not names:
        cfg.MODEL.FOCAL.CLASS_NAMES = of_data
        return None
    for index, (name, own) in enumerate(zip(names, of_data, strict=False)):
        if name != own and name in of_data:
            raise ValueError(
                f"{KEY} names class {index} {name!r}, but in dataset {dataset!r} this is class "
                f"{of_data.index(name)}, and class {index} is {own!r}: keep the order "
                f"{_listed(of_data)}"
            )
    renamed = [f"{own} -> {name}" for name, own in zip(names, of_data, strict=False) if name != own]
    return f"{KEY} renames classes of {dataset}: {_listed(renamed)}" if renamed else None


def _names_of(dataset: str) -> list[str]:
    """Return the names of a dataset; [] if it states none. Every process finds the same."""
    known = MetadataCatalog.get(dataset).get("thing_classes")
    return list(map(str, known or describe_dataset(dataset)["classes"] or []))


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
