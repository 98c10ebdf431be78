"""Check of an arm before any run starts: of what its config builds, and of its data."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from ...data import DataError, check_datasets
from ...engine.command_line import settle_from_training_set
from ...engine.partial_labels import check_partial_labels, count_partly_labeled
from ...engine.trial import check_arm
from ...engine.unread_keys import RecordingCfgNode, leaves


class ArmCheck:
    """
    Check of one arm after another, which reads the data once for all arms that need the same of it.

    Whether an arm needs the same is not guessed: the keys that the check of the data reads are
    recorded.

    Args:
        here: True if this machine trains the runs, so that it must have their device.
    """

    def __init__(self, *, here: bool = True) -> None:
        self._here = here
        self._outcomes: list[tuple[dict[str, Any], DataError | None]] = []

    def __call__(self, cfg: CfgNode, trainer_flags: tuple[str, ...] = ()) -> None:
        """
        Check an arm.

        Args:
            trainer_flags: flags that its runs are trained with, the same for all arms.

        Raises:
            Exception: the arm cannot run; see :func:`~focal_plugin.engine.trial.check_arm`,
                :func:`~focal_plugin.data.check_datasets` and
                :func:`~focal_plugin.engine.partial_labels.check_partial_labels`.
        """
        check_arm(cfg, here=self._here)
        error = self._data_error(cfg, outside_root="allow-outside-root" in trainer_flags)
        if error is not None:
            raise error
        if num_images := count_partly_labeled(cfg):
            counted = cfg.clone()
            settle_from_training_set(counted)
            check_partial_labels(counted, num_images)

    def _data_error(self, cfg: CfgNode, *, outside_root: bool) -> DataError | None:
        values = dict(leaves(cfg))
        for read, error in self._outcomes:
            if all(values.get(key) == value for key, value in read.items()):
                return error
        recording = RecordingCfgNode.of(cfg)
        recording.defrost()
        error = None
        try:
            check_datasets(recording, allow_outside_root=outside_root)
        except DataError as found:
            error = found
        self._outcomes.append(({key: values[key] for key in recording.reads}, error))
        return error
