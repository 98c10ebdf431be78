"""Shared inputs and references for the tests of box losses."""

import torch

from focal_plugin.losses import BOX_LOSS_REGISTRY

BOX_LOSS_CLASSES = dict(BOX_LOSS_REGISTRY)


def delta_pair(num_boxes=60, scale=1.0, seed=0, dtype=torch.float32):
    """Return predicted and true deltas (V, 4), with errors from 1e-3 to a few times ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(num_boxes, 4, generator=generator)
    errors = torch.randn(num_boxes, 4, generator=generator) ** 3 * scale
    return (target + errors).to(dtype).requires_grad_(), target.to(dtype)


def box_pair(num_boxes=60, seed=0, dtype=torch.float32):
    """Return predicted and true boxes (V, 4) in pixels. Some pairs overlap, some do not."""
    generator = torch.Generator().manual_seed(seed)
    target, pred = (
        torch.cat([corner, corner + 10 + 80 * torch.rand(num_boxes, 2, generator=generator)], dim=1)
        for corner in 100 * torch.rand(2, num_boxes, 2, generator=generator)
    )
    return pred.to(dtype).requires_grad_(), target.to(dtype)


def assert_value_and_gradient_match(loss, reference, pred, rtol=1e-5, atol=1e-6):
    """Compare two scalars and their gradients with respect to ``pred``."""
    (gradient,) = torch.autograd.grad(loss, pred)
    (expected,) = torch.autograd.grad(reference, pred)
    torch.testing.assert_close(loss.double(), reference.double(), rtol=rtol, atol=atol)
    torch.testing.assert_close(gradient, expected, rtol=rtol, atol=atol)
