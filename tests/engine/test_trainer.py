from pathlib import Path

import detectron2

from focal_plugin import get_cfg
from focal_plugin.engine import Trainer


def test_the_compiled_evaluator_is_asked_for_only_where_it_is(tiny_shapes, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    evaluator = Trainer.build_evaluator(cfg, "tiny_shapes")
    assert evaluator._use_fast_impl == any(Path(detectron2.__path__[0]).glob("_C*.so"))
    assert evaluator._output_dir == str(tmp_path / "inference")
