"""Quantiles, shares and other summaries as JSON values; None where there is nothing to count."""

from __future__ import annotations

import itertools

import numpy as np

Quantiles = dict[str, float] | None


def quantiles(values: np.ndarray, *percents: float) -> Quantiles:
    """Return {"mean", "p5", ...}; None without values."""
    if not len(values):
        return None
    named = zip(percents, np.percentile(values, percents), strict=True)
    return {"mean": float(np.mean(values)), **{f"p{p:g}": float(value) for p, value in named}}


def share(mask: np.ndarray) -> float | None:
    """Return the share of True; None without values."""
    return float(np.mean(mask)) if len(mask) else None


def ratio(numerator: float, denominator: float) -> float | None:
    """Return the ratio; None if the denominator is 0."""
    return float(numerator / denominator) if denominator else None


def by_class(values: np.ndarray, classes: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Return the values of the objects of each class; those of crowd regions are left out."""
    order = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[order], np.arange(num_classes + 1))
    return [values[order[first:stop]] for first, stop in itertools.pairwise(bounds)]
