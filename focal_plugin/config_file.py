"""The config files that ship with the package, found by name as in Detectron2's model zoo."""

from __future__ import annotations

from pathlib import Path

from .names import did_you_mean

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
    shipped = {str(path.relative_to(FOLDER)): path for path in sorted(FOLDER.glob("**/*.yaml"))}
    raise FileNotFoundError(f"no shipped config is named {name!r}{did_you_mean(name, shipped)}")


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
