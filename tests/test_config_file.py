"""Shipped config files are found by name, as in Detectron2's model zoo."""

import pytest

from focal_plugin import get_cfg, get_config_file
from focal_plugin.config_file import find_config_file

from .conftest import ROOT

NAME = "Shapes-Detection/retinanet_small.yaml"


def test_a_shipped_config_is_found_by_name_and_loads_with_its_base():
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(NAME))
    assert cfg.MODEL.META_ARCHITECTURE == "FocalRetinaNet"
    assert cfg.DATASETS.TRAIN == ("focal_shapes_train",)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(FileNotFoundError, match=r"did you mean .*retinanet_small\.yaml"):
        get_config_file("Shapes-Detection/retinanet_smal_fl.yaml")


def test_a_file_of_the_user_comes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config_file(NAME).samefile(ROOT / "configs" / NAME)
    assert find_config_file(NAME, tmp_path).samefile(ROOT / "configs" / NAME)
    own = tmp_path / NAME
    own.parent.mkdir()
    own.write_text("VERSION: 2\n")
    assert find_config_file(NAME).samefile(own)
    assert find_config_file(str(own)).samefile(own)


@pytest.mark.parametrize(
    "name",
    ["missing.yaml", "", "x" * 100_000, "x/" * 50_000, "a\0b.yaml", "~nobody-here/x.yaml", "."],
    ids=["missing", "empty", "long", "deep", "null byte", "no home", "folder"],
)
def test_a_file_that_does_not_exist_is_named_in_one_short_line(name):
    with pytest.raises(
        FileNotFoundError, match=r"no file and no shipped config is named|is a folder"
    ) as error:
        find_config_file(name)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)
