"""A p-value that stays valid however often one looks and whenever one stops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRIOR_VARIANCE = 1.0
"""Prior variance of mean / standard deviation under the alternative hypothesis."""


def anytime_p(differences: Sequence[float]) -> float:
    """
    Return the anytime-valid p-value of the hypothesis that the mean difference is 0.

    After each seed, the Bayes factor for "the mean differs" is an e-value: under the hypothesis it
    exceeds 1 / a at any time with a probability of at most a. So the p-value is 1 / (largest
    e-value so far), and one may add seeds as long as one likes. The price is power: the test takes
    almost twice the seeds of a planned one.

        E_n = (1 + n g)**(-1/2) ((1 + t**2 / v) / (1 + t**2 / (v (1 + n g))))**(n / 2)

    with the t statistic of n seeds, v = n - 1 and g = :data:`PRIOR_VARIANCE`.

    Sources: M. Gönen, W. O. Johnson, Y. Lu, P. H. Westfall, The Bayesian Two-Sample t Test, 2005
    (the Bayes factor); H. Wang, A. Ramdas, Anytime-valid t-tests, 2023, arXiv 2310.03722 (that it
    is an e-process).

    Args:
        differences: finite, in the order in which the seeds were run.

    Returns:
        p-value; 1.0 below two seeds.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = np.arange(1, len(values) + 1)
    mean = np.cumsum(values) / n
    squares = np.maximum(np.cumsum(values**2) - n * mean**2, 0.0)
    n, mean, squares = n[1:], mean[1:], squares[1:]
    tiny = 1e-24 * np.sum(values**2)  # equal differences leave only rounding
    # t**2 / v = n mean**2 / (sum of squares about the mean)
    ratio = n * mean**2 / np.maximum(squares, max(tiny, np.finfo(float).tiny))
    growth = 1 + n * PRIOR_VARIANCE
    log_e = (n * (np.log1p(ratio) - np.log1p(ratio / growth)) - np.log(growth)) / 2
    return float(np.exp(-max(0.0, log_e.max(initial=0.0))))
