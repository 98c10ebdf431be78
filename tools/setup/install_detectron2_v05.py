#!/usr/bin/env python3
"""
Install Detectron2 v0.5 from the source archive `detectron2-cdo==0.5` into the running Python.

The archive holds v0.5's Python unmodified but lacks its C++ sources, so that a plain `pip install`
of it fails. This builds a wheel from the archive's own setup.py without the extension and with a
`detectron2/_C.py` in its place, which names a compiled op when something asks for it. RetinaNet and
Faster R-CNN need none of these ops. The result is an ordinary distribution: `pip list` shows it and
`pip uninstall detectron2_cdo` removes it. torch, setuptools<81 and wheel must be installed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REQUIREMENT = "detectron2-cdo==0.5"
SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
CONSTRAINTS = Path(__file__).resolve().with_name("constraints-detectron2-v0.5.txt")

STAND_IN_FOR_COMPILED_OPS = '''"""
Stands in for Detectron2's C++ extension, which this installation was built without.

The three functions that describe a build answer; every other op raises when it is asked for.
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
        "extension. RetinaNet and Faster R-CNN run without it; rotated boxes, deformable "
        "convolution and the fast COCO evaluator need Detectron2 built from its own repository "
        "(with the stock evaluator: COCOEvaluator(..., use_fast_impl=False))."
    )
'''

# Runs the archive's setup.py with two arguments of setup() changed: no extension, and the model
# zoo's configs found where the archive has them.
BUILD_WHEEL = """
import runpy, setuptools, sys
setup = setuptools.setup
configs = {"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py", "configs/*.yaml"]}
setuptools.setup = lambda **kw: setup(**{**kw, "ext_modules": [], "package_data": configs})
sys.argv = ["setup.py", "--quiet", "bdist_wheel", "--dist-dir", sys.argv[1]]
runpy.run_path("setup.py", run_name="__main__")
"""


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True)


def download(folder: Path) -> Path:
    """Let pip fetch the archive; it refuses one whose sha256 differs."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    pip(
        *("download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"),
        *("--require-hashes", "-r", requirements, "-d", folder),
    )
    return next(folder.glob("detectron2*.tar.gz"))


def verify(archive: Path) -> None:
    """
    Raises:
        SystemExit: the file is not the known archive.
    """
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual != SHA256:
        sys.exit(f"{archive}: sha256 is {actual}, expected {SHA256}; not installed")


def build_wheel(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder)  # its hash is known; Debian 12's Python has no `filter` argument
    source = next(path.parent for path in folder.glob("*/setup.py"))
    (source / "detectron2" / "_C.py").write_text(STAND_IN_FOR_COMPILED_OPS, encoding="utf-8")
    command = [sys.executable, "-c", BUILD_WHEEL, str(folder / "wheel")]
    build = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if build.returncode != 0:
        sys.exit(f"the wheel could not be built:\n{build.stdout}{build.stderr}")
    return next((folder / "wheel").glob("*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--archive", type=Path, help="the archive, if it is on disk; default: pip downloads it"
    )
    args = parser.parse_args()
    if sys.version_info >= (3, 12):
        sys.exit("Detectron2 v0.5 needs numpy<1.24, which is not there for Python 3.12 or newer")
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        archive = args.archive or download(folder)
        verify(archive)
        pip("install", "--quiet", "-c", CONSTRAINTS, build_wheel(archive, folder))


if __name__ == "__main__":
    main()
