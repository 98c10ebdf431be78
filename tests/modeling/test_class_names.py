"""Names of the classes where no dataset is registered."""

import numpy as np
import pytest
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import Visualizer

from focal_plugin import add_focal_config
from focal_plugin.modeling import name_classes

from .pairs import CASCADE, RCNN, RETINANET, SMALL
from .toy import narrow_cfg

NAMES = ["erythrocyte", "leukocyte"]
DATA = ("DATASETS.TRAIN", "('away_train',)", "DATASETS.TEST", "('away_val',)")


@pytest.fixture(autouse=True)
def _forget():
    yield
    for name in ("away_train", "away_val"):
        MetadataCatalog.pop(name, None)


def stock_cfg(file, *opts):
    """Return a config as `detectron2.config.get_cfg` makes it with `focal_plugin.env`."""
    cfg = get_detectron2_cfg()
    add_focal_config(cfg)
    cfg.merge_from_other_cfg(
        type(cfg).load_cfg(
            narrow_cfg(file, *SMALL, *DATA, "MODEL.FOCAL.CLASS_NAMES", NAMES, *opts).dump()
        )
    )
    return cfg


@pytest.mark.parametrize(
    ("file", "opts"),
    [(RETINANET, ()), (RCNN, ()), (RCNN, CASCADE)],
    ids=["retinanet", "faster", "cascade"],
)
def test_detectron2s_predictor_and_visualizer_show_the_names(file, opts):
    predictor = DefaultPredictor(stock_cfg(file, *opts))
    image = np.full((64, 64, 3), 128, np.uint8)
    found = predictor(image)["instances"]
    assert len(found)
    drawing = Visualizer(image, predictor.metadata).draw_instance_predictions(found)
    shown = {text.get_text().rpartition(" ")[0] for text in drawing.ax.texts}
    assert shown
    assert shown <= set(NAMES)
    assert MetadataCatalog.get("away_train").thing_classes == NAMES


def test_a_dataset_with_names_keeps_them():
    MetadataCatalog.get("away_val").thing_classes = ["a", "b"]
    name_classes(narrow_cfg(RETINANET, *DATA, "MODEL.FOCAL.CLASS_NAMES", NAMES))
    assert MetadataCatalog.get("away_val").thing_classes == ["a", "b"]


def test_a_registered_dataset_names_its_classes_itself():
    DatasetCatalog.register("away_val", list)
    try:
        name_classes(narrow_cfg(RETINANET, *DATA, "MODEL.FOCAL.CLASS_NAMES", NAMES))
        assert MetadataCatalog.get("away_val").get("thing_classes") is None
    finally:
        DatasetCatalog.remove("away_val")


def test_without_names_the_catalog_stays_empty():
    name_classes(narrow_cfg(RETINANET, *DATA))
    assert "away_val" not in MetadataCatalog.list()
