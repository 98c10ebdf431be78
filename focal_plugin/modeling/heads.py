"""
RetinaNet heads, which turn a feature level into class scores and box deltas.

Shape shorthand:
    N: number of images
    C: channels of a feature level
    Hi, Wi: height and width of feature level i
    A: anchors per location
    K: number of classes
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, TypedDict

import torch
from detectron2.config import CfgNode
from detectron2.layers import CycleBatchNormList, ShapeSpec
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_choice, check_option
from ..losses.build import CLS_LOSS_REGISTRY, ClassificationLoss
from ..registry import Registry, build_named, configurable
from .prior import require_prior

RETINANET_HEAD_REGISTRY = Registry("RETINANET_HEAD", lambda head: head)
RETINANET_HEAD_REGISTRY.__doc__ = """
Registry of RetinaNet heads, chosen by `MODEL.FOCAL.HEAD.NAME`.

A registered class is constructed as `head(cfg, input_shape)`, with a list of one `ShapeSpec` per
level. Called with the features of all levels, (N, C, Hi, Wi) each, it returns the logits,
(N, A * K, Hi, Wi) per level, and the deltas, (N, A * 4, Hi, Wi) per level, like Detectron2's head.
In evaluation, a score is the sigmoid of its logit. The attribute `softmax` (False if absent) means
that the training logits are relative to a background logit of 0, for a loss with `softmax`.
"""
RETINANET_HEAD_REGISTRY.register(RetinaNetHead)

CLASSIFIERS = ("conv", "cosine")
"""Legal values of `MODEL.FOCAL.HEAD.CLASSIFIER`."""


def build_retinanet_head(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """
    Build the head that `MODEL.FOCAL.HEAD.NAME` names.

    Raises:
        KeyError: no head has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    heads: Iterable[tuple[str, type[nn.Module]]] = RETINANET_HEAD_REGISTRY
    return build_named(heads, "MODEL.FOCAL.HEAD.NAME", cfg, input_shape)


def check_prior_prob(cfg: CfgNode) -> None:
    """
    Raise an error if the prior is not a probability.

    Raises:
        ValueError: `MODEL.RETINANET.PRIOR_PROB` is not in (0, 1), or is still "auto".
    """
    require_prior("MODEL.RETINANET.PRIOR_PROB", cfg.MODEL.RETINANET.PRIOR_PROB)


@RETINANET_HEAD_REGISTRY.register()
class FocalRetinaNetHead(RetinaNetHead):
    """
    Detectron2's `RetinaNetHead` with a choice of cosine or softmax classifiers.

        sigmoid:  p_k = sigmoid(x_k)                b_k = -log((1 - pi) / pi)
        softmax:  p_k = exp(x_k) / sum_j exp(x_j)   b_k = 0,  b_bg = log(K * (1 - pi) / pi)

    pi is `MODEL.RETINANET.PRIOR_PROB` (arXiv:1708.02002 section 3.3). The softmax is over the
    classes and the background. Its prior, with p_bg = 1 - pi, is that of the original Detectron.
    The configured classification loss selects sigmoid or softmax. A loss with other probabilities
    defines its own prior, and how the head turns its logits into those of sigmoids in evaluation.

    With `MODEL.RETINANET.NORM` "BN" or "SyncBN", each level has its own statistics, on every
    version of Detectron2. At the default keys it is the stock head. For all keys, the towers and
    the box layer start with stock's values.

    Reported:
        none on COCO
    """

    config_keys: ClassVar[dict[str, str]] = {
        "prior_prob": "MODEL.RETINANET.PRIOR_PROB",
        "classifier": "MODEL.FOCAL.HEAD.CLASSIFIER",
        "cosine_scale": "MODEL.FOCAL.HEAD.COSINE_SCALE",
    }

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        norm: str = "",
        prior_prob: float = 0.01,
        classifier: str = "conv",
        cosine_scale: float = 20.0,
        softmax: bool = False,
        loss_class: type[ClassificationLoss] = ClassificationLoss,
        **kwargs: Any,
    ) -> None:
        """
        Initialize the head.

        Args:
            input_shape: one per level.
            norm: the norm of the towers: "", "GN", "BN" or "SyncBN".
            prior_prob: pi, the initial probability of an object, in (0, 1).
            classifier: "conv" or "cosine".
            cosine_scale: factor of the cosine, > 0.
            softmax: if True, the classes compete with each other and with the background.
            loss_class: decodes the logits of independent classes; by default by a sigmoid.
            kwargs: see Detectron2's head.

        Raises:
            IllegalOptionError: an option is outside its legal range.
        """
        _check_options(prior_prob, classifier, cosine_scale)
        super().__init__(
            input_shape=input_shape,
            norm=_norm_of_towers(norm, num_levels=len(input_shape)),
            prior_prob=prior_prob,
            **kwargs,
        )
        self.softmax = softmax
        self.sigmoid_logits = loss_class.sigmoid_logits
        is_sigmoid = self.sigmoid_logits is ClassificationLoss.sigmoid_logits
        if classifier == "conv" and not softmax and is_sigmoid:
            return
        num_anchors = self.bbox_pred.out_channels // 4
        shape: _ClassifierShape = {
            "in_channels": self.cls_score.in_channels,
            "num_anchors": num_anchors,
            "num_classes": self.cls_score.out_channels // num_anchors,
            "prior_prob": prior_prob,
        }
        if softmax and classifier == "conv":
            self.cls_score = SoftmaxClassifier(**shape)
        elif softmax:
            self.cls_score = CosineSoftmaxClassifier(**shape, scale=cosine_scale)
        elif classifier == "conv":
            self.cls_score = DecodingClassifier(**shape, loss_class=loss_class)
        else:
            self.cls_score = CosineClassifier(**shape, loss_class=loss_class, scale=cosine_scale)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        # An unknown name is left to build_cls_loss, which lists the registered names.
        losses = dict(CLS_LOSS_REGISTRY)
        loss = losses.get(cfg.MODEL.FOCAL.CLS_LOSS.NAME, ClassificationLoss)
        return {
            **super().from_config(cfg, input_shape),
            "classifier": cfg.MODEL.FOCAL.HEAD.CLASSIFIER,
            "cosine_scale": cfg.MODEL.FOCAL.HEAD.COSINE_SCALE,
            "softmax": loss.softmax,
            "loss_class": loss,
        }


@RETINANET_HEAD_REGISTRY.register()
class SharedTowerRetinaNetHead(FocalRetinaNetHead):
    """
    Variant of :class:`FocalRetinaNetHead` in which one tower feeds both outputs.

        logits = cls_score(tower(feature)),  deltas = bbox_pred(tower(feature))

    It is the key `SHARE_CLS_BBOX_TOWER` of the original Detectron. The paper's head has two towers
    (arXiv:1708.02002 section 4).

    Reported:
        none on COCO
    """

    last_shared: ClassVar[str] = "cls_subnet"
    """Name of the module that computes the last features that both outputs share."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """
        Initialize the head.

        Args:
            kwargs: see :class:`FocalRetinaNetHead`.
        """
        super().__init__(**kwargs)
        del self.bbox_subnet

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute logits and deltas of each level, see :meth:`RetinaNetHead.forward`."""
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        for feature in features:
            tower = self.cls_subnet(feature)
            logits.append(self.cls_score(tower))
            deltas.append(self.bbox_pred(tower))
        return logits, deltas


class _ClassifierShape(TypedDict):
    in_channels: int
    num_anchors: int
    num_classes: int
    prior_prob: float


class DecodingClassifier(nn.Conv2d):
    """
    Classifier of independent classes whose score is not the sigmoid of the training logit.

        training:    x_k
        evaluation:  s_k with sigmoid(s_k) = p(x_k)

    It is a 3x3 convolution. The loss defines p and the bias whose score is the prior. Code for
    sigmoid scores (decoding, export) works.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        prior_prob: float,
        loss_class: type[ClassificationLoss] = ClassificationLoss,
    ) -> None:
        super().__init__(in_channels, num_anchors * num_classes, kernel_size=3, padding=1)
        self.sigmoid_logits = loss_class.sigmoid_logits
        nn.init.normal_(self.weight, std=0.01)
        assert self.bias is not None
        nn.init.constant_(self.bias, loss_class.bias_of(prior_prob))

    def forward(self, features: Tensor) -> Tensor:
        """
        Compute the logits.

        Args:
            features: (N, C, H, W).

        Returns:
            (N, A * K, H, W); float32 in evaluation.
        """
        logits = self.score(features)
        return logits if self.training else self.sigmoid_logits(logits)

    def score(self, features: Tensor) -> Tensor:
        """Compute the training logits x: (N, C, H, W) -> (N, A * K, H, W)."""
        return F.conv2d(features, self.weight, self.bias, padding=1)


class CosineClassifier(DecodingClassifier):
    """
    Classifier that compares each filter of a 3x3 convolution with its patch by angle.

        x_k = scale * <w_k, patch> / (|w_k| * |patch|) + b_k

    A logit is bounded by b_k +- scale, however large the features are. Randomly drawn filters have
    a cosine near 0 with any patch. The bias alone is thus the prior.
    (arXiv:1804.09458, here over a patch.)

    Note:
        1e-6 is added to the squares of |patch| and |w_k|. A patch of zeros thus scores b_k, with a
        finite gradient.
    """

    def __init__(self, *, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def score(self, features: Tensor) -> Tensor:
        """Compute the training logits x, see :meth:`DecodingClassifier.score`, in float32."""
        return scaled_cosine(features, self.weight, self.bias, self.scale)


class SoftmaxClassifier(nn.Conv2d):
    """
    Softmax classifier over the classes and the background that returns one logit per class.

        training:    z_k = x_k - x_bg
        evaluation:  s_k = x_k - log(sum over j != k of exp(x_j))

    It is a 3x3 convolution to A * (K + 1) logits: for each anchor its classes and then the
    background. Softmax does not change if all logits shift, so cat([z, 0]) is equivalent to x.
    sigmoid(s_k) is the softmax of x at k, so code for sigmoid scores (decoding, export) works.

    Note:
        Detectron2's training images (`VIS_PERIOD`) show the training output. Their scores are
        p_k / (p_k + p_bg).
    """

    def __init__(
        self, *, in_channels: int, num_anchors: int, num_classes: int, prior_prob: float
    ) -> None:
        super().__init__(in_channels, num_anchors * (num_classes + 1), kernel_size=3, padding=1)
        self.num_classes = num_classes
        nn.init.normal_(self.weight, std=0.01)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        background_bias = math.log(num_classes * (1 - prior_prob) / prior_prob)
        with torch.no_grad():
            self.bias.view(num_anchors, num_classes + 1)[:, -1] = background_bias

    def forward(self, features: Tensor) -> Tensor:
        """
        Compute the logits.

        Args:
            features: (N, C, H, W).

        Returns:
            float32 (N, A * K, H, W).
        """
        num_images, _, height, width = features.shape
        of_anchor = self.num_classes + 1
        logits = self.score(features).float()
        # a view, because ONNX would keep the height and the width of `unflatten`
        logits = logits.view(num_images, self.out_channels // of_anchor, of_anchor, height, width)
        relative = logits[:, :, :-1] - logits[:, :, -1:]  # (N, A, K, H, W)
        if not self.training:
            relative = sigmoid_logits_of_softmax(relative, dim=2)
        return relative.flatten(1, 2)

    def score(self, features: Tensor) -> Tensor:
        """Compute the logits x of the softmax: (N, C, H, W) -> (N, A * (K + 1), H, W)."""
        return F.conv2d(features, self.weight, self.bias, padding=1)


class CosineSoftmaxClassifier(SoftmaxClassifier):
    """Variant of :class:`SoftmaxClassifier` with the logits x of :class:`CosineClassifier`."""

    def __init__(self, *, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def score(self, features: Tensor) -> Tensor:
        """Compute the logits x, see :meth:`SoftmaxClassifier.score`."""
        return scaled_cosine(features, self.weight, self.bias, self.scale)


def scaled_cosine(
    features: Tensor, weight: Tensor, bias: Tensor | None, scale: float, eps: float = 1e-6
) -> Tensor:
    """
    Compute the scaled and shifted cosine of each 3x3 filter with each 3x3 patch, zero-padded.

    Args:
        features: (N, C, H, W).
        weight: (O, C, 3, 3).
        bias: (O,), or None.
        eps: constant added to squared norms, so that a patch of zeros has cosine 0 with any filter.

    Returns:
        float32 (N, O, H, W).
    """
    weight = weight.float()
    filters = weight / (weight.square().sum((1, 2, 3), keepdim=True) + eps).sqrt()
    # 9 * average is the sum over the patch. Unlike a convolution it stays in float32 under AMP,
    # where squares would overflow.
    energy = features.float().square().sum(1, keepdim=True)  # (N, 1, H, W)
    length = (9 * F.avg_pool2d(energy, 3, stride=1, padding=1) + eps).sqrt()
    cosine = F.conv2d(features, filters.to(features.dtype), padding=1) / length
    if bias is None:
        return scale * cosine
    return scale * cosine + bias.view(1, -1, 1, 1)


def sigmoid_logits_of_softmax(relative: Tensor, dim: int) -> Tensor:
    """
    Compute the logits whose sigmoids are the probabilities of a softmax with background.

        s_k = z_k - log(1 + sum over j != k of exp(z_j)) = log(p_k) - log(1 - p_k)

    Args:
        relative: (..., K, ...), z = class logit - background logit, float32.
        dim: the dimension of K.

    Returns:
        the same shape; finite for every finite z.

    Note:
        log(1 - p_k) loses all digits where p_k is near 1. At most the largest p_k can exceed 1/2.
        It uses the first form, whose sum excludes it. All others use the second form, where
        1 - p_k >= 1/2.
    """
    top, index = relative.max(dim=dim, keepdim=True)
    background = torch.zeros_like(top)
    log_total = torch.cat([relative, background], dim).logsumexp(dim, keepdim=True)
    log_p = relative - log_total
    # the largest is replaced below; the clamp to 1/2 keeps its logarithm away from 0
    log_not_p = torch.log1p(-log_p.exp().clamp(max=0.5))
    others = relative.scatter(dim, index, float("-inf"))
    log_not_top = torch.cat([others, background], dim).logsumexp(dim, keepdim=True)
    return (log_p - log_not_p).scatter(dim, index, top - log_not_top)


class PerLevelBatchNorm(CycleBatchNormList):
    """
    Batch norm with separate statistics for each feature level, which TorchScript can compile.

    It is Detectron2's `CycleBatchNormList`. All levels share one affine map (arXiv:2105.07576
    section 5.2):

        y = weight * (x - mean_i) / sqrt(var_i + eps) + bias

    Call i belongs to level i mod L, so a tower must be applied to all L levels in order.
    """

    def __init__(self, length: int, bn_class: type[nn.Module], num_features: int) -> None:
        """
        Initialize the norm.

        Args:
            length: number of levels, L.
            bn_class: `nn.BatchNorm2d` or `nn.SyncBatchNorm`.
            num_features: channels of every level.
        """
        super().__init__(length, bn_class, num_features=num_features)
        self.num_levels = length  # TorchScript has no len() of a module

    def forward(self, feature: Tensor) -> Tensor:
        """Normalize the next level, (N, C, Hi, Wi) -> the same shape."""
        normalized = feature
        for level, norm in enumerate(self):  # TorchScript indexes a list with literals only
            if level == self._pos:
                normalized = norm(feature)
        self._pos = (self._pos + 1) % self.num_levels
        return normalized * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def _norm_of_towers(norm: str, num_levels: int) -> Any:
    """Return the argument ``norm`` of Detectron2's head: a name, or a function of the channels."""
    kinds = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}

    def make_per_level(num_channels: int) -> nn.Module:
        return PerLevelBatchNorm(num_levels, kinds[norm], num_channels)

    if norm in kinds:
        return make_per_level
    return make_group_norm if norm == "GN" else norm


def make_group_norm(num_channels: int) -> nn.Module:
    """
    Return Detectron2's norm "GN", or a norm of the same type for one channel.

    The head of release 0.6 creates a norm of one channel to check its type. PyTorch rejects 32
    groups of one channel from version 1.11 on.
    """
    return nn.GroupNorm(32 if num_channels > 1 else 1, num_channels)


def _check_options(prior_prob: float, classifier: str, cosine_scale: float) -> None:
    check_option("prior_prob", prior_prob, low=0, high=1, open_low=True, open_high=True)
    check_choice("classifier", classifier, CLASSIFIERS)
    check_option("cosine_scale", cosine_scale, low=0, open_low=True)
