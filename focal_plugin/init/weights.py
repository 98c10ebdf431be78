"""Search for trained weights, on this machine or on their server, that takes seconds."""

from __future__ import annotations

import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path

from detectron2.utils.file_io import Detectron2Handler
from iopath.common.file_io import get_cache_dir

TIMEOUT_S = 4.0
"""Longest wait for an answer, in seconds."""


def can_fetch(weights: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """
    Return True if the weights are on this machine, or their server answers.

    Args:
        weights: file, or address of the model zoo such as detectron2://ImageNetPretrained/....
        timeout_s: longest wait, in seconds, also for the name of the server.
    """
    if not weights.startswith(Detectron2Handler.PREFIX):
        return Path(weights).expanduser().is_file()
    name = weights.removeprefix(Detectron2Handler.PREFIX)
    cached = Path(get_cache_dir(), "detectron2", name)  # where iopath keeps what it has fetched
    return cached.is_file() or _answers(Detectron2Handler.S3_DETECTRON2_PREFIX + name, timeout_s)


def _answers(address: str, timeout_s: float) -> bool:
    found: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s):
                found.append(True)
        except (OSError, ValueError, HTTPException):
            return

    # the search for the name of a server has no timeout of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(found)
