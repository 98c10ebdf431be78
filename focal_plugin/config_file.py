"""The config files that ship with the package, found by name as in Detectron2's model zoo."""

from __future__ import annotations

import difflib
from pathlib import Path

# A link in the repository; a wheel holds the files themselves.
FOLDER = Path(__file__).parent / "configs"


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
    if Path(name).is_dir():
        return f"{name}: this is a folder, not a config file"
    arms = FOLDER / "arms"
    files = [file for file in sorted(FOLDER.glob("**/*.yaml")) if not file.is_relative_to(arms)]
    by_name = {file.name: str(file.relative_to(FOLDER)) for file in files}
    nearest = difflib.get_close_matches(Path(name).name, by_name, n=1)
    hint = f"; did you mean {by_name[nearest[0]]!r}?" if nearest else ""
    return f"{name}: no file and no shipped config has this name{hint}"


def find_config_file(name: str, folder: Path | None = None) -> Path:
    """
    Find a YAML file by its path, or else by its name among the shipped configs.

    Args:
        name: absolute, relative to ``folder``, or relative to `configs/`.
        folder: default: the working directory.

    Returns:
        the path; if there is neither, the one that ``name`` has by itself.
    """
    file = (folder or Path()) / Path(name).expanduser()
    shipped = FOLDER / name
    return shipped if not file.is_file() and shipped.is_file() else file
