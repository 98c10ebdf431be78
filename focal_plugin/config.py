"""
Every config key that this package adds to Detectron2's.

At its default, each component is its stock counterpart. A key of Detectron2 is used where there is
one. One rule says how an option is turned off:

* a name: "" selects Detectron2's own component, or none
* a list or a number that a style or a constructor has too: [] or None leaves it to that one
* a period, a count or a size: 0
* `MODEL.RETINANET.FOCAL_LOSS_ALPHA`, a key of Detectron2: -1
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from .config_node import FocalCfgNode
from .registry import OutsideComponent, RegistrationError, default_of, outside_components


def get_cfg() -> FocalCfgNode:
    """
    Return Detectron2's default config with our keys.

    `MODEL.DEVICE` is "cuda" if there is a GPU, else "cpu".
    """
    cfg = FocalCfgNode(get_detectron2_cfg())
    add_focal_config(cfg)
    cfg.MODEL.DEVICE = "auto"
    resolve_device(cfg)
    return cfg


def resolve_device(cfg: CfgNode) -> None:
    """Replace a `MODEL.DEVICE` of "auto" by "cuda" if there is a GPU, else by "cpu"."""
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def add_focal_config(cfg: CfgNode) -> None:
    """
    Add the node `MODEL.FOCAL`, unless the config has it already.

    Some options have a key of Detectron2: `MODEL.RETINANET.FOCAL_LOSS_ALPHA` (-1: off),
    `FOCAL_LOSS_GAMMA`, `PRIOR_PROB`, `SMOOTH_L1_LOSS_BETA`.
    """
    if "FOCAL" in cfg.MODEL:
        return
    new_node = type(cfg)  # yacs merges only nodes of the same class
    node = cfg.MODEL.FOCAL = new_node()

    # Classification loss: a name in CLS_LOSS_REGISTRY. Its alpha and gamma are Detectron2's keys
    # FOCAL_LOSS_ALPHA and FOCAL_LOSS_GAMMA. Cross entropy needs an alpha of -1
    loss = node.CLS_LOSS = new_node()
    loss.NAME = "SigmoidFocalLoss"
    # Factor of the loss
    loss.WEIGHT = 1.0
    # SigmoidFocalLoss: targets 1 and 0 become 1 - s/2 and s/2
    loss.LABEL_SMOOTHING = 0.0
    # SigmoidFocalLoss, SoftmaxFocalLoss: one alpha per class, in place of FOCAL_LOSS_ALPHA.
    # Softmax has one more, the last, for background. "auto": train_net.py computes them from the
    # objects per class in the training set, and writes them here
    loss.CLASS_ALPHA = []
    # "auto": power of the inverse number of objects; 0: the same alpha for each class
    loss.CLASS_ALPHA_POWER = 0.5
    # SigmoidFocalStarLoss: shift of the logit; its slope is FOCAL_LOSS_GAMMA
    loss.FL_STAR_BETA = 1.0
    # SigmoidHingeLoss: the loss is zero from this p_t on
    loss.HINGE_MARGIN = 1.0
    # PolyFocalLoss: weight of the term (1 - p_t)^(gamma + 1)
    loss.POLY_EPSILON = 1.0
    # AsymmetricLoss: focusing of positives, focusing of negatives, and shift of a negative's p
    loss.ASL_GAMMA_POS = 1.0
    loss.ASL_GAMMA_NEG = 4.0
    loss.ASL_CLIP = 0.05
    # QualityFocalLoss: exponent of |quality - p|
    loss.QFL_BETA = 2.0
    # VarifocalLoss: weight of negatives; their exponent is FOCAL_LOSS_GAMMA
    loss.VFL_ALPHA = 0.75
    # MatchabilityAwareLoss: exponent of the quality and of a negative's p, and weight of negatives
    loss.MAL_GAMMA = 1.5
    loss.MAL_ALPHA = 1.0
    # IoUAwareCrossEntropyLoss: share of the score in a target; the exponent of negatives is
    # FOCAL_LOSS_GAMMA
    loss.IA_BCE_ALPHA = 0.25
    # APLoss, ALRPLoss, RankSortLoss: half width of the ramp that compares two logits; 0: a step
    loss.AP_DELTA = 1.0
    loss.ALRP_DELTA = 1.0
    loss.RS_DELTA = 0.5
    # The same losses: the logits of one ranking, those of the "batch" of a process or of an "image"
    loss.RANKING_SCOPE = "batch"
    # ALRPLoss: a positive with at most so many false positives has no gradient
    loss.ALRP_EPS = 1e-5
    # APELoss: factor of the gap between two logits, and number of negatives that count
    loss.APE_SCALE = 8.0
    loss.APE_TOP_K = 100_000
    # DRLoss: temperatures of positives and negatives, L of the paper, factor, and margin
    loss.DR_LAMBDA_POS = 1.0
    loss.DR_LAMBDA_NEG = 0.0798235600148
    loss.DR_SCALE = 6.0
    loss.DR_TAU = 4.0
    loss.DR_MARGIN = 0.5
    # GHMLoss: bins of the gradient norm, and weight of the old histogram
    loss.GHM_BINS = 30
    loss.GHM_MOMENTUM = 0.75
    # ClassBalancedFocalLoss: beta of the effective number
    loss.CB_BETA = 0.999
    # ClassBalancedFocalLoss, EqualizationLoss: objects per class in the training set.
    # EffectiveClassMarginLoss: images with each class. []: train_net.py counts them
    loss.SAMPLES_PER_CLASS = []
    # EffectiveClassMarginLoss (RoI heads only): samples of the background for one of a class
    loss.ECM_FG_BG_RATIO = 6.3313
    # EqualizedFocalLoss: growth of gamma for a class without positive gradient
    loss.EFL_SCALE = 8.0
    # EqualizationLoss: a class is rare below this share of all objects
    loss.EQL_THRESHOLD = 1.76e-3
    # EqualizationLossV2: slope and middle of its map, and weight of rare positives
    loss.EQLV2_GAMMA = 12.0
    loss.EQLV2_MU = 0.8
    loss.EQLV2_ALPHA = 4.0
    # SeesawLoss (RoI heads only): exponents of the ratios of counts and of scores
    loss.SEESAW_P = 0.8
    loss.SEESAW_Q = 2.0
    # SeesawLoss: lowest own score in a ratio
    loss.SEESAW_EPS = 1e-2
    # SeesawLoss: "sum": NORMALIZER divides both terms, as for the published results. "mean": the
    # classes are a mean over RoIs with an object, and the objectness is one over all RoIs
    loss.SEESAW_REDUCTION = "sum"

    # Box loss: a name in BOX_LOSS_REGISTRY; "" selects the loss of Detectron2's key
    # MODEL.RETINANET.BBOX_REG_LOSS_TYPE
    loss = node.BOX_LOSS = new_node()
    loss.NAME = ""
    # Factor of the loss
    loss.WEIGHT = 1.0
    # Weight of each box: "" (1, stock), "score" (the largest probability of a class), "iou" (of the
    # predicted box), "centerness" (of the anchor) or "target" (the weight that the assigner gives).
    # The loss is then divided by the sum of the weights
    loss.WEIGHTED_BY = ""
    # HuberLoss: end of the parabola
    loss.HUBER_DELTA = 1 / 9
    # BalancedL1Loss
    loss.BALANCED_L1_ALPHA = 0.5
    loss.BALANCED_L1_GAMMA = 1.5
    loss.BALANCED_L1_BETA = 1.0
    # GHMBoxLoss: scale of the error, bins of the gradient norm, weight of the old histogram
    loss.GHM_MU = 0.02
    loss.GHM_BINS = 10
    loss.GHM_MOMENTUM = 0.7

    # A loss of objects instead of labeled anchors: a name in BAG_LOSS_REGISTRY. It replaces both
    # losses, their normalizer and the assigner. "": there is none
    loss = node.BAG_LOSS = new_node()
    loss.NAME = ""
    # FreeAnchorLoss: anchors of an object; IoU of a box that is no background; weight of the
    # positive loss, and exponent of the negative one; weight and beta of smooth L1
    loss.BAG_SIZE = 50
    loss.IOU_THRESHOLD = 0.6
    loss.ALPHA = 0.5
    loss.GAMMA = 2.0
    loss.BOX_WEIGHT = 0.75
    loss.BOX_BETA = 0.11

    # Balance of both losses: a name in BALANCE_REGISTRY. "fixed" (stock) multiplies them by their
    # WEIGHT alone, which the others apply too
    balance = node.BALANCE = new_node()
    balance.NAME = "fixed"
    # "guided", "equal_gradient": the classification loss, or its gradient, over that of the boxes
    balance.SCALE = 1.0
    # "guided": iterations until the factor stays constant; 0: never
    balance.ITERS = 100
    # "guided": multiply each loss by 1 / (2 sigma^2), with one learned sigma for each
    balance.LEARNED = False
    # "self": iterations between two changes of the factor, and the factor before the first one. 0:
    # the factor makes both losses equal in each step
    balance.PERIOD = 0
    balance.INIT = 50.0
    # "equal_gradient": weight of the old gradient norms
    balance.MOMENTUM = 0.9

    # Weights of the classification loss of the positives: "" (1 each) or "isr_p", by rank and IoU
    # of each positive among those of its object and class
    reweight = node.REWEIGHT = new_node()
    reweight.NAME = ""
    # "isr_p": exponent of the weights
    reweight.K = 2.0
    # "isr_p": least weight before the exponent
    reweight.BIAS = 0.0
    # Factor of CARL, an additional box term whose weights are scores with gradient; 0: off. It is
    # logged as "loss_carl"
    carl = node.CARL = new_node()
    carl.WEIGHT = 0.0
    # CARL: exponent of the weights
    carl.K = 1.0
    # CARL: weight of a score of 0, before the exponent
    carl.BIAS = 0.2
    # Anchors of an object: "max_iou" (stock, by MODEL.RETINANET.IOU_THRESHOLDS), "atss", "tal",
    # "simota", "paa", or a name in ASSIGNER_REGISTRY
    assigner = node.ASSIGNER = new_node()
    assigner.NAME = "max_iou"
    # "atss": candidates of an object on each level; for each anchor of a location, or in all
    assigner.ATSS_K = 9
    assigner.ATSS_PER_ANCHOR = True
    # "tal": candidates of an object, exponents of score and IoU; share of SOLVER.MAX_ITER with
    # "atss" at first
    assigner.TAL_TOPK = 13
    assigner.TAL_ALPHA = 1.0
    assigner.TAL_BETA = 6.0
    assigner.TAL_WARMUP = 0.0
    # "simota": distance from the center of an object, in strides; largest number of anchors of an
    # object; weight of the box in the cost
    assigner.SIMOTA_RADIUS = 2.5
    assigner.SIMOTA_TOPK = 10
    assigner.SIMOTA_IOU_WEIGHT = 3.0
    # "paa": candidates of an object on each level, and their IoU
    assigner.PAA_TOPK = 9
    assigner.PAA_IOU = 0.1

    # Mining: a name in MINER_REGISTRY; "" keeps every anchor
    mining = node.MINING = new_node()
    mining.NAME = ""
    # OHEMMiner, OHEMRatioMiner, TopKMiner: number of anchors kept per image
    mining.NUM_KEEP = 128
    # "image", or "batch": num_keep * N are kept of all N images of the process together
    mining.SCOPE = "image"
    # OHEMMiner, OHEMRatioMiner: suppression by loss. IoU above which the lower loss is suppressed;
    # number of anchors that enter it (0: all); "decoded" boxes or "anchors"; within each label or
    # among all
    mining.NMS_THRESH = 0.5
    mining.PRE_NMS_TOPK = 0
    mining.NMS_BOXES = "decoded"
    mining.NMS_PER_LABEL = False
    # OHEMRatioMiner, SSDMiner: negatives per positive, and negatives of an image without positives
    mining.NEG_POS_RATIO = 3.0
    mining.EMPTY_IMAGE_NEGATIVES = 3
    # Loss that ranks the anchors: "cls" or "cls_and_box"
    mining.RANK_BY = "cls"
    # Anchors of the box loss: "all" positives, or the "kept" ones
    mining.BOX_LOSS_ON = "all"
    # Divisor of the classification loss: the "normalizer", or the number of anchors "kept" in the
    # batch of the process. GHMLoss is a mean already, and uses neither
    mining.DIVIDE_BY = "normalizer"

    # Head: a name in RETINANET_HEAD_REGISTRY. Depth, norm and prior are Detectron2's keys
    # MODEL.RETINANET.NUM_CONVS, NORM ("BN": one for each level) and PRIOR_PROB ("auto":
    # train_net.py computes the share of positives in the training set, and writes it there)
    node.HEAD = new_node()
    node.HEAD.NAME = "FocalRetinaNetHead"
    # Last layer of the classification tower: "conv" or "cosine"
    node.HEAD.CLASSIFIER = "conv"
    # "cosine": factor of the cosine
    node.HEAD.COSINE_SCALE = 20.0
    # DistributionRetinaNetHead: bins of a distance, and factor of the distribution focal loss
    node.HEAD.NUM_BINS = 17
    node.HEAD.DFL_WEIGHT = 0.25

    # FocalRPN (a name for MODEL.PROPOSAL_GENERATOR.NAME): "detectron2", "tensorpack" or
    # "matterport". The style sets each key below that is empty or None
    rpn = node.RPN = new_node()
    rpn.STYLE = "detectron2"
    # Objectness loss: a name in CLS_LOSS_REGISTRY, of one class. WEIGHT is a factor of this loss;
    # Detectron2's MODEL.RPN.LOSS_WEIGHT is a factor of both losses
    loss = rpn.CLS_LOSS = _options_of(node.CLS_LOSS)
    loss.NAME = ""
    # FOCAL_LOSS_ALPHA of this loss (None: the default of its constructor; -1.0: off), and
    # FOCAL_LOSS_GAMMA
    loss.ALPHA = None
    loss.GAMMA = 2.0
    # Box loss: a name in BOX_LOSS_REGISTRY; the beta of its smooth L1 is MODEL.RPN.SMOOTH_L1_BETA.
    # WEIGHT is a factor of this loss, in addition to MODEL.RPN.BBOX_REG_LOSS_WEIGHT
    loss = rpn.BOX_LOSS = _options_of(node.BOX_LOSS)
    loss.NAME = ""
    # HuberLoss: end of the parabola
    loss.HUBER_DELTA = None
    # Balance of both losses, as MODEL.FOCAL.BALANCE
    rpn.BALANCE = _options_of(node.BALANCE)
    # Divisor of the box targets: 4 numbers for dx, dy, dw, dh. detectron2 and tensorpack use
    # 1 / MODEL.RPN.BBOX_REG_WEIGHTS
    rpn.TARGET_STD = []
    # Divisor of the summed losses: "batch_size" (stock: MODEL.RPN.BATCH_SIZE_PER_IMAGE times the
    # images), "mean" (the sampled anchors; the 4 coordinates of the positive ones), or a value of
    # MODEL.FOCAL.NORMALIZER.NAME
    rpn.NORMALIZER = ""
    # Label of the best anchor of an object, as MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY
    rpn.LOW_QUALITY = ""
    # Anchors of an object, as MODEL.FOCAL.ASSIGNER.NAME: "max_iou", or one without predictions
    rpn.ASSIGNER = "max_iou"
    # Anchors that are matched with objects: "all" (stock), or those "inside" the image. No other
    # anchor is a positive or a negative
    rpn.MATCHED = ""
    # Anchors in crowd regions: "background" (stock), "ignore" (a negative with a share of its area
    # in one), "tensorpack" (a positive too) or "matterport" (a negative, by IoU)
    rpn.CROWD = ""
    # Least share or IoU for CROWD ("tensorpack": exclusive); None: 0.7, 9.99 (no share is that
    # large) and 0.001
    rpn.CROWD_THRESH = None
    # Anchors that are trained on: "random" (stock), "all", or a name in MINER_REGISTRY. Options are
    # those of MODEL.FOCAL.MINING; NUM_KEEP is MODEL.RPN.BATCH_SIZE_PER_IMAGE
    mining = rpn.MINING = _options_of(node.MINING, "NUM_KEEP")
    mining.NAME = ""
    # As MODEL.FOCAL.MINING.BOX_LOSS_ON, but "kept" by default, as for a sample
    mining.BOX_LOSS_ON = "kept"
    # Log precision and recall of the objectness at .5, .2 and .1 for each level
    rpn.PRECISION_RECALL = None
    # PriorRPNHead, SoftmaxRPNHead (names for MODEL.RPN.HEAD_NAME): objectness of a fresh head (0.5:
    # stock; "auto": as MODEL.RETINANET.PRIOR_PROB), and norm of its convolutions
    rpn.PRIOR_PROB = 0.5
    rpn.NORM = ""

    # FocalROIHeads, OHEMROIHeads and their Cascade forms (names for MODEL.ROI_HEADS.NAME):
    # classification loss, a name in CLS_LOSS_REGISTRY; "" is stock's cross entropy. WEIGHT is a
    # factor of this loss, as MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT is of the box loss
    roi = node.ROI_HEADS = new_node()
    loss = roi.CLS_LOSS = _options_of(node.CLS_LOSS, "RANKING_SCOPE")
    loss.NAME = ""
    # FOCAL_LOSS_ALPHA of this loss (None: the default of its constructor; -1.0: off), and
    # FOCAL_LOSS_GAMMA
    loss.ALPHA = None
    loss.GAMMA = 2.0
    # Box loss: a name in BOX_LOSS_REGISTRY; "" selects MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE. The
    # beta of its smooth L1 is MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA
    loss = roi.BOX_LOSS = _options_of(node.BOX_LOSS, "WEIGHT")
    loss.NAME = ""
    # Balance of both losses, as MODEL.FOCAL.BALANCE. All but "fixed" require a CLS_LOSS.NAME
    roi.BALANCE = _options_of(node.BALANCE)
    # Weights of positives and the term CARL, as MODEL.FOCAL. Both require a CLS_LOSS.NAME
    roi.REWEIGHT = _options_of(node.REWEIGHT)
    roi.CARL = _options_of(node.CARL)
    # Divisor of a classification loss with a NAME: the number of "rois" (stock), or of those with
    # an object, "foreground"
    roi.NORMALIZER = "rois"
    # The same for the box loss
    roi.BOX_NORMALIZER = "rois"
    # Probability of an object that a fresh box head gives; 0: its biases are zero, as in stock
    roi.PRIOR_PROB = 0.0
    # NorCal, in evaluation, for a softmax loss: the power of the images with a class by which its
    # probability is divided (CLS_LOSS.SAMPLES_PER_CLASS; []: train_net.py counts them); 0: off
    roi.NORCAL_GAMMA = 0.0
    # OHEMROIHeads: a name in MINER_REGISTRY; "" trains on all RoIs. Options are those of
    # MODEL.FOCAL.MINING; NUM_KEEP is MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    mining = roi.MINING = _options_of(
        node.MINING, "NUM_KEEP", "NMS_BOXES", "BOX_LOSS_ON", "DIVIDE_BY"
    )
    mining.NAME = "OHEMMiner"
    # As in MODEL.FOCAL.MINING, but the defaults are those of OHEM for RoIs (arXiv:1604.03540)
    mining.NMS_THRESH = 0.7
    mining.NMS_PER_LABEL = True
    mining.RANK_BY = "cls_and_box"

    # SampledROIHeads, SampledCascadeROIHeads (names for MODEL.ROI_HEADS.NAME): draw of positives,
    # "random" or "instance_balanced" (the same number of each object); their largest number is
    # MODEL.ROI_HEADS.POSITIVE_FRACTION of BATCH_SIZE_PER_IMAGE
    sampler = roi.SAMPLER = new_node()
    sampler.POSITIVES = "random"
    # Draw of negatives: "random", "iou_balanced" (the same number of each bin of IoU) or
    # "score_hlr" (by rank of their scores, with weights; requires a CLS_LOSS.NAME)
    sampler.NEGATIVES = "random"
    # "iou_balanced": number of bins
    sampler.NUM_BINS = 3
    # "iou_balanced": IoU below which a negative is drawn last; 0: at 0 (as published); -1: none is
    sampler.FLOOR_THR = -1.0
    # "iou_balanced": share of the negatives that is not drawn from the bins
    sampler.FLOOR_FRACTION = 0.0
    # "iou_balanced": boxes that determine the range of the bins, "negatives" or "all" (as
    # published)
    sampler.IOU_RANGE = "negatives"
    # "score_hlr": exponent of the weights
    sampler.HLR_K = 0.5
    # "score_hlr": least weight before the exponent
    sampler.HLR_BIAS = 0.0
    # "score_hlr": score above which a negative is ranked
    sampler.HLR_SCORE_THRESH = 0.05
    # "score_hlr": IoU above which a negative joins the cluster of a better one
    sampler.HLR_NMS_THRESH = 0.5

    # FocalFastRCNNConvFCHead (a name for MODEL.ROI_BOX_HEAD.NAME): "norm_relu" (stock), or
    # "relu_norm", tensorpack's order
    node.ROI_BOX_HEAD = new_node()
    node.ROI_BOX_HEAD.NORM_ORDER = "norm_relu"

    # build_focal_resnet_fpn_backbone, build_small_resnet_fpn_backbone: source of the levels above
    # P5. "res5" (stock RetinaNet) or "p5": strided convolutions of it; "maxpool" (stock Faster
    # R-CNN): every second pixel of P5; "": no such levels
    node.FPN = new_node()
    node.FPN.TOP_BLOCK = "res5"
    # 2: P6 and P7; 1: P6
    node.FPN.TOP_LEVELS = 2

    # Label of the best anchor of an object below the threshold: positive ("on", stock), positive
    # unless it is background ("clobber"), or by its IoU alone ("off")
    node.ANCHOR_LABELS = new_node()
    node.ANCHOR_LABELS.LOW_QUALITY = "on"
    # Anchors inside a crowd region: "background" (stock), or "ignore" (always so with MINING)
    node.ANCHOR_LABELS.CROWD = "background"
    # Classes with which an image is not labeled, if it has "labeled_categories": "ignore" (no loss
    # but for annotated objects), or "background" (stock)
    node.ANCHOR_LABELS.UNLABELED = "ignore"

    # Divisor of the summed losses: "ema" (stock: running mean of the positive anchors in a batch,
    # per process), "ema_global" (of all processes), "batch", "global" (batch of all processes),
    # "per_image" or "fixed"
    normalizer = node.NORMALIZER = new_node()
    normalizer.NAME = "ema"
    # "ema" and "ema_global": value before the first batch, and weight of the old value
    normalizer.INIT = 100.0
    normalizer.MOMENTUM = 0.9
    # "fixed": the divisor
    normalizer.VALUE = 100.0

    # build_small_resnet_fpn_backbone: channels of its stages res2, res3, ...
    node.SMALL_RESNET = new_node()
    node.SMALL_RESNET.WIDTHS = [24, 32, 64, 96]

    # Names of the classes, in the order of their indices. []: train_net.py takes those of the first
    # training set. config.yaml and checkpoints keep them, so that a trained model knows its classes
    node.CLASS_NAMES = []

    # train_net.py: initial weights. "stock", or "by_name": each random tensor is drawn from SEED
    # and its own name. So it starts alike in every model that has it, and data and augmentation
    # depend on SEED alone
    node.INIT = "stock"

    # train_net.py: precision of SOLVER.AMP, "float16" or "bfloat16". "" is Detectron2's float16 on
    # a GPU, and bfloat16 on the CPU, which supports no other
    node.AMP = new_node()
    node.AMP.PRECISION = ""

    # train_net.py: iterations between two records of the anchors that cause loss and gradient; 0:
    # no records
    node.DIAGNOSTICS = new_node()
    node.DIAGNOSTICS.PERIOD = 0

    # train_net.py: MiB of pixels of the training set that each training process keeps in memory.
    # Its data loading workers share it equally. 0: no cache. The model sees the same either way
    data = node.DATA = new_node()
    data.IMAGE_CACHE_MIB = 0
    # train_net.py: check of the annotation files before the first iteration. "normal": a fault that
    # would train wrong or crash is an error, and what Detectron2 drops is counted; "strict": both
    # are errors; "drop": boxes of a negative or an infinite size are dropped and counted
    data.CHECK = "normal"
    # train_net.py: number of unreadable training images that each process replaces by others; 0:
    # the first one ends the run
    data.MAX_UNREADABLE_IMAGES = 0

    # train_net.py: reaction to a NaN or infinite loss or gradient, before the optimizer sees it.
    # "raise" ends the run and names the source; "skip" skips the step; "rollback" loads weights and
    # optimizer of the last checkpoint and continues with the next batch
    nonfinite = node.NONFINITE = new_node()
    nonfinite.POLICY = "raise"
    # Limits that end the run: "skip", steps in a row; "rollback", rollbacks in all
    nonfinite.MAX_IN_A_ROW = 10
    nonfinite.MAX_ROLLBACKS = 3

    _add_keys_of_outside_components(cfg)


def _add_keys_of_outside_components(cfg: CfgNode) -> None:
    """
    Add each key that a component from outside declares and that does not exist, with its default.

    The RPN and the RoI heads have options of their own for a loss and a miner.
    """
    shared = tuple(f"MODEL.FOCAL.{node}." for node in ("CLS_LOSS", "BOX_LOSS", "MINING"))
    for component in outside_components:
        for argument, key in getattr(component.component, "config_keys", {}).items():
            for stage in ("", "RPN.", "ROI_HEADS.") if key.startswith(shared) else ("",):
                own = key.replace("MODEL.FOCAL.", f"MODEL.FOCAL.{stage}", 1)
                _add_option(cfg, own, component, argument)


def _add_option(cfg: CfgNode, key: str, component: OutsideComponent, argument: str) -> None:
    """
    Add a key with the default of its argument, unless the config has it.

    Raises:
        RegistrationError: the key cannot hold a value, or the argument has no default that fits.
    """
    *nodes, leaf = key.split(".")
    node = cfg
    for name in nodes:
        node = node.setdefault(name, type(cfg)())
        if not isinstance(node, CfgNode):
            raise RegistrationError(f"config_keys of {component.name}: no key can be {key}")
    value = node[leaf] if leaf in node else default_of(component, argument)
    if isinstance(value, dict):
        raise RegistrationError(
            f"config_keys of {component.name}: {key} must be a number, text or a list"
        )
    node[leaf] = value


def _options_of(part: CfgNode, *without: str) -> CfgNode:
    """Return the options of a component for a second detector, without some keys."""
    options = part.clone()
    for name in without:
        del options[name]
    return options
