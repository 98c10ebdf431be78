"""focal_plugin/init/recipes.py: each recipe is a config that can be built."""

import pytest

from focal_plugin.engine.trial import build_without_memory
from focal_plugin.init.draft import Draft
from focal_plugin.init.recipes import R50, RECIPES, SMALL

from ..cached_configs import read_cfg


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_key_exists_and_has_a_reason(recipe):
    for settings in (recipe.settings, (*recipe.settings, *recipe.from_scratch)):
        draft = Draft(settings)
        assert all(setting.why for setting in draft.settings.values())
        assert build_without_memory(draft.cfg)


def test_the_large_model_is_the_shipped_one():
    ours, shipped = Draft(R50.settings).cfg, read_cfg("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    ours.MODEL.WEIGHTS = shipped.MODEL.WEIGHTS
    rounded = [[round(size) for size in sizes] for sizes in shipped.MODEL.ANCHOR_GENERATOR.SIZES]
    shipped.MODEL.ANCHOR_GENERATOR.SIZES = rounded
    assert ours.MODEL == shipped.MODEL


def test_the_small_model_is_that_of_the_built_in_dataset():
    ours, shipped = Draft(SMALL.settings).cfg, read_cfg("Shapes-Detection/retinanet_small.yaml")
    for cfg in (ours, shipped):
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]]
        cfg.MODEL.RETINANET.NUM_CLASSES = 1
    ours.MODEL.WEIGHTS = shipped.MODEL.WEIGHTS
    assert ours.MODEL == shipped.MODEL
