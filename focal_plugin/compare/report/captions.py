"""What stands below each figure of a report: what is seen, and how it is read."""

FOREST = (
    "Each dot is one seed: the arm minus the reference, both with that seed. The diamond is "
    "their mean, the bar its 95% t interval; without a bar there is one seed only. Filled: "
    "the verdict is higher or lower; hollow: no difference shown, or undecided. A bar that "
    "crosses the line at 0 is compatible with no difference at all; one that does not may "
    "still be undecided, as several arms are looked at and few seeds cannot decide."
)

TRAINING = (
    "Lines are means over the seeds, bands go from the lowest seed to the highest. Losses of "
    "different arms are different quantities: compare how they fall, not how high they are. A "
    "run that failed is drawn as far as it came. Each point is the median that the trainer "
    "logged, of 20 iterations."
)

GRADIENT_NORMS = (
    "Before clipping; lines are means over the seeds. At equal learning rates, an arm whose "
    "gradient is ten times as large takes steps ten times as large, unless they are clipped: "
    "part of what a loss does at a short schedule is what another learning rate would do."
)

PRECISION_RECALL = (
    "Mean over the classes, then over the seeds; bands go from the lowest seed to the "
    "highest. The area under a line is AP at that IoU. An arm that is higher at the left "
    "ranks its best detections better; one that reaches further to the right finds more of "
    "the objects."
)

BY_SIZE = (
    "Each marker is the mean of an arm, its line goes from the lowest seed to the highest. "
    "Sizes are COCO's, by area in pixels of the image as it is in the data set; a size "
    "without objects has no row. AR is the share of objects found with 100 detections of a "
    "class on an image, however they are ranked."
)

BY_CLASS = (
    "Beside each class, in how many objects of the training data it was seen. Each marker is "
    "the mean of an arm, its line goes from the lowest seed to the highest. What imbalance "
    "between the classes costs is seen at the bottom."
)

ERROR_TYPES = (
    "How much AP50 would rise if all errors of one kind were put right. Classification: right "
    "place, wrong class; localisation: right class, IoU between .1 and .5; both: both wrong; "
    "duplicate: the object was found already; background: no object there; missed: an object "
    "that no detection came near. They do not add up: putting one kind right changes what the "
    "others cost."
)

CUMULATIVE_LOSS = (
    "Figure 4 of the focal loss paper, for every arm on the same anchors: how much of the "
    "loss the easiest share of the anchors holds. The later a line rises, the more the loss "
    "is of the hardest few; along the diagonal, all anchors would count alike. What a loss "
    "does to imbalance is seen at the right: it should change the negatives much, and the "
    "positives little."
)

GRADIENT_HISTOGRAM = (
    "The view of gradient harmonising: over all anchors and classes, how often the gradient "
    "of the classification loss with respect to a logit has which size. Both axes are "
    "logarithmic; what is smaller than the leftmost bin is in it. A loss against imbalance "
    "moves the many easy negatives, the high bins, to the left."
)

COST = (
    "Each marker is the mean of an arm, its line goes from the lowest seed to the highest. "
    "Seconds are the median of a run, data loading included. Memory is that of the GPU where "
    "there is one, else the largest resident set of the process. Runs that shared a machine "
    "with others are slower than they would be alone."
)
