import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.bootstrap import bootstrap_arms, bootstrap_difference

from .coco_cases import copies, pycocotools_averages, random_case, write

IMAGES = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Provide a ground truth and detections of four runs; every second run detects less."""
    truth, detections = random_case(0, images=IMAGES, tied_scores=False)
    generator = np.random.default_rng(1)
    kept = [[d for d in detections if generator.random() < share] for share in (0.9, 0.5, 0.9, 0.5)]
    file = write(tmp_path_factory.mktemp("truth"), truth)
    return truth, kept, [evaluate(file, entries) for entries in kept]


def test_every_replicate_is_pycocotools_on_the_images_that_it_drew(runs):
    truth, (first, second, *_), (a, b, *_) = runs
    result = bootstrap_difference(a, b, replicates=6, seed=3)
    weights = np.random.default_rng(3).multinomial(IMAGES, [1 / IMAGES] * IMAGES, size=6)
    expected = [
        pycocotools_averages(*copies(truth, first, row))["AP"]
        - pycocotools_averages(*copies(truth, second, row))["AP"]
        for row in weights
    ]
    assert result.samples == pytest.approx(expected, abs=1e-12)
    assert result.interval == pytest.approx(np.percentile(expected, [2.5, 97.5]), abs=1e-12)
    assert result.standard_error == pytest.approx(np.std(expected, ddof=1), abs=1e-12)


def test_the_difference_is_that_of_the_original_images(runs):
    truth, (first, second, *_), (a, b, *_) = runs
    for metric in ("AP", "AP50", "APm", "AR"):
        one, other = (pycocotools_averages(truth, entries)[metric] for entries in (first, second))
        result = bootstrap_difference(a, b, replicates=2, metric=metric)
        assert result.difference == pytest.approx(one - other, abs=1e-12)


def test_interval_and_standard_error_are_those_of_scipy(runs):
    a, b = runs[2][:2]

    def difference(first, second, axis):
        aps = []
        for evaluation, drawn in ((a, first), (b, second)):
            weights = np.array([np.bincount(row, minlength=IMAGES) for row in np.atleast_2d(drawn)])
            aps.append(evaluation.average_precision(weights, ("AP",)).averages["AP"])
        return aps[0] - aps[1] if first.ndim > 1 else (aps[0] - aps[1])[0]

    images = np.arange(IMAGES)
    reference = stats.bootstrap(
        (images, images),
        difference,
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        random_state=0,
    )
    result = bootstrap_difference(a, b, replicates=2000)
    se = reference.standard_error
    assert result.standard_error == pytest.approx(se, rel=0.08)
    assert result.interval == pytest.approx(tuple(reference.confidence_interval), abs=0.25 * se)


def test_both_arms_see_the_same_images(runs):
    a = runs[2][0]
    result = bootstrap_difference(a, a, replicates=20)
    assert not result.samples.any()
    assert (result.difference, result.p, result.interval) == (0.0, 1.0, (0.0, 0.0))


def test_swapped_arms_give_the_mirror_image(runs):
    a, b = runs[2][:2]
    there, back = bootstrap_difference(a, b), bootstrap_difference(b, a)
    assert back.samples == pytest.approx(-there.samples)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert back.p == there.p


def test_p_is_small_where_one_arm_is_clearly_better_and_its_least_is_two_in_replicates(
    tmp_path,
):
    truth, _ = random_case(0, images=IMAGES)
    keys = ("image_id", "category_id", "bbox")
    objects = [{**{key: a[key] for key in keys}, "score": 1.0} for a in truth["annotations"]]
    perfect, half = (evaluate(write(tmp_path, truth), objects[::step]) for step in (1, 2))
    result = bootstrap_difference(perfect, half, replicates=999)
    assert (result.samples > 0).all()
    assert result.p == pytest.approx(2 / 1000)


def test_p_counts_the_replicates_on_the_rarer_side_of_zero(runs):
    a, c = runs[2][0], runs[2][2]
    result = bootstrap_difference(a, c, replicates=500)
    rarer = min((result.samples <= 0).sum(), (result.samples >= 0).sum())
    assert 0 < rarer < 250
    assert result.p == pytest.approx(2 * (rarer + 1) / 501)


def test_over_seeds_the_draws_are_shared_and_the_differences_averaged(runs):
    a, b, c, d = runs[2]
    together = bootstrap_arms([(a, b), (c, d)], replicates=150, seed=5)
    alone = [bootstrap_difference(*pair, replicates=150, seed=5) for pair in ((a, b), (c, d))]
    assert together.difference == pytest.approx((alone[0].difference + alone[1].difference) / 2)
    assert together.samples == pytest.approx((alone[0].samples + alone[1].samples) / 2)


def test_the_same_seed_draws_the_same_images_and_another_others(runs):
    a, b = runs[2][:2]
    first = bootstrap_difference(a, b, replicates=5, seed=1).samples
    assert (first == bootstrap_difference(a, b, replicates=5, seed=1).samples).all()
    assert (first != bootstrap_difference(a, b, replicates=5, seed=2).samples).any()


def test_replicates_without_any_object_are_left_out(tmp_path):
    truth, detections = random_case(0, images=3)
    with_one = truth["annotations"][0]["image_id"]
    truth["annotations"] = [{**truth["annotations"][0], "iscrowd": 0}]
    a = evaluate(write(tmp_path, truth), detections)
    result = bootstrap_difference(a, a, replicates=300)
    weights = np.random.default_rng(0)
    drawn = np.concatenate([weights.multinomial(3, [1 / 3] * 3, size=100) for _ in range(3)])
    position = a.image_ids.index(with_one)
    assert len(result.samples) == (drawn[:, position] > 0).sum() < 300
    assert not np.isnan(result.standard_error)


def test_an_empty_ground_truth_has_no_interval(tmp_path):
    truth, detections = random_case(0, images=3)
    truth["annotations"] = []
    a = evaluate(write(tmp_path, truth), detections)
    result = bootstrap_difference(a, a, replicates=10)
    assert np.isnan([result.difference, *result.interval, result.p, result.standard_error]).all()


def test_different_test_sets_are_an_error(runs, tmp_path):
    truth, kept, (a, b, *_) = runs
    truth = {**truth, "annotations": truth["annotations"][1:]}
    other = evaluate(write(tmp_path, truth), kept[0])
    with pytest.raises(ValueError, match="pair 0: all evaluations must be of the same images"):
        bootstrap_difference(a, other)
    with pytest.raises(ValueError, match="pair 1: all evaluations must be of the same images"):
        bootstrap_arms([(a, b), (other, other)])


def test_illegal_arguments_are_an_error(runs):
    a, b = runs[2][:2]
    with pytest.raises(ValueError, match="at least one pair"):
        bootstrap_arms([])
    with pytest.raises(ValueError, match="replicates must be >= 2, got 1"):
        bootstrap_difference(a, b, replicates=1)
    with pytest.raises(ValueError, match="metrics must be of"):
        bootstrap_difference(a, b, metric="mAP")
