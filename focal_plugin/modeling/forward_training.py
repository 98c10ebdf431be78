"""What today's RetinaNet can be told to do otherwise in training, and Detectron2 v0.5's cannot."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.retinanet import permute_to_N_HWA_K
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor


class _RetinaNetOfV05(RetinaNet):
    """
    Same interface as :class:`detectron2.modeling.RetinaNet` of v0.5, but the losses come from
    `forward_training(images, features, predictions, gt_instances)`, as they do in later versions.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        if not self.training:
            return super().forward(batched_inputs)
        assert "instances" in batched_inputs[0], "Instance annotations are missing in training!"
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[f] for f in self.head_in_features]
        predictions = self.head(features)
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        losses = self.forward_training(images, features, predictions, gt_instances)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self._visualize(batched_inputs, images, features, predictions)
        return losses

    @torch.no_grad()
    def _visualize(
        self,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
    ) -> None:
        logits, deltas = predictions
        results = self.inference(
            self.anchor_generator(features),
            [permute_to_N_HWA_K(x, self.num_classes) for x in logits],
            [permute_to_N_HWA_K(x, 4) for x in deltas],
            images.image_sizes,
        )
        self.visualize_training(batched_inputs, results)


RetinaNetWithForwardTraining = (
    RetinaNet if hasattr(RetinaNet, "forward_training") else _RetinaNetOfV05
)
