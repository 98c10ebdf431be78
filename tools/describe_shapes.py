#!/usr/bin/env python3
"""
Document the built-in dataset: write `docs/images/shapes.png` and the table of `docs/shapes.md`.

    python tools/describe_shapes.py            # write both
    python tools/describe_shapes.py --check    # exit 1 if the table in the page is outdated
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from pages import fill
from tabulate import tabulate

from focal_plugin.compare.report.pictures import CocoImages, draw_boxes, tile
from focal_plugin.data.shapes.builtin import SPLITS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE = DOCS / "shapes.md", DOCS / "images" / "shapes.png"
SMALL, MEDIUM = 32**2, 96**2  # COCO's area limits, pixels


def count(name: str) -> dict[str, int]:
    """Return the numbers of one split by row label."""
    images = DatasetCatalog.get(name)
    classes = MetadataCatalog.get(name).thing_classes
    annotations = [annotation for image in images for annotation in image["annotations"]]
    objects = [a for a in annotations if not a["iscrowd"]]
    per_class = Counter(classes[a["category_id"]] for a in objects)
    areas = [a["bbox"][2] * a["bbox"][3] for a in objects]
    return {
        "images": len(images),
        "images without an object": sum(not image["annotations"] for image in images),
        "objects": len(objects),
        **{f"- {name}": per_class[name] for name in classes},
        "small objects (area < 32²)": sum(area < SMALL for area in areas),
        "medium objects": sum(SMALL <= area < MEDIUM for area in areas),
        "crowd boxes": len(annotations) - len(objects),
    }


def describe() -> str:
    """Return the table as Markdown."""
    columns = {name: count(name) for name in SPLITS}
    labels = next(iter(columns.values()))
    rows = [[label, *(column[label] for column in columns.values())] for label in labels]
    return tabulate(rows, ["", *columns], tablefmt="github", disable_numparse=True)


def replace_table(page: str) -> str:
    """Return the page with the current table between its marks."""
    return fill(page, "table", "describe_shapes", describe())


def draw_samples() -> None:
    """Draw sixteen images of the validation split with their annotations."""
    DatasetCatalog.get("focal_shapes_val")  # draws the dataset
    metadata = MetadataCatalog.get("focal_shapes_val")
    images = CocoImages(Path(metadata.json_file), Path(metadata.image_root))
    samples = [
        draw_boxes(images.open(id_), images.ground_truth(id_, colored=True), scale=2)
        for id_ in range(1, 17)
    ]
    PICTURE.parent.mkdir(exist_ok=True)
    tile(samples, columns=4).save(PICTURE, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare, write nothing")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    if check:
        return 0 if page == replace_table(page) else 1
    PAGE.write_text(replace_table(page), encoding="utf-8")
    draw_samples()
    return 0


if __name__ == "__main__":
    sys.exit(main())
