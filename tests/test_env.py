"""What Detectron2's own tools get from `DETECTRON2_ENV_MODULE=focal_plugin.env`."""

import os
import subprocess
import sys

import pytest

from focal_plugin import env

from .conftest import ROOT

pytestmark = pytest.mark.slow

FAST = "detectron2.evaluation.fast_eval_api"


@pytest.mark.parametrize("compiled", [True, False])
def test_the_compiled_evaluator_is_hidden_only_where_it_cannot_run(monkeypatch, compiled):
    monkeypatch.setattr(env, "has_compiled_ops", lambda: compiled)
    monkeypatch.setattr(env.defaults, "_C", env.defaults._C.clone())
    monkeypatch.delitem(sys.modules, FAST, raising=False)
    env.setup_environment()
    assert (FAST in sys.modules) is not compiled
    assert sys.modules.pop(FAST, None) is None


def test_detectron2_falls_back_to_pycocotools_by_itself():
    """In a process of its own: an evaluator is imported once."""
    program = (
        "from focal_plugin import env; env.has_compiled_ops = lambda: False; "
        "env.setup_environment(); "
        "from detectron2.evaluation import coco_evaluation as module; "
        "from pycocotools.cocoeval import COCOeval; "
        "from detectron2.config import get_cfg; "
        "print(module.COCOeval_opt is COCOeval, get_cfg().MODEL.FOCAL.CLS_LOSS.NAME)"
    )
    variables = {**os.environ, "DETECTRON2_ENV_MODULE": "focal_plugin.env"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables)
    assert result.stdout.split() == ["True", "SigmoidFocalLoss"], result.stderr
