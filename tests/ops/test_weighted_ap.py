"""Average precision for many weights, against a loop over the copies of every detection."""

import numpy as np
import pytest
import torch

from focal_plugin.ops import weighted_ap_eager
from focal_plugin.ops.extension import has_extension
from focal_plugin.ops.weighted_ap import weighted_ap

from ..each import each

RECALLS = np.linspace(0, 1, 101)

needs_extension = pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built")
every_impl = pytest.mark.parametrize("impl", [pytest.param("cpp", marks=needs_extension), "eager"])


def case(seed, detections=60, images=7, rows=5, thresholds=3, ignored=0.1):
    """Return matches, images, whole weights and numbers of objects."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, images, detections, dtype=np.int32)
    weights = generator.integers(0, 4, (images, rows)).astype(float)
    matched = generator.random((thresholds, detections)) < 0.4
    found = np.array([np.bincount(image[row], minlength=images) for row in matched])
    objects = (found.max(axis=0, initial=0) + generator.integers(0, 3, images)) @ weights
    skipped = generator.random((thresholds, detections)) < ignored
    return [torch.from_numpy(a) for a in (matched, skipped, image, weights, objects)]


def brute_force(matched, ignored, image, weights, objects):
    """Walk over every copy of a detection, as pycocotools does."""
    results = np.full((2, len(objects), len(matched)), np.nan)
    for row, total in enumerate(objects):
        for t in range(len(matched)):
            right, wrong, points = 0, 0, []
            for n, of_image in enumerate(image):
                if not ignored[t, n]:
                    copies = int(weights[of_image, row])
                    right += copies * bool(matched[t, n])
                    wrong += copies * (not matched[t, n])
                points.append((right, right / (right + wrong + np.spacing(1))))
            if total:
                best = [max((p for r, p in points if r / total >= x), default=0) for x in RECALLS]
                results[:, row, t] = np.mean(best), right / total
    return results


@every_impl
@each("seed", range(6))
@each("ignored", [0.0, 0.3])
def test_whole_weights_are_copies(impl, seed, ignored):
    arrays = case(seed, ignored=ignored)
    found = weighted_ap(*arrays, impl=impl).numpy()
    assert found == pytest.approx(brute_force(*(a.numpy() for a in arrays)), abs=1e-14)


@every_impl
@each("rows", [1, 31, 32, 33, 500])
def test_each_row_of_weights_is_a_result_of_its_own(impl, rows):
    *matches, weights, objects = case(1, rows=rows)
    together = weighted_ap(*matches, weights, objects, impl=impl)
    assert together.shape == (2, rows, 3)
    for row in {0, rows // 2, rows - 1}:
        of_row = weights[:, row : row + 1].contiguous(), objects[row : row + 1]
        alone = weighted_ap(*matches, *of_row, impl=impl)
        torch.testing.assert_close(alone[:, 0], together[:, row], atol=1e-15, rtol=0)


@needs_extension
@each("seed", range(4))
def test_both_implementations_agree_on_fractions(seed):
    *matches, weights, objects = case(seed, detections=900, images=40, rows=70, thresholds=10)
    noise = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed))
    arrays = (*matches, weights * noise, objects)
    cpp, eager = (weighted_ap(*arrays, impl=impl) for impl in ("cpp", "eager"))
    torch.testing.assert_close(cpp, eager, atol=1e-13, rtol=0)


@every_impl
def test_a_row_without_objects_has_no_number(impl):
    *matches, weights, objects = case(2, rows=40)
    objects[[0, 35]] = 0
    found = weighted_ap(*matches, weights, objects, impl=impl)
    missing = [row for row in range(40) if found[:, row].isnan().all()]
    assert missing == [0, 35]
    assert found.isnan().sum() == 2 * 2 * 3


@every_impl
@each(
    "size",
    [{"detections": 0}, {"images": 1, "detections": 1}, {"rows": 0}, {"detections": 0, "rows": 0}],
)
def test_nothing_and_one_of_everything_are_legal(impl, size):
    arrays = case(3, **size)
    found = weighted_ap(*arrays, impl=impl).numpy()
    expected = brute_force(*(a.numpy() for a in arrays))
    assert found == pytest.approx(expected, abs=1e-14, nan_ok=True)


@each("block", [1, 100])
def test_blocks_do_not_change_the_result(monkeypatch, block):
    arrays = case(4, rows=9)
    expected = weighted_ap(*arrays, impl="eager")
    monkeypatch.setattr(weighted_ap_eager, "_BLOCK", block)
    torch.testing.assert_close(weighted_ap(*arrays, impl="eager"), expected, atol=1e-15, rtol=0)


def test_wide_blocks_are_summed_row_by_row(monkeypatch):
    arrays = case(5, rows=9)
    expected = weighted_ap(*arrays, impl="eager")
    monkeypatch.setattr(weighted_ap_eager, "_WIDE", 1)
    torch.testing.assert_close(weighted_ap(*arrays, impl="eager"), expected, atol=1e-15, rtol=0)


def test_recalls_are_counted_as_by_a_search():
    recalls = np.linspace(0, 1, 101)
    of_objects = [np.arange(n + 1) / n for n in range(1, 700)]
    beside = [np.nextafter(recalls[1:-1], side) for side in (0, 1)]
    recall = np.concatenate([*of_objects, *beside])
    counted = weighted_ap_eager.recalls_reached(recall)
    assert (counted == np.searchsorted(recalls, recall, side="right")).all()


@needs_extension
def test_every_number_of_recalls_is_reached_at_the_same_object():
    for objects in range(1, 300):
        matched = torch.arange(objects)[None] % 2 == 0
        arrays = (
            matched,
            torch.zeros_like(matched),
            torch.zeros(objects, dtype=torch.int32),
            torch.ones(1, 1, dtype=torch.float64),
            torch.full((1,), float(objects), dtype=torch.float64),
        )
        cpp, eager = (weighted_ap(*arrays, impl=impl) for impl in ("cpp", "eager"))
        torch.testing.assert_close(cpp, eager, atol=1e-15, rtol=0)


@needs_extension
@each("wrong", [-1, 7])
def test_an_image_without_weights_is_refused(wrong):
    arrays = case(6)
    arrays[2][3] = wrong
    with pytest.raises(RuntimeError, match="image must be in"):
        weighted_ap(*arrays, impl="cpp")


def test_an_implementation_without_a_kernel_is_refused():
    with pytest.raises(ValueError, match="no kernel for AP"):
        weighted_ap(*case(0), impl="triton")
