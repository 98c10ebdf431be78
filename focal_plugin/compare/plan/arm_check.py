"""Check of an arm before any run starts: of what its config builds, and of its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode

from ...data import DataError, check_datasets
from ...engine.trial import check_arm


class ArmCheck:
    """
    Check of one arm after another, which reads the data once for all arms that need the same of it.

    Whether an arm needs the same is not guessed: the keys that the check of the data reads are
    recorded.
    """

    def __init__(self) -> None:
        self._outcomes: list[tuple[dict[str, Any], DataError | None]] = []

    def __call__(self, cfg: CfgNode) -> None:
        """
        Check an arm.

        Raises:
            Exception: the arm cannot run; see :func:`~focal_plugin.engine.trial.check_arm` and
                :func:`~focal_plugin.data.check_datasets`.
        """
        check_arm(cfg)
        error = self._data_error(cfg)
        if error is not None:
            raise error

    def _data_error(self, cfg: CfgNode) -> DataError | None:
        values = dict(_leaves(cfg))
        for read, error in self._outcomes:
            if all(values.get(key) == value for key, value in read.items()):
                return error
        reads: set[str] = set()
        error = None
        try:
            check_datasets(_Recording.of(cfg, reads))
        except DataError as found:
            error = found
        self._outcomes.append(({key: values[key] for key in reads}, error))
        return error


class _Recording(CfgNode):
    """Copy of a config that records the full key of each value that is read."""

    @classmethod
    def of(cls, cfg: Mapping[str, Any], reads: set[str], prefix: str = "") -> _Recording:
        node = cls()
        for name, value in cfg.items():
            nested = isinstance(value, dict)
            node[name] = cls.of(value, reads, f"{prefix}{name}.") if nested else value
        vars(node).update(_reads=reads, _prefix=prefix)
        return node

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if "_reads" in vars(self) and not isinstance(value, dict):
            vars(self)["_reads"].add(f"{vars(self)['_prefix']}{name}")
        return value

    def clone(self) -> _Recording:
        """Return a copy that records into the same set."""
        return self.of(self, vars(self)["_reads"], vars(self)["_prefix"])


def _leaves(cfg: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in cfg.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
