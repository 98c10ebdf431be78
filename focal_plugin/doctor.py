"""
What is installed, what is missing or does not fit together, and the command that mends it.

    python -m focal_plugin.doctor

Exit code 0 if training can work, 1 if something has to be mended first. Uses only Python's standard
library until it looks into torch, so that it runs where nothing else does.
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
# Under either name it lies in the same folder
REBUILD_DETECTRON2 = f"pip uninstall -y detectron2 detectron2_cdo && {BUILD_DETECTRON2}"
# --force-reinstall, because pip takes an installed 2.11.0+cpu for 2.11.0
TORCH_PAIR = "pip install --force-reinstall torch==2.11.0 torchvision==0.26.0"

# Detectron2 v0.5 alone: distribution -> first version that breaks it, and how.
V05_LIMITS = {
    "numpy": ("1.24", "np.bool, np.int and np.float are gone"),
    "Pillow": ("10", "Image.LINEAR is gone"),
}
SETUPTOOLS_LIMIT = "81"
# The first release that tests compare with pycocotools; setup.py asks for it in its extra [fast]
FASTER_COCO_EVAL = "1.8"
OPERATORS = "C++ operators"
# Without its own isolated environment pip finds torch, which they are built against
BUILD_OPERATORS = (
    "pip install --no-build-isolation --use-pep517 -e .  # where there is a C++ compiler"
)
# import name -> the distribution that provides it
NEEDED = {
    "fvcore": "fvcore",
    "pycocotools": "pycocotools",
    "yacs": "yacs",
    "omegaconf": "omegaconf",
    "matplotlib": "matplotlib",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``remedy`` is a command, and None where nothing is wrong."""

    subject: str
    state: str
    remedy: str | None = None
    optional: bool = False


def detectron2_runtime() -> str:
    """
    Which of the two supported Detectron2 is installed, told by its files and not by its version
    (the release of 2021 and today's main both say 0.6), and without importing it.

    Returns:
        "main" (a release with `DenseDetector`, 0.6 or later), "v0.5", or "none".
    """
    folder = _detectron2_folder()
    if folder is None:
        return "none"
    has_dense_detector = (folder / "modeling" / "meta_arch" / "dense_detector.py").exists()
    return "main" if has_dense_detector else "v0.5"


def has_compiled_ops() -> bool:
    """Whether Detectron2's C++ extension is there (and not the stand-in of a build without it)."""
    folder = _detectron2_folder()
    return folder is not None and any(folder.glob("_C*.so"))


def has_faster_coco_eval() -> bool:
    """Whether faster-coco-eval is there, loads, and is no release older than what is tested."""
    return _examine_faster_coco_eval().remedy is None


def examine() -> list[Finding]:
    """Everything that the report says, in its order."""
    limited = _examine_limits()
    return [
        Finding("Python", f"{platform.python_version()} on {platform.platform()}"),
        *_examine_torch(),
        *_examine_detectron2([f.remedy for f in limited if f.remedy is not None]),
        *limited,
        *(_examine_module(module, needed) for module, needed in NEEDED.items()),
        _examine_faster_coco_eval(),
        _examine_operators(),
        *_examine_devices(),
    ]


@contextlib.contextmanager
def explain_failed_import() -> Iterator[None]:
    """
    Turn any failure to import Detectron2 or torch into one that says what to do.

    Raises:
        ImportError: with the original failure as its cause.
    """
    try:
        yield
    except Exception as error:
        runtime = detectron2_runtime()
        if runtime == "none":
            problem = (
                "focal_plugin needs Detectron2, which is not installed. With torch and a C++ "
                f"compiler:\n    {BUILD_DETECTRON2}\nWithout: make setup"
            )
        else:
            problem = f"focal_plugin could not be imported ({type(error).__name__}: {error})"
        raise ImportError(
            f"{problem}\nWhat does not fit together: python -m focal_plugin.doctor"
        ) from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m focal_plugin.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runtime", action="store_true", help="print main, v0.5 or none, and nothing else"
    )
    if parser.parse_args(argv).runtime:
        print(detectron2_runtime())
        return 0
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = " " if finding.remedy is None else ("-" if finding.optional else "!")
        print(f"{mark} {finding.subject:<{width}}  {finding.state}")
        if finding.remedy is not None:
            print(f"  {'':<{width}}  -> {finding.remedy}")
    broken = [f.subject for f in findings if f.remedy is not None and not f.optional]
    print(f"\nTo be mended: {', '.join(broken)}" if broken else "\nReady to train.")
    return 1 if broken else 0


def _examine_torch() -> list[Finding]:
    torch, torchvision = _version("torch"), _version("torchvision")
    if torch is None:
        return [Finding("torch", "missing", TORCH_PAIR)]
    findings = [Finding("torch", torch)]
    if torchvision is None:
        return [*findings, Finding("torchvision", "missing", _matching_torchvision(torch))]
    failure = _import_failure("torchvision")
    if failure is None:
        return [*findings, Finding("torchvision", torchvision)]
    state = f"{torchvision} does not load beside torch {torch} ({failure})"
    return [*findings, Finding("torchvision", state, TORCH_PAIR)]


def _matching_torchvision(torch: str) -> str:
    # torchvision 0.(m + 15) belongs to torch 2.m, since torch 2.0
    major, minor = torch.split(".")[:2]
    return f"pip install 'torchvision==0.{int(minor) + 15}.*'" if major == "2" else TORCH_PAIR


def _examine_detectron2(remedies_of_limits: list[str]) -> list[Finding]:
    runtime = detectron2_runtime()
    if runtime == "none":
        return [Finding("Detectron2", "missing", BUILD_DETECTRON2)]
    distribution = _version("detectron2") or _version("detectron2_cdo") or "version unknown"
    failure = _import_failure("detectron2.modeling")
    finding = Finding("Detectron2", f"{distribution}, runtime {runtime}, in {_detectron2_folder()}")
    if failure is not None:
        remedy = " && ".join(remedies_of_limits) or REBUILD_DETECTRON2
        finding = Finding("Detectron2", f"runtime {runtime} fails: {failure}", remedy)
    ops = Finding("compiled ops", "present")
    if not has_compiled_ops():
        ops = Finding(
            "compiled ops",
            "absent: no rotated boxes, deformable convolution or fast COCO evaluator; "
            "RetinaNet and Faster R-CNN do not need them",
            REBUILD_DETECTRON2,
            optional=True,
        )
    return [finding, ops]


def _examine_limits() -> list[Finding]:
    findings = []
    is_v05 = detectron2_runtime() == "v0.5"
    for distribution, (limit, breakage) in V05_LIMITS.items():
        version = _version(distribution)
        if version is None:
            findings.append(Finding(distribution, "missing", f"pip install {distribution}"))
        elif is_v05 and not _is_below(version, limit):
            state = f"{version} is too new for Detectron2 v0.5: {breakage}"
            findings.append(Finding(distribution, state, f"pip install '{distribution}<{limit}'"))
        else:
            findings.append(Finding(distribution, version))
    setuptools = _version("setuptools") or "missing"
    if importlib.util.find_spec("pkg_resources") is None:
        state = f"{setuptools}, without pkg_resources, which detectron2.model_zoo imports"
        remedy = f"pip install 'setuptools<{SETUPTOOLS_LIMIT}'"
        return [*findings, Finding("setuptools", state, remedy)]
    return [*findings, Finding("setuptools", setuptools)]


def _examine_module(module: str, distribution: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(distribution, "missing", f"pip install {distribution}")
    failure = _import_failure(module)
    if failure is not None:
        return Finding(distribution, f"fails: {failure}", f"pip install --upgrade {distribution}")
    version = getattr(sys.modules[module], "__version__", None) or _version(distribution)
    return Finding(distribution, version or "present")


def _examine_faster_coco_eval() -> Finding:
    name = "faster-coco-eval"
    version, remedy = _version(name), f"pip install '{name}>={FASTER_COCO_EVAL}'"
    if version is None:
        state = "absent: the same AP takes longer"
    elif _is_below(version, FASTER_COCO_EVAL):
        state = f"{version} is not used: it is older than what is tested"
    elif (failure := _import_failure("faster_coco_eval")) is not None:
        state = f"{version} is not used, because it fails: {failure}"
    else:
        return Finding(name, version)
    return Finding(name, state, remedy, optional=True)


def _examine_operators() -> Finding:
    """Of `focal_plugin/ops/csrc`, which `setup.py` builds where it can."""
    built = sorted(Path(__file__).parent.glob("ops/_C*.so"))
    if not built:
        state = (
            "not built: PyTorch computes losses and labels of anchors on a CPU instead, several "
            "times slower"
        )
        return Finding(OPERATORS, state, BUILD_OPERATORS, optional=True)
    if _import_failure("torch") is None:
        import torch

        try:
            torch.ops.load_library(str(built[0]))
        except OSError as error:  # built against another PyTorch
            state = f"{built[0].name} does not load: {str(error).splitlines()[0]}"
            return Finding(OPERATORS, state, BUILD_OPERATORS, optional=True)
    return Finding(OPERATORS, "built")


def _examine_devices() -> list[Finding]:
    if _import_failure("torch") is not None:
        return []
    import torch

    findings = [Finding("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory_gib = properties.total_memory / 2**30
        findings.append(Finding(f"GPU {index}", f"{properties.name}, {memory_gib:.0f} GiB"))
    if not torch.cuda.is_available():
        findings.append(Finding("GPU", "none: MODEL.DEVICE auto means cpu"))
    return findings


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
    except Exception as error:  # a broken binary raises anything: RuntimeError, AttributeError, ...
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _is_below(version: str, limit: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".") if part.isdigit()]

    return numbers(version) < numbers(limit)


if __name__ == "__main__":
    sys.exit(main())
