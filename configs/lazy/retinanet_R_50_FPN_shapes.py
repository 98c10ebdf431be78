"""Stock RetinaNet with our losses, for Detectron2's own tools/lazyconfig_train_net.py."""

from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config

from focal_plugin.losses import GIoULoss, SigmoidFocalLoss
from focal_plugin.modeling import FocalRetinaNet

model = get_config("common/models/retinanet.py").model
model._target_ = FocalRetinaNet
model.cls_loss = L(SigmoidFocalLoss)(alpha=0.25, gamma=1.5)
model.box_loss = L(GIoULoss)()
model.num_classes = 5

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "focal_shapes_train"
dataloader.test.dataset.names = "focal_shapes_val"
dataloader.train.mapper.use_instance_mask = False

optimizer = get_config("common/optim.py").SGD
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
train = get_config("common/train.py").train
