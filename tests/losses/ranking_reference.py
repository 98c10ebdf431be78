"""Loops over all pairs of logits in float64, and published cases, for the losses of a ranking."""

import json
from pathlib import Path

import pytest
import torch

CASES = json.loads((Path(__file__).parent / "ranking_cases.json").read_text())
"""Published cases by loss: inputs, options, and what is expected, to 12 digits."""


def cases(name):
    """Parametrize a test with the cases of a loss, in float32 and in float64."""
    both = [(case, dtype) for case in CASES[name] for dtype in (torch.float64, torch.float32)]
    ids = [f"{case['name']}, {str(dtype)[6:]}" for case, dtype in both]
    return pytest.mark.parametrize(("case", "dtype"), both, ids=ids)


def inputs(case, dtype):
    """Return logits with a gradient, labels, and the qualities or box losses if there are any."""
    given = case["inputs"]
    logits = torch.tensor(given["logits"], dtype=dtype, requires_grad=True)
    others = [torch.tensor(given[x], dtype=dtype) for x in ("quality", "box_loss") if x in given]
    return logits, torch.tensor(given["labels"]), *others


def random_ranking(seed, *, num_anchors=30, num_classes=3, ties=False):
    """Return logits in float64, labels of every kind, and numbers in [0, 1] with equal ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_anchors, num_classes, generator=generator, dtype=torch.float64)
    if ties:
        logits = (2 * logits).round() / 2
    labels = torch.randint(-1, 2 * num_classes, (num_anchors,), generator=generator)
    labels = labels.clamp(max=num_classes)
    numbers = (8 * torch.rand(num_anchors, generator=generator, dtype=torch.float64)).round() / 8
    return logits.requires_grad_(), labels, numbers


def ramp(x, delta):
    if delta == 0:
        return float(x >= 0)
    return min(max(x / (2 * delta) + 0.5, 0.0), 1.0)


def elements(logits, labels):
    """Return (anchor, class) of the positives and of the negatives, in order."""
    num_classes = logits.shape[-1]
    positives, negatives = [], []
    for anchor, label in enumerate(labels.tolist()):
        for k in range(num_classes if label >= 0 else 0):
            (positives if k == label else negatives).append((anchor, k))
    return positives, negatives


class Loops:
    """All sums that the losses share, one pair at a time."""

    def __init__(self, logits, labels, delta):
        x = logits.detach().double()
        self.positives, self.negatives = elements(x, labels)
        self.scores = [x[at].item() for at in self.positives]
        self.others = [x[at].item() for at in self.negatives]
        self.false = [[ramp(n - s, delta) for n in self.others] for s in self.scores]
        self.higher = [[ramp(p - s, delta) for p in self.scores] for s in self.scores]
        self.num_false = [sum(row) for row in self.false]
        self.shape = x.shape

    def __len__(self):
        return len(self.scores)

    def gradient(self, weights, of_positives):
        """Return (N, K) from the weights w_i and the gradients of the positives, times P."""
        gradient = torch.zeros(self.shape, dtype=torch.float64)
        for i, at in enumerate(self.positives):
            gradient[at] = of_positives[i] / len(self)
        for j, at in enumerate(self.negatives):
            pulls = [w * row[j] for w, row in zip(weights, self.false, strict=True)]
            gradient[at] = sum(pulls) / len(self)
        return gradient


def average_precision(logits, labels, delta):
    """Return value and gradient of the AP loss."""
    at = Loops(logits, labels, delta)
    count = [1 + sum(row) - row[i] for i, row in enumerate(at.higher)]
    rank = [a + f for a, f in zip(count, at.num_false, strict=True)]
    precision = [a / r for a, r in zip(count, rank, strict=True)]
    best = [
        max(p for p, s in zip(precision, at.scores, strict=True) if s <= score)
        for score in at.scores
    ]
    weights = [
        (1 if p == b else (1 - b) / (1 - p)) / r
        for p, b, r in zip(precision, best, rank, strict=True)
    ]
    errors = [1 - b for b in best]
    return sum(errors) / len(at), at.gradient(weights, [-e for e in errors])


def localization_recall_precision(logits, labels, box_loss, delta, eps=1e-5):
    """Return both values of aLRP, and the gradients of the logits and of the box losses."""
    at = Loops(logits, labels, delta)
    boxes = [box_loss[anchor].item() for anchor, _ in at.positives]
    rank, errors = [], []
    for i, row in enumerate(at.higher):
        others = [h for j, h in enumerate(row) if j != i]
        of_others = [h * boxes[j] for j, h in enumerate(row) if j != i]
        rank.append(1 + sum(others) + at.num_false[i])
        errors.append((at.num_false[i] + sum(of_others)) / rank[i])
    counts = [f > eps for f in at.num_false]
    weights = [e / f if c else 0 for e, f, c in zip(errors, at.num_false, counts, strict=True)]
    gradient = at.gradient(weights, [-e * c for e, c in zip(errors, counts, strict=True)])
    value = sum(f / r for f, r in zip(at.num_false, rank, strict=True)) / len(at)
    location, of_boxes = 0.0, torch.zeros(len(box_loss), dtype=torch.float64)
    for i, score in enumerate(at.scores):
        for k, other in enumerate(at.scores):
            if other >= score:
                location += boxes[k] / rank[i] / len(at)
                of_boxes[at.positives[k][0]] += 1 / rank[i] / len(at)
    return value, location, gradient, of_boxes


def rank_and_sort(logits, labels, quality, delta):
    """Return the ranking and the sorting value, and the gradient of their sum."""
    at = Loops(logits, labels, delta)
    t = [max(quality[anchor].item(), 1e-6) for anchor, _ in at.positives]
    ranking, sorting, weights = [], [], []
    received = [0.0] * len(at)
    for i, row in enumerate(at.higher):
        rank = sum(row) + at.num_false[i]
        ranking.append(at.num_false[i] / rank)
        weights.append(1 / rank if at.num_false[i] > 1e-10 else 0)
        current = sum(h * (1 - u) for h, u in zip(row, t, strict=True)) / sum(row)
        better = [h * (u >= t[i]) for h, u in zip(row, t, strict=True)]
        target = sum(h * (1 - u) for h, u in zip(better, t, strict=True)) / sum(better)
        sorting.append(current - target)
        worse = [h * (u < t[i]) for h, u in zip(row, t, strict=True)]
        if sum(worse) > 1e-10:
            for j, h in enumerate(worse):
                received[j] += sorting[i] * h / sum(worse)
    of_positives = [got - a - b for got, a, b in zip(received, ranking, sorting, strict=True)]
    return (
        sum(ranking) / len(at),
        sum(sorting) / len(at),
        at.gradient(weights, of_positives),
    )


def assert_close(found, expected, *, digits=9):
    """Compare a value or a gradient with numbers, to some digits after the point."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=10**-digits)


def assert_case(found, expected):
    """Compare a result in its dtype with a published one."""
    expected = torch.tensor(expected, dtype=torch.float64)
    atol = 1e-9 if found.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=atol)


def gradient_of(loss, of):
    (gradient,) = torch.autograd.grad(loss, of, retain_graph=True)
    return gradient
