"""Two small RetinaNets, ours and stock alike, and a batch for them."""

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from focal_plugin.compare.plan.spec_arms import ArmSpec

from ..cached_configs import read_arm, read_cfg

NUM_CLASSES = 8
"""Number of classes of every toy: the classification layer dominates the time of a step."""


NARROW = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 64, "MODEL.DEVICE", "cpu",
)  # fmt: skip
"""Very few channels in a ResNet-50 by Detectron2's own builders."""


def resnet_cfg(file, *opts):
    """Return a base config on a narrow ResNet-50."""
    classes = (
        "MODEL.RETINANET.NUM_CLASSES",
        NUM_CLASSES,
        "MODEL.ROI_HEADS.NUM_CLASSES",
        NUM_CLASSES,
    )
    return read_cfg(file, *NARROW, *classes, *opts)


def narrow_cfg(file, *opts):
    """Return a config with very few channels, for tests that do not depend on the weights."""
    cfg = read_arm(file) if isinstance(file, ArmSpec) else read_cfg(file)
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [8, 12, 16, 24]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 32  # a group norm has 32 groups
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(opts))
    return cfg


def toy_cfg(*opts):
    return resnet_cfg("Base-FocalRetinaNet.yaml", *opts)


def toy_model(*opts):
    torch.manual_seed(0)
    return build_model(toy_cfg(*opts))


def tiny_model(*opts):
    """Build a model with 20 ms per step."""
    torch.manual_seed(0)
    classes = ("MODEL.RETINANET.NUM_CLASSES", NUM_CLASSES)
    return build_model(narrow_cfg("Shapes-Detection/retinanet_small.yaml", *classes, *opts))


def toy_batch(seed=0):
    """Return images of different sizes, with two objects, with none, and with a single object."""
    generator = torch.Generator().manual_seed(seed)
    boxes = [
        torch.tensor([[10.0, 12.0, 70.0, 80.0], [60.0, 20.0, 150.0, 110.0]]),
        torch.zeros(0, 4),
        torch.tensor([[5.0, 5.0, 45.0, 40.0]]),
    ]
    last = NUM_CLASSES - 1
    classes = [torch.tensor([3, last]), torch.zeros(0, dtype=torch.int64), torch.tensor([0])]
    batch = []
    for (height, width), gt_boxes, gt_classes in zip(
        [(128, 160), (96, 128), (128, 128)], boxes, classes, strict=True
    ):
        instances = Instances((height, width), gt_boxes=Boxes(gt_boxes), gt_classes=gt_classes)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


def losses_of(model, batch):
    with EventStorage():
        return model(batch)


def gradients_of(model, batch):
    model.zero_grad()
    losses = losses_of(model, batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_loads_every_key(ours, stock, folder, caplog):
    """Check that ``ours`` loads a checkpoint of ``stock``, whose keys must be exactly its own."""
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter)
    DetectionCheckpointer(stock, str(folder)).save("zoo")
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(ours).load(str(folder / "zoo.pth"))
    assert not caplog.records
    assert ours.state_dict().keys() == stock.state_dict().keys()
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
