"""focal_plugin/engine/timed_steps.py: what a run costs, from a few steps."""

import pytest
import torch

from focal_plugin.engine import timed_steps

from ..cached_configs import read_cfg


@pytest.fixture
def cfg(tiny_shapes, tmp_path):
    names = ["DATASETS.TRAIN", ("tiny_shapes",), "DATASETS.TEST", ("tiny_shapes",)]
    size = ["INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0]
    small = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "output")]
    return read_cfg("Shapes-Detection/retinanet_small.yaml", *names, *size, *small)


def with_batch(cfg, batch):
    cfg = cfg.clone()
    cfg.SOLVER.IMS_PER_BATCH = batch
    return cfg


def test_the_memory_of_an_image_does_not_depend_on_the_batch(cfg, tmp_path):
    two, four = (timed_steps.bytes_per_image(with_batch(cfg, batch)) for batch in (2, 4))
    assert four == pytest.approx(two, rel=0.05)
    stem = 24 * 32 * 32 * 4  # one float32 feature map of the first layer
    assert 2 * stem < two < 100 * stem
    assert not (tmp_path / "output").exists()


def test_the_weights_are_not_counted(cfg):
    wide = cfg.clone()
    wide.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [24, 32, 48, 2048]
    more = timed_steps.bytes_per_image(with_batch(wide, 2))
    weights = 4 * 48 * 2048 * 9 + 4 * 2048 * 2048 * 9
    assert more < timed_steps.bytes_per_image(with_batch(cfg, 2)) + weights / 10


def test_a_test_image_takes_time_and_the_model_is_not_trained(cfg, tmp_path, monkeypatch):
    modes = []
    build = timed_steps.Trainer.build_model

    def spied(cfg):
        model = build(cfg)
        model.register_forward_hook(
            lambda module, *_: modes.append((module.training, torch.is_grad_enabled()))
        )
        return model

    monkeypatch.setattr(timed_steps.Trainer, "build_model", staticmethod(spied))
    assert timed_steps.seconds_per_test_image(cfg, images=2) > 0
    assert modes == [(False, False)] * 3
    assert not (tmp_path / "output").exists()
