"""Record of a run: env.json and start.json."""

import hashlib
import json
import platform
import subprocess

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase, TrainerBase
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from torch import nn

from focal_plugin import get_cfg
from focal_plugin.data import ShapesSpec, count_images, count_objects
from focal_plugin.data.loading.crowd_mapper import CROWD_LABEL
from focal_plugin.data.shapes.builtin import register_shapes
from focal_plugin.engine import Trainer
from focal_plugin.engine.evaluation import evaluator_in_use
from focal_plugin.engine.hooks.run_record import (
    RunRecordHook,
    describe_checkout,
    describe_dataset,
    digest_batch,
    digest_weights,
)

from ...conftest import ROOT
from ...test_configs import load


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def read(folder, name):
    return json.loads((folder / name).read_text())


def image(number=1, *, shift=0.0, box=(1.0, 2.0, 30.0, 40.0), label=3, crowds=0):
    """Return an image as a mapper does."""
    instances = Instances((32, 48))
    instances.gt_boxes = Boxes(torch.tensor([box] * (1 + crowds)))
    instances.gt_classes = torch.tensor([label] + [CROWD_LABEL] * crowds)
    pixels = torch.arange(3 * 32 * 48).view(3, 32, 48) % 251 + shift
    return {
        "image_id": number,
        "file_name": f"/data/{number}.png",
        "image": pixels,
        "instances": instances,
    }


class ToyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, batch):
        return {}


class ToyTrainer(TrainerBase):
    """Trainer that calls its model with image number i in iteration i."""

    def __init__(self):
        super().__init__()
        self.model = ToyModel()

    def run_step(self):
        self.model([image(self.iter)])


class EvaluatesAfterEachStep(HookBase):
    def after_step(self):
        self.trainer.model.eval()([image(-1)])
        self.trainer.model.train()([image(-2)])  # as PreciseBN does


@pytest.fixture
def cfg(tiny_shapes, tmp_path):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_shapes",), ("tiny_shapes",)
    cfg.MODEL.DEVICE = "cpu"
    cfg.SEED = 5
    (tmp_path / "run").mkdir()  # as Detectron2's default_setup does
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    return cfg


def train(cfg, iterations, *, start=0, others=()):
    trainer = ToyTrainer()
    trainer.register_hooks([*others, RunRecordHook(cfg)])
    trainer.train(start, iterations)
    return trainer


# env.json


def test_a_resumed_run_ends_the_line_that_its_predecessor_cut_off(cfg, tmp_path):
    file = tmp_path / "run" / "metrics.json"
    file.write_text('{"iteration": 19}\n{"iteration": 39, "tot')
    train(cfg, 2, start=1)
    assert file.read_text() == '{"iteration": 19}\n{"iteration": 39, "tot\n'


def test_the_environment_is_that_of_this_process(cfg, tmp_path):
    train(cfg, 1)
    env = read(tmp_path / "run", "env.json")
    assert set(env) == {
        *("versions", "git", "platform", "device", "threads", "seed", "datasets"),
        *("imports", "components", "started", "load_average", "processors"),
    }
    assert env["versions"]["torch"] == torch.__version__
    assert env["versions"]["numpy"] == np.__version__
    assert env["versions"]["python"] == platform.python_version()
    assert set(env["versions"]) == {
        *("python", "numpy", "torch", "torchvision", "detectron2", "focal_plugin", "pycocotools"),
        "evaluator",
    }
    assert env["versions"]["evaluator"] == evaluator_in_use()
    assert env["seed"] == 5
    assert env["device"] == "cpu"
    assert env["threads"] == torch.get_num_threads()


def test_nothing_in_it_names_the_machine_or_comes_from_environment_variables(
    cfg, tmp_path, monkeypatch
):
    monkeypatch.setenv("A_SECRET_TOKEN", "9bd2c1f0a7")
    train(cfg, 1)
    text = (tmp_path / "run/env.json").read_text()
    assert "9bd2c1f0a7" not in text
    assert f'"{platform.node()}' not in text


def test_the_facts_of_a_dataset_are_those_of_its_json(tiny_shapes):
    facts = describe_dataset("tiny_shapes")
    file = tiny_shapes / "annotations.json"
    content = json.loads(file.read_text())
    assert facts["json_file"] == str(file)
    assert facts["image_root"] == str(tiny_shapes / "images")
    assert facts["json_sha256"] == sha256(file.read_bytes())
    assert facts["images"] == len(content["images"]) == 12
    assert facts["annotations"] == len(content["annotations"])
    assert facts["crowds"] == sum(x["iscrowd"] for x in content["annotations"])
    assert facts["classes"] == MetadataCatalog.get("tiny_shapes").thing_classes
    assert facts["annotations_per_class"] == count_objects(["tiny_shapes"], num_classes=5)
    assert facts["images_per_class"] == count_images(["tiny_shapes"], num_classes=5)


@pytest.fixture
def small_json(tmp_path):
    """Register a dataset with unordered categories, a gap in their ids, and a crowd region."""
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 8}],
        "categories": [{"id": 7, "name": "zebra"}, {"id": 2, "name": "apple"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 2, 2], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 0, 3, 2]},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 4, 2], "iscrowd": 1},
        ],
    }
    file = tmp_path / "small.json"
    file.write_text(json.dumps(content))
    MetadataCatalog.get("small").set(json_file=str(file), image_root=str(tmp_path))
    yield file
    MetadataCatalog.remove("small")


def test_classes_are_in_the_order_of_the_ids_and_crowds_are_no_objects(small_json):
    facts = describe_dataset("small")
    assert facts["classes"] == ["apple", "zebra"]
    assert facts["category_ids"] == [2, 7]
    assert facts["annotations_per_class"] == [0, 2]
    assert facts["images_per_class"] == [0, 1]
    assert (facts["annotations"], facts["crowds"]) == (3, 1)


def test_a_json_without_annotations_has_none(small_json):
    content = json.loads(small_json.read_text())
    del content["annotations"]
    small_json.write_text(json.dumps(content))
    facts = describe_dataset("small")
    assert (facts["annotations"], facts["annotations_per_class"]) == (0, [0, 0])
    assert facts["images_per_class"] == [0, 0]


def test_a_relative_json_becomes_absolute(small_json, monkeypatch):
    monkeypatch.chdir(small_json.parent)
    del MetadataCatalog.get("small").json_file
    MetadataCatalog.get("small").json_file = "small.json"
    assert describe_dataset("small")["json_file"] == str(small_json)


def test_an_unused_built_in_dataset_is_drawn(tmp_path):
    register_shapes("undrawn", ShapesSpec(images=2, seed=1), tmp_path / "undrawn")
    try:
        assert describe_dataset("undrawn")["images"] == 2
    finally:
        DatasetCatalog.remove("undrawn")
        MetadataCatalog.remove("undrawn")


def test_a_dataset_without_a_json_has_only_a_name():
    DatasetCatalog.register("no_json", list)
    try:
        facts = describe_dataset("no_json")
    finally:
        DatasetCatalog.remove("no_json")
    assert facts["name"] == "no_json"
    assert facts["json_file"] is facts["images"] is facts["classes"] is None


@pytest.fixture
def checkout(tmp_path):
    """Create a git repository with a package in it."""
    package = tmp_path / "checkout/package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", package.parent, *command], check=True)
    return package


def test_the_commit_and_whether_the_checkout_differs_from_it(checkout):
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert describe_checkout(checkout) == {"commit": head.stdout.strip(), "dirty": False}
    (checkout.parent / "output.txt").write_text("not tracked")
    assert not describe_checkout(checkout)["dirty"]
    (checkout / "__init__.py").write_text("changed = True")
    assert describe_checkout(checkout)["dirty"]


def test_a_package_inside_another_checkout_has_no_commit(checkout):
    installed = checkout / "env/site-packages/package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert describe_checkout(installed) is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert describe_checkout(checkout) is None


def test_a_folder_outside_of_any_checkout_has_no_commit(tmp_path):
    (tmp_path / "__init__.py").write_text("")
    assert describe_checkout(tmp_path) is None


# start.json


def test_weights_are_those_that_training_begins_with(cfg, tmp_path):
    trainer = train(cfg, 1)
    weight = trainer.model.layer.weight
    recorded = read(tmp_path / "run", "start.json")["weights"]
    assert set(recorded) == {"layer.weight", "layer.bias"}
    digest = sha256(weight.detach().numpy().tobytes())[:16]
    assert recorded["layer.weight"] == {"shape": [3, 2], "sha256": digest}


def test_every_type_of_tensor_has_a_digest_of_its_bytes():
    module = nn.BatchNorm1d(2)
    module.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16))
    module.register_buffer("answers", torch.tensor([True, False]))
    module.register_buffer("nothing", torch.empty(0))
    module.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    digests = digest_weights(module)
    assert digests["num_batches_tracked"]["shape"] == []
    assert digests["num_batches_tracked"]["sha256"] == sha256(bytes(8))[:16]
    assert digests["brain"]["sha256"] == sha256(bytes.fromhex("803f") * 3)[:16]
    assert digests["answers"]["sha256"] == sha256(b"\1\0")[:16]
    assert digests["nothing"]["sha256"] == sha256(b"")[:16]
    turned = np.array([0, 3, 1, 4, 2, 5], dtype=np.float32)
    assert digests["turned"]["sha256"] == sha256(turned.tobytes())[:16]


def test_the_keys_are_those_of_the_model_inside_a_parallel_one():
    module = nn.Linear(2, 2)
    assert digest_weights(nn.DataParallel(module)) == digest_weights(module)


@pytest.mark.parametrize(("iterations", "seen"), [(1, 1), (3, 3), (8, 8), (12, 8)])
def test_the_first_eight_batches_are_recorded(cfg, tmp_path, iterations, seen):
    trainer = train(cfg, iterations)
    expected = [digest_batch([image(number)]) for number in range(seen)]
    assert read(tmp_path / "run", "start.json")["data"] == expected
    assert not trainer.model._forward_pre_hooks


def test_batches_before_a_crash_are_recorded(cfg, tmp_path):
    class Crashes(HookBase):
        def before_step(self):
            if self.trainer.iter == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cfg, 9, others=[Crashes()])
    assert len(read(tmp_path / "run", "start.json")["data"]) == 3


@pytest.mark.parametrize("position", ["before", "after"])
def test_batches_of_evaluation_are_not_recorded(cfg, tmp_path, position):
    hooks = [RunRecordHook(cfg), EvaluatesAfterEachStep()]
    trainer = ToyTrainer()
    trainer.register_hooks(hooks if position == "after" else hooks[::-1])
    trainer.train(0, 4)
    expected = [digest_batch([image(number)]) for number in range(4)]
    assert read(tmp_path / "run", "start.json")["data"] == expected


def test_a_resumed_run_writes_its_environment_and_leaves_the_start(cfg, tmp_path):
    train(cfg, 2)
    started = (tmp_path / "run/start.json").read_text()
    (tmp_path / "run/env.json").unlink()
    train(cfg, 6, start=2)
    assert (tmp_path / "run/start.json").read_text() == started
    assert (tmp_path / "run/env.json").exists()


def test_a_restarted_run_writes_both_files_again(cfg, tmp_path):
    train(cfg, 2)
    train(cfg, 5)
    assert len(read(tmp_path / "run", "start.json")["data"]) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"shift": 1},
        {"box": (1.0, 2.0, 30.0, 41.0)},
        {"label": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_digest_depends_on_the_image_its_pixels_boxes_and_classes(change):
    assert digest_batch([image(**change)]) != digest_batch([image()])
    assert digest_batch([image(), image(2)]) != digest_batch([image(2), image()])


def test_a_digest_does_not_depend_on_image_folder_or_crowds():
    moved = {**image(), "file_name": "/elsewhere/1.png"}
    assert digest_batch([moved]) == digest_batch([image()])
    assert digest_batch([image(crowds=2)]) == digest_batch([image()])


def test_recording_takes_nothing_from_the_generators(cfg):
    trainer = ToyTrainer()
    trainer.register_hooks([RunRecordHook(cfg)])
    seed_all_rng(1)
    expected = torch.rand(3), np.random.rand(3)
    seed_all_rng(1)
    trainer.train(0, 2)
    assert torch.equal(expected[0], torch.rand(3))
    assert (expected[1] == np.random.rand(3)).all()


# In the trainer


def test_the_trainer_records_the_weights_that_it_loaded(cfg, tmp_path):
    small = load(ROOT / "configs/Shapes-Detection/retinanet_small.yaml")
    small.DATASETS.TRAIN, small.DATASETS.TEST = cfg.DATASETS.TRAIN, ()
    small.MODEL.DEVICE, small.OUTPUT_DIR = "cpu", cfg.OUTPUT_DIR
    small.SOLVER.MAX_ITER, small.SOLVER.IMS_PER_BATCH = 2, 2
    small.DATALOADER.NUM_WORKERS = 0
    model = Trainer.build_model(small)
    with torch.no_grad():
        model.head.cls_score.weight.fill_(0.125)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    small.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    trainer = Trainer(small)
    trainer.resume_or_load(resume=False)
    trainer.train()
    start = read(tmp_path / "run", "start.json")
    assert start["weights"] == digest_weights(model)
    assert start["weights"] != digest_weights(trainer.model)
    assert len(start["data"]) == 2
    env = read(tmp_path / "run", "env.json")
    assert [x["name"] for x in env["datasets"]["train"]] == ["tiny_shapes"]
    assert env["datasets"]["test"] == []


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_records(cfg, monkeypatch, main):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: main)
    trainer = object.__new__(Trainer)
    trainer.cfg, trainer._trainer, trainer.checkpointer = cfg, ToyTrainer(), None
    monkeypatch.setattr(Trainer, "_stock_hooks", lambda self: ["stock"])
    hooks = trainer.build_hooks()
    assert hooks[-2] == "stock"
    assert [isinstance(hook, RunRecordHook) for hook in hooks].count(True) == main
