"""configs/RetinaNet-Paper: one file per row of the tables of arXiv:1708.02002, and no other."""

import json
import re

import pytest
import torch
import yaml
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator

from focal_plugin.compare.plan.spec_file import read_spec

from .conftest import ROOT
from .test_configs import load

FOLDER = ROOT / "configs" / "RetinaNet-Paper"
PAPER = json.loads((ROOT / "tests" / "paper_tables.json").read_text())
TABLES = ["1a", "1b", "1c", "1d", "3"]
ROWS = [(table, row) for table in TABLES for row in PAPER["tables"][table]["rows"]]
CONFIGS = sorted(FOLDER.glob("*.yaml"))
FILES = [file for file in CONFIGS if not file.stem.startswith("Base-")]

CROSS_ENTROPY = "SigmoidCrossEntropyLoss"
FOCAL_STAR = "SigmoidFocalStarLoss"
LOSSES = {
    "CE": CROSS_ENTROPY,
    "alpha-balanced CE": CROSS_ENTROPY,
    "OHEM": CROSS_ENTROPY,
    "OHEM 1:3": CROSS_ENTROPY,
    "FL": "SigmoidFocalLoss",
    "FL*": FOCAL_STAR,
}
MINERS = {"OHEM": "OHEMMiner", "OHEM 1:3": "OHEMRatioMiner"}


def stem(table, row):
    """Return the name of the file of this row."""
    method = row.get("loss", row.get("method"))
    if table == "1a":
        name = f"alpha_{row['alpha']:g}"
    elif table == "1b":
        name = f"gamma_{row['gamma']:g}"
    elif table == "1c":
        scales, ratios = row["n_scales"], row["n_ratios"]
        name = f"{scales}_scale{'s' * (scales > 1)}_{ratios}_ratio{'s' * (ratios > 1)}"
    elif method in MINERS:
        kind = method.lower().replace(" ", "_").replace(":", "_")
        name = f"{kind}_{row['ohem_batch_size']}_nms_{row['nms_threshold']:g}"
    elif method == "FL*":
        name = f"fl_star_gamma_{row['gamma']:g}_beta_{row['beta']:g}"
    else:
        name = method.lower()
    return f"table{table}_{name}"


def said_by_row(row):
    """Return the settings of a row of the paper; None if its method lacks a setting."""
    method = row.get("loss", row.get("method"))
    loss = LOSSES[method]
    return {
        "loss": loss,
        "alpha": row["alpha"],
        "gamma": None if loss == CROSS_ENTROPY else row["gamma"],
        "beta": row.get("beta"),
        "miner": MINERS.get(method),
        "num_keep": row.get("ohem_batch_size"),
        "nms_thresh": row.get("nms_threshold"),
        "ratio": row.get("pos_neg_ratio"),
        "backbone": row["backbone"],
        "scale_px": row["scale_px"],
        "n_scales": row["n_scales"],
        "n_ratios": row["n_ratios"],
    }


def said_by_config(cfg):
    """Return the same settings of a config."""
    name, mining = cfg.MODEL.FOCAL.CLS_LOSS.NAME, cfg.MODEL.FOCAL.MINING
    retinanet, anchors = cfg.MODEL.RETINANET, cfg.MODEL.ANCHOR_GENERATOR
    alpha, mined = retinanet.FOCAL_LOSS_ALPHA, mining.NAME != ""
    assert retinanet.IN_FEATURES == ["p3", "p4", "p5", "p6", "p7"]
    assert cfg.INPUT.MIN_SIZE_TRAIN == (cfg.INPUT.MIN_SIZE_TEST,)
    assert {len(sizes) for sizes in anchors.SIZES} == {len(anchors.SIZES[0])}
    assert len(anchors.ASPECT_RATIOS) == 1
    return {
        "loss": name,
        "alpha": None if alpha == -1 else alpha,
        "gamma": None if name == CROSS_ENTROPY else retinanet.FOCAL_LOSS_GAMMA,
        "beta": cfg.MODEL.FOCAL.CLS_LOSS.FL_STAR_BETA if name == FOCAL_STAR else None,
        "miner": mining.NAME or None,
        "num_keep": mining.NUM_KEEP if mined else None,
        "nms_thresh": mining.NMS_THRESH if mined else None,
        "ratio": f"1:{mining.NEG_POS_RATIO:g}" if mining.NAME == "OHEMRatioMiner" else None,
        "backbone": f"ResNet-{cfg.MODEL.RESNETS.DEPTH}-FPN",
        "scale_px": cfg.INPUT.MIN_SIZE_TEST,
        "n_scales": len(anchors.SIZES[0]),
        "n_ratios": len(anchors.ASPECT_RATIOS[0]),
    }


def test_every_row_has_a_file_and_every_file_a_row():
    assert len(ROWS) == 35
    stems = [stem(table, row) for table, row in ROWS]
    assert sorted(stems) == sorted(file.stem for file in FILES)


@pytest.mark.parametrize("table", ["1a", "1b", "1c", "1d"])
def test_a_comparison_has_the_rows_of_its_table_in_their_order(table):
    comparison = ROOT / "configs" / "comparisons" / f"paper_table{table}.yaml"
    files = [arm.config_file.stem for arm in read_spec(comparison).arms.values()]
    assert files == [stem(table, row) for row in PAPER["tables"][table]["rows"]]


@pytest.mark.parametrize("table", TABLES)
def test_a_row_is_one_file_of_its_table_and_a_file_is_one_row(table):
    """Files are compared by content, whatever their names."""
    files = [said_by_config(load(file)) for file in FOLDER.glob(f"table{table}_*.yaml")]
    rows = [said_by_row(row) for row in PAPER["tables"][table]["rows"]]
    for row in rows:
        assert files.count(row) == 1, row
    for file in files:
        assert rows.count(file) == 1, file


def test_a_file_has_the_settings_of_its_row():
    for table, row in ROWS:
        cfg = load(FOLDER / f"{stem(table, row)}.yaml")
        assert said_by_config(cfg) == said_by_row(row), stem(table, row)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_rows_share_these_settings(file):
    common, cfg = PAPER["common"], load(file)
    depth = cfg.MODEL.RESNETS.DEPTH
    assert cfg.MODEL.WEIGHTS.endswith(f"ImageNetPretrained/MSRA/R-{depth}.pkl")
    assert common["iterations"] == cfg.SOLVER.MAX_ITER
    assert common["base_lr"] == cfg.SOLVER.BASE_LR
    assert common["batch_size_images"] == cfg.SOLVER.IMS_PER_BATCH
    assert common["prior_pi"] == cfg.MODEL.RETINANET.PRIOR_PROB
    assert cfg.SOLVER.STEPS == (60000, 80000)
    assert cfg.SOLVER.WEIGHT_DECAY == 1e-4
    assert cfg.SOLVER.MOMENTUM == 0.9
    assert cfg.INPUT.MAX_SIZE_TRAIN == cfg.INPUT.MAX_SIZE_TEST == 1000
    assert cfg.INPUT.RANDOM_FLIP == "horizontal"
    assert not cfg.INPUT.CROP.ENABLED
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert cfg.DATASETS.TEST == ("coco_2017_val",)


def test_the_anchors_that_are_generated_are_those_of_the_paper():
    """There are n sizes per octave, in equal steps of the exponent, from areas 32^2 to 512^2."""
    grids = {}  # number of scales and of ratios -> one file; the others have the same lists
    for file in FILES:
        cfg = load(file)
        said, anchors = said_by_config(cfg), cfg.MODEL.ANCHOR_GENERATOR
        first = grids.setdefault((said["n_scales"], said["n_ratios"]), anchors)
        assert anchors == first, file
        if anchors is first:
            check_anchors(cfg, said["n_scales"], said["n_ratios"])
    assert len(grids) == 7


def check_anchors(cfg, scales, ratios):
    levels = [ShapeSpec(channels=256, stride=8 * 2**level) for level in range(5)]
    for level, cell in enumerate(build_anchor_generator(cfg, levels).cell_anchors):
        assert len(cell) == scales * ratios
        width, height = (cell[:, 2:] - cell[:, :2]).double().unbind(1)
        sizes = 32 * 2**level * 2 ** (torch.arange(scales).double() / scales)
        sizes, expected_ratios = torch.meshgrid(
            sizes, torch.tensor({1: [1.0], 3: [0.5, 1.0, 2.0]}[ratios]).double(), indexing="ij"
        )
        torch.testing.assert_close((width * height).sqrt(), sizes.flatten(), rtol=1e-6, atol=0)
        torch.testing.assert_close(height / width, expected_ratios.flatten(), rtol=1e-6, atol=0)


def test_results_are_in_the_table_and_not_in_a_config():
    results = {
        str(row[name]) for _, row in ROWS for name in ("AP", "AP50", "AP75") if row[name] > 1
    }
    for file in CONFIGS:
        text = file.read_text()
        assert not re.search(r"\bAP", text), file
        numbers = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", str(yaml.safe_load(text))))
        assert not numbers & results, file
