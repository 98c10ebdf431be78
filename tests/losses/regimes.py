"""Shared inputs, tolerances and options for the tests of all losses."""

import functools
import inspect
import re

import torch

from focal_plugin import losses
from focal_plugin.losses import CLS_LOSS_REGISTRY
from focal_plugin.ops import apply_formula

K = 5
LOSS_CLASSES = dict(CLS_LOSS_REGISTRY)
GAMMAS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ALPHAS = (None, 0.0, 0.25, 0.75, 1.0)

# Options and arguments that some losses require
NEEDED = {"num_classes": K, "samples_per_class": [1000, 100, 50, 10, 1]}
QUALITY = 0.8

# The loss computes in float32 for every input dtype: half precision loses digits in the input only.
TOLERANCE = {"rtol": 2e-6, "atol": 1e-6}


def function_of(name: str):
    """Map `SigmoidFocalLoss` to `losses.sigmoid_focal_loss`, and likewise for other names."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.replace("IoU", "Iou"))
    function = getattr(losses, words.lower())
    return _sum_of_means if function is losses.seesaw_loss else function


def _sum_of_means(logits, labels, *, p=0.8, q=2.0, eps=1e-2):
    """Return the seesaw loss without counts as the sum of its two terms over RoIs."""
    counts = torch.zeros(logits.shape[-1] - 1)
    classes, objectness = losses.seesaw_loss(logits, labels, counts, p=p, q=q, eps=eps)
    num_classes = len(counts) - 1
    num_objects = ((labels >= 0) & (labels < num_classes)).sum()
    return classes * num_objects + objectness * (labels >= 0).sum()


def has_option(name: str, option: str) -> bool:
    return option in inspect.signature(function_of(name)).parameters


def make(name: str, **options):
    """Return the module of a loss in eval mode, in which a call does not update its state."""
    loss_class = LOSS_CLASSES[name]
    accepted = inspect.signature(loss_class.__init__).parameters
    needed = {option: value for option, value in NEEDED.items() if option in accepted}
    return quality_given(loss_class(**{**needed, **options}).eval(), name)


def call(name: str, logits, labels, **options):
    """Call the function of a loss with the arguments that it requires."""
    needed = {option: value for option, value in NEEDED.items() if has_option(name, option)}
    return quality_given(function_of(name), name)(logits, labels, **{**needed, **options})


def quality_given(loss, name):
    """
    Give a loss that requires a quality the same quality for every box.

    A function that requires box losses gets 0 for each, like its module by default.
    """
    if LOSS_CLASSES[name].needs_box_loss and not isinstance(loss, torch.nn.Module):
        return functools.partial(_with_box_loss, loss)
    if not LOSS_CLASSES[name].needs_quality:
        return loss
    if isinstance(loss, torch.nn.Module):
        loss.per_anchor = functools.partial(_with_quality, loss.per_anchor)
        loss.forward = functools.partial(_with_quality, loss.forward)
        return loss
    return functools.partial(_with_quality, loss)


def _with_quality(loss, logits, labels, quality=None, **options):
    if quality is None:
        quality = torch.full(labels.shape, QUALITY)
    return loss(logits, labels, quality=quality, **options)


def _with_box_loss(loss, logits, labels, **options):
    classification, _ = loss(logits, labels, torch.zeros(labels.shape), **options)
    return classification


def num_logits(name: str) -> int:
    return LOSS_CLASSES[name]().num_columns(K)


def random_batch(num_anchors=200, scale=4.0, seed=0, dtype=torch.float32, columns=K):
    """Return logits (R, columns) and labels (R,) of every kind."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(num_anchors, columns, generator=generator) * scale).to(dtype)
    labels = torch.randint(-1, K + 1, (num_anchors,), generator=generator)
    assert set(labels.tolist()) == set(range(-1, K + 1))
    return logits.requires_grad_(), labels


def one_hot(labels):
    """Return float64 targets (R, K), for references only."""
    return (labels.unsqueeze(-1) == torch.arange(K)).double()


def reference_sum(elementwise, logits, labels, alpha):
    """
    Sum alpha_t * elementwise(p_t, x_t) over everything not ignored, in float64.

    The losses must equal it, but they do not use its one-hot targets.
    """
    keep = labels >= 0
    x, y = logits.double()[keep], one_hot(labels)[keep]
    x_t = x * (2 * y - 1)
    alpha_t = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return (alpha_t * elementwise(torch.sigmoid(x_t), x_t)).sum()


def reference_softmax_sum(elementwise, logits, labels, alpha):
    """Sum elementwise(p_c) with p = softmax(x), see :func:`reference_sum`."""
    keep = labels >= 0
    targets = (labels.unsqueeze(-1) == torch.arange(logits.shape[-1])).double()[keep]
    p_c = (torch.softmax(logits.double()[keep], dim=-1) * targets).sum(-1)
    is_background = targets[:, -1]
    alpha_c = 1.0 if alpha is None else alpha + (1 - 2 * alpha) * is_background
    return (alpha_c * elementwise(p_c)).sum()


def random_quality(labels, seed=2):
    """Return IoUs (R,); a tenth of them are 0, and a tenth are 1."""
    quality = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed))
    return ((quality - 0.1) / 0.8).clamp(0, 1)


def gradient_norms_per_class(loss, logits, labels):
    """Return autograd's sums of |gradient| per class as positive and as negative, (K,) each."""
    (gradient,) = torch.autograd.grad(loss, logits)
    targets = one_hot(labels)
    return (gradient.abs() * targets).sum(0), (gradient.abs() * (1 - targets)).sum(0)


def formula_sum(terms, logits, labels, quality=None):
    """Sum the formulas of a loss with their own slopes, in the precision of the logits."""
    is_positive = labels.unsqueeze(-1) == torch.arange(logits.shape[-1])
    y = None if quality is None else quality.unsqueeze(-1).expand_as(logits)
    positive = apply_formula(terms.positive, logits, y) * terms.positive_weight
    negative = apply_formula(terms.negative, -logits) * terms.negative_weight
    return torch.where(is_positive, positive, negative)[labels >= 0].sum()


def assert_equals_published(loss, expected, logits, tolerance):
    """Compare a scalar and its gradient with numbers, relative to the number."""
    (gradient,) = torch.autograd.grad(loss, logits)
    value, slopes = (torch.tensor(expected[x], dtype=loss.dtype) for x in ("value", "gradient"))
    torch.testing.assert_close(loss, value, rtol=tolerance, atol=0)
    torch.testing.assert_close(gradient, slopes, rtol=tolerance, atol=tolerance * 1e-2)


def assert_value_and_gradient_match(loss, reference, logits):
    """Compare two scalars and their gradients with respect to ``logits``."""
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(reference, logits)
    torch.testing.assert_close(loss.double(), reference, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected, **TOLERANCE)
