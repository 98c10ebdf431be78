"""Packaging of focal_plugin. Detectron2 is not a dependency: see the README on how to get it."""

from itertools import chain
from pathlib import Path

from setuptools import find_packages, setup

# What `focal-compare run --engine` can use where one machine is too small
ENGINES = {"ray": ["ray>=2.9"], "slurm": ["submitit>=1.5"]}

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
    package_data={"focal_plugin.compare.report": ["*.j2"]},
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
    extras_require={**ENGINES, "dev": ["pytest>=8", "ruff==0.17.6", *chain(*ENGINES.values())]},
    entry_points={"console_scripts": ["focal-compare = focal_plugin.compare.cli:main"]},
    zip_safe=False,
)
