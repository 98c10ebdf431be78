"""The script that draws the positives of each assigner."""

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from focal_plugin.data import ShapesSpec, draw_dataset

from .tools import load_tool


def test_it_draws_a_dataset_of_the_user(tmp_path):
    folder, picture = tmp_path / "shapes", tmp_path / "pictures" / "mine.png"
    spec = ShapesSpec(images=4, image_size=64, objects=(2, 3), empty=0, crowds=1)
    draw_dataset(spec, folder)
    dataset = f"mine={folder / 'annotations.json'}:{folder / 'images'}"
    keys = ["DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)"]
    keys += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
    keys += ["SOLVER.IMS_PER_BATCH", "2", "MODEL.FPN.OUT_CHANNELS", "32"]
    options = ["--images", "2", "--steps", "1", "--dpi", "20", "--output", str(picture)]
    try:
        load_tool("plot_assignment").main(["--dataset", dataset, *options, *keys])
    finally:
        DatasetCatalog.pop("mine", None)
        MetadataCatalog.pop("mine", None)
    width, height = Image.open(picture).size
    assert width > height > 50
