"""Command that draws a dataset of shapes: `python -m focal_plugin.data.shapes --help`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypedDict

from .dataset import draw_dataset
from .painting import ShapesSpec


class _Two(TypedDict):
    """Arguments of `add_argument` for an option with two numbers."""

    nargs: int
    metavar: tuple[str, str]


def main() -> None:
    default = ShapesSpec()
    parser = argparse.ArgumentParser(
        prog="python -m focal_plugin.data.shapes",
        description="Draw a dataset of shapes with a given imbalance, in COCO format.",
        epilog="""
example: twice as many look-alikes as the built-in dataset
  python -m focal_plugin.data.shapes my_train --distractors 12 24
  python -m focal_plugin.data.shapes my_val --distractors 12 24 --images 250 --seed 1
  python train_net.py --config-file configs/Shapes-Detection/retinanet_small.yaml \\
    --dataset my_train=my_train/annotations.json:my_train/images \\
    --dataset my_val=my_val/annotations.json:my_val/images \\
    DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)"
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="output folder; must not exist")
    two: _Two = {"nargs": 2, "metavar": ("FEWEST", "MOST")}
    parser.add_argument("--images", type=int, default=default.images)
    parser.add_argument("--image-size", type=int, default=default.image_size, help="pixels")
    parser.add_argument("--objects", type=int, default=default.objects, **two)
    parser.add_argument("--distractors", type=int, default=default.distractors, **two)
    parser.add_argument("--radius", type=float, default=default.radius, **two, help="pixels")
    parser.add_argument(
        "--empty", type=float, default=default.empty, help="share of images without objects"
    )
    parser.add_argument(
        "--crowds", type=float, default=default.crowds, help="share of images with a crowd region"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} already exists")
    options = {name: value for name, value in vars(args).items() if name != "folder"}
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        spec = ShapesSpec(**options)
    except ValueError as error:
        parser.error(str(error))
    draw_dataset(spec, args.folder)
    name = args.folder.name
    print(f"--dataset {name}={args.folder}/annotations.json:{args.folder}/images")


if __name__ == "__main__":
    main()
