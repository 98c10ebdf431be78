"""Score cut-off of the evaluations of a comparison."""

import pytest
from detectron2.config import CfgNode
from detectron2.config import get_cfg as stock_cfg

from focal_plugin import arms
from focal_plugin.compare.plan.score_threshold import (
    STOCK_SCORE_THRESHOLD,
    score_threshold_of,
)
from focal_plugin.compare.plan.spec import read_plan

from ...conftest import ROOT

BASE = ROOT / "configs" / "Shapes-Detection" / "retinanet_small.yaml"
ONE_STAGE, TWO_STAGE = "MODEL.RETINANET.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"


@pytest.fixture
def thresholds(tmp_path):
    """Provide a function: spec -> arm -> cut-offs of its config for one and two stages."""

    def read(text, base=BASE):
        spec = tmp_path / "spec.yaml"
        spec.write_text(f"base: {base}\nseeds: 1\n{text}")
        configs = read_plan(spec).configs
        models = {arm: cfg.MODEL for arm, cfg in configs.items()}
        return {
            arm: (model.RETINANET.SCORE_THRESH_TEST, model.ROI_HEADS.SCORE_THRESH_TEST)
            for arm, model in models.items()
        }

    return read


def test_a_comparison_keeps_detections_from_a_thousandth_on(thresholds):
    assert thresholds("arms: {FL: fl, CE: ce}\n") == {"FL": (0.001, 0.001), "CE": (0.001, 0.001)}


def test_the_stock_value_is_that_of_detectron2():
    model = stock_cfg().MODEL
    assert model.RETINANET.SCORE_THRESH_TEST == STOCK_SCORE_THRESHOLD
    assert model.ROI_HEADS.SCORE_THRESH_TEST == STOCK_SCORE_THRESHOLD


def test_a_cut_off_of_a_config_an_arm_or_an_option_stays(thresholds, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {BASE}\nMODEL: {{RETINANET: {{SCORE_THRESH_TEST: 0.02}}}}\n")
    (of_arm,) = [v for v in arms.load("dr_authors", "retinanet").opts if v == "0.2"]
    text = f"""
arms:
  CE: ce
  DR: dr_authors
  own: {own}
  shown: [{ONE_STAGE}, 0.05]
"""
    assert thresholds(text) == {
        "CE": (0.001, 0.001),
        "DR": (float(of_arm), 0.001),
        "own": (0.02, 0.001),
        "shown": (0.05, 0.001),
    }
    everywhere = f"arms: {{FL: fl, DR: dr_authors}}\nopts: [{ONE_STAGE}, 0.05]\n"
    assert thresholds(everywhere) == {"FL": (0.05, 0.001), "DR": (0.05, 0.001)}


def test_the_cut_off_of_a_spec_is_that_of_all_arms_and_stock_changes_none(thresholds):
    text = "arms: {FL: fl, DR: dr_authors}\nscore_threshold: "
    assert thresholds(text + "0.01") == {"FL": (0.01, 0.01), "DR": (0.01, 0.01)}
    assert thresholds(text + "0") == {"FL": (0, 0), "DR": (0, 0)}
    assert thresholds(text + "stock") == {"FL": (0.05, 0.05), "DR": (0.2, 0.05)}


@pytest.mark.parametrize("value", ["1", "-0.1", "yes", "low", "[0.1]", ".nan"])
def test_an_illegal_cut_off_is_refused(thresholds, value):
    with pytest.raises(ValueError, match=r"score_threshold must be a number in \[0, 1\) or stock"):
        thresholds(f"arms: {{FL: fl}}\nscore_threshold: {value}")


@pytest.mark.parametrize("place", ["opts: [%s, 0.1]\narms: {FL: fl}", "arms: {FL: [%s, 0.1]}"])
def test_two_cut_offs_are_a_contradiction(thresholds, place):
    with pytest.raises(ValueError, match=ONE_STAGE):
        thresholds(place % ONE_STAGE + "\nscore_threshold: 0.01")


def test_the_detector_of_a_config_says_which_cut_off_counts():
    def read(architecture):
        cfg = stock_cfg()
        cfg.merge_from_list(["MODEL.META_ARCHITECTURE", architecture, TWO_STAGE, 0.2])
        return score_threshold_of(cfg)

    assert read("RetinaNet") == read("FocalRetinaNet") == 0.05
    assert read("GeneralizedRCNN") == 0.2
    assert score_threshold_of(CfgNode({"SEED": 1})) is None
