"""Tests of the page of an audit: one file without scripts, whose size has a bound."""

import copy
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from focal_plugin.audit import Audit, audit_config
from focal_plugin.audit.figures import MOST_LINES, MOST_ROWS, draw_all
from focal_plugin.audit.page import html_page

from .reference import config

NAMES = ("<script>alert(1)</script>", "a\nb: [\x1b[31m", "_$x^2$ & {{ 7 * 7 }}", "c")


def register(name, classes, *, images=6, objects=40, crowd=0, seed=0):
    """Register a dataset of random boxes in images of 96 x 64 pixels that do not exist."""
    rng = np.random.default_rng(seed)
    dicts = [
        {"file_name": f"/nowhere/<b>{name}{i}.png", "image_id": i, "height": 64, "width": 96}
        for i in range(images)
    ]
    for image in dicts:
        image["annotations"] = []
    for i in range(objects):
        x, y, w, h = rng.random(4) * (50, 20, 40, 40) + (0, 0, 4, 4)
        box = {"bbox": [x, y, x + w, y + h], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": crowd}
        dicts[i % images]["annotations"].append({**box, "category_id": i % len(classes)})
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(thing_classes=list(classes))


def audit_of(classes, **options):
    """Audit random objects, with a test set of the same images."""
    cfg = config(INPUT__MIN_SIZE_TEST=64, INPUT__MIN_SIZE_TRAIN=(64,))
    cfg.DATASETS.TRAIN, cfg.MODEL.RETINANET.NUM_CLASSES = ("audited",), len(classes)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    register("audited", classes, **options)
    try:
        return audit_config(cfg, test=["audited"])
    finally:
        DatasetCatalog.remove("audited")
        MetadataCatalog.remove("audited")


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def audit():
    return audit_of(NAMES)


@pytest.fixture(scope="module")
def page(audit):
    return Page(html_page(audit))


def test_names_from_the_data_are_text_on_the_page(page):
    assert "script" not in page.tags
    assert {"b", "script"} & {tag for tag, *_ in page.attributes} == set()
    assert NAMES[0] in page.text
    assert "_$x^2$ & {{ 7 * 7 }}" in page.text
    assert "\x1b" not in page.text


def test_the_page_loads_nothing_and_has_each_figure_with_its_title(page):
    addresses = [x for _, name, x in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(address.startswith("#") for address in addresses)
    assert {"link", "iframe", "img"} & set(page.tags) == set()
    labels = [x for tag, name, x in page.attributes if (tag, name) == ("svg", "aria-labelledby")]
    ids = {x for _, name, x in page.attributes if name == "id"}
    assert sorted(labels) == [
        f"{name}-title" for name in ("levels", "positives", "recall-by-side", "sides")
    ]
    assert set(labels) <= ids


def test_every_sentence_and_the_proposal_are_on_the_page(audit, page):
    assert len(audit.sentences) > 5
    for sentence in audit.sentences:
        assert " ".join(sentence.text.replace("\x1b", "\ufffd").split()) in page.text
    severities = {x for tag, name, x in page.attributes if (tag, name) == ("li", "class")}
    assert severities == {sentence.severity for sentence in audit.sentences}
    assert ("ANCHOR_GENERATOR:" in page.text) == (audit.facts["proposal"]["status"] == "proposed")


def times(facts, number):
    """Return facts with every class many times."""
    facts = copy.deepcopy(facts)
    for owner in (facts["classes"], facts["anchors"], facts["sizes"], facts["sides"]):
        owner["per_class"] *= number
    facts["proposal"]["per_class"] *= number
    facts["splits"]["tests"][0]["classes"] *= number
    return facts


def test_a_thousand_classes_do_not_blow_the_page_up(audit):
    page = html_page(Audit(times(audit.facts, 300), audit.sentences))
    assert len(page) < 250_000
    shown = "Of 1,200 classes with objects, the {} with the lowest recall are shown."
    assert shown.format(MOST_ROWS) in page
    assert shown.format(MOST_LINES) in page
    assert Page(page).tags.count("tr") < 100


def test_a_dataset_without_objects_has_a_page():
    audit = audit_of(["a", "b"], crowd=1)
    assert draw_all(audit.facts) == []
    assert "No image has an object" in Page(html_page(audit)).text
