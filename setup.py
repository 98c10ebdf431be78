"""Build of the C++ operators; the rest of the package is described in pyproject.toml."""

import shutil
from pathlib import Path
from typing import Any

from setuptools import setup

# Nothing reads floating-point exceptions or errno. These flags enable vectorization of loops.
VECTORIZABLE = ["-fno-trapping-math", "-fno-math-errno"]


def extension() -> dict[str, Any]:
    """
    Return the arguments of `setup` that build the operators, if torch and a compiler exist.

    pip's isolated build environment has no torch, so only `--no-build-isolation` builds them.
    Without the operators, PyTorch does the same work more slowly.
    """
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        return {}
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return {}
    operators = CppExtension(
        "focal_plugin.ops._C",
        sources=sorted(str(file) for file in Path("focal_plugin/ops/csrc").glob("*.cpp")),
        # The operators guarantee the order of operations and their rounding.
        extra_compile_args=["-O3", "-g0", "-fopenmp", "-ffp-contract=off", *VECTORIZABLE],
        extra_link_args=["-fopenmp"],  # PyTorch's library, which is already loaded
        optional=True,  # a failed compilation does not fail the installation
    )
    return {"ext_modules": [operators], "cmdclass": {"build_ext": BuildExtension}}


setup(**extension())
