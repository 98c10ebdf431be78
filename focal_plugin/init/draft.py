"""A config under construction, in which every key has a reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode

from ..config import get_cfg
from .recipes import Setting


class Draft:
    """
    Config of :func:`~focal_plugin.config.get_cfg` with settings, and the reason of each.

    Attributes:
        cfg: the config with all settings; its `SEED` is 0.
        settings: key -> setting, in the order in which they were added.
    """

    def __init__(self, settings: Iterable[Setting] = ()) -> None:
        self.cfg: CfgNode = get_cfg()
        self.cfg.SEED = 0
        self.settings: dict[str, Setting] = {}
        for setting in settings:
            self.set(*setting)

    def set(self, key: str, value: Any, why: str) -> None:
        """
        Set a key; a later value replaces an earlier one.

        Raises:
            KeyError: there is no such key.
            ValueError: the value has another type.
        """
        self.cfg.merge_from_list([key, value])
        self.settings[key] = Setting(key, value, why)
