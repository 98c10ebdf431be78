"""Content of the `env.json` of a run: versions, machine and datasets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...run_folder import ENVIRONMENT_FILE


@dataclass(frozen=True)
class RecordedData:
    """
    Facts of a dataset as a run recorded them; None if the dataset is not a COCO json.

    Attributes:
        json_sha256: digest of the annotation file.
        classes: names, in the order of the category ids.
        annotations_per_class: in the order of ``classes``.
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

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> RecordedData:
        """Return the facts in an entry of `env.json`; unknown keys are ignored."""
        known: dict[str, Any] = {key: facts.get(key) for key in cls.__dataclass_fields__}
        name = str(known.pop("name"))
        known = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
        return cls(name, **known)


@dataclass(frozen=True)
class Environment:
    """
    Versions, machine and datasets of a run; None for what it did not record.

    Attributes:
        versions: package name -> version.
        commit: hash of the commit of the code; None outside a repository.
        dirty: True if the repository had uncommitted changes.
        components: components from outside of this package -> digest of their source.
        train, test: datasets of the run.
    """

    versions: dict[str, str]
    commit: str | None
    dirty: bool
    platform: str | None
    device: str | None
    threads: int | None
    components: dict[str, str]
    train: tuple[RecordedData, ...]
    test: tuple[RecordedData, ...]

    @classmethod
    def read(cls, folder: Path) -> Environment:
        """
        Read `env.json`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: it is not a JSON object.
        """
        content = json.loads((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{ENVIRONMENT_FILE} must be a JSON object")
        git = content.get("git") or {"commit": None, "dirty": False}
        datasets = content.get("datasets", {})
        return cls(
            versions=content.get("versions", {}),
            commit=git["commit"],
            dirty=git["dirty"],
            platform=content.get("platform"),
            device=content.get("device"),
            threads=content.get("threads"),
            components=content.get("components", {}),
            train=tuple(map(RecordedData.of, datasets.get("train", []))),
            test=tuple(map(RecordedData.of, datasets.get("test", []))),
        )
