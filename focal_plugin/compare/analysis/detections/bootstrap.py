"""Bootstrap over test images: how much a difference in AP depends on the choice of images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .average_precision import Evaluation

# Weights at once: 32 MiB
_WEIGHTS = 2**22


@dataclass(frozen=True)
class BootstrapDifference:
    """
    Difference in a metric, fractions, with its distribution over resampled images.

    Attributes:
        difference: difference on the original images; NaN without objects.
        interval: 2.5 and 97.5 percentiles of the replicates.
        p: two-sided p-value, at most 1. It is twice the share of the replicates on the side of 0
            that has fewer of them, 0 included. A share is (count + 1) / (replicates + 1).
        standard_error: standard deviation of the replicates.
        samples: the replicates, without those that drew no object.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    standard_error: float
    samples: np.ndarray = field(repr=False, compare=False)


class Resampled(NamedTuple):
    """
    Metric of one evaluation, fractions.

    Attributes:
        value: metric on the original images.
        samples: (replicates,) metric on the resampled images.
    """

    value: float
    samples: np.ndarray


def bootstrap_difference(
    a: Evaluation, b: Evaluation, *, replicates: int = 1000, seed: int = 0, metric: str = "AP"
) -> BootstrapDifference:
    """
    Bootstrap the difference ``a`` minus ``b`` over images, paired.

    Each replicate draws as many images as there are, with replacement, and evaluates both runs on
    them. The interface is that of :func:`bootstrap_arms`, but with one run per arm.
    """
    return bootstrap_arms([(a, b)], replicates=replicates, seed=seed, metric=metric)


def bootstrap_arms(
    pairs: Sequence[tuple[Evaluation, Evaluation]],
    *,
    replicates: int = 1000,
    seed: int = 0,
    metric: str = "AP",
) -> BootstrapDifference:
    """
    Bootstrap the mean of ``a`` minus ``b`` over ``pairs``, one pair per training seed.

    A replicate is one draw of images for all evaluations.

    Args:
        pairs: evaluations of the same images and annotations, at least one pair.
        replicates: number of draws, >= 2.
        seed: seed of the draws. The draws depend only on it and on the number of images.
        metric: one of :data:`~focal_plugin.compare.analysis.detections.average_precision.METRICS`.

    Note:
        The bootstrap resamples only images. It does not contain the noise of training, which is
        often larger; the spread over seeds measures it.

    Raises:
        ValueError: there are no pairs, the ground truths differ, the metric is unknown, or there
            are fewer than two replicates.
    """
    _check_pairs(pairs)
    resampled = functools.partial(resample, replicates=replicates, seed=seed, metric=metric)
    return difference_of([(resampled(a), resampled(b)) for a, b in pairs])


def resample(
    evaluation: Evaluation, *, replicates: int = 1000, seed: int = 0, metric: str = "AP"
) -> Resampled:
    """
    Evaluate one run on many draws of its images.

    The result can be compared with several other runs. The arguments are those of
    :func:`bootstrap_arms`.
    """
    if replicates < 2:
        raise ValueError(f"replicates must be >= 2, got {replicates}")
    draws = _draws(len(evaluation.image_ids), replicates, seed)

    def value(weights: np.ndarray | None) -> np.ndarray:
        return np.asarray(evaluation.average_precision(weights, (metric,)).averages[metric])

    step = max(1, _WEIGHTS // draws.shape[1])
    samples = [value(draws[i : i + step]) for i in range(0, replicates, step)]
    return Resampled(float(value(None)), np.concatenate(samples))


@functools.lru_cache(maxsize=1)
def _draws(images: int, replicates: int, seed: int) -> np.ndarray:
    """Return (replicates, I) how often each image is drawn; all runs of a report share it."""
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(images, np.full(images, 1 / images), size=replicates)
    return draws.astype(np.int32)


def difference_of(pairs: Sequence[tuple[Resampled, Resampled]]) -> BootstrapDifference:
    """
    Return the result of :func:`bootstrap_arms` from results of :func:`resample`.

    All of them must come from the same images and the same arguments.
    """
    samples = np.mean([a.samples - b.samples for a, b in pairs], axis=0)
    return _summary(float(np.mean([a.value - b.value for a, b in pairs])), samples)


def _check_pairs(pairs: Sequence[tuple[Evaluation, Evaluation]]) -> None:
    if not pairs:
        raise ValueError("pairs must hold at least one pair of evaluations, got none")
    first = pairs[0][0]
    for index, pair in enumerate(pairs):
        if not all(evaluation.same_ground_truth_as(first) for evaluation in pair):
            raise ValueError(
                f"pair {index}: all evaluations must be of the same images and annotations; a "
                "difference between test sets is not a difference between arms"
            )
    if not first.image_ids:
        raise ValueError("there must be images to draw from, got none")


def _summary(difference: float, samples: np.ndarray) -> BootstrapDifference:
    samples = samples[~np.isnan(samples)]
    if len(samples) < 2:
        nan = float("nan")
        return BootstrapDifference(difference, (nan, nan), nan, nan, samples)
    low, high = np.percentile(samples, (2.5, 97.5))
    fewer = min((samples <= 0).sum(), (samples >= 0).sum())
    return BootstrapDifference(
        difference=difference,
        interval=(float(low), float(high)),
        p=min(1.0, 2 * (int(fewer) + 1) / (len(samples) + 1)),
        standard_error=float(samples.std(ddof=1)),
        samples=samples,
    )
