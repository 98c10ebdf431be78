"""
Installation report with missing parts, and the commands that fix them.

    focal-plugin doctor
    python -m focal_plugin_doctor

The exit code is 0 if training can work, and 1 if something must be fixed first. This module is
outside the package and requires only the standard library, so it runs in a broken installation.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
BUILD_DETECTRON2 = (
    "pip install --no-build-isolation "
    f"'git+https://github.com/facebookresearch/detectron2@{DETECTRON2_COMMIT}'"
)
# All distributions of Detectron2 install into the same folder.
DISTRIBUTIONS = ("detectron2", "sal-detectron2")
REBUILD_DETECTRON2 = f"pip uninstall -y {' '.join(DISTRIBUTIONS)} && {BUILD_DETECTRON2}"
PREBUILT_WHEELS = (
    "or a prebuilt wheel (Linux, Windows, macOS) of github.com/MiroPsota/torch_packages_builder: "
    "detectron2==0.6+<commit>pt<torch><cpu|cuXXX>"
)
# pip accepts an installed 2.x+cpu as 2.x, so only --force-reinstall installs a matching pair.
TORCH_PAIR = "pip install --force-reinstall torch torchvision"

# detectron2.model_zoo imports pkg_resources, which setuptools 82 removed.
SETUPTOOLS_LIMIT = "82"
# First release that the tests compare with pycocotools
HOTCOCO = "1.3"
MSGSPEC = "0.19"
OPERATORS = "C++ operators"
# Without build isolation, pip builds the operators against the installed torch.
BUILD_OPERATORS = "pip install --no-build-isolation -e .  # requires a C++ compiler"
# Import name -> distribution that provides it
NEEDED = {
    "numpy": "numpy",
    "PIL": "Pillow",
    "fvcore": "fvcore",
    "pycocotools": "pycocotools",
    "yacs": "yacs",
    "omegaconf": "omegaconf",
    "matplotlib": "matplotlib",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
}


@dataclass(frozen=True)
class Diagnosis:
    """Line of the report; ``remedy`` is a command, or None if nothing is wrong."""

    subject: str
    state: str
    remedy: str | None = None
    optional: bool = False


def detectron2_runtime() -> str:
    """
    Identify the installed Detectron2 by its files, without importing it.

    Its version is ambiguous: the release of 2021 and today's main branch are both 0.6.

    Returns:
        "compiled"; "Python only" (without the C++ extension); "too old" (before release 0.6); or
        "none".
    """
    folder = _detectron2_folder()
    if folder is None:
        return "none"
    if not (folder / "modeling" / "meta_arch" / "dense_detector.py").exists():
        return "too old"
    return "compiled" if has_compiled_ops() else "Python only"


def has_compiled_ops() -> bool:
    """Return True if Detectron2 has its C++ extension instead of the placeholder."""
    folder = _detectron2_folder()
    return folder is not None and any(folder.glob("_C*.so"))


def has_hotcoco() -> bool:
    """Return True if hotcoco can be imported and is not older than the tested release."""
    return _examine_hotcoco().remedy is None


def examine() -> list[Diagnosis]:
    """Return all diagnoses in the order of the report."""
    return [
        Diagnosis("Python", f"{platform.python_version()} on {platform.platform()}"),
        *_examine_torch(),
        *_examine_detectron2(),
        _examine_setuptools(),
        *(_examine_module(module, needed) for module, needed in NEEDED.items()),
        _examine_hotcoco(),
        _examine_faster("msgspec", MSGSPEC, "reading detections takes longer, the result is equal"),
        _examine_operators(),
        *_examine_devices(),
    ]


@contextlib.contextmanager
def explain_failed_import() -> Iterator[None]:
    """
    Turn a failed import of Detectron2 or torch into an error with a remedy.

    Raises:
        ImportError: with the original failure as its cause.
    """
    try:
        yield
    except Exception as error:
        runtime = detectron2_runtime()
        if runtime == "none":
            problem = (
                "focal_plugin requires Detectron2, which is not installed. With torch and a C++ "
                f"compiler:\n    {BUILD_DETECTRON2}\n{PREBUILT_WHEELS}"
            )
        elif runtime == "too old":
            problem = (
                "focal_plugin requires Detectron2 0.6 or newer, but an older one is installed. "
                f"With torch and a C++ compiler:\n    {REBUILD_DETECTRON2}"
            )
        else:
            problem = f"focal_plugin could not be imported ({type(error).__name__}: {error})"
        raise ImportError(f"{problem}\nFor a full report: focal-plugin doctor") from error


def main(argv: list[str] | None = None) -> int:
    """
    Print the report.
    Print the report.

    Returns:
        0 if training can work, otherwise 1.
    """
    parser = argparse.ArgumentParser(
        prog="focal-plugin doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runtime",
        action="store_true",
        help="print only the kind of Detectron2: compiled, Python only, too old, or none",
    )
    if parser.parse_args(argv).runtime:
        print(detectron2_runtime())
        return 0
    diagnoses = examine()
    width = max(len(diagnosis.subject) for diagnosis in diagnoses)
    for diagnosis in diagnoses:
        mark = " " if diagnosis.remedy is None else ("-" if diagnosis.optional else "!")
        print(f"{mark} {diagnosis.subject:<{width}}  {diagnosis.state}")
        if diagnosis.remedy is not None:
            print(f"  {'':<{width}}  -> {diagnosis.remedy}")
    broken = [f.subject for f in diagnoses if f.remedy is not None and not f.optional]
    print(f"\nTo be fixed: {', '.join(broken)}" if broken else "\nReady to train.")
    return 1 if broken else 0


def _examine_torch() -> list[Diagnosis]:
    torch, torchvision = _version("torch"), _version("torchvision")
    if torch is None:
        return [Diagnosis("torch", "missing", TORCH_PAIR)]
    diagnoses = [Diagnosis("torch", torch)]
    if torchvision is None:
        return [*diagnoses, Diagnosis("torchvision", "missing", _matching_torchvision(torch))]
    failure = _import_failure("torchvision")
    if failure is None:
        return [*diagnoses, Diagnosis("torchvision", torchvision)]
    state = f"{torchvision} cannot be imported with torch {torch} ({failure})"
    return [*diagnoses, Diagnosis("torchvision", state, TORCH_PAIR)]


def _matching_torchvision(torch: str) -> str:
    # Since torch 2.0, torchvision 0.(m + 15) matches torch 2.m.
    major, minor = torch.split(".")[:2]
    return f"pip install 'torchvision==0.{int(minor) + 15}.*'" if major == "2" else TORCH_PAIR


def _examine_detectron2() -> list[Diagnosis]:
    runtime = detectron2_runtime()
    if runtime == "none":
        return [
            Diagnosis("Detectron2", "missing", BUILD_DETECTRON2),
            Diagnosis("", PREBUILT_WHEELS),
        ]
    version = next(filter(None, map(_version, DISTRIBUTIONS)), "version unknown")
    state = f"{version}, {runtime}, in {_detectron2_folder()}"
    if runtime == "too old":
        return [Diagnosis("Detectron2", f"{state}: before release 0.6", REBUILD_DETECTRON2)]
    failure = _import_failure("detectron2.modeling")
    if failure is not None:
        return [Diagnosis("Detectron2", f"{runtime}, fails: {failure}", REBUILD_DETECTRON2)]
    found = Diagnosis("Detectron2", state)
    if runtime == "compiled":
        return [found, Diagnosis("compiled ops", "present")]
    absent = (
        "absent: no rotated boxes, deformable convolution or fast COCO evaluator; "
        "RetinaNet and R-CNN do not require them"
    )
    ops = Diagnosis("compiled ops", absent, REBUILD_DETECTRON2, optional=True)
    return [found, ops, Diagnosis("", PREBUILT_WHEELS)]


def _examine_setuptools() -> Diagnosis:
    version = _version("setuptools") or "missing"
    if importlib.util.find_spec("pkg_resources") is None:
        state = f"{version}, without pkg_resources, which detectron2.model_zoo imports"
        return Diagnosis("setuptools", state, f"pip install 'setuptools<{SETUPTOOLS_LIMIT}'")
    return Diagnosis("setuptools", version)


def _examine_module(module: str, distribution: str) -> Diagnosis:
    if importlib.util.find_spec(module) is None:
        return Diagnosis(distribution, "missing", f"pip install {distribution}")
    failure = _import_failure(module)
    if failure is not None:
        return Diagnosis(distribution, f"fails: {failure}", f"pip install --upgrade {distribution}")
    version = getattr(sys.modules[module], "__version__", None) or _version(distribution)
    return Diagnosis(distribution, version or "present")


def _examine_hotcoco() -> Diagnosis:
    return _examine_faster(
        "hotcoco", HOTCOCO, "computing the AP takes longer, with the same result"
    )


def _examine_faster(name: str, tested: str, without: str) -> Diagnosis:
    """Examine a package of the extra "fast"; ``without`` says what its absence costs."""
    version, remedy = _version(name), f"pip install '{name}>={tested}'"
    if version is None:
        state = f"absent: {without}"
    elif _is_below(version, tested):
        state = f"{version} is not used: it is older than the tested release"
    elif (failure := _import_failure(name)) is not None:
        state = f"{version} is not used, because it fails: {failure}"
    else:
        return Diagnosis(name, version)
    return Diagnosis(name, state, remedy, optional=True)


def _examine_operators() -> Diagnosis:
    """Examine the operators of `focal_plugin/ops/csrc`, which `setup.py` builds if possible."""
    package = importlib.util.find_spec("focal_plugin")  # does not import the package
    folders = package.submodule_search_locations if package is not None else None
    built = sorted(so for folder in folders or () for so in Path(folder).glob("ops/_C*.so"))
    if not built:
        state = (
            "not built: on a CPU, PyTorch computes losses and anchor labels instead, several times "
            "slower"
        )
        return Diagnosis(OPERATORS, state, BUILD_OPERATORS, optional=True)
    if _import_failure("torch") is None:
        import torch

        try:
            torch.ops.load_library(str(built[0]))
        except OSError as error:  # built against another PyTorch
            state = f"{built[0].name} does not load: {str(error).splitlines()[0]}"
            return Diagnosis(OPERATORS, state, BUILD_OPERATORS, optional=True)
    return Diagnosis(OPERATORS, "built")


def _examine_devices() -> list[Diagnosis]:
    if _import_failure("torch") is not None:
        return []
    import torch

    diagnoses = [
        Diagnosis("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads")
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory_gib = properties.total_memory / 2**30
        diagnoses.append(Diagnosis(f"GPU {index}", f"{properties.name}, {memory_gib:.0f} GiB"))
    if not torch.cuda.is_available():
        diagnoses.append(Diagnosis("GPU", "none: MODEL.DEVICE auto selects cpu"))
    return diagnoses


def _detectron2_folder() -> Path | None:
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_failure(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary raises arbitrary errors
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _is_below(version: str, limit: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".") if part.isdigit()]

    return numbers(version) < numbers(limit)


if __name__ == "__main__":
    sys.exit(main())
