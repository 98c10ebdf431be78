"""Packaging of focal_plugin. Detectron2 is not a dependency: see the README on how to get it."""

import shutil
from itertools import chain
from pathlib import Path

from setuptools import find_packages, setup

OPTIONAL = {
    # The same COCO evaluation, faster
    "fast": ["faster-coco-eval>=1.8"],
    # What `focal-compare run --engine` can use where one machine is too small
    "ray": ["ray>=2.9"],
    "slurm": ["submitit>=1.5"],
}

# Nobody asks for floating point exceptions or errno, which would keep loops from being vectors
VECTORIZABLE = ["-fno-trapping-math", "-fno-math-errno"]


def extension() -> dict:
    """
    The operators in C++, built where there are a compiler and an importable torch (so not by pip
    in its own isolated environment: `--no-build-isolation`). Without them PyTorch does the same
    work, more slowly.
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
        # what is rounded, and in which order, is part of what the operators promise
        extra_compile_args=["-O3", "-g0", "-fopenmp", "-ffp-contract=off", *VECTORIZABLE],
        extra_link_args=["-fopenmp"],  # PyTorch's own, which is loaded by then
        optional=True,  # where they do not compile, the rest is installed all the same
    )
    return {"ext_modules": [operators], "cmdclass": {"build_ext": BuildExtension}}


setup(
    name="focal_plugin",
    version="0.1.0",
    description="Focal loss and its rivals as drop-in components of Detectron2",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="detectron2 retinanet focal-loss class-imbalance object-detection",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(include=["focal_plugin", "focal_plugin.*"]),
    package_data={"focal_plugin.compare.report": ["*.j2"], "focal_plugin.ops": ["csrc/*"]},
    **extension(),
    python_requires=">=3.10",
    # No "detectron2" here: no package index has it under its own name, so that asking for it would
    # make every installation fail. `import focal_plugin` and `python -m focal_plugin.doctor` say
    # how to get it. No OpenCV either: several distributions provide cv2, and one is enough.
    install_requires=[
        "fvcore",
        "jinja2",
        "matplotlib",
        "numpy",
        "pillow",
        "pycocotools>=2.0.6",
        "pyyaml",
        "scipy",
        "tabulate",
        "torch",
        "yacs",
    ],
    extras_require={**OPTIONAL, "dev": ["pytest>=8", "ruff==0.17.6", *chain(*OPTIONAL.values())]},
    entry_points={
        "console_scripts": [
            "focal-compare = focal_plugin.compare.cli:main",
            "focal-plugin = focal_plugin.cli:main",
        ]
    },
    zip_safe=False,
)
