"""focal-compare arms: the list of named arms."""

import focal_plugin_commands as commands
from focal_plugin import arms


def test_every_arm_has_a_line_below_the_heading_of_its_group(capsys):
    assert commands.focal_compare(["arms"]) == 0
    text = capsys.readouterr().out
    for arm in arms.load_all():
        lines = [line.split(maxsplit=1) for line in text.splitlines()]
        assert [arm.name, arm.about] in lines
        assert f"\n  {arm.group}\n" in text


def test_a_family_alone_is_listed(capsys):
    assert commands.focal_compare(["arms", "--family", "retinanet"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("retinanet (reference: fl)")
    assert "rpn_tensorpack" not in text


def test_an_arm_is_shown_with_its_paper_its_reference_and_its_keys(capsys):
    assert commands.focal_compare(["arms", "ohem", "p6_p5"]) == 0
    text = capsys.readouterr().out
    assert "retinanet/ohem: OHEM: cross entropy of the 128 hardest" in text
    assert "  paper: Shrivastava et al. 2016, arXiv:1604.03540\n  compared with: ce\n" in text
    assert "  MODEL.FOCAL.CLS_LOSS.NAME 'SigmoidCrossEntropyLoss'\n" in text
    assert "  requires p6, p7 in MODEL.RETINANET.IN_FEATURES\n" in text


def test_an_arm_of_the_data_is_compared_with_its_base(capsys):
    assert commands.focal_compare(["arms", "--family", "data", "class_aware"]) == 0
    assert "  compared with: the base\n  DATALOADER.SAMPLER_TRAIN" in capsys.readouterr().out


def test_an_unknown_arm_is_a_mistake_in_the_command(capsys):
    assert commands.focal_compare(["arms", "ohm"]) == 2
    assert "did you mean 'ohem'" in capsys.readouterr().err
