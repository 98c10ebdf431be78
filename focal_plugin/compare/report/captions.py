"""Captions of the figures of a report."""

from ..analysis.detections.calibration import BINS, CALIBRATION_SCORE

FEWEST_IN_BIN = 20
"""Fewest detections of a bin whose precision is drawn."""
MOST_BANDS = 4
"""Most arms whose bands do not hide each other in the reliability diagram."""
CUT_OFF = f"{CALIBRATION_SCORE:g}".removeprefix("0")

FOREST = (
    "Each dot is one seed: the arm minus the reference at the same seed. The diamond is the mean, "
    "and the thick bar is its 95% t interval; with one seed there is no bar. The thin line adds "
    "the noise of the test images. A filled diamond has the verdict higher or lower. A hollow one "
    "has another verdict. A bar that crosses 0 is compatible with no difference. A bar that does "
    "not may still be undecided, because several arms are compared and few seeds cannot decide."
)

PROGRESS = (
    "Lines are means over the seeds, and bands go from the lowest to the highest seed. Each marker "
    "is an evaluation. The verdicts are about the last one, after training, and not about the best."
)

TRAINING = (
    "Lines are means over the seeds, and bands go from the lowest to the highest seed. Losses of "
    "different arms are different quantities: compare how they decrease, not their values. A "
    "failed run is drawn up to its end. Each point is the median of 20 iterations that the trainer "
    "logged."
)

VALIDATION = (
    " Markers with a thin line are the same losses on fixed test images, at each evaluation and at "
    "the end, without augmentation. Nothing is chosen by them. A marker curve that rises while "
    "the line falls is a sign of overfitting."
)

GRADIENT_NORMS = (
    "Gradient norms before clipping; lines are means over the seeds. At equal learning rates, an "
    "arm with ten times the gradient takes ten times larger steps, unless they are clipped. At a "
    "short schedule, part of the effect of a loss is therefore that of another learning rate."
)

PRECISION_RECALL = (
    "Mean over the classes, then over the seeds; bands go from the lowest to the highest seed. The "
    "area under a line is the AP at that IoU. An arm that is higher at the left ranks its best "
    "detections better. An arm that reaches further to the right finds more objects."
)

BY_SIZE = (
    "Each marker is the mean of an arm, and its line goes from the lowest to the highest seed. "
    "Sizes are those of COCO, by area in pixels of the original image. A size without objects has "
    "no row. AR is the share of objects that are found with 100 detections per class and image, "
    "whatever their rank."
)


def by_class(data: str) -> str:
    """Return the caption of AP by class; ``data`` is "training" or "test"."""
    return (
        f"The number beside each class is the number of its objects in the {data} data. Each "
        "marker is the mean of an arm, and its line goes from the lowest to the highest seed. The "
        "rarest classes, at the bottom, show the cost of class imbalance."
    )


CLASS_DIFFERENCES = (
    "Each circle is a class: the mean difference over the seeds, with its 95% t interval, which is "
    "not adjusted for the number of classes. A filled circle has p <= .05 after Holm over all "
    "classes and arms. Gray lines are the means of the rare, common and frequent classes. An arm "
    "that helps rare classes only is above 0 at the left, and on 0 at the right."
)

CONFUSION = (
    "Rows are objects, and columns are detections at the thresholds of the classes. A cell is the "
    "share of the objects of its row, in percent, mean over the seeds: the darker, the larger. The "
    "last column has the missed objects. The last row has the detections without an object, as "
    "their number. A detection that finds an object of its class is on the diagonal. Each other "
    "one takes the free object of another class with the largest IoU of at least .5."
)

RELIABILITY = (
    f"Detections with a score of at least {CUT_OFF}, in {BINS} bins, of all seeds and classes. On "
    "the diagonal, a score is the probability that the detection is correct. Below it, scores are "
    "too high (over-confident); above it, too low. Bands go from the lowest to the highest seed, "
    f"and are drawn for at most {MOST_BANDS} arms. "
    f"A bin with fewer than {FEWEST_IN_BIN} detections has no precision here. "
    "The right panel shows how many detections have such a score."
)

ERROR_TYPES = (
    "Gain of AP50 if all errors of one type were corrected. Classification: right location, wrong "
    "class. Localisation: right class, IoU between .1 and .5. Both: both wrong. Duplicate: the "
    "object was already found. Background: no object there. Missed: an object without any "
    "detection close to it. The gains do not add up, because correcting one type changes the "
    "others."
)

CUMULATIVE_LOSS = (
    "Figure 4 of the focal loss paper, for every arm on the same anchors: the share of the loss "
    "that the easiest share of the anchors holds. The later a line rises, the more the loss comes "
    "from the few hardest anchors. On the diagonal all anchors count equally. The right panel "
    "shows the effect of a loss on imbalance: it should change the negatives much, and the "
    "positives little."
)

GRADIENT_HISTOGRAM = (
    "The view of gradient harmonizing: the distribution of the gradient of the classification "
    "loss with respect to a logit, over all anchors and classes. Both axes are logarithmic. The "
    "leftmost bin contains all smaller gradients. A loss against imbalance moves the many easy "
    "negatives, which are the high bins, to the left."
)

COST = (
    "Each marker is the mean of an arm, and its line goes from the lowest to the highest seed. "
    "Seconds are the median of a run, including data loading. Memory is that of the GPU; without a "
    "GPU it is the largest resident set of the process. Runs that shared a machine are slower than "
    "they would be alone."
)
