"""Variances of several arms, shrunk towards their mean: the moderated t test."""

from __future__ import annotations

import numpy as np
from scipy import special

FEWEST_VARIANCES = 3
"""Number of arms beside the reference from which on their variances are shrunk."""


def shrink(variance: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return variances that are shrunk towards the mean of all arms, with their degrees of freedom.

    The model is that of limma: the true variances of the arms follow a scaled inverse chi-squared
    distribution with d0 degrees of freedom.

        shrunk = (d0 mean + d variance) / (d0 + d),   degrees of freedom d0 + d

    The spread of the logarithms of the variances gives d0 (Smyth 2004, section 6.2). It is at most
    the largest d, so that an arm's own variance keeps half of the weight. The mean weighs each
    variance by its degrees of freedom.

    With fewer than :data:`FEWEST_VARIANCES` positive variances, nothing is shrunk.

    Source: G. K. Smyth, Linear Models and Empirical Bayes Methods for Assessing Differential
    Expression in Microarray Experiments, 2004, equations of sections 3 and 6.2.

    Args:
        variance: (..., arms) variances of the paired differences, ddof 1, >= 0; NaN is left out.
        freedom: (..., arms) their degrees of freedom, number of seeds - 1.

    Returns:
        (..., arms) variances, and (..., arms) degrees of freedom.
    """
    variance, freedom = np.broadcast_arrays(np.asarray(variance, float), np.asarray(freedom, float))
    used = (freedom >= 1) & (variance > 0)
    count = used.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.where(used, freedom, 2.0) / 2
        logs = np.log(np.where(used, variance, 1.0)) - special.digamma(half) + np.log(half)
        center = np.where(used, logs, 0.0).sum(-1, keepdims=True) / count
        spread = np.where(used, (logs - center) ** 2, 0.0).sum(-1, keepdims=True) / (count - 1)
        noise = np.where(used, special.polygamma(1, half), 0.0).sum(-1, keepdims=True) / count
        weights = np.where(used, freedom, 0.0)
        mean = (weights * np.where(used, variance, 0.0)).sum(-1, keepdims=True) / weights.sum(
            -1, keepdims=True
        )
        prior = np.minimum(2 * _inverse_trigamma(spread - noise), weights.max(-1, keepdims=True))
        shrunk = (prior * mean + freedom * variance) / (prior + freedom)
    shrinks = (count >= FEWEST_VARIANCES) & used
    return np.where(shrinks, shrunk, variance), np.where(shrinks, freedom + prior, freedom)


def _inverse_trigamma(value: np.ndarray) -> np.ndarray:
    """Return y with trigamma(y) = value, by Newton's method; infinity for values <= 0."""
    positive = np.where(value > 0, value, 1.0)
    y = 0.5 + 1 / positive
    for _ in range(50):
        trigamma = special.polygamma(1, y)
        step = trigamma * (1 - trigamma / positive) / special.polygamma(2, y)
        y = y + step
        if np.max(-step / y, initial=0.0) < 1e-10:
            break
    return np.where(value > 0, y, np.inf)
