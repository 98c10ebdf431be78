"""What is looked for in a data set, how bad it is, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]


class Rule(NamedTuple):
    """
    Attributes:
        severity: "error": it trains or evaluates wrong, or ends the run later. "warning": it is
            left out without a word, or likely a mistake. "note": it is as it should be, and good
            to know.
        what: what is wrong with each finding.
        remedy: what to do about it.
    """

    severity: Severity
    what: str
    remedy: str


RULES = {
    # The file as a whole
    "json-too-large": Rule(
        "error",
        "the file is larger than what may be read",
        "give a higher --max-json-mib, if that is the file you mean",
    ),
    "json-broken": Rule(
        "error",
        "the file is not a JSON, or cut off",
        "write or copy it again; `python -m json.tool FILE` finds the place too",
    ),
    "json-structure": Rule(
        "error",
        "the JSON is not of COCO's form",
        'it must be an object with the lists "images", "annotations" and "categories" of objects',
    ),
    "no-annotations": Rule(
        "warning",
        'the JSON has no "annotations"',
        "such a file can be predicted on; it can neither be trained on nor evaluated",
    ),
    "no-images": Rule("error", 'there is nothing in "images"', "list the images"),
    "no-categories": Rule("error", 'there is nothing in "categories"', "list the classes"),
    "no-objects": Rule(
        "warning",
        "no image has an object: there are no annotations, or crowd regions only",
        "to train on it all the same, set DATALOADER.FILTER_EMPTY_ANNOTATIONS False",
    ),
    # Categories
    "category-malformed": Rule(
        "error",
        "a category without an id or a name",
        "give each an integer id, all of one type, and a name",
    ),
    "category-id-twice": Rule(
        "error", "two categories have one id", "give each category an id of its own"
    ),
    "category-name-twice": Rule(
        "error",
        "two categories have one name, under which only one of them would be evaluated",
        "merge them, or name them differently",
    ),
    "category-gaps": Rule(
        "note",
        "the ids of the categories are not 1, 2, 3, ...",
        "nothing: classes are numbered in the order of the ids; a run records both in env.json",
    ),
    "num-classes": Rule(
        "error",
        "the model has another number of classes than the data",
        "set the NUM_CLASSES of the model, or give the data set that it is for",
    ),
    "classes-differ": Rule(
        "warning",
        "its classes are not those of the first data set of the config, or in another order",
        "class number i of one must be class number i of the other: use the same ids and names",
    ),
    # Images
    "image-id": Rule(
        "error",
        "an image without an id, or with one of another type than the others",
        "give each image an integer id",
    ),
    "image-id-twice": Rule(
        "error",
        "two images have one id: the objects of both would be put on one of them",
        "give each image an id of its own, and its annotations that image_id",
    ),
    "image-size": Rule(
        "error",
        "the width or height of an image is missing, or no number between 0 and 2**31",
        "state the size in pixels",
    ),
    "image-file-name": Rule("error", "an image without a file name", 'state its "file_name"'),
    "image-file-twice": Rule(
        "warning",
        "one file is several images: it is trained on and evaluated more than once",
        "merge these images and their annotations",
    ),
    "image-without-objects": Rule(
        "note",
        "an image without objects",
        "nothing: DATALOADER.FILTER_EMPTY_ANNOTATIONS says whether it is trained on",
    ),
    "image-missing": Rule(
        "error",
        "the file of an image is not there",
        "look at the image folder that was given; file names are relative to it",
    ),
    "image-outside-root": Rule(
        "error",
        "the file of an image lies outside the image folder",
        "give the folder that holds all of them, or --allow-outside-root if you trust the file",
    ),
    "image-unreadable": Rule(
        "error", "the file of an image cannot be decoded", "replace it, or remove the image"
    ),
    "image-size-differs": Rule(
        "error",
        "an image has another size than is stated: its boxes may be of a resized one",
        "state the size of the file, after its EXIF orientation, and make the boxes fit",
    ),
    # Annotations
    "annotation-id": Rule(
        "error",
        "an annotation without an id, or with one that is no number",
        "give each annotation an integer id above 0",
    ),
    "annotation-id-twice": Rule(
        "error",
        "two annotations have one id",
        "give each annotation an id of its own",
    ),
    "annotation-id-zero": Rule(
        "warning",
        "the evaluation takes a match with an annotation of id 0 for no match",
        "number the annotations from 1",
    ),
    "annotation-image-id": Rule(
        "error", "an annotation that names no image", 'state the "image_id" of its image'
    ),
    "annotation-without-image": Rule(
        "warning",
        "the annotation of an image that is not listed is left out",
        "list the image, or remove the annotation",
    ),
    "annotation-category": Rule(
        "error",
        "the category of an annotation is not listed",
        "list the category, or correct the category_id",
    ),
    "annotation-ignore": Rule(
        "error",
        '"ignore" is set, which Detectron2 refuses to load',
        'use "iscrowd": 1, or remove the annotation',
    ),
    "annotation-area": Rule(
        "warning",
        'no "area" or no "iscrowd": it can be trained on, but the evaluation would fail',
        'add "area": width * height (of the mask, if there is one) and "iscrowd": 0',
    ),
    "box-malformed": Rule(
        "error",
        "a box that is not 4 numbers, or missing",
        'state "bbox": [x, y, width, height]',
    ),
    "box-infinite": Rule(
        "error",
        "a box with an infinite number, which would be clipped to the border of the image",
        'correct it, or train with MODEL.FOCAL.DATA.CHECK "drop"',
    ),
    "box-negative": Rule(
        "error",
        "a width or height below 0: the box would be flipped into one at another place",
        "boxes are [x, y, width, height], not two corners; correct it, or train with "
        'MODEL.FOCAL.DATA.CHECK "drop"',
    ),
    "box-nan": Rule(
        "warning", "a box with a NaN is left out in training", "correct or remove the annotation"
    ),
    "box-empty": Rule(
        "warning",
        "a box without area is left out in training",
        "correct or remove the annotation",
    ),
    "box-outside-image": Rule(
        "warning",
        "a box that lies outside its image is left out in training",
        "the box, or the stated size of the image, is wrong: correct or remove it",
    ),
    "annotation-class": Rule(
        "error",
        "the class of an object is not among those of the data set",
        "number the classes from 0, without the background",
    ),
}
