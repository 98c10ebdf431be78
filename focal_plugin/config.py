"""Every config key that this package adds to Detectron2's, and a `get_cfg` that has them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from fvcore.common.config import CfgNode as FvcoreCfgNode


def add_focal_config(cfg: CfgNode) -> None:
    """
    Add the node `MODEL.FOCAL`; a config that has it already is left as it is.

    At these defaults every component is its stock counterpart. Options for which Detectron2 has a
    key are read from there: `MODEL.RETINANET.FOCAL_LOSS_ALPHA` (-1: off), `FOCAL_LOSS_GAMMA`,
    `PRIOR_PROB`, `SMOOTH_L1_LOSS_BETA`.
    """
    if "FOCAL" in cfg.MODEL:
        return
    new_node = type(cfg)  # yacs merges only nodes of the same class
    node = cfg.MODEL.FOCAL = new_node()

    # Classification loss: a name in CLS_LOSS_REGISTRY. alpha and gamma are Detectron2's keys
    # FOCAL_LOSS_ALPHA and _GAMMA; under cross entropy, sigmoid or softmax, the default alpha of
    # 0.25 has to be set to -1
    loss = node.CLS_LOSS = new_node()
    loss.NAME = "SigmoidFocalLoss"
    # What the loss is multiplied by
    loss.WEIGHT = 1.0
    # SigmoidFocalLoss: targets 1 and 0 become 1 - s/2 and s/2
    loss.LABEL_SMOOTHING = 0.0
    # SigmoidFocalLoss, SoftmaxFocalLoss: one alpha for each class, in place of FOCAL_LOSS_ALPHA;
    # for softmax one more, the last, for background
    loss.CLASS_ALPHA = []
    # SigmoidFocalStarLoss: its shift; its slope is FOCAL_LOSS_GAMMA
    loss.BETA = 1.0
    # SigmoidHingeLoss: zero from this p_t on
    loss.HINGE_MARGIN = 1.0
    # PolyFocalLoss: weight of the term (1 - p_t)^(gamma + 1)
    loss.POLY_EPSILON = 1.0
    # AsymmetricLoss: focusing of positives and of negatives, and what is taken off a negative's p
    loss.ASL_GAMMA_POS = 1.0
    loss.ASL_GAMMA_NEG = 4.0
    loss.ASL_CLIP = 0.05
    # QualityFocalLoss: exponent of |quality - p|
    loss.QFL_BETA = 2.0
    # VarifocalLoss: weight of negatives; their exponent is FOCAL_LOSS_GAMMA
    loss.VFL_ALPHA = 0.75
    # GHMLoss: bins of the gradient norm, and weight of the old histogram
    loss.GHM_BINS = 30
    loss.GHM_MOMENTUM = 0.75
    # ClassBalancedFocalLoss: beta of the effective number, and objects of each class in the
    # training set ([]: train_net.py counts them)
    loss.CB_BETA = 0.999
    loss.SAMPLES_PER_CLASS = []
    # EqualizedFocalLoss: how much gamma grows for a class without positive gradient
    loss.EFL_SCALE = 8.0
    # EqualizationLoss: share of all objects below which a class is rare
    loss.EQL_THRESHOLD = 1.76e-3
    # EqualizationLossV2: slope and middle of its map, and weight of rare positives
    loss.EQL_GAMMA = 12.0
    loss.EQL_MU = 0.8
    loss.EQL_ALPHA = 4.0

    # Box loss: a name in BOX_LOSS_REGISTRY; "" is the one that Detectron2's own key
    # MODEL.RETINANET.BBOX_REG_LOSS_TYPE names
    loss = node.BOX_LOSS = new_node()
    loss.NAME = ""
    # What the loss is multiplied by
    loss.WEIGHT = 1.0
    # HuberLoss: where the parabola ends
    loss.HUBER_DELTA = 1 / 9
    # BalancedL1Loss
    loss.BALANCED_L1_ALPHA = 0.5
    loss.BALANCED_L1_GAMMA = 1.5
    loss.BALANCED_L1_BETA = 1.0
    # GHMBoxLoss: scale of the error, bins of the gradient norm, weight of the old histogram
    loss.GHM_MU = 0.02
    loss.GHM_BINS = 10
    loss.GHM_MOMENTUM = 0.7

    # Mining: a name in MINER_REGISTRY; "" keeps every anchor
    mining = node.MINING = new_node()
    mining.NAME = ""
    # Anchors kept of an image (OHEMMiner, OHEMRatioMiner, TopKMiner)
    mining.NUM_KEEP = 128
    # "image", or "batch": num_keep * N are kept of all N images of the process together
    mining.SCOPE = "image"
    # Suppression by loss (OHEMMiner, OHEMRatioMiner): IoU above which the lower loss goes; anchors
    # that enter it; "decoded" boxes or "anchors"; within each label only, or among all
    mining.NMS_THRESH = 0.5
    mining.PRE_NMS_TOPK = 4096
    mining.NMS_BOXES = "decoded"
    mining.NMS_PER_LABEL = False
    # Negatives for one positive (OHEMRatioMiner, SSDMiner), and where no positive is kept
    mining.NEG_POS_RATIO = 3.0
    mining.EMPTY_IMAGE_NEGATIVES = 3
    # Rank by the classification loss, or by "cls_and_box"
    mining.RANK_BY = "cls"
    # The box loss: of "all" positives, or of the "kept" ones
    mining.BOX_LOSS_ON = "all"
    # The classification loss is divided by the "normalizer", or by the number of anchors "kept" in
    # the batch of the process; one that is a mean already, GHMLoss, by neither
    mining.DIVIDE_BY = "normalizer"

    # Head: a name in RETINANET_HEAD_REGISTRY. Depth, norm and prior are Detectron2's keys
    # MODEL.RETINANET.NUM_CONVS, NORM ("BN": one for each level) and PRIOR_PROB.
    node.HEAD = new_node()
    node.HEAD.NAME = "FocalRetinaNetHead"
    # Last layer of the classification tower: "conv" or "cosine"
    node.HEAD.CLASSIFIER = "conv"
    # "cosine": what the cosine is multiplied by
    node.HEAD.COSINE_SCALE = 20.0

    # FocalRPN (a name for MODEL.PROPOSAL_GENERATOR.NAME): "detectron2", "tensorpack" or
    # "matterport", a value for each key below that is empty or None
    rpn = node.RPN = new_node()
    rpn.STYLE = "detectron2"
    # Objectness loss: a name in CLS_LOSS_REGISTRY, of one class
    loss = rpn.CLS_LOSS = _options_of(node.CLS_LOSS, "WEIGHT")
    loss.NAME = ""
    # FOCAL_LOSS_ALPHA of this loss (None: the default of its constructor; -1.0: off), and _GAMMA
    loss.ALPHA = None
    loss.GAMMA = 2.0
    # Box loss: a name in BOX_LOSS_REGISTRY; its smooth L1 has MODEL.RPN.SMOOTH_L1_BETA
    loss = rpn.BOX_LOSS = _options_of(node.BOX_LOSS, "WEIGHT")
    loss.NAME = ""
    # HuberLoss: where the parabola ends
    loss.HUBER_DELTA = None
    # What objectness and box loss are multiplied by, each alone. MODEL.RPN.LOSS_WEIGHT is a factor
    # of both, MODEL.RPN.BBOX_REG_LOSS_WEIGHT one more of the box loss
    rpn.CLS_WEIGHT = 1.0
    rpn.LOC_WEIGHT = 1.0
    # What box targets are divided by: 4 numbers for dx, dy, dw, dh; detectron2 and tensorpack:
    # 1 / MODEL.RPN.BBOX_REG_WEIGHTS
    rpn.TARGET_STD = []
    # What the summed losses are divided by: "batch_size" (stock: MODEL.RPN.BATCH_SIZE_PER_IMAGE
    # times the images), "mean" (the sampled anchors; the 4 coordinates of the positive ones), or a
    # name that MODEL.FOCAL.NORMALIZER takes
    rpn.NORMALIZER = ""
    # Anchors that are the best one for an object: as MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY
    rpn.LOW_QUALITY = ""
    # Anchors that are matched with objects: "all" (stock), or those "inside" the image; no other
    # is a positive or a negative
    rpn.MATCHED = ""
    # Anchors in crowd regions: "background" (stock), "ignore" (a negative with a share of its area
    # in one), "tensorpack" (a positive too) or "matterport" (a negative, by IoU)
    rpn.CROWD = ""
    # From which share or IoU on ("tensorpack": above which); None: 0.7, 9.99 (no share is that
    # large) and 0.001
    rpn.CROWD_THRESH = None
    # Anchors that are trained on: "random" (stock), "all", or a name in MINER_REGISTRY, whose
    # options are those of MODEL.FOCAL.MINING; NUM_KEEP is MODEL.RPN.BATCH_SIZE_PER_IMAGE
    rpn.SAMPLING = ""
    mining = rpn.MINING = _options_of(node.MINING, "NAME", "NUM_KEEP")
    # As there, but by default the box loss is of the anchors kept, as that of a sample
    mining.BOX_LOSS_ON = "kept"
    # Log precision and recall of the objectness at .5, .2 and .1 for each level
    rpn.PRECISION_RECALL = None
    # PriorRPNHead, SoftmaxRPNHead (names for MODEL.RPN.HEAD_NAME): what a fresh head answers for an
    # object, 0.5 as in stock; and the norm of its convolutions
    rpn.PRIOR_PROB = 0.5
    rpn.NORM = ""

    # FocalROIHeads, OHEMROIHeads and their Cascade forms (names for MODEL.ROI_HEADS.NAME):
    # classification loss, a name in CLS_LOSS_REGISTRY; "" is stock's cross entropy
    roi = node.ROI_HEADS = new_node()
    loss = roi.CLS_LOSS = _options_of(node.CLS_LOSS, "WEIGHT")
    loss.NAME = ""
    # FOCAL_LOSS_ALPHA of this loss (None: the default of its constructor; -1.0: off), and _GAMMA
    loss.ALPHA = None
    loss.GAMMA = 2.0
    # Box loss: a name in BOX_LOSS_REGISTRY; "" is that of MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE;
    # its smooth L1 has MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA
    loss = roi.BOX_LOSS = _options_of(node.BOX_LOSS, "WEIGHT")
    loss.NAME = ""
    # What the classification loss is multiplied by, as MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT the
    # box loss
    roi.CLS_WEIGHT = 1.0
    # What a classification loss with a NAME is divided by: the number of "rois" (as stock's), or of
    # those with an object, "foreground"
    roi.NORMALIZER = "rois"
    # What a fresh box head answers for an object; 0: its biases are zero, as in stock
    roi.PRIOR_PROB = 0.0
    # OHEMROIHeads: a name in MINER_REGISTRY, whose options are those of MODEL.FOCAL.MINING;
    # NUM_KEEP is MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE. "" trains on all RoIs
    mining = roi.MINING = _options_of(
        node.MINING, "NUM_KEEP", "NMS_BOXES", "BOX_LOSS_ON", "DIVIDE_BY"
    )
    mining.NAME = "OHEMMiner"
    # As there, but the defaults are those of OHEM for RoIs (arXiv:1604.03540)
    mining.NMS_THRESH = 0.7
    mining.NMS_PER_LABEL = True
    mining.RANK_BY = "cls_and_box"

    # FocalFastRCNNConvFCHead (a name for MODEL.ROI_BOX_HEAD.NAME): "norm_relu" (stock), or
    # "relu_norm", tensorpack's order
    node.ROI_BOX_HEAD = new_node()
    node.ROI_BOX_HEAD.NORM_ORDER = "norm_relu"

    # build_focal_resnet_fpn_backbone, build_small_resnet_fpn_backbone: what makes the levels above
    # P5. "res5" (stock RetinaNet) or "p5": strided convolutions of it; "maxpool" (stock Faster
    # R-CNN): every second pixel of P5; "": there are none
    node.FPN = new_node()
    node.FPN.TOP_BLOCK = "res5"
    # 2: P6 and P7; 1: P6
    node.FPN.TOP_LEVELS = 2

    # Anchors that are the best one for an object, though below the threshold: positive ("on",
    # stock), positive unless they are background ("clobber"), or as any other ("off")
    node.ANCHOR_LABELS = new_node()
    node.ANCHOR_LABELS.LOW_QUALITY = "on"
    # Anchors inside a crowd region: "background" (stock), or "ignore" (always so where MINING is
    # on)
    node.ANCHOR_LABELS.CROWD = "background"

    # What the summed losses are divided by: "ema" (stock: running mean of the positive anchors in
    # a batch, per process), "ema_global" (of all processes), "batch", "global" (batch of all
    # processes), "per_image" or "fixed"
    node.NORMALIZER = "ema"
    # "ema" and "ema_global": value before the first batch, and weight of the old value
    node.NORMALIZER_INIT = 100.0
    node.NORMALIZER_MOMENTUM = 0.9
    # "fixed": the divisor
    node.NORMALIZER_VALUE = 100.0

    # build_small_resnet_fpn_backbone: channels of its stages res2, res3, ...
    node.SMALL_RESNET = new_node()
    node.SMALL_RESNET.WIDTHS = [24, 32, 64, 96]

    # train_net.py: how a model starts. "stock", or "by_name": each tensor that starts at random is
    # drawn from SEED and its own name, so that it starts alike in every model that has it, and data
    # and augmentation are those of SEED whatever the model
    node.INIT = "stock"

    # train_net.py: the precision of SOLVER.AMP, "float16" or "bfloat16"; "" is Detectron2's float16
    # on a GPU, and bfloat16 on the CPU, which has no other
    node.AMP = new_node()
    node.AMP.PRECISION = ""

    # train_net.py: record every so many iterations which anchors the loss and the gradient come
    # from; 0: never
    node.DIAGNOSTICS = new_node()
    node.DIAGNOSTICS.PERIOD = 0

    # train_net.py: MiB of pixels, of the images of the training set, that each training process
    # keeps in memory, each of its data loading workers an equal share; 0: every image is read each
    # time. What the model sees is the same
    data = node.DATA = new_node()
    data.IMAGE_CACHE_MIB = 0
    # train_net.py: what the check of annotation files before the first iteration does. "normal":
    # what would train wrong or crash is an error, and what Detectron2 drops is counted; "strict":
    # that is an error too; "drop": boxes of a negative or an infinite size are dropped and counted
    data.CHECK = "normal"
    # train_net.py: how many images of the training set, that cannot be read, each process replaces
    # by others; 0: the first one ends the run
    data.MAX_UNREADABLE_IMAGES = 0

    # train_net.py: what happens where a loss or a gradient is NaN or infinite, before the optimizer
    # sees it. "raise" ends the run and says where it comes from; "skip" leaves the step out;
    # "rollback" loads weights and optimizer of the last checkpoint and goes on with the next batch
    nonfinite = node.NONFINITE = new_node()
    nonfinite.POLICY = "raise"
    # "skip": so many steps in a row, "rollback": so many times in all, and then it ends the run
    nonfinite.MAX_IN_A_ROW = 10
    nonfinite.MAX_ROLLBACKS = 3


def _options_of(part: CfgNode, *without: str) -> CfgNode:
    """The options of a part, for a second place; those ``without`` have no key of theirs there."""
    options = part.clone()
    for name in without:
        del options[name]
    return options


class FocalCfgNode(CfgNode):
    """
    Same interface as Detectron2's `CfgNode`, but an unknown key is told the nearest known, a config
    file runs no code unless it is asked for, and it is a file of this machine.
    """

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """
        Same interface as :meth:`CfgNode.merge_from_file`, but a tag that may run code is an error
        unless ``allow_unsafe``, or the file belongs to the installed Detectron2's model zoo.

        Raises:
            ValueError: such a tag, an address in place of a file, or what is no config at all, in
                the file or one that it is based on.
        """
        _refuse_address(cfg_filename, "a config file")
        try:
            super().merge_from_file(cfg_filename, allow_unsafe=allow_unsafe)
        except RecursionError:
            raise ValueError(f"{cfg_filename}: its _BASE_ leads back to itself") from None

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Same interface as :meth:`CfgNode.load_yaml_with_base`, but see `merge_from_file`."""
        _refuse_address(filename, "_BASE_")  # also one that a YAML merge key brought
        # Detectron2's Base-RetinaNet.yaml has such a tag, and is as trusted as its code
        allow_unsafe = allow_unsafe or _is_of_the_model_zoo(filename)
        with cls._open_cfg(filename) as stream:
            _check_yaml(filename, stream.read(), allow_unsafe=allow_unsafe)
        return super().load_yaml_with_base(filename, allow_unsafe=allow_unsafe)

    def merge_from_other_cfg(self, cfg_other: FvcoreCfgNode) -> Any:
        with _NearestKey(self):
            return super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list[Any]) -> Any:
        with _NearestKey(self):
            return super().merge_from_list(cfg_list)


def get_cfg() -> FocalCfgNode:
    """
    Returns:
        Detectron2's default config with our keys. `MODEL.DEVICE` is "cuda" where there is a GPU and
        "cpu" where there is none.
    """
    cfg = FocalCfgNode(get_detectron2_cfg())
    add_focal_config(cfg)
    cfg.MODEL.DEVICE = "auto"
    resolve_device(cfg)
    return cfg


def resolve_device(cfg: CfgNode) -> None:
    """Replace a `MODEL.DEVICE` of "auto" by "cuda" where there is a GPU, else by "cpu"."""
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _check_yaml(file: str, text: str, *, allow_unsafe: bool) -> None:
    """Looks at the syntax only, so that nothing is executed and nothing fetched."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(root, yaml.MappingNode):
        is_what = "is empty" if root is None else f"holds no keys but a {root.id}"
        raise ValueError(f"{file} {is_what}; a config file is lines such as `KEY: value`")
    for key, value in root.value:
        if key.value == "_BASE_":
            _check_base(file, value)
    for node in () if allow_unsafe else _nodes(root):
        if node.tag not in _SAFE_TAGS:
            raise ValueError(
                f"{file}, line {node.start_mark.line + 1}: the tag "
                f"{node.tag.replace('tag:yaml.org,2002:', '!!')} may run code; write a plain "
                "value, or, if you have read the file, give --allow-unsafe-yaml"
            )


_SAFE_TAGS = {*filter(None, yaml.SafeLoader.yaml_constructors), "tag:yaml.org,2002:merge"}


def _check_base(file: str, value: yaml.Node) -> None:
    names = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for name in names:
        if name.tag != "tag:yaml.org,2002:str":
            raise ValueError(
                f"{file}, line {name.start_mark.line + 1}: _BASE_ must be the name of a file, or a "
                "list of them"
            )
        _refuse_address(name.value, f"{file}: _BASE_")


def _refuse_address(name: str, what: str) -> None:
    # anywhere: Detectron2 puts the folder of the config before most of them
    if re.search(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        raise ValueError(f"{what} must be a file on this machine, got {name}: download it first")


def _is_of_the_model_zoo(filename: str) -> bool:
    """Return True for the files that `detectron2.model_zoo.get_config_file` gives."""
    # resolved: an installation from source has a link there
    zoo = (Path(detectron2.__file__).parent / "model_zoo/configs").resolve()
    return Path(filename).resolve().is_relative_to(zoo)


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """All of them, each once: an alias may lead back."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


class _NearestKey:
    """Turns yacs' "Non-existent (config) key: X" into a KeyError that suggests a key."""

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        message = str(error.args[0]) if error is not None and error.args else ""
        if not isinstance(error, (KeyError, AssertionError)) or "Non-existent" not in message:
            return
        unknown = message.rpartition(": ")[2]
        nearest = difflib.get_close_matches(unknown, list(_full_keys(self._cfg)), n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise KeyError(f"Non-existent config key: {unknown}{hint}") from None


def _full_keys(cfg: CfgNode, prefix: str = "") -> Any:
    for key, value in cfg.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _full_keys(value, f"{prefix}{key}.")
