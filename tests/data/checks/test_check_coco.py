"""Checks of a COCO dataset: each rule is tested on a file with a single fault."""

import json
import logging
import os
import re
import time

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from focal_plugin.data import (
    DataError,
    Report,
    check_coco,
    drop_impossible_boxes,
    raise_if_any_is_bad,
    write_reports,
)
from focal_plugin.data.checks.coco_rules import check_content
from focal_plugin.data.checks.dict_rules import check_dicts
from focal_plugin.data.checks.facts import read_content
from focal_plugin.data.checks.findings import LISTED
from focal_plugin.data.checks.rules import RULES
from focal_plugin.data.shapes.png import encode_png

NAN, INF = float("nan"), float("inf")


def image(number, **changes):
    return {"id": number, "file_name": f"{number}.png", "width": 32, "height": 24, **changes}


def annotation(number, image_id=1, **changes):
    place = 2 + number % 10 if isinstance(number, int) else 2  # no two objects are the same
    box = {"bbox": [place, 3, 10, 8], "area": 80, "iscrowd": 0}
    return {"id": number, "image_id": image_id, "category_id": 1, **box, **changes}


def coco(**changes):
    """Return three images, two annotations on each, and two categories, without faults."""
    return {
        "images": [image(1), image(2), image(3)],
        "annotations": [annotation(number, 1 + number % 3) for number in range(1, 7)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        **changes,
    }


@pytest.fixture
def folder(tmp_path):
    """Create a folder with the image files of :func:`coco`."""
    (tmp_path / "images").mkdir()
    pixels = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
    for number in (1, 2, 3):
        (tmp_path / "images" / f"{number}.png").write_bytes(encode_png(pixels))
    return tmp_path


@pytest.fixture
def check(folder):
    """Write a content (an object or a text) into a file, and check it."""

    def check(content, **options):
        text = content if isinstance(content, str) else json.dumps(content)
        file = folder / "annotations.json"
        file.write_text(text)
        os.utime(file, ns=(0, time.monotonic_ns()))  # both versions may fall into one clock tick
        return check_coco(file, folder / "images", **options)

    return check


def only(report, rule):
    """Return the findings of a report, which must all belong to this rule."""
    assert report.counts.keys() == {rule}, report.counts
    assert report.counts[rule] >= len(report.findings) > 0
    assert {finding.severity for finding in report.findings} == {RULES[rule].severity}
    return report.findings


def with_annotations(*annotations):
    """Return :func:`coco` with additional annotations."""
    return coco(annotations=[*coco()["annotations"], *annotations])


def with_box(*box):
    return with_annotations(annotation(7, 2, bbox=list(box)))


# Valid files


def test_a_valid_file_has_no_findings(check):
    report = check(coco(), decode_images=True)
    assert report.counts == {}
    assert not report.is_bad(strict=True)
    report.raise_if_bad(strict=True)
    assert report.summary().endswith("3 images, 6 objects, 0 errors, 0 warnings")


def test_the_built_in_dataset_has_no_errors_and_no_warnings(tiny_shapes):
    report = check_coco(
        tiny_shapes / "annotations.json", tiny_shapes / "images", decode_images=True
    )
    assert not report.is_bad(strict=True), report.findings


def test_the_facts_are_those_of_the_file(check, folder):
    content = coco(categories=[{"id": 9, "name": "zebra"}, {"id": 1, "name": "ape"}])
    content["annotations"][0]["iscrowd"] = 1
    facts = check(content).facts
    assert facts["json_file"] == str(folder / "annotations.json")
    assert facts["image_root"] == str(folder / "images")
    assert (facts["images"], facts["annotations"], facts["crowds"]) == (3, 6, 1)
    assert facts["classes"] == ["ape", "zebra"]
    assert facts["category_ids"] == [1, 9]
    assert facts["annotations_per_class"] == [5, 0]


# The file as a whole


def test_a_missing_file_and_a_missing_folder_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        check_coco(folder / "none.json", folder)
    (folder / "a.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        check_coco(folder / "a.json", folder / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{", '{"images": [', "\ufeff{}", '{"images": [1e5, nan]}', "[" * 100_000]
)
def test_what_is_not_json_is_an_error_that_says_why(check, text):
    (finding,) = only(check(text), "json-broken")
    assert finding.message
    assert check(text).facts["json_sha256"] is not None


def test_bytes_that_are_not_utf_8_are_an_error(folder):
    (folder / "a.json").write_bytes(json.dumps(coco()).encode("utf-16"))
    only(check_coco(folder / "a.json", None), "json-broken")


@pytest.mark.parametrize(("text", "what"), [("[]", "a list"), ("3", "a number"), ("null", "null")])
def test_a_json_that_is_no_object_is_an_error(check, text, what):
    (finding,) = only(check(text), "json-structure")
    assert finding.message == f"the JSON is {what}, not an object"


@pytest.mark.parametrize("key", ["images", "categories"])
def test_a_missing_list_is_an_error(check, key):
    content = coco()
    del content[key]
    (finding,) = only(check(content), "json-structure")
    assert finding.message == f'there is no "{key}"'


def test_a_file_without_annotations_is_a_warning(check):
    content = coco()
    del content["annotations"]
    only(check(content), "no-annotations")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize(("value", "what"), [({"1": {}}, "an object"), (None, "null")])
def test_a_value_other_than_a_list_is_an_error(check, key, value, what):
    (finding,) = only(check(coco(**{key: value})), "json-structure")
    assert finding.message == f'"{key}" is {what}, not a list'


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_an_entry_other_than_an_object_is_named_by_its_position(check, key):
    content = coco()
    content[key].insert(1, [])
    (finding,) = only(check(content), "json-structure")
    assert finding.message == f'entry 1 of "{key}" is a list'


def test_a_file_above_the_limit_is_not_read(check):
    (finding,) = only(check("{" + " " * 2_000_000, max_json_mib=1), "json-too-large")
    assert finding.message == "1.9 MiB, the limit is 1 MiB"
    only(check("{" + " " * 1_000_000, max_json_mib=1), "json-broken")


# Categories


def test_no_categories_is_an_error(check):
    report = check(coco(categories=[], annotations=[]))
    assert report.counts == {"no-categories": 1, "no-objects": 1}


@pytest.mark.parametrize(
    "category", [{"name": "cow"}, {"id": 3}, {"id": 3, "name": 7}, {"id": [3], "name": "cow"}]
)
def test_a_category_without_id_or_name_is_an_error(check, category):
    report = check(coco(categories=[*coco()["categories"], category]))
    only(report, "category-malformed")
    assert report.facts["classes"] is None


def test_two_categories_of_one_id_are_named(check):
    content = coco(categories=[*coco()["categories"], {"id": 2, "name": "cow"}])
    report = check(content)
    assert report.counts == {"category-id-twice": 1, "category-gaps": 1}
    assert report.findings[0].message == "id 2: 'dog', 'cow'"


def test_two_categories_of_one_name_are_an_error_with_both_ids(check):
    content = coco(categories=[*coco()["categories"], {"id": 3, "name": "dog"}])
    (finding,) = only(check(content), "category-name-twice")
    assert finding.message == "'dog': ids 2, 3"


@pytest.mark.parametrize("ids", [(0, 1), (1, 7), (1, 90)])
def test_gaps_in_the_ids_of_categories_are_a_note_and_never_an_error(check, ids):
    categories = [{"id": number, "name": f"class {number}"} for number in ids]
    report = check(coco(categories=categories))
    (finding,) = only(report, "category-gaps")
    assert finding.message == f"2 categories with the ids {ids[0]}, {ids[1]}"
    report.raise_if_bad(strict=True)


# Images


def test_no_images_is_an_error(check):
    report = check(coco(images=[], annotations=[]))
    assert report.counts == {"no-images": 1, "no-objects": 1}


def test_two_images_of_one_id_are_an_error_with_both_files(check):
    content = coco(images=[image(1), image(2), image(3), image(2, file_name="1.png")])
    report = check(content)
    twice = [f for f in report.findings if f.rule == "image-id-twice"]
    assert [(f.message, f.image_id) for f in twice] == [("image id 2: 2.png, 1.png", 2)]


@pytest.mark.parametrize("image_id", [None, [1], "4", True, {}])
def test_an_image_without_a_legal_id_is_an_error(check, image_id):
    content = coco(images=[*coco()["images"], image(4, id=image_id, file_name="1.png")])
    report = check(content)
    assert report.counts["image-id"] == 1
    assert report.counts.keys() <= {"image-id", "image-without-objects"}
    assert f"image {image_id!r} " in report.findings[0].message
    assert "entry 3 of the list" in report.findings[0].message


def test_ids_may_be_strings(check):
    content = coco(
        images=[image(1, id="a"), image(2, id="b")],
        annotations=[annotation(1, "a"), annotation(2, "b")],
    )
    assert check(content).counts == {}


@pytest.mark.parametrize(
    "size",
    [
        *({"width": 0}, {"height": -3}, {"width": "32"}, {"height": None}, {"width": NAN}),
        *({"height": INF}, {"width": 10**400}, {"width": True}),
    ],
)
def test_an_invalid_size_is_an_error(check, size):
    content = coco(images=[image(1), image(2, **size), image(3)])
    (finding,) = only(check(content), "image-size")
    assert finding.image_id == 2


@pytest.mark.parametrize("name", [None, "", "  ", 7, ["2.png"]])
def test_an_image_without_a_file_name_is_an_error(check, name):
    content = coco(images=[image(1), image(2, file_name=name), image(3)])
    (finding,) = only(check(content), "image-file-name")
    assert finding.image_id == 2


def test_one_file_under_two_ids_is_a_warning(check):
    content = coco(images=[image(1), image(2), image(3, file_name="2.png")])
    (finding,) = only(check(content), "image-file-twice")
    assert (finding.message, finding.image_id) == ("2.png: images 2, 3", 3)


def test_images_without_objects_are_counted_and_never_an_error(check):
    report = check(coco(annotations=[annotation(1, 2), annotation(2, 3, iscrowd=1)]))
    assert [finding.image_id for finding in only(report, "image-without-objects")] == [1, 3]
    report.raise_if_bad(strict=True)


# Image files


@pytest.mark.parametrize(
    "name",
    [
        *("4.png", "sub/1.png", ".", "x" * 300),
        *("1.png\0", "sub\0/1.png", "\ud800.png", "\ud800/1.png"),
    ],
)
def test_a_missing_image_file_is_an_error(check, name):
    content = coco(images=[image(1), image(2, file_name=name), image(3)])
    (finding,) = only(check(content), "image-missing")
    assert finding.image_id == 2
    assert finding.message.isprintable()
    finding.message.encode()


@pytest.fixture
def outside(folder):
    """Create an image outside the image folder."""
    file = folder / "outside.png"
    file.write_bytes((folder / "images/1.png").read_bytes())
    return file


@pytest.fixture(params=["..", "deep", "absolute", "link", "linked folder", "missing", "prefix"])
def name_outside(request, folder, outside):
    """Return names of files outside the image folder."""
    (folder / "images/link.png").symlink_to(outside)
    (folder / "images/linked").symlink_to(folder)
    (folder / "images_too").mkdir()
    (folder / "images_too/1.png").write_bytes(outside.read_bytes())
    return {
        "..": "../outside.png",
        "deep": "no/../../outside.png",
        "absolute": str(outside),
        "link": "link.png",
        "linked folder": "linked/outside.png",
        "missing": "../not_there.png",
        "prefix": "../images_too/1.png",
    }[request.param]


def test_a_file_outside_the_image_folder_is_refused_and_not_opened(check, folder, name_outside):
    content = coco(images=[image(1), image(2, file_name=name_outside), image(3)])
    (finding,) = only(check(content, decode_images=True), "image-outside-root")
    assert finding.image_id == 2
    assert str(folder) in finding.message


def test_a_file_outside_may_be_allowed(check, outside):
    content = coco(images=[image(1), image(2, file_name="../outside.png"), image(3)])
    assert check(content, allow_outside_root=True).counts == {}


def test_names_that_stay_inside_are_fine(check, folder):
    (folder / "images/sub").mkdir()
    (folder / "images/link.png").symlink_to("1.png")
    names = ["sub/../1.png", str(folder / "images/2.png"), "link.png"]
    images = [image(number, file_name=name) for number, name in enumerate(names, start=1)]
    assert check(coco(images=images)).counts == {}


def test_an_image_folder_that_is_a_link_is_fine(folder):
    (folder / "a.json").write_text(json.dumps(coco()))
    (folder / "link").symlink_to("images")
    assert check_coco(folder / "a.json", folder / "link").counts == {}


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_an_image_that_cannot_be_decoded_is_found_where_images_are_opened(check, folder, damage):
    file = folder / "images/2.png"
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[:50], "empty": b"", "text": b"not an image"}[damage])
    assert check(coco()).counts == {}
    (finding,) = only(check(coco(), decode_images=True), "image-unreadable")
    assert finding.image_id == 2
    assert str(file) in finding.message


@pytest.mark.parametrize("decode_images", [False, True])
def test_another_size_than_stated_is_found(check, decode_images):
    content = coco(images=[image(1), image(2, width=24, height=32), image(3)])
    (finding,) = only(check(content, decode_images=decode_images), "image-size-differs")
    assert finding.image_id == 2
    assert finding.message.endswith("the file is 32 x 24, the annotations say 24 x 32")


# Annotations


def test_two_annotations_of_one_id_are_an_error(check):
    (finding,) = only(check(with_annotations(annotation(5, 1))), "annotation-id-twice")
    assert finding.annotation_id == 5
    assert finding.message == "annotation id 5: on images 3, 1"


def test_known_coco_files_may_repeat_annotations(folder):
    file = folder / "instances_minival2014.json"
    file.write_text(json.dumps(with_annotations(annotation(5, 1))))
    assert check_coco(file, folder / "images").counts == {}


@pytest.mark.parametrize("annotation_id", [None, [7], "7", False])
def test_an_annotation_without_a_legal_id_is_an_error(check, annotation_id):
    (finding,) = only(check(with_annotations(annotation(annotation_id))), "annotation-id")
    assert "entry 6 of the list" in finding.message


def test_an_annotation_of_id_0_is_a_note(check):
    (finding,) = only(check(with_annotations(annotation(0, 2))), "annotation-id-zero")
    assert (finding.annotation_id, finding.image_id, finding.severity) == (0, 2, "note")


@pytest.mark.parametrize("image_id", [4, 4.0, -1])
def test_an_annotation_of_an_image_that_is_not_listed_is_a_warning(check, image_id):
    (finding,) = only(check(with_annotations(annotation(7, image_id))), "annotation-without-image")
    assert (finding.annotation_id, finding.image_id) == (7, image_id)


@pytest.mark.parametrize("image_id", [None, [1], {}, "1", 1.5, NAN, True, 10**400])
def test_an_annotation_that_names_no_image_is_an_error(check, image_id):
    (finding,) = only(check(with_annotations(annotation(7, image_id))), "annotation-image-id")
    assert finding.annotation_id == 7
    assert f"annotation 7 of image {image_id!r:.80}" in finding.message


def test_an_annotation_without_an_image_is_not_on_the_image_without_an_id(check):
    content = with_annotations(annotation(7, None))
    content["images"].append(image(4, id=None, file_name="sub/../1.png"))
    counts = check(content, allow_outside_root=True).counts
    assert counts == {"image-id": 1, "annotation-image-id": 1, "image-without-objects": 1}


@pytest.mark.parametrize("category_id", [3, 0, None, [1], "1"])
def test_an_unknown_category_is_an_error_with_the_annotation(check, category_id):
    content = with_annotations(annotation(7, 2, category_id=category_id))
    (finding,) = only(check(content), "annotation-category")
    assert (finding.annotation_id, finding.image_id) == (7, 2)
    assert f"category_id {category_id!r}" in finding.message


@pytest.mark.parametrize("ignore", [1, True, None, "0", [], 0.5])
def test_an_annotation_that_detectron2_refuses_is_an_error(check, ignore):
    (finding,) = only(check(with_annotations(annotation(7, ignore=ignore))), "annotation-ignore")
    assert finding.annotation_id == 7
    assert f"ignore {ignore!r}" in finding.message
    assert check(with_annotations(annotation(7, ignore=0))).counts == {}


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_keys_required_by_the_evaluation_are_a_warning_if_missing(check, key):
    incomplete = annotation(7)
    del incomplete[key]
    (finding,) = only(check(with_annotations(incomplete)), "annotation-area")
    assert finding.annotation_id == 7


@pytest.mark.parametrize("area", [NAN, INF, -INF, 10**400, None, "12"])
def test_an_area_that_is_no_finite_number_is_like_a_missing_one(check, area):
    counts = check(with_annotations(annotation(7, area=area))).counts
    assert counts["annotation-area"] == 1


CROWDS = [annotation(1, iscrowd=1), annotation(2, iscrowd=1)]


@pytest.mark.parametrize(("annotations", "rule"), [([], "no-objects"), (CROWDS, "only-crowds")])
def test_no_object_at_all_is_a_warning(check, annotations, rule):
    (finding,) = only(check(coco(annotations=annotations)), rule)
    assert f"{len(annotations)} annotations ({len(annotations)} crowd regions)" in finding.message


def change_each(content, **values):
    """Return the content with values, or functions of the box, in all annotations."""
    for entry in content["annotations"]:
        entry.update({k: v(entry["bbox"]) if callable(v) else v for k, v in values.items()})
    return content


@pytest.mark.parametrize("value", [None, "0", "false", [], {}, 2, -1, 0.5, NAN])
def test_iscrowd_that_is_no_truth_value_is_an_error_that_shows_it(check, value):
    report = check(with_annotations(annotation(7, 2, iscrowd=value)))
    assert report.counts["annotation-iscrowd"] == report.num("error") == 1
    (finding,) = (f for f in report.findings if f.rule == "annotation-iscrowd")
    assert finding.message == f"annotation 7 of image 2 (2.png): iscrowd {value!r}"


@pytest.mark.parametrize("value", [0, 1, True, False, 0.0, 1.0])
def test_iscrowd_may_be_a_truth_value(check, value):
    assert check(with_annotations(annotation(7, 2, iscrowd=value))).counts == {}


def test_crowds_that_are_most_annotations_are_a_warning_that_says_what_to_set(check):
    content = coco()
    for entry in content["annotations"][:4]:
        entry["iscrowd"] = 1
    report = check(content)
    assert report.counts["mostly-crowds"] == report.num("warning") == 1
    assert '"iscrowd": 0' in RULES["mostly-crowds"].remedy
    content["annotations"][3]["iscrowd"] = 0
    assert "mostly-crowds" not in check(content).counts


@pytest.mark.parametrize(
    ("area", "rule"),
    [
        *((-1, "area-ignored"), (-0.5, "area-ignored"), (1e11, "area-ignored")),
        *((10**300, "area-ignored"), (-(10**300), "area-ignored")),
        *((0, "area-differs"), (1, "area-differs"), (-0.0, "area-differs"), (1e4, "area-differs")),
    ],
)
def test_an_area_that_is_no_area_of_the_box_is_a_warning(check, area, rule):
    (finding,) = only(check(with_annotations(annotation(7, 2, area=area))), rule)
    assert (finding.annotation_id, finding.image_id) == (7, 2)


@pytest.mark.parametrize("area", [80, 45, 150, 80.5])
def test_an_area_near_that_of_the_box_is_fine(check, area):
    assert check(with_annotations(annotation(7, 2, area=area))).counts == {}


def test_the_area_of_a_mask_may_be_far_below_that_of_the_box(check):
    mask = [[3, 3, 4, 3, 4, 4]]
    assert check(with_annotations(annotation(7, 2, area=0.5, segmentation=mask))).counts == {}
    (finding,) = only(
        check(with_annotations(annotation(7, 2, area=300, segmentation=mask))), "area-differs"
    )
    assert finding.annotation_id == 7


UNUSABLE = [
    *([[1, 2, 30, 2]], [[]], [1, 2, 30, 2, 30, 20], [[[1, 2], [30, 2], [30, 20]]]),
    *([[1, 2, 30, 2, 30]], [[1, 2, 30, 2, 30, None]], [["1"] * 6], [[NAN] * 6], "polygon", 7),
    *({"size": [24, 32]}, {"counts": "a"}, {"size": [24], "counts": [768]}),
    *({"size": [24, 32], "counts": ""}, {"size": [24, 32], "counts": [1.5]}),
]


@pytest.mark.parametrize("segmentation", UNUSABLE)
def test_a_segmentation_that_detectron2_cannot_use_is_named(check, segmentation):
    content = with_annotations(annotation(7, 2, segmentation=segmentation))
    (finding,) = only(check(content), "segmentation-unusable")
    assert finding.annotation_id == 7
    assert repr(segmentation) in finding.message


@pytest.mark.parametrize(
    "segmentation",
    [
        *([], None, [[1, 2, 30, 2, 30, 20]], [[1, 2], [1, 2, 30, 2, 30, 20]]),
        *({"size": [24, 32], "counts": [768]}, {"size": [24, 32], "counts": "PP`0"}),
    ],
)
def test_polygons_rle_and_no_segmentation_are_fine(check, segmentation):
    assert check(with_annotations(annotation(7, 2, segmentation=segmentation))).counts == {}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"category_id": "1"}, "category_id '1'"),
        ({"bbox": "[1, 2, 3, 4]"}, "bbox '[1, 2, 3, 4]'"),
        ({"bbox": [1, "2", 3, 4]}, "bbox [1, '2', 3, 4]"),
        ({"image_id": "2"}, "of image '2'"),
        ({"iscrowd": "1"}, "iscrowd '1'"),
    ],
)
def test_text_instead_of_a_number_is_shown_in_quotation_marks(check, entry, said):
    messages = [f.message for f in check(with_annotations(annotation(7, 2) | entry)).findings]
    assert any(said in message for message in messages)


def test_a_size_that_is_text_is_shown_in_quotation_marks(check):
    (finding,) = only(check(coco(images=[image(1), image(2, width="32"), image(3)])), "image-size")
    assert finding.message == "image 2 (2.png): width '32', height 24"


# Boxes


def box_rule(check, content, rule):
    (finding,) = only(check(content), rule)
    assert (finding.annotation_id, finding.image_id) == (7, 2)
    return finding.message


@pytest.mark.parametrize(
    "box",
    [
        *([], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, "3", 4], [1, 2, None, 4], [1, 2, True, 4]),
        *([1, 2, [3], 4], [1, 2, 10**400, 4], "1234", 5, None, {"x": 1}),
    ],
)
def test_a_box_that_is_not_4_numbers_is_an_error(check, box):
    content = with_annotations(annotation(7, 2, bbox=box))
    assert "annotation 7 of image 2 (2.png): bbox" in box_rule(check, content, "box-malformed")


def test_a_missing_box_is_an_error(check):
    missing = annotation(7, 2)
    del missing["bbox"]
    assert "bbox missing" in box_rule(check, with_annotations(missing), "box-malformed")


@pytest.mark.parametrize("size", [(-4, 5), (4, -0.5), (-4, -5)])
def test_a_negative_width_or_height_is_an_error(check, size):
    assert str(size[0]) in box_rule(check, with_box(9, 9, *size), "box-negative")


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [INF, -INF, 1e39, -(10**39)])
def test_an_infinite_number_is_an_error(check, place, value):
    box = [1.0, 2.0, 3.0, 4.0]
    box[place] = value
    box_rule(check, with_box(*box), "box-infinite")


def test_a_corner_that_is_infinite_only_as_float32_is_an_error(check):
    box_rule(check, with_box(3e38, 1, 3e38, 4), "box-infinite")
    assert "box-infinite" not in check(with_box(1, 1, 1e38, 4)).counts


@pytest.mark.parametrize("place", range(4))
def test_a_nan_is_a_warning(check, place):
    box = [1.0, -INF, -3.0, 4.0]  # other faults do not matter
    box[place] = NAN
    box_rule(check, with_box(*box), "box-nan")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0), (1e-6, 5)])
def test_a_box_without_area_is_a_warning(check, size):
    box_rule(check, with_box(9, 9, *size), "box-empty")


@pytest.mark.parametrize("corner", [(32, 2), (2, 24), (-10, 2), (2, -8), (1e30, 0)])
def test_a_box_outside_its_image_is_a_warning(check, corner):
    box_rule(check, with_box(*corner, 10, 8), "box-outside-image")


@pytest.mark.parametrize("corner", [(31, 2), (2, 23), (-9, 2), (2, -7)])
def test_a_box_that_is_partly_inside_is_fine(check, corner):
    assert check(with_box(*corner, 10, 8)).counts == {}


def test_the_size_is_that_of_the_images_own_row(check):
    content = coco(images=[image(1), image(3, width=50), image(2)])
    content["annotations"].append(annotation(7, 3, bbox=[40, 0, 5, 5]))
    assert "box-outside-image" not in check(content).counts
    content["annotations"][-1]["image_id"] = 2
    assert check(content).counts["box-outside-image"] == 1


def test_nothing_is_outside_an_image_that_is_not_listed(check):
    content = with_annotations(annotation(7, 4, bbox=[400, 0, 5, 5]))
    only(check(content), "annotation-without-image")


def test_boxes_of_integers_and_floats_and_malformed_ones_are_told_apart(check):
    boxes = [[1, 2, 3, 4], [1.5, 2, 3, 4], "no box", [9, 9, -1, 4], [0, 0, 0, 0.0]]
    more = [annotation(number, 2, bbox=box, area=12) for number, box in enumerate(boxes, start=7)]
    report = check(with_annotations(*more))
    assert {f.rule: f.annotation_id for f in report.findings} == {
        "box-malformed": 9,
        "box-negative": 10,
        "box-empty": 11,
    }


def spread_boxes():
    """Return :func:`coco` with boxes all over the images of 32 x 24."""
    places = [
        (2, 3, 8, 6),
        (20, 4, 9, 7),
        (12, 14, 10, 8),
        (4, 12, 6, 9),
        (18, 2, 7, 6),
        (21, 13, 8, 9),
    ]
    content = coco()
    for entry, (x, y, width, height) in zip(content["annotations"], places, strict=True):
        entry.update(bbox=[x, y, width, height], area=width * height)
    return content


def test_boxes_all_over_the_image_are_fine(check):
    assert check(spread_boxes()).counts == {}


def test_corners_given_as_sizes_are_an_error(check):
    corners = change_each(spread_boxes(), bbox=lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    report = check(corners)
    assert report.counts["boxes-are-corners"] == report.num("error") == 1
    assert report.counts["box-beyond-image"] == 5
    assert "5 of 6 boxes" in next(f for f in report.findings if f.severity == "error").message


@pytest.mark.parametrize("wrong", [[0, 0, 40, 24], [5, 5, 3, 3], [-4, 2, 9, 9]])
def test_corners_are_found_if_one_box_of_many_is_wrong(check, wrong):
    corners = change_each(spread_boxes(), bbox=lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    many = [
        {**entry, "id": 10 * copy + entry["id"], "bbox": [x + copy / 10, *rest]}
        for copy in range(5)
        for entry in corners["annotations"]
        for x, *rest in [entry["bbox"]]
    ]
    many[0]["bbox"] = wrong
    report = check({**corners, "annotations": many})
    assert report.counts["boxes-are-corners"] == report.num("error") == 1
    message = next(f for f in report.findings if f.severity == "error").message
    assert "as [x1, y1, x2, y2], 29 fit" in message


def test_a_box_format_is_not_guessed_from_some_boxes(check):
    content = spread_boxes()
    for entry in content["annotations"][:2]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    assert "boxes-are-corners" not in check(content).counts


def test_objects_of_unknown_images_are_not_called_missing(check):
    content = change_each(coco(), image_id=str)
    assert only(check(content), "annotation-image-id")


def test_centers_given_as_corners_are_a_warning(check):
    centers = change_each(
        spread_boxes(), bbox=lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]]
    )
    report = check(centers)
    assert report.counts["boxes-are-centers"] == 1
    assert report.counts["box-beyond-image"] == 4
    assert report.num("error") == 0


@pytest.mark.parametrize("scale", [(32, 24, 32, 24), (1, 1, 32, 24), (640, 480, 640, 480)])
def test_boxes_relative_to_the_image_are_errors(check, scale):
    content = change_each(
        spread_boxes(), bbox=lambda b: [x / s for x, s in zip(b, scale, strict=True)]
    )
    report = check(content)
    assert report.counts["box-tiny"] == report.num("error") == 6


def test_a_few_tiny_boxes_are_a_warning(check):
    report = check(with_annotations(annotation(7, 2, bbox=[0.1, 0.2, 0.3, 0.4], area=0.12)))
    (finding,) = only(report, "box-tiny")
    assert finding.annotation_id == 7


@pytest.mark.parametrize("box", [[3, 4, 1e30, 12], [3, 4, 12, 1e9], [3, 4, 64, 5]])
def test_a_single_box_far_beyond_its_image_is_a_warning(check, box):
    report = check(with_annotations(annotation(7, 2, bbox=box, area=box[2] * box[3])))
    assert report.counts["box-beyond-image"] == 1
    assert report.counts.keys() <= {"box-beyond-image", "area-ignored"}


def test_every_object_twice_is_counted(check):
    content = coco()
    copies = [{**x, "id": x["id"] + 100} for x in content["annotations"]]
    report = check(coco(annotations=[*content["annotations"], *copies]))
    found = only(report, "object-twice")
    assert [f.annotation_id for f in found] == [x["id"] for x in copies]


@pytest.mark.parametrize("change", [{"category_id": 2}, {"image_id": 3}, {"bbox": [2, 3, 10, 8.5]}])
def test_another_class_image_or_box_is_another_object(check, change):
    again = annotation(7, 2, bbox=[2, 3, 10, 8]), annotation(8, 2, bbox=[2, 3, 10, 8]) | change
    assert check(with_annotations(*again)).counts == {}
    (finding,) = only(check(with_annotations(*again, {**again[0], "id": 9})), "object-twice")
    assert finding.annotation_id == 9


# Pixels


def save_all(folder, pixels, **options):
    for number in (1, 2, 3):
        Image.fromarray(pixels).save(folder / f"images/{number}.png", **options)


RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)
WIDE = {
    "16 bits": ((RAMP * 60_000).astype(np.uint16), "PNG"),
    "12 bits": ((RAMP * 4_000).astype(np.uint16), "PNG"),
    "32 bits": ((RAMP * 100_000).astype(np.int32), "TIFF"),
    "float, 0 to 1": (RAMP.astype(np.float32), "TIFF"),
    "float, negative": ((RAMP - 0.5).astype(np.float32) * 100, "TIFF"),
}


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("kind", WIDE)
def test_pixels_that_detectron2_cuts_are_an_error_if_all_images_are_so(check, folder, kind, decode):
    pixels, form = WIDE[kind]
    save_all(folder, pixels, format=form)
    found = check(coco(), decode_images=decode)
    assert found.counts == {"image-mode": 3}
    assert found.num("error") == 3
    assert re.search("mode (I|I;16|F), pixels from", found.findings[0].message)
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(folder / "images/1.png")
    mixed = check(coco(), decode_images=decode)
    assert (mixed.num("error"), mixed.num("warning")) == (0, 2)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
def test_pixels_from_0_to_255_are_fine_in_each_mode(check, folder, kind):
    save_all(folder, (RAMP * 255).astype(kind), format="TIFF")
    assert check(coco(), decode_images=True).counts == {}


@pytest.mark.parametrize("value", [0, 255, 100])
def test_constant_images_are_an_error_if_all_images_are_so(check, folder, value):
    save_all(folder, np.full((24, 32, 3), value, np.uint8))
    found = check(coco())
    assert (found.counts, found.num("error")) == ({"image-constant": 3}, 3)
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(folder / "images/1.png")
    assert check(coco()).num("warning") == 2


# Reports


def many_negative(number):
    return with_annotations(*(annotation(7 + i, bbox=[5, 5, -1, 1]) for i in range(number)))


def test_every_count_is_exact_and_the_first_of_a_rule_are_kept(check):
    report = check(many_negative(50))
    found = only(report, "box-negative")
    assert report.counts["box-negative"] == report.num("error") == 50
    assert [finding.annotation_id for finding in found] == list(range(7, 7 + LISTED))


def test_findings_added_one_by_one_are_counted_and_kept(check):
    images = [image(number, file_name=f"none{number}.png") for number in range(1, 31)]
    report = check(coco(images=images, annotations=[annotation(i, i) for i in range(1, 31)]))
    assert len(only(report, "image-missing")) == LISTED
    assert report.counts["image-missing"] == 30


def test_an_error_states_file_count_first_findings_and_remedy(check, folder):
    report = check(many_negative(50))
    with pytest.raises(DataError) as raised:
        report.raise_if_bad()
    text = str(raised.value)
    assert str(folder / "annotations.json") in text
    assert "box-negative (50)" in text
    assert "annotation 7 of image 1 (1.png): bbox [5, 5, -1, 1]" in text
    assert "and 47 more" in text
    assert RULES["box-negative"].remedy in text
    assert isinstance(raised.value, ValueError)


def test_a_warning_is_an_error_if_strict(check):
    report = check(with_box(9, 9, 0, 5))
    report.raise_if_bad()
    with pytest.raises(DataError, match=r"box-empty \(1\)"):
        report.raise_if_bad(strict=True)


def test_one_error_lists_all_bad_datasets(check):
    bad, good = check(many_negative(1)), check(coco())
    other = check(coco(images=[]))
    with pytest.raises(DataError) as raised:
        raise_if_any_is_bad([bad, good, other])
    assert "box-negative" in str(raised.value)
    assert "no-images" in str(raised.value)
    raise_if_any_is_bad([good])


def test_severities_can_be_overridden(check):
    report = check(many_negative(3)).with_severity({"box-negative": "warning"})
    assert (report.num("error"), report.num("warning")) == (0, 3)
    report.raise_if_bad()


def test_reports_are_strict_json(check, tmp_path):
    content = with_annotations(
        annotation(NAN, 2, bbox=[NAN, INF, 1, 1]),
        annotation(8, [1], bbox=[1, 1, INF, 1]),
        annotation(INF, INF),
        annotation(10**400, -INF),
    )
    content["images"].append(image(INF))
    content["images"][0]["file_name"] = "\x1b[31m\ud800.png"
    write_reports(tmp_path / "findings.json", [check(content)])

    def refuse(token):
        raise AssertionError(token)

    written = json.loads((tmp_path / "findings.json").read_text(), parse_constant=refuse)
    (dataset,) = written["datasets"]
    assert dataset["counts"]["box-infinite"] == 1
    assert written["errors"] == dataset["errors"] > 0
    assert {"rule", "severity", "message", "image_id", "annotation_id"} == set(
        dataset["findings"][0]
    )


def test_nothing_in_a_file_reaches_a_terminal_as_a_command(check):
    content = coco(
        images=[image(1, file_name="\x1b[2J.png"), image(2), image(3)],
        categories=[{"id": 1, "name": "\x1b]0;x\x07"}, {"id": 2, "name": "\x1b]0;x\x07"}],
    )
    report = check(content)
    assert report.counts == {"image-missing": 1, "category-name-twice": 1}
    for line in report.lines(["error"]):
        assert line.isprintable()


def test_a_report_without_facts_can_be_printed(check):
    report = check("[]")
    assert isinstance(report, Report)
    assert "1 error" in report.summary()


# Speed


def test_a_file_is_read_again_only_if_it_has_changed(check, folder, monkeypatch):
    check(coco())
    calls = []
    monkeypatch.setattr("focal_plugin.data.checks.facts.check_content", calls.append)
    read_content(folder / "annotations.json")
    assert calls == []
    monkeypatch.undo()
    assert check(coco(images=[])).counts["no-images"] == 1


@pytest.mark.slow
def test_the_rules_take_no_longer_than_reading_the_json():
    images = [image(number) for number in range(1, 2501)]
    annotations = [
        annotation(
            number, 1 + number % 2500, segmentation=[[1.5, 2.5] * 10], bbox=[number / 1e3, 3, 10, 8]
        )
        for number in range(1, 20_001)
    ]
    text = json.dumps(coco(images=images, annotations=annotations))
    start = time.process_time()
    content = json.loads(text)
    reading = time.process_time() - start
    start = time.process_time()
    assert check_content(content).findings.counts == {}
    assert time.process_time() - start < 3 * reading + 0.5


# Boxes of Detectron2's dicts


def dataset_dict(*boxes, mode=BoxMode.XYWH_ABS, number=1):
    annotations = [{"bbox": box, "bbox_mode": mode, "category_id": 0} for box in boxes]
    return {"file_name": f"{number}.png", "image_id": number, "annotations": annotations}


FINE = [1, 2, 3, 4]


@pytest.mark.parametrize("box", [[9, 9, -1, 4], [9, 9, 4, -0.1], [INF, 0, 1, 1], [0, 0, INF, 1]])
@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_an_impossible_box_is_dropped_and_counted(box, kind, caplog):
    dicts = [dataset_dict(FINE), dataset_dict(kind(box), FINE, kind(box), number=2)]
    with caplog.at_level(logging.WARNING):
        kept = drop_impossible_boxes(dicts)
    assert [len(x["annotations"]) for x in kept] == [1, 1]
    assert kept[1]["annotations"][0]["bbox"] == FINE
    assert "dropped 2 boxes" in caplog.text
    assert "in 1 images: 2.png" in caplog.text


def test_the_argument_and_unaffected_dicts_do_not_change():
    dicts = [dataset_dict(FINE), dataset_dict([9, 9, -1, 4]), {"file_name": "no annotations"}]
    kept = drop_impossible_boxes(dicts)
    assert [len(x["annotations"]) for x in dicts[:2]] == [1, 1]
    assert kept[0] is dicts[0]
    assert kept[2] is dicts[2]
    assert kept[1] == {**dicts[1], "annotations": []}


@pytest.mark.parametrize("box", [FINE, [0, 0, 0, 0], [NAN, 0, 1, 1], [-5, -5, 3, 3], []])
def test_boxes_that_detectron2_handles_are_kept(box, caplog):
    dicts = [dataset_dict(box)]
    assert drop_impossible_boxes(dicts) == dicts
    assert caplog.text == ""


def test_swapped_corners_are_invalid_and_other_modes_are_kept():
    corners = dataset_dict([5, 5, 2, 9], [5, 5, 7, 9], mode=BoxMode.XYXY_ABS)
    assert len(drop_impossible_boxes([corners])[0]["annotations"]) == 1
    rotated = dataset_dict([5, 5, 2, 9, -30], mode=BoxMode.XYWHA_ABS)
    assert drop_impossible_boxes([rotated]) == [rotated]


# Datasets without a JSON


@pytest.fixture
def dicts(folder):
    """Return the dicts of two images that exist."""
    files = [dataset_dict(FINE, number=number) for number in (1, 2)]
    return [{**x, "file_name": str(folder / "images" / x["file_name"])} for x in files]


def test_valid_dicts_have_no_findings(dicts):
    dicts[0]["annotations"] += dataset_dict([1, 2, 3, 4], mode=BoxMode.XYXY_ABS)["annotations"]
    report = check_dicts(dicts, num_classes=1)
    assert report.counts == {}
    assert report.facts == {"images": 2, "annotations": 3, "crowds": 0}


@pytest.mark.parametrize(
    ("box", "rule"),
    [
        ([1, 2, 3], "box-malformed"),
        ([1, 2, "3", 4], "box-malformed"),
        ([1, 2, [3, 4], 4], "box-malformed"),
        (None, "box-malformed"),
        ([NAN, 2, 3, 4], "box-nan"),
        ([INF, 2, 3, 4], "box-infinite"),
        ([3e38, 2, 3e38, 4], "box-infinite"),
        ([1, 2, -3, 4], "box-negative"),
        ([1, 2, 0, 4], "box-empty"),
    ],
)
def test_a_bad_box_in_dicts_is_found(dicts, box, rule):
    dicts[1]["annotations"] += dataset_dict(box)["annotations"]
    (finding,) = only(check_dicts(dicts, num_classes=1), rule)
    assert finding.image_id == 2


@pytest.mark.parametrize("category_id", [-1, 1, None, "0", [0]])
def test_a_class_outside_the_dataset_is_an_error(dicts, category_id):
    dicts[1]["annotations"][0]["category_id"] = category_id
    (finding,) = only(check_dicts(dicts, num_classes=1), "annotation-class")
    assert finding.image_id == 2
    known = check_dicts(dicts, num_classes=None).counts
    assert known == ({} if category_id == 1 else {"annotation-class": 1})


@pytest.mark.parametrize("mode", [None, BoxMode.XYXY_REL, BoxMode.XYWH_REL, "XYWH_ABS", 7])
def test_a_mode_that_detectron2_cannot_train_with_is_an_error(dicts, mode):
    dicts[1]["annotations"] += dataset_dict(FINE, mode=mode)["annotations"]
    (finding,) = only(check_dicts(dicts, num_classes=1), "box-mode")
    assert finding.image_id == 2
    assert f"bbox_mode {mode!r}" in finding.message


def test_a_missing_mode_is_an_error_and_a_number_is_a_mode(dicts):
    dicts[0]["annotations"][0]["bbox_mode"] = 1
    del dicts[1]["annotations"][0]["bbox_mode"]
    only(check_dicts(dicts, num_classes=1), "box-mode")


def test_objects_twice_tiny_boxes_and_iscrowd_are_found_in_dicts(dicts):
    sizes = {"width": 32, "height": 24}
    twice = [{**x, **sizes, "annotations": x["annotations"] * 2} for x in dicts]
    assert check_dicts(twice, num_classes=1).counts == {"object-twice": 2}
    unsized = [{**x, "annotations": x["annotations"] * 2} for x in dicts]
    assert check_dicts(unsized, num_classes=1).counts == {}
    tiny = dataset_dict([0.1, 0.2, 0.3, 0.4])["annotations"]
    report = check_dicts([{**x, **sizes, "annotations": tiny} for x in dicts], num_classes=1)
    assert report.counts == {"box-tiny": 2}
    assert report.num("error") == 2
    dicts[0]["annotations"][0]["iscrowd"] = None
    only(check_dicts(dicts, num_classes=1), "annotation-iscrowd")


def test_ids_and_files_of_dicts_are_checked(dicts):
    twice = {**dicts[0], "file_name": "elsewhere.png"}
    report = check_dicts([*dicts, twice], num_classes=1)
    assert report.counts == {"image-id-twice": 1, "image-missing": 1}
    assert dicts[0]["file_name"] in report.findings[0].message


def test_no_dicts_and_no_objects_are_found():
    assert check_dicts([], num_classes=1).counts == {"no-images": 1}
    remote = {"file_name": "s3://bucket/1.png", "image_id": 1, "annotations": []}
    only(check_dicts([remote], num_classes=1), "no-objects")


@pytest.mark.parametrize("image_id", [None, 1.5, np.int64(3), [1], True, "3"], ids=repr)
def test_an_illegal_id_in_dicts_is_found(dicts, image_id):
    remote = {"file_name": "s3://bucket/1.png", "image_id": image_id}
    (finding,) = only(check_dicts([*dicts, remote], num_classes=1), "image-id")
    assert finding.message == f"image_id {image_id!r} (s3://bucket/1.png)"
