#!/usr/bin/env python3
"""
Install Detectron2 main of 2024-04 from the wheel `sal-detectron2==0.7.2` into the running Python.

The wheel contains the Python code of commit a59f0563 and the model zoo's configs. Its compiled `_C`
supports only Python 3.10 and an old torch. This script keeps the Python code unmodified. It
replaces `_C` by a placeholder that raises an error with the name of a compiled op when the op is
used. RetinaNet, Faster, Mask and Cascade R-CNN do not require these ops. The result is an ordinary
distribution for any Python: `pip list` shows it and `pip uninstall sal-detectron2` removes it.
torch, setuptools and wheel must be installed.
"""

from __future__ import annotations

import argparse
import email
import hashlib
import shutil
import subprocess
import sys
import tempfile
from email.message import Message
from pathlib import Path

REQUIREMENT = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
CONSTRAINTS = Path(__file__).resolve().with_name("constraints.txt")

# pip downloads the wheel for its tagged Python, whatever Python runs this script.
WHEEL_TAGS = ("--python-version", "3.10", "--implementation", "cp", "--abi", "cp310")
# The local version label distinguishes this installation from the wheel itself.
VERSION = "0.7.2+python.only"

# The metadata lacks two packages, excludes numpy 2 without reason, and requires a code formatter.
DROPPED_REQUIREMENTS = ("numpy", "black", "dataclasses")
ADDED_REQUIREMENTS = (
    "numpy",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.10",
    "setuptools<82",  # detectron2.model_zoo imports pkg_resources
)

WHEEL_METADATA = """Wheel-Version: 1.0
Generator: focal_plugin
Root-Is-Purelib: true
Tag: py3-none-any
"""

PLACEHOLDER = '''"""
Placeholder for Detectron2's C++ extension, which this installation does not have.

The three functions that describe a build work. Every other name raises ImportError on use.
"""


def get_compiler_version():
    return "none: installed without the C++ extension"


def get_cuda_version():
    return "none: installed without the C++ extension"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"detectron2._C.{name} is a compiled op, and this Detectron2 was installed without its C++ "
        "extension. RetinaNet and Faster, Mask and Cascade R-CNN run without it. Rotated boxes, "
        "deformable convolution and the fast COCO evaluator require a compiled Detectron2. For the "
        "standard evaluator: COCOEvaluator(..., use_fast_impl=False)."
    )
'''


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True)


def wheel_tool(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "wheel", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def download(folder: Path) -> Path:
    """Download the wheel with pip, which rejects a file with another SHA-256."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    pip(
        *("download", "--quiet", "--no-deps", "--only-binary", ":all:", *WHEEL_TAGS),
        *("--require-hashes", "-r", requirements, "-d", folder),
    )
    return next(folder.glob("*.whl"))


def verify(wheel: Path) -> None:
    """
    Exit unless the file is the known wheel.

    Raises:
        SystemExit: the SHA-256 differs.
    """
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if actual != SHA256:
        sys.exit(f"{wheel}: sha256 is {actual}, expected {SHA256}; not installed")


def mend_metadata(metadata: Message) -> None:
    """Set the version label, and require the packages that the Python code imports."""
    required = metadata.get_all("Requires-Dist", [])
    del metadata["Requires-Dist"]
    metadata.replace_header("Version", VERSION)
    for requirement in required:
        if not requirement.startswith(DROPPED_REQUIREMENTS) and "extra ==" not in requirement:
            metadata["Requires-Dist"] = requirement
    for requirement in ADDED_REQUIREMENTS:
        metadata["Requires-Dist"] = requirement
    del metadata["Provides-Extra"]


def repack(wheel: Path, folder: Path) -> Path:
    """Build a pure Python wheel with the placeholder instead of the compiled extension."""
    wheel_tool("unpack", "--dest", folder / "unpacked", wheel)
    root = next((folder / "unpacked").iterdir())
    for compiled in root.glob("detectron2/_C*.so"):
        compiled.unlink()
    (root / "detectron2" / "_C.py").write_text(PLACEHOLDER, encoding="utf-8")
    shutil.rmtree(root / "tools")  # it would be installed as the top-level package `tools`

    old_info = next(root.glob("*.dist-info"))
    info = old_info.rename(root / f"sal_detectron2-{VERSION}.dist-info")
    metadata = email.message_from_string((info / "METADATA").read_text(encoding="utf-8"))
    mend_metadata(metadata)
    (info / "METADATA").write_text(metadata.as_string(), encoding="utf-8")
    (info / "WHEEL").write_text(WHEEL_METADATA, encoding="utf-8")
    (info / "top_level.txt").write_text("detectron2\n", encoding="utf-8")
    wheel_tool("pack", "--dest-dir", folder, root)
    return next(folder.glob(f"sal_detectron2-{VERSION}-*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--wheel", type=Path, help="local copy of the wheel; default: pip downloads it"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        wheel = args.wheel or download(folder)
        verify(wheel)
        pip("install", "--quiet", "-c", CONSTRAINTS, repack(wheel, folder))


if __name__ == "__main__":
    main()
