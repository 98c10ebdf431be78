"""The config files that ship with the package, found by name as in Detectron2's model zoo."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path

from .names import shown

# A link in the repository; a wheel holds the files themselves.
FOLDER = Path(__file__).parent / "configs"

NAME_MAX = 255
"""Length of the longest file name, in bytes."""


def get_config_file(name: str) -> str:
    """
    Return the path of a shipped config, as `detectron2.model_zoo.get_config_file` does.

    Args:
        name: relative to `configs/`, such as "Shapes-Detection/retinanet_small.yaml".

    Raises:
        FileNotFoundError: there is no such config; the message names the nearest one.
    """
    file = FOLDER / name
    if file.is_file():
        return str(file)
    raise FileNotFoundError(no_config_file(name))


def no_config_file(name: str) -> str:
    """Return the message about a config that does not exist, with the nearest shipped one."""
    with contextlib.suppress(OSError, RuntimeError):  # a name that no file can have
        if Path(name).is_dir():
            return f"{shown(name)} is a folder, not a config file"
    by_name = {Path(config).name: config for config in _shipped()}
    nearest = difflib.get_close_matches(Path(name).name[:NAME_MAX], by_name, n=1)
    hint = f"; did you mean {by_name[nearest[0]]!r}?" if nearest else ""
    return f"no file and no shipped config is named {shown(name)}{hint}"


def find_config_file(name: str, folder: Path | None = None) -> Path:
    """
    Find a YAML file by its path, or else by its name among the shipped configs.

    Args:
        name: absolute, relative to ``folder``, or relative to `configs/`.
        folder: default: the working directory.

    Raises:
        FileNotFoundError: there is neither; the message names the nearest shipped config.
    """
    for root in (folder or Path(), FOLDER):
        with contextlib.suppress(OSError, RuntimeError):  # a name that no file can have
            file = root / Path(name).expanduser()
            if file.is_file():
                return file
    raise FileNotFoundError(no_config_file(name))


def _shipped() -> list[str]:
    """Return the shipped configs, without the arms, which are no configs of their own."""
    files = [path.relative_to(FOLDER) for path in sorted(FOLDER.glob("**/*.yaml"))]
    return [str(file) for file in files if file.parts[0] != "arms"]
