"""Arms: named differences on any base of their family."""

import pytest

from focal_plugin import arms, get_cfg
from focal_plugin.config_file import get_config_file

RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
FASTER_RCNN = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


def base(name=RETINANET, *opts):
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    cfg.merge_from_list(list(opts))
    return cfg


def test_an_arm_is_applied_after_what_it_builds_on():
    cfg = base()
    arms.apply(cfg, "ohem")
    assert cfg.MODEL.FOCAL.MINING.NAME == "OHEMMiner"
    assert cfg.MODEL.FOCAL.CLS_LOSS.NAME == "SigmoidCrossEntropyLoss"
    assert cfg.MODEL.RETINANET.FOCAL_LOSS_ALPHA == -1.0


def test_arms_are_applied_in_their_order():
    cfg = base()
    arms.apply(cfg, "alpha_ce", "box_giou", "ce")
    assert cfg.MODEL.RETINANET.FOCAL_LOSS_ALPHA == -1.0
    assert cfg.MODEL.FOCAL.BOX_LOSS.NAME == "GIoULoss"


def test_an_arm_says_what_it_is():
    arm = arms.load("ohem")
    assert (arm.name, arm.family, arm.group) == ("ohem", "retinanet", "mining")
    assert arm.reference == arm.builds_on == "ce"
    assert "arXiv:1604.03540" in arm.paper
    assert dict(arm.changes) == {"MODEL.FOCAL.MINING.NAME": "OHEMMiner"}
    assert arm.opts[-2:] == ("MODEL.FOCAL.MINING.NAME", "'OHEMMiner'")


def test_the_reference_of_a_family_is_compared_with_nothing():
    assert arms.load("fl").reference is None
    assert arms.load("ghm").reference == "fl"
    assert arms.load("rpn_fl").reference == "rpn_ce_all"


def test_every_arm_is_described_in_one_sentence():
    for arm in arms.load_all():
        assert arm.about.endswith("."), arm.name
        assert arm.about.count(". ") == 0, arm.name
        assert len(arm.about) < 100, arm.name
        assert arm.builds_on is None or arm.builds_on in arms.names(arm.family)


def test_a_name_that_both_families_have_is_that_of_the_base():
    assert arms.load_for(base(), "fpn_gn").family == "retinanet"
    assert arms.load_for(base(FASTER_RCNN), "fpn_gn").family == "faster_rcnn"
    assert arms.load("faster_rcnn/fpn_gn").family == "faster_rcnn"
    with pytest.raises(KeyError, match="ambiguous: there are retinanet/fpn_gn and faster_rcnn"):
        arms.load("fpn_gn")


def test_the_arms_of_a_group_are_found_by_its_heading():
    assert "retinanet/box_giou" in arms.names_of_group("box losses")
    assert arms.names_of_group("faster_rcnn/pyramid") == [
        "faster_rcnn/p6_conv",
        "faster_rcnn/p6_none",
    ]
    with pytest.raises(KeyError, match="no group of arms 'box loses'; did you mean 'box losses'"):
        arms.names_of_group("box loses")
    with pytest.raises(KeyError, match="'pyramid' is ambiguous: there are retinanet/pyramid and"):
        arms.names_of_group("pyramid")


@pytest.mark.parametrize(
    "opts",
    [
        (RETINANET,),
        (FASTER_RCNN,),
        (RETINANET, "MODEL.META_ARCHITECTURE", "RetinaNet"),
        (RETINANET, "MODEL.META_ARCHITECTURE", "PanopticFPN"),
    ],
)
def test_every_base_accepts_an_arm_of_the_data(opts):
    cfg = base(*opts)
    arms.apply(cfg, "class_aware", "data/with_empty")
    assert cfg.DATALOADER.SAMPLER_TRAIN == "ClassAwareTrainingSampler"
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False


def test_an_arm_of_the_data_is_found_from_every_family_and_compared_with_its_base():
    arm = arms.load("class_aware")
    assert arm == arms.load("class_aware", "retinanet") == arms.load("data/class_aware")
    assert (arm.family, arm.reference) == ("data", None)
    assert "class_aware" in arms.names()
    assert "class_aware" not in arms.names("retinanet")


def test_no_name_is_of_the_data_and_of_a_family():
    for family in arms.FAMILIES:
        assert not set(arms.names("data")) & set(arms.names(family))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ohm", "there is no arm 'ohm'; did you mean 'ohem'"),
        ("retinanet/rpn_ohem", "there is no arm 'rpn_ohem' of retinanet"),
        ("yolo/ohem", "there is no family 'yolo'; there are retinanet, faster_rcnn, data"),
    ],
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(KeyError, match=message):
        arms.load(name)


@pytest.mark.parametrize(
    ("name", "cfg", "message"),
    [
        ("rpn_tensorpack", (RETINANET,), "'rpn_tensorpack' is for faster_rcnn, but the base is"),
        ("ohem", (FASTER_RCNN,), "'ohem' is for retinanet, but the base is for faster_rcnn"),
        ("ohem", (RETINANET, "MODEL.META_ARCHITECTURE", "RetinaNet"), "to FocalRetinaNet"),
        ("ohem", (RETINANET, "MODEL.META_ARCHITECTURE", "PanopticFPN"), "no arms for MODEL.META"),
        (
            "rpn_tensorpack",
            (FASTER_RCNN, "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
            r"sets MODEL\.FOCAL\.RPN\.\*, which MODEL\.PROPOSAL_GENERATOR\.NAME 'RPN' .* ignores",
        ),
        (
            "roi_bce",
            (FASTER_RCNN, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
            r"sets MODEL\.FOCAL\.ROI_HEADS\.\*, which MODEL\.ROI_HEADS\.NAME 'StandardROIHeads'",
        ),
        ("p6_p5", ("Shapes-Detection/retinanet_small.yaml",), "requires p6, p7 in MODEL.RETINANET"),
    ],
)
def test_a_base_that_an_arm_is_not_for_is_refused_and_stays_as_it_is(name, cfg, message):
    cfg = base(*cfg)
    before = cfg.dump()
    with pytest.raises(ValueError, match=message):
        arms.apply(cfg, name)
    assert cfg.dump() == before


def test_an_arm_that_chooses_the_component_is_for_a_base_of_stock():
    cfg = base(FASTER_RCNN, "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    arms.apply(cfg, "roi_top_k")
    assert cfg.MODEL.ROI_HEADS.NAME == "OHEMROIHeads"


@pytest.mark.parametrize("text", ["", "MODEL: {}", "ARM: {ABOUT: a}", "ARM: {ABOUT: a, GROP: b}"])
def test_a_file_without_a_description_is_refused(text, tmp_path, monkeypatch):
    (tmp_path / "arms" / "retinanet").mkdir(parents=True)
    (tmp_path / "arms" / "retinanet" / "mine.yaml").write_text(text)
    monkeypatch.setattr(arms, "FOLDER", tmp_path)
    arms._files.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"mine\.yaml must have a node ARM with ABOUT and"):
            arms.load("mine")
    finally:
        arms._files.cache_clear()
