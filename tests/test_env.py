"""Effect of `DETECTRON2_ENV_MODULE=focal_plugin.env` on Detectron2's own tools."""

import importlib
import sys

import detectron2.evaluation
import pytest
from pycocotools.cocoeval import COCOeval

from focal_plugin import env

FAST = "detectron2.evaluation.fast_eval_api"


@pytest.mark.parametrize("compiled", [True, False])
def test_the_compiled_evaluator_is_hidden_only_where_it_cannot_run(monkeypatch, compiled):
    monkeypatch.setattr(env, "has_compiled_ops", lambda: compiled)
    monkeypatch.setattr(env.defaults, "_C", env.defaults._C.clone())
    monkeypatch.delitem(sys.modules, FAST, raising=False)
    env.setup_environment()
    assert (FAST in sys.modules) is not compiled
    assert sys.modules.pop(FAST, None) is None


def test_detectron2_falls_back_to_pycocotools_by_itself(monkeypatch):
    monkeypatch.setattr(env, "has_compiled_ops", lambda: False)
    monkeypatch.setattr(env.defaults, "_C", env.defaults._C.clone())
    monkeypatch.setattr(detectron2, "evaluation", detectron2.evaluation)
    for name in [name for name in sys.modules if name.startswith("detectron2.evaluation")]:
        monkeypatch.delitem(sys.modules, name)  # Detectron2 looks for that evaluator once
    env.setup_environment()
    module = importlib.import_module("detectron2.evaluation.coco_evaluation")
    assert module.COCOeval_opt is COCOeval
    assert sys.modules.pop(FAST) is None
