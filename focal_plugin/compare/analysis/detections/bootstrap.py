"""How far a difference in average precision depends on which images are in the test set."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .average_precision import Evaluation

# Replicates drawn at once: 4 MB of weights at the size of COCO val
_STEP = 100


@dataclass(frozen=True)
class BootstrapDifference:
    """
    A difference in a metric, fractions, and what other images would have made of it.

    Attributes:
        difference: on the images as they are; NaN if there is nothing to find.
        interval: the 2.5 and 97.5 percentiles of the replicates.
        p: two-sided: twice the share of the replicates on the side of 0 with the fewer of them,
            0 included, each share (count + 1) / (replicates + 1); at most 1.
        standard_error: standard deviation of the replicates.
        samples: the replicates; those that drew no object at all are left out.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    standard_error: float
    samples: np.ndarray = field(repr=False, compare=False)


class Resampled(NamedTuple):
    """
    A metric of one evaluation, fractions.

    Attributes:
        value: on the images as they are.
        samples: (replicates,) on the draws.
    """

    value: float
    samples: np.ndarray


def bootstrap_difference(
    a: Evaluation, b: Evaluation, *, replicates: int = 1000, seed: int = 0, metric: str = "AP"
) -> BootstrapDifference:
    """
    Paired bootstrap over images of ``a`` minus ``b``: each replicate draws as many images as there
    are, with replacement, and evaluates both on them.

    Same interface as :func:`bootstrap_arms`, but for one run of each arm.
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
    Paired bootstrap over images of the mean of ``a`` minus ``b`` over ``pairs``, one per training
    seed. A replicate is one draw of images for all evaluations.

    Args:
        pairs: at least one; evaluations of the same images and annotations.
        replicates: >= 2.
        seed: of the draws; the same draws for the same seed and number of images.
        metric: one of :data:`~focal_plugin.compare.analysis.detections.average_precision.METRICS`.

    Note:
        Only images are drawn again. That another training would end elsewhere is not in it, and is
        often the larger part: the spread over seeds is for that.

    Raises:
        ValueError: no pairs, evaluations of different ground truths, an unknown metric, fewer than
            two replicates.
    """
    _check_pairs(pairs)
    resampled = functools.partial(resample, replicates=replicates, seed=seed, metric=metric)
    return difference_of([(resampled(a), resampled(b)) for a, b in pairs])


def resample(
    evaluation: Evaluation, *, replicates: int = 1000, seed: int = 0, metric: str = "AP"
) -> Resampled:
    """
    One evaluation on many draws of its images: what is compared with several others is computed
    once. Same arguments as :func:`bootstrap_arms`.
    """
    if replicates < 2:
        raise ValueError(f"replicates must be >= 2, got {replicates}")
    images = len(evaluation.image_ids)
    generator = np.random.default_rng(seed)

    def value(weights: np.ndarray | None) -> np.ndarray:
        return np.asarray(evaluation.average_precision(weights, (metric,)).averages[metric])

    samples = []
    for start in range(0, replicates, _STEP):
        rows = min(_STEP, replicates - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=rows)
        samples.append(value(weights))
    return Resampled(float(value(None)), np.concatenate(samples))


def difference_of(pairs: Sequence[tuple[Resampled, Resampled]]) -> BootstrapDifference:
    """
    As :func:`bootstrap_arms`, of what :func:`resample` made with the same arguments of evaluations
    of the same images.
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
                f"pair {index}: both evaluations must be of the same images and annotations as "
                "all others; a difference between test sets is not one between arms"
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
