"""Rules of the dataset checks, with their severity and remedy."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..coco_ids import LEGAL

Severity = Literal["error", "warning", "note"]


class Rule(NamedTuple):
    """
    Rule of the dataset checks.

    Attributes:
        severity: "error": training or evaluation is wrong, or the run ends later. "warning":
            the data is silently dropped, or is likely a mistake. "note": valid, for information.
        what: what is wrong with each finding.
        remedy: how to fix it.
    """

    severity: Severity
    what: str
    remedy: str


RULES = {
    # The file as a whole
    "json-too-large": Rule(
        "error",
        "the file is larger than the limit",
        "raise --max-json-mib if this is the right file",
    ),
    "json-broken": Rule(
        "error",
        "the file is truncated or not valid JSON",
        "write or copy it again; `python -m json.tool FILE` also finds the position",
    ),
    "json-structure": Rule(
        "error",
        "the JSON is not in COCO format",
        'it must be an object with the lists "images", "annotations" and "categories" of objects',
    ),
    "no-annotations": Rule(
        "warning",
        'the JSON has no "annotations"',
        "such a file supports prediction, but neither training nor evaluation",
    ),
    "no-images": Rule("error", '"images" is empty', "list the images"),
    "no-categories": Rule("error", '"categories" is empty', "list the classes"),
    "no-objects": Rule(
        "warning",
        "no image has an object",
        "to train anyway, set DATALOADER.FILTER_EMPTY_ANNOTATIONS False",
    ),
    "only-crowds": Rule(
        "warning",
        "all annotations are crowd regions, which are neither trained on nor evaluated",
        'set "iscrowd": 0 for objects',
    ),
    "mostly-crowds": Rule(
        "warning",
        "most annotations are crowd regions, which are neither trained on nor evaluated",
        'set "iscrowd": 0 for objects',
    ),
    # Categories
    "category-malformed": Rule(
        "error",
        "a category has no id or no name",
        f"give each category a name and an id: {LEGAL}",
    ),
    "category-id-twice": Rule(
        "error", "two categories share an id", "give each category a unique id"
    ),
    "category-name-twice": Rule(
        "error",
        "two categories share a name; only one of them would be evaluated under it",
        "merge or rename them",
    ),
    "category-gaps": Rule(
        "note",
        "the ids of the categories are not 1, 2, 3, ...",
        "none required: classes are numbered in the order of ids; env.json records both",
    ),
    "num-classes": Rule(
        "error",
        "the model and the data have different numbers of classes",
        "set NUM_CLASSES of the model, or use a dataset with that number of classes",
    ),
    "classes-differ": Rule(
        "warning",
        "its classes differ in name or order from those of the first dataset of the config",
        "class i must be the same class in both: use the same ids and names",
    ),
    # Images
    "image-id": Rule(
        "error",
        "an image has no id, or one that is not legal",
        f"give each image an id: {LEGAL}",
    ),
    "image-id-twice": Rule(
        "error",
        "two images share an id: the objects of both would be assigned to one of them",
        "give each image a unique id, and its annotations that image_id",
    ),
    "image-size": Rule(
        "error",
        "the width or height of an image is missing or not a number between 0 and 2**31",
        "state the size in pixels",
    ),
    "image-file-name": Rule("error", "an image has no file name", 'state its "file_name"'),
    "image-file-twice": Rule(
        "warning",
        "several images share a file, which is trained on and evaluated more than once",
        "merge these images and their annotations",
    ),
    "image-without-objects": Rule(
        "note",
        "an image has no objects",
        "none required: DATALOADER.FILTER_EMPTY_ANNOTATIONS sets whether it is trained on",
    ),
    "image-partly-labeled": Rule(
        "note",
        "an image states the categories with which it is labeled completely",
        "none required: FocalRetinaNet does not train the others as background there, unless "
        'MODEL.FOCAL.ANCHOR_LABELS.UNLABELED is "background"; the evaluation counts them',
    ),
    "labeled-categories": Rule(
        "error",
        "the labeled categories of an image are not a list of ids of categories",
        "list the ids of categories of this file",
    ),
    "image-missing": Rule(
        "error",
        "the file of an image does not exist",
        "check the image folder; file names are relative to it",
    ),
    "image-outside-root": Rule(
        "error",
        "the file of an image lies outside the image folder",
        "pass a folder that contains all files, or --allow-outside-root if you trust the file",
    ),
    "image-unreadable": Rule(
        "error", "the file of an image cannot be decoded", "replace it, or remove the image"
    ),
    "image-size-differs": Rule(
        "error",
        "an image has a different size than stated: its boxes may belong to a resized image",
        "state the size of the file after EXIF orientation, and adapt the boxes",
    ),
    "image-mode": Rule(
        "warning",
        "the pixels of an image do not fit into 0 to 255, to which Detectron2 cuts them",
        "convert it to 8 bits, such as with numpy: 255 * (x - x.min()) / (x.max() - x.min())",
    ),
    "image-constant": Rule(
        "warning", "all pixels of an image are equal", "check how the image was written"
    ),
    # Annotations
    "annotation-id": Rule(
        "error",
        "an annotation has no id, or one that is not legal",
        f"give each annotation an id: {LEGAL}",
    ),
    "annotation-id-twice": Rule(
        "error",
        "two annotations share an id",
        "give each annotation a unique id",
    ),
    "annotation-id-zero": Rule(
        "note",
        "pycocotools treats a match with an annotation of id 0 as no match",
        "none required: this evaluation counts it; for other tools, number annotations from 1",
    ),
    "annotation-image-id": Rule(
        "error",
        "an annotation names no image, or one by an id of another type than those of the images",
        'state the "image_id" of its image, as a number or as a text like the id of the image',
    ),
    "annotation-without-image": Rule(
        "warning",
        "an annotation of an image that is not listed is dropped",
        "list the image, or remove the annotation",
    ),
    "annotation-category": Rule(
        "error",
        "the category of an annotation is not listed",
        "list the category, or correct the category_id",
    ),
    "annotation-ignore": Rule(
        "error",
        '"ignore" is set, which Detectron2 does not load, or it is not 0, 1, true or false',
        'set "iscrowd": 1, or give the file as JSON:IMAGES, where "ignore": 1 means the same',
    ),
    "ignore-regions": Rule(
        "note",
        "annotations are ignore regions: crowd regions in training and in the evaluation",
        'none required: training ignores them with MODEL.FOCAL.ANCHOR_LABELS.CROWD "ignore"',
    ),
    "annotation-area": Rule(
        "warning",
        'no finite "area" or no "iscrowd": training works, but the evaluation would fail',
        'add "area": width * height (of the mask, if there is one) and "iscrowd": 0',
    ),
    "annotation-iscrowd": Rule(
        "error",
        '"iscrowd" is not 0, 1, true or false; Detectron2 drops every object where it is not 0',
        'set "iscrowd": 0 for objects and 1 for crowd regions',
    ),
    "area-ignored": Rule(
        "warning",
        'an "area" below 0 or above 1e10: the evaluation ignores the object',
        'set "area": width * height (of the mask, if there is one)',
    ),
    "area-differs": Rule(
        "warning",
        'an "area" is far from that of the box; it decides whether the object is small or large',
        'set "area": width * height (of the mask, if there is one)',
    ),
    "segmentation-unusable": Rule(
        "warning",
        "a segmentation is neither polygons of at least three points nor RLE",
        'correct it; boxes only require none: "segmentation": []',
    ),
    "box-malformed": Rule(
        "error",
        "a box is missing or does not consist of 4 numbers",
        'state "bbox": [x, y, width, height]',
    ),
    "box-infinite": Rule(
        "error",
        "a box has an infinite number and would be clipped to the border of the image",
        'correct it, or train with MODEL.FOCAL.DATA.CHECK "drop"',
    ),
    "box-negative": Rule(
        "error",
        "a box has a negative width or height and would be moved to another place",
        "boxes are [x, y, width, height], not two corners; correct it, or train with "
        'MODEL.FOCAL.DATA.CHECK "drop"',
    ),
    "box-nan": Rule(
        "warning", "a box with a NaN is dropped in training", "correct or remove the annotation"
    ),
    "box-empty": Rule(
        "warning",
        "a box without area is dropped in training",
        "correct or remove the annotation",
    ),
    "box-outside-image": Rule(
        "warning",
        "a box outside its image is dropped in training",
        "correct the box or the stated size of the image, or remove the annotation",
    ),
    "box-tiny": Rule(
        "warning",
        "a box is at most one pixel wide and high",
        "remove the slip of an annotator; if most boxes are tiny, they are fractions of the image: "
        "multiply them by its width and height",
    ),
    "box-beyond-image": Rule(
        "warning",
        "a box reaches beyond its image and is clipped in training",
        "boxes are [x, y, width, height] with the left upper corner: correct them or the size of "
        "the image",
    ),
    "boxes-are-corners": Rule(
        "error",
        "the boxes seem to be corners instead of sizes",
        'convert them: "bbox": [x1, y1, x2 - x1, y2 - y1]',
    ),
    "boxes-are-centers": Rule(
        "warning",
        "the boxes seem to have centers instead of left upper corners",
        'convert them: "bbox": [center x - width / 2, center y - height / 2, width, height]',
    ),
    "object-twice": Rule(
        "warning",
        "an object has the image, the class and the box of an earlier one",
        "remove one of them: it counts twice in training, and is missed once in the evaluation",
    ),
    "box-mode": Rule(
        "error",
        "a box has no bbox_mode that Detectron2 can train with",
        "set bbox_mode to BoxMode.XYWH_ABS or BoxMode.XYXY_ABS, with boxes in pixels",
    ),
    # The file compared with what training and evaluation see
    "load-fails": Rule(
        "error", "the loader of the dataset fails", "correct the dataset or its loader"
    ),
    "object-lost": Rule(
        "warning",
        "an object of the dataset is dropped in training",
        "correct or remove its annotation",
    ),
    "mapper-fails": Rule(
        "error",
        "an object ends the training when Detectron2's mapper meets it",
        "correct or remove its annotation",
    ),
    "class-lost": Rule(
        "error",
        "no object of a class is left in training",
        "correct its annotations; other findings say why they are dropped",
    ),
    "training-differs": Rule(
        "error",
        "training would load another number of objects than the file has",
        "correct the loader of the dataset, or its annotation file",
    ),
    "evaluation-fails": Rule(
        "error", "pycocotools cannot evaluate the dataset", "correct its annotations"
    ),
    "object-not-evaluated": Rule(
        "warning", "the evaluation ignores an object", 'set its "area" and "iscrowd": 0'
    ),
    "class-not-evaluated": Rule(
        "error",
        "the evaluation counts no object of a class",
        "correct its annotations; other findings say why they are ignored",
    ),
    # What the config asks of the data
    "mask-missing": Rule(
        "error",
        "MODEL.MASK_ON is True, but an object has no mask",
        "add its segmentation, train boxes only with MODEL.MASK_ON False, or drop such objects "
        'from training with MODEL.FOCAL.DATA.CHECK "drop"',
    ),
    "mask-empty": Rule(
        "warning",
        "MODEL.MASK_ON is True, but a polygon covers no pixel of its box",
        'correct its segmentation or its "bbox"; the object trains an empty mask',
    ),
    "mask-format": Rule(
        "error",
        "INPUT.MASK_FORMAT does not fit the masks",
        'set INPUT.MASK_FORMAT to "polygon" for polygons only, and else to "bitmask"',
    ),
    "keypoint-names": Rule(
        "error",
        "MODEL.KEYPOINT_ON is True, but the dataset does not name the keypoints",
        "set keypoint_names and keypoint_flip_map of MetadataCatalog.get(name), or "
        "MODEL.KEYPOINT_ON False",
    ),
    "keypoints-missing": Rule(
        "error",
        "MODEL.KEYPOINT_ON is True, but an object has no keypoints, or another number of them",
        "state x, y and visibility of each keypoint, or set MODEL.KEYPOINT_ON False",
    ),
    "proposals": Rule(
        "error",
        "MODEL.LOAD_PROPOSALS is True, but a dataset has no file of proposals",
        "name one file for each dataset, or set MODEL.LOAD_PROPOSALS False",
    ),
    "annotation-class": Rule(
        "error",
        "the class of an object is not a class of the dataset",
        "number the classes from 0, without the background",
    ),
}
