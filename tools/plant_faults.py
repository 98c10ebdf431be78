#!/usr/bin/env python3
"""Plant known faults one at a time, and report whether the tests catch them."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]

EPILOG = """
Each fault changes one line in a copy of the working tree. The tests that should catch it run in
that copy until the first failure. The same tests run once without any fault, and must pass.

verdicts:
  caught          a test failed (pytest's exit code 1)
  hung            no test ended in time, although the tests take less than a quarter of the limit
                  without the fault; counts as caught
  missed          all tests passed: they do not test what the fault breaks
  broken          the tests could not run, e.g. because of an import error; proves nothing
  does not apply  the text to change does not occur exactly once: adapt the fault to the new code
  no baseline     the tests also fail without the fault
  timed out       the tests exceed --timeout, with or without the fault

examples:
  tools/plant_faults.py                                    all faults, about 10 minutes
  tools/plant_faults.py --list
  tools/plant_faults.py --only mining-ties holm-monotone   two faults
  tools/plant_faults.py --json before.json                 before a change of the tests,
  tools/plant_faults.py --json after.json                  and after it;
  tools/plant_faults.py --compare before.json after.json   then compare: lost catches

exit code: 0 every fault is caught; 1 some fault is not, or --compare finds a lost catch; 2 invalid
command line; 130 interrupted.
"""

CAUGHT = ("caught", "hung")
MARKER = "PLANT_FAULTS_RUN"
"""Environment variable with the folder of a test run, which all its processes inherit."""

POLL_S = 0.1
SLOW_MODULES = (
    *("torch", "torchvision", "numpy", "scipy.stats", "scipy.special", "matplotlib.pyplot", "cv2"),
    *("pycocotools.coco", "PIL.Image", "fvcore.nn", "omegaconf", "pytest"),
)
"""Modules to import early. Not Detectron2: the tests set its dataset folder before the import."""


@dataclass(frozen=True)
class Fault:
    """
    Fault that the tests should catch.

    Args:
        name: unique, for reports.
        file: Python file that contains ``old``. If the code moves, the only other file with the
            text is used.
        old: text that occurs once.
        new: text that replaces it.
        tests: test files or folders, separated by spaces. If a file is missing, its folder is used.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = (
    # Losses
    Fault(
        "focal-slope-without-gamma",
        "focal_plugin/losses/sigmoid_focal.py",
        "focusing = self.gamma * at.p * self._cross_entropy(at)",
        "focusing = at.p * self._cross_entropy(at)",
        "tests/losses/test_softmax_focal.py",
    ),
    Fault(
        "giou-divides-by-union",
        "focal_plugin/losses/box_iou.py",
        "(hull - union) / hull.clamp(min=EPS)",
        "(hull - union) / union.clamp(min=EPS)",
        "tests/losses/test_box_iou.py",
    ),
    Fault(
        "equalization-rare-at-threshold",
        "focal_plugin/losses/equalization.py",
        "of_classes < threshold * of_classes.sum()",
        "of_classes <= threshold * of_classes.sum()",
        "tests/losses/test_equalization.py",
    ),
    Fault(
        "ghm-mean-is-biased-to-zero",
        "focal_plugin/losses/gradient_density.py",
        "torch.where(seen, gain / evidence,",
        "torch.where(seen, gain + 0 * evidence,",
        "tests/losses/test_ghm.py",
    ),
    Fault(
        "mal-differentiates-its-weight",
        "focal_plugin/losses/matchability_aware.py",
        "return -self._weight(at) * at.q",
        "return -self._weight(at) * (at.q + self.gamma * at.p * at.ce)",
        "tests/losses/test_matchability_aware.py",
    ),
    Fault(
        "ia-bce-target-without-limit",
        "focal_plugin/losses/matchability_aware.py",
        "return aligned.clamp(min=self.least)",
        "return aligned",
        "tests/losses/test_iou_aware_cross_entropy.py",
    ),
    Fault(
        "gumbel-slope-beyond-its-limits",
        "focal_plugin/losses/gumbel.py",
        "-self.value(at).masked_fill(outside, 0.0)",
        "-self.value(at)",
        "tests/ops/test_dense_loss.py",
    ),
    Fault(
        "ecm-shift-of-the-other-label",
        "focal_plugin/losses/effective_class_margin.py",
        "-a.log() / 4",
        "a.log() / 4",
        "tests/losses/test_effective_class_margin.py",
    ),
    Fault(
        "option-may-reach-open-bound",
        "focal_plugin/checks.py",
        "number < high if open_high or high == math.inf else number <= high",
        "number <= high",
        "tests/losses/test_contract_of_options.py",
    ),
    # Decoding
    Fault(
        "gumbel-head-decodes-sigmoids",
        "focal_plugin/modeling/heads.py",
        "return logits if self.training else self.sigmoid_logits(logits)",
        "return logits",
        "tests/modeling/test_heads.py",
    ),
    Fault(
        "norcal-calibrates-the-background",
        "focal_plugin/modeling/norcal.py",
        "F.pad(gamma * log_images, (0, 1))",
        "F.pad(gamma * log_images, (0, 1), value=1.0)",
        "tests/modeling/test_norcal.py",
    ),
    Fault(
        "images-are-counted-as-objects",
        "focal_plugin/data/class_counts.py",
        "set(_classes(names))",
        "_classes(names)",
        "tests/data/test_class_counts.py",
    ),
    # Losses and draws of RoIs
    Fault(
        "seesaw-compares-with-a-tiny-own-score",
        "focal_plugin/losses/seesaw.py",
        ".gather(1, own).clamp(min=math.log(eps))",
        ".gather(1, own)",
        "tests/losses/test_seesaw.py",
    ),
    Fault(
        "seesaw-counts-of-one-process",
        "focal_plugin/losses/seesaw.py",
        "self.counts += sum_over_processes(step)",
        "self.counts += step",
        "tests/modeling/test_processes.py",
    ),
    Fault(
        "isr-p-ranks-by-iou-alone",
        "focal_plugin/losses/isr_p.py",
        "by_iou[in_object[by_iou].argsort(stable=True)]",
        "by_iou",
        "tests/losses/test_prime_samples.py",
    ),
    Fault(
        "carl-without-the-mean-of-the-scores",
        "focal_plugin/losses/carl.py",
        "(k * log_v).softmax(0)",
        "(k * log_v).softmax(0).detach()",
        "tests/losses/test_prime_samples.py",
    ),
    Fault(
        "objects-of-two-images-are-one",
        "focal_plugin/modeling/prime_samples.py",
        "return images * (objects.amax() + 2) + objects + 1",
        "return images * objects.amax() + objects + 1",
        "tests/modeling/test_prime_samples.py",
    ),
    Fault(
        "objects-of-two-images-are-one-for-rois",
        "focal_plugin/modeling/fast_rcnn.py",
        "rows = torch.cat([of_object, foreground.gt_boxes], dim=1)",
        "rows = torch.cat([0 * of_object, foreground.gt_boxes], dim=1)",
        "tests/modeling/test_prime_samples.py",
    ),
    Fault(
        "weights-of-sampled-rois-are-not-read",
        "focal_plugin/modeling/fast_rcnn.py",
        "return bool(proposals) and proposals[0].has(WEIGHTS)",
        "return False",
        "tests/modeling/test_roi_sampler.py",
    ),
    Fault(
        "iou-bins-include-their-end",
        "focal_plugin/mining/libra.py",
        "(of_pool < high)",
        "(of_pool <= high)",
        "tests/mining/test_libra.py",
    ),
    Fault(
        "iou-range-is-of-all-boxes",
        "focal_plugin/mining/libra.py",
        'of_range = iou if range_of == "all" else iou[is_negative]',
        "of_range = iou",
        "tests/mining/test_libra.py",
    ),
    Fault(
        "score-hlr-clusters-by-index",
        "focal_plugin/mining/score_hlr.py",
        "(box_iou(in_order, in_order[best]) > nms_thresh).byte().argmax(dim=1)",
        "0",
        "tests/mining/test_score_hlr.py",
    ),
    # Operators
    Fault(
        "matching-rescues-without-overlap",
        "focal_plugin/ops/match_anchors_eager.py",
        "((iou == top) & (top > 0)).any(dim=0)",
        "(iou == top).any(dim=0)",
        "tests/ops/test_match_anchors.py",
    ),
    Fault(
        "dense-loss-counts-positive-as-negative-too",
        "focal_plugin/ops/dense_loss_eager.py",
        "value[of_chunk] = 0",
        "value[of_chunk] *= 1",
        "tests/ops/test_dense_loss.py",
    ),
    Fault(
        "softmax-loss-shares-with-the-label",
        "focal_plugin/ops/softmax_loss_eager.py",
        "others.scatter_(1, column, -LARGEST)",
        "others.clamp_(min=-LARGEST)",
        "tests/ops/test_softmax_loss.py",
    ),
    Fault(
        "softmax-loss-keeps-nan-of-ignored",
        "focal_plugin/ops/softmax_loss_eager.py",
        "gradient[group, :, anchor] = 0",
        "gradient[group, :, anchor] *= 0",
        "tests/ops/test_softmax_loss.py",
    ),
    Fault(
        "softmax-background-in-another-layout",
        "focal_plugin/modeling/dense_losses.py",
        "order = Layout.of(logits).order",
        "order = tuple(range(logits.dim()))",
        "tests/modeling/test_retinanet_parts.py",
    ),
    Fault(
        "dense-loss-slopes-count-positive-as-negative-too",
        "focal_plugin/ops/dense_loss_eager.py",
        "magnitude.view(-1)[positives] = 0",
        "magnitude.view(-1)[positives] *= 1",
        "tests/ops/test_dense_loss.py",
    ),
    Fault(
        "dense-loss-slopes-of-positives-among-negatives",
        "focal_plugin/ops/dense_loss_eager.py",
        "work.slopes[0].index_add_(",
        "work.slopes[1].index_add_(",
        "tests/ops/test_dense_loss.py",
    ),
    Fault(
        "dense-loss-spared-classes-keep-their-gradient",
        "focal_plugin/ops/dense_loss_eager.py",
        "slope.masked_fill_(spared, 0.0)",
        "slope.masked_fill_(~spared & spared, 0.0)",
        "tests/ops/test_dense_loss.py",
    ),
    Fault(
        "dense-loss-parameters-of-the-first-class",
        "focal_plugin/ops/dense_loss_block.py",
        "table[row] = number",
        "table[row] = torch.as_tensor(number).flatten()[0]",
        "tests/ops/test_dense_loss.py",
    ),
    Fault(
        "power-drops-the-odd-factor",
        "focal_plugin/ops/formula.py",
        "half * half * base if exponent % 2 else half * half",
        "half * half",
        "tests/ops/test_dense_loss.py",
    ),
    Fault(
        "norms-count-positive-as-negative-too",
        "focal_plugin/ops/norm_counts_eager.py",
        "index.view(-1)[of_chunk] = bins",
        "index.view(-1)[of_chunk] *= 1",
        "tests/ops/test_norm_counts.py",
    ),
    Fault(
        "ghm-forgets-the-counts-of-a-step",
        "focal_plugin/losses/ghm.py",
        "self.density.store(step)",
        "self.density.weights",
        "tests/losses/test_stateful.py",
    ),
    Fault(
        "gradient-ratio-counts-a-step-twice",
        "focal_plugin/losses/gradient_ratio.py",
        "self.gradients.add(*slopes)\n        return loss",
        "self.gradients.add(*(2 * slopes))\n        return loss",
        "tests/losses/test_stateful.py",
    ),
    Fault(
        "class-balanced-background-first",
        "focal_plugin/losses/class_balanced_focal.py",
        "torch.cat([weights, weight_of_background])",
        "torch.cat([weight_of_background, weights])",
        "tests/losses/test_class_balanced_focal.py",
    ),
    Fault(
        "ranking-counts-positive-among-negatives",
        "focal_plugin/ops/levels.py",
        "x.view(-1)[positives] = -torch.inf",
        "x.view(-1)[positives] += 0",
        "tests/ops/test_ranking.py",
    ),
    Fault(
        "ranking-sum-from-the-bottom",
        "focal_plugin/ops/ramps.py",
        "tally.counts * (self.left - top)",
        "tally.counts * (self.left - top + 1e9)",
        "tests/ops/test_ranking.py",
    ),
    Fault(
        "ap-without-interpolation",
        "focal_plugin/losses/ap.py",
        "precision[order].cummax(0).values",
        "precision[order]",
        "tests/losses/test_ap.py",
    ),
    # Mining
    Fault(
        "mining-ties",
        "focal_plugin/mining/selection.py",
        "place = candidates.nonzero().squeeze(1)",
        "place = candidates.nonzero().squeeze(1).flip(0)",
        "tests/mining/test_selection.py",
    ),
    Fault(
        "mining-hides-nan",
        "focal_plugin/mining/selection.py",
        "nan_to_num(nan=torch.inf, posinf",
        "nan_to_num(nan=0.0, posinf",
        "tests/mining/test_suppression.py",
    ),
    Fault(
        "mining-stops-one-too-early",
        "focal_plugin/mining/quota.py",
        "num_pos + num_neg >= self.num_keep",
        "num_pos + num_neg >= self.num_keep - 1",
        "tests/mining/test_suppression.py",
    ),
    Fault(
        "mining-ratio-waits-for-no-positive",
        "focal_plugin/mining/quota.py",
        "(num_pos == self.max_pos or not positives_left) and num_neg >= quota",
        "num_neg >= quota",
        "tests/mining/test_suppression.py",
    ),
    Fault(
        "mining-stops-for-a-selection-without-quota",
        "focal_plugin/mining/ohem.py",
        'cls.stops_at_quota = "quota" in vars(cls)',
        "cls.stops_at_quota = True",
        "tests/mining/test_suppression.py",
    ),
    Fault(
        "mining-compares-with-the-last-block-only",
        "focal_plugin/mining/suppression.py",
        "torch.cat([self.survives, competing], dim=1)",
        "torch.cat([torch.zeros_like(self.survives), competing], dim=1)",
        "tests/mining/test_suppression.py",
    ),
    Fault(
        "mining-decodes-decided-images",
        "focal_plugin/mining/suppression.py",
        "self.entering.gather(1, block) & self.is_open",
        "self.entering.gather(1, block)",
        "tests/mining/test_suppression.py",
    ),
    Fault(
        "suppression-across-groups",
        "focal_plugin/ops/suppression_eager.py",
        "members = place[groups[row, place] == group]",
        "members = place[groups[row, place] >= group]",
        "tests/ops/test_suppression.py",
    ),
    Fault(
        "mining-quota-above-limit",
        "focal_plugin/mining/selection.py",
        "min(quota, num_keep - num_pos)",
        "quota",
        "tests/mining",
    ),
    # Assignment
    Fault(
        "assignment-ties",
        "focal_plugin/ops/box_pairs.py",
        "tied & (tied.cumsum(dim=1, dtype=torch.int32) <= room)",
        "tied & (tied.flip(1).cumsum(dim=1, dtype=torch.int32).flip(1) <= room)",
        "tests/ops/test_box_pairs.py",
    ),
    Fault(
        "atss-takes-the-deviation-of-a-population",
        "focal_plugin/assignment/atss.py",
        "correction=min(1, iou.shape[1] - 1)",
        "correction=0",
        "tests/assignment/test_atss.py",
    ),
    Fault(
        "an-anchor-goes-to-the-larger-metric",
        "focal_plugin/assignment/task_aligned.py",
        "owner.add(at + chunk.start, candidates, iou[at, candidates])",
        "owner.add(at + chunk.start, candidates, metric[at, candidates])",
        "tests/assignment/test_task_aligned.py",
    ),
    Fault(
        "a-contested-anchor-goes-to-the-last-chooser",
        "focal_plugin/assignment/simota.py",
        "torch.where(num_choices > 1, cheapest, chooser)",
        "chooser",
        "tests/assignment/test_simota.py",
    ),
    Fault(
        "free-anchor-has-no-gradient-through-the-weights",
        "focal_plugin/losses/free_anchor.py",
        "log_u = -torch.where(log_x < log_half, small, large)",
        "log_u = -torch.where(log_x < log_half, small, large).detach()",
        "tests/losses/test_free_anchor.py",
    ),
    Fault(
        "tal-never-leaves-its-warm-up",
        "focal_plugin/modeling/assigners.py",
        "            self.steps += 1",
        "            pass",
        "tests/modeling/test_assigners.py",
    ),
    # Models
    Fault(
        "normalizer-divisor-is-alive",
        "focal_plugin/modeling/normalizer.py",
        "self.mean.clone().unsqueeze(0)",
        "self.mean.unsqueeze(0)",
        "tests/modeling/test_normalizer.py",
    ),
    Fault(
        "normalizer-forgets-processes",
        "focal_plugin/losses/processes.py",
        "total / distributed.get_world_size()",
        "total / 1",
        "tests/modeling/test_processes.py",
    ),
    Fault(
        "matcher-clobbers-up-to-positives",
        "focal_plugin/modeling/matcher.py",
        "match_quality_matrix.amax(dim=0) >= self.thresholds[1]",
        "match_quality_matrix.amax(dim=0) >= self.thresholds[-2]",
        "tests/modeling/test_matcher.py",
    ),
    Fault(
        "softmax-prior-of-one-class",
        "focal_plugin/modeling/heads.py",
        "math.log(num_classes * (1 - prior_prob) / prior_prob)",
        "math.log((1 - prior_prob) / prior_prob)",
        "tests/modeling/test_heads.py",
    ),
    Fault(
        "batch-norm-stays-on-last-level",
        "focal_plugin/modeling/heads.py",
        "(self._pos + 1) % self.num_levels",
        "min(self._pos + 1, self.num_levels - 1)",
        "tests/modeling/test_heads.py",
    ),
    Fault(
        "box-loss-ignores-mining",
        "focal_plugin/modeling/dense_losses.py",
        "boxed = positives & keep",
        "boxed = positives",
        "tests/modeling/test_retinanet_parts.py",
    ),
    Fault(
        "tensorpack-crowd-at-threshold",
        "focal_plugin/modeling/matcher.py",
        "9.99, reached=operator.gt",
        "9.99, reached=operator.ge",
        "tests/modeling/test_rpn.py",
    ),
    Fault(
        "rpn-border-is-outside",
        "focal_plugin/modeling/rpn.py",
        "(x2 <= width) & (y2 <= height)",
        "(x2 < width) & (y2 <= height)",
        "tests/modeling/test_rpn.py",
    ),
    Fault(
        "roi-rank-without-box-loss",
        "focal_plugin/modeling/roi_heads.py",
        'rank = rank + losses["loss_box_reg"]',
        'rank = rank + 0 * losses["loss_box_reg"]',
        "tests/modeling/test_roi_heads.py",
    ),
    Fault(
        "augmented-boxes-are-not-mapped-back",
        "focal_plugin/modeling/test_time_augmentation.py",
        "transform.inverse().apply_box(",
        "transform.apply_box(",
        "tests/modeling/test_test_time_augmentation.py",
    ),
    Fault(
        "small-backbone-freezes-nothing",
        "focal_plugin/modeling/backbones.py",
        "freeze_at=_freeze_at(cfg, num_stages=len(stages))",
        "freeze_at=0",
        "tests/modeling/test_backbones.py",
    ),
    Fault(
        "another-key-of-a-component-is-ignored",
        "focal_plugin/modeling/backbones.py",
        "fuse_type=cfg.MODEL.FPN.FUSE_TYPE",
        'fuse_type="sum"',
        "tests/modeling/test_keys.py",
    ),
    # Data
    Fault(
        "evaluated-set-without-area-passes",
        "focal_plugin/data/checks/preflight.py",
        'severities["annotation-area"] = "error"',
        'severities["annotation-area"] = "warning"',
        "tests/data/checks/test_preflight.py",
    ),
    Fault(
        "any-training-set-without-objects-is-refused",
        "focal_plugin/data/checks/preflight.py",
        "all(any(map(report.counts.get, empty)) for report in training)",
        "any(any(map(report.counts.get, empty)) for report in training)",
        "tests/data/checks/test_preflight.py",
    ),
    Fault(
        "fraction-is-an-id",
        "focal_plugin/data/coco_ids.py",
        "abs(value) <= MAX_FLOAT and value.is_integer()",
        "abs(value) <= MAX_FLOAT",
        "tests/data/test_coco_ids.py",
    ),
    Fault(
        "ids-of-annotations-decide-the-result",
        "focal_plugin/engine/evaluation.py",
        'entry["id"] = number',
        "pass",
        "tests/engine/test_evaluation.py",
    ),
    Fault(
        "test-sets-share-a-folder",
        "focal_plugin/run_folder.py",
        "folder if len(set(test_sets)) < 2 else",
        "folder if test_sets else",
        "tests/engine/test_evaluation.py",
    ),
    Fault(
        "box-breaks-several-rules",
        "focal_plugin/data/checks/coco_rules.py",
        "left &= ~is_one",
        "left &= True",
        "tests/data/checks/test_check_coco.py",
    ),
    Fault(
        "sibling-folder-is-inside",
        "focal_plugin/data/checks/image_files.py",
        "os.path.commonpath([self._real_root, real_path]) == self._real_root",
        "real_path.startswith(self._real_root)",
        "tests/data/checks/test_check_coco.py",
    ),
    Fault(
        "changed-annotations-are-not-read-again",
        "focal_plugin/data/checks/facts.py",
        "_Version(status.st_size, status.st_mtime_ns)",
        "_Version(status.st_size, 0)",
        "tests/data/checks/test_check_coco.py",
    ),
    Fault(
        "objects-lost-by-the-loader-are-not-named",
        "focal_plugin/data/checks/as_trained.py",
        "if len(objects) == number:",
        "if len(objects) <= number:",
        "tests/data/checks/test_as_trained.py",
    ),
    Fault(
        "objects-lost-by-the-mapper-are-not-named",
        "focal_plugin/data/checks/mapped_objects.py",
        "if number not in left:",
        "if number in ():",
        "tests/data/checks/test_as_trained.py",
    ),
    Fault(
        "ignored-ground-truth-is-not-named",
        "focal_plugin/data/checks/as_evaluated.py",
        "if number and not counted[category_id]:",
        "if False:",
        "tests/data/checks/test_as_trained.py",
    ),
    Fault(
        "unusable-segmentations-are-loaded",
        "focal_plugin/data/registration.py",
        'rows = rows_of_unusable(content["annotations"])',
        "rows = []",
        "tests/data/checks/test_as_trained.py",
    ),
    Fault(
        "corners-pass-as-sizes",
        "focal_plugin/data/checks/box_patterns.py",
        "AS_CORNERS = 1 / 3",
        "AS_CORNERS = 2",
        "tests/data/checks/test_check_coco.py",
    ),
    Fault(
        "16-bit-pixels-pass",
        "focal_plugin/data/checks/pixels.py",
        'mode.startswith("I;16")',
        'mode == "none"',
        "tests/data/checks/test_check_coco.py",
    ),
    Fault(
        "augmentation-repeats-every-epoch",
        "focal_plugin/data/loading/stream.py",
        'seeded(self.seed, "sample", number)',
        'seeded(self.seed, "sample", index)',
        "tests/data/loading/test_stream.py",
    ),
    Fault(
        "processes-number-samples-alike",
        "focal_plugin/data/loading/stream.py",
        "itertools.count(self.rank, self.num_processes)",
        "itertools.count(self.rank)",
        "tests/data/loading/test_stream.py",
    ),
    Fault(
        "one-unreadable-image-too-few",
        "focal_plugin/data/loading/stream.py",
        "len(self.unreadable) > allowed",
        "len(self.unreadable) >= allowed",
        "tests/data/loading/test_stream.py",
    ),
    Fault(
        "cached-pixels-are-handed-out",
        "focal_plugin/data/loading/image_cache.py",
        "T.AugInput(pixels.copy())",
        "T.AugInput(pixels)",
        "tests/data/loading/test_image_cache.py",
    ),
    Fault(
        "cache-mixes-image-formats",
        "focal_plugin/data/loading/image_cache.py",
        "key = (file, self.image_format, *resizes)",
        "key = (file, *resizes)",
        "tests/data/loading/test_image_cache.py",
    ),
    # Engine
    Fault(
        "resumed-run-sees-first-batches-again",
        "focal_plugin/engine/trainer.py",
        "self.data_loader.start_batch = self.start_iter",
        "self.data_loader.start_batch = 0",
        "tests/faults/test_resume.py",
    ),
    Fault(
        "old-manifest-beside-new-checkpoint",
        "focal_plugin/engine/checkpoints/file.py",
        "manifest.unlink(missing_ok=True)",
        "manifest.exists()",
        "tests/engine/checkpoints/test_file.py",
    ),
    Fault(
        "checkpoint-is-last-before-it-is-written",
        "focal_plugin/engine/checkpoints/checkpointer.py",
        "write_checkpoint(file, content)\n        self.tag_last_checkpoint(file.name)",
        "self.tag_last_checkpoint(file.name)\n        write_checkpoint(file, content)",
        "tests/engine/checkpoints/test_checkpointer.py",
    ),
    Fault(
        "allowed-key-allows-its-beginnings",
        "focal_plugin/engine/checkpoints/checkpointer.py",
        'key == allowed or key.startswith((f"{allowed}.", f"{allowed}["))',
        "key.startswith(allowed)",
        "tests/engine/checkpoints/test_checkpointer.py",
    ),
    Fault(
        "fallback-takes-later-checkpoint",
        "focal_plugin/engine/checkpoints/last.py",
        "newest_iteration < iteration <= limit",
        "newest_iteration < iteration",
        "tests/engine/checkpoints/test_last.py",
    ),
    Fault(
        "skipped-step-keeps-poisoned-statistics",
        "focal_plugin/engine/nonfinite.py",
        "buffer.copy_(before)",
        "buffer.copy_(buffer)",
        "tests/engine/test_nonfinite.py",
    ),
    Fault(
        "stopped-run-overrides-final-checkpoint",
        "focal_plugin/engine/hooks/stopping.py",
        'not final and saved != f"{name}.pth"',
        'saved != f"{name}.pth"',
        "tests/engine/hooks/test_stopping.py",
    ),
    Fault(
        "lock-is-inherited-by-workers",
        "focal_plugin/engine/lock.py",
        "fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "tests/engine/test_lock.py",
    ),
    Fault(
        "pickle-may-name-any-global",
        "focal_plugin/engine/checkpoints/weights_pickle.py",
        'raise _ForbiddenGlobalError(f"{module}.{name}") from None',
        "return super().find_class(module, name)",
        "tests/engine/checkpoints/test_weights.py",
    ),
    Fault(
        "first-raised-is-the-cause",
        "focal_plugin/engine/processes/ranks.py",
        "return aborted, rank.ending is not None,",
        "return aborted, rank.ending is None,",
        "tests/engine/processes/test_launch.py",
    ),
    Fault(
        "rank-outlives-its-parent",
        "focal_plugin/engine/processes/ranks.py",
        "_die_with_parent()\n    _interrupt_once()",
        "_interrupt_once()",
        "tests/engine/processes/test_launch.py",
    ),
    Fault(
        "config-may-run-code",
        "focal_plugin/engine/command_line.py",
        "allow_unsafe=args.allow_unsafe_yaml",
        "allow_unsafe=True",
        "tests/faults/test_security.py",
    ),
    Fault(
        "refused-resume-changes-the-folder",
        "focal_plugin/engine/command_line.py",
        "        check_resumable(cfg, checkpoint_options(args))",
        "        pass",
        "tests/faults/test_damaged_checkpoints.py",
    ),
    Fault(
        "partly-loaded-model-is-evaluated",
        "focal_plugin/engine/evaluated_weights.py",
        "    if not args.allow_partial_weights:\n        checkpointer.check_complete()",
        "",
        "tests/engine/test_evaluated_weights.py",
    ),
    Fault(
        "another-run-is-overwritten",
        "focal_plugin/engine/command_line.py",
        "    if found is not None:\n        raise OutputFolderError(",
        "    if found is None:\n        raise OutputFolderError(",
        "tests/engine/test_logs.py",
    ),
    Fault(
        "integer-is-no-float",
        "focal_plugin/config_node.py",
        "if is_integer and isinstance(current, float):",
        "if False:",
        "tests/test_config.py",
    ),
    Fault(
        "output-folder-is-not-held",
        "focal_plugin/engine/command_line.py",
        "hold_output_folder(Path(cfg.OUTPUT_DIR))",
        "Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)",
        "tests/faults/test_disk.py",
    ),
    Fault(
        "key-of-a-copied-config-is-not-read",
        "focal_plugin/engine/unread_keys.py",
        "return self\n\n\nclass RecordingCfgNode",
        "return _Reads(self)\n\n\nclass RecordingCfgNode",
        "tests/engine/test_unread_keys.py",
    ),
    # Comparisons
    Fault(
        "holm-monotone",
        "focal_plugin/compare/analysis/statistics.py",
        "np.maximum.accumulate(scaled, axis=-1)",
        "scaled",
        "tests/compare/analysis/test_statistics.py",
    ),
    Fault(
        "t-interval-degrees-of-freedom",
        "focal_plugin/compare/analysis/statistics.py",
        "special.stdtrit(freedom, 1 - alpha / 2)",
        "special.stdtrit(freedom + 1, 1 - alpha / 2)",
        "tests/compare/analysis/test_statistics.py",
    ),
    Fault(
        "looks-without-their-price",
        "focal_plugin/compare/analysis/looks.py",
        "np.where(hits >= _FEWEST_HITS, hits / PATHS, bound)",
        "smallest",
        "tests/compare/analysis/test_looks.py",
    ),
    Fault(
        "prior-of-any-size",
        "focal_plugin/compare/analysis/shrinkage.py",
        "np.minimum(2 * _inverse_trigamma(spread - noise), weights.max(-1, keepdims=True))",
        "2 * _inverse_trigamma(spread - noise)",
        "tests/compare/analysis/test_looks.py",
    ),
    Fault(
        "stopped-arms-read-on",
        "focal_plugin/compare/analysis/procedure.py",
        "look = np.where(stopped, look, i)",
        "look = np.full_like(look, i)",
        "tests/compare/analysis/test_looks.py",
    ),
    Fault(
        "equivalence-by-one-side",
        "focal_plugin/compare/analysis/procedure.py",
        'np.maximum(smallest["above"], smallest["below"])',
        'smallest["above"]',
        "tests/compare/analysis/test_verdicts.py",
    ),
    Fault(
        "power-of-one-seed-fewer",
        "focal_plugin/compare/analysis/power.py",
        "np.sqrt(n) * effect / std",
        "np.sqrt(n - 1) * effect / std",
        "tests/compare/analysis/test_power.py",
    ),
    Fault(
        "bootstrap-interval-of-90-percent",
        "focal_plugin/compare/analysis/detections/bootstrap.py",
        "np.percentile(samples, (2.5, 97.5))",
        "np.percentile(samples, (5, 95))",
        "tests/compare/analysis/detections/test_bootstrap.py",
    ),
    Fault(
        "precision-without-envelope",
        "focal_plugin/ops/weighted_ap_eager.py",
        "    _accumulated(np.maximum, precision[::-1])\n",
        "",
        "tests/ops/test_weighted_ap.py",
    ),
    Fault(
        "lower-score-is-put-right-first",
        "focal_plugin/compare/analysis/detections/error_types.py",
        "np.flatnonzero((counted.kind == kind) & (counted.of >= 0))",
        "np.flatnonzero((counted.kind == kind) & (counted.of >= 0))[::-1]",
        "tests/compare/analysis/detections/test_error_types.py",
    ),
    Fault(
        "hash-without-annotations",
        "focal_plugin/compare/plan/run_factory.py",
        "json.dumps([config, data.digests, *others], sort_keys=True)",
        "json.dumps([config, *others], sort_keys=True)",
        "tests/compare/plan/test_spec.py",
    ),
    Fault(
        "trials-are-tested-on-the-test-set",
        "focal_plugin/compare/plan/run_factory.py",
        'str(tuple(train)), "DATASETS.TEST", str(tuple(val))),',
        "str(tuple(train))),",
        "tests/compare/plan/test_tuning.py",
    ),
    Fault(
        "best-runs-train-on-the-split",
        "focal_plugin/compare/plan/run_factory.py",
        "return self._run(arm, seed, role, setting, self._data)",
        "return self._run(arm, seed, role, setting, self._data if setting == EQUAL else "
        "self._data_of_trials()[arm])",
        "tests/compare/plan/test_tuning.py",
    ),
    Fault(
        "tie-goes-to-the-setting-farthest-from-the-config",
        "focal_plugin/compare/analysis/tuning.py",
        "-each.setting.distance",
        "each.setting.distance",
        "tests/compare/analysis/test_tuning.py",
    ),
    Fault(
        "edge-of-the-loss-weights-is-that-of-the-learning-rates",
        "focal_plugin/compare/analysis/tuning.py",
        "_is_edge(best.weight_factor, grid.weight_factors)",
        "_is_edge(best.lr_factor, grid.lr_factors)",
        "tests/compare/analysis/test_tuning.py",
    ),
    Fault(
        "heartbeat-stands-still",
        "focal_plugin/compare/running/claim.py",
        "beat=self._holder.beat + 1",
        "beat=self._holder.beat",
        "tests/compare/running/test_claim.py",
    ),
    Fault(
        "run-stopped-by-scheduler-has-failed",
        "focal_plugin/compare/running/run_one.py",
        "ended.stopped or ended.exit_code in {STOPPED, INTERRUPTED}",
        "ended.stopped",
        "tests/compare/running/test_run_one.py",
    ),
    Fault(
        "reused-process-id-holds-the-claim",
        "focal_plugin/compare/running/claim.py",
        "_start_of(holder.pid) != holder.started",
        "_start_of(holder.pid) is None",
        "tests/compare/running/test_claim.py",
    ),
    Fault(
        "progress-loses-half-a-line",
        "focal_plugin/compare/running/progress.py",
        "self._position += len(whole)",
        "self._position += len(new)",
        "tests/compare/running/test_progress.py",
    ),
    Fault(
        "forest-bar-is-the-range",
        "focal_plugin/compare/report/figures.py",
        "axes.plot(difference.interval, (row, row)",
        "axes.plot((values.min(), values.max()), (row, row)",
        "tests/compare/report/test_figures.py",
    ),
    Fault(
        "csv-cell-is-a-formula",
        "focal_plugin/compare/report/csv_tables.py",
        "cell.startswith(_FORMULA)",
        'cell.startswith("=")',
        "tests/compare/report/test_report.py",
    ),
    # Diagnostics, and checks before training
    Fault(
        "negative-is-easy-on-average",
        "focal_plugin/diagnostics/analysis.py",
        "view.probability.amax(-1) < EASY_PROBABILITY",
        "view.probability.mean(-1) < EASY_PROBABILITY",
        "tests/diagnostics/test_analysis.py",
    ),
    Fault(
        "yaml-keys-are-not-looked-at",
        "focal_plugin/yaml_text.py",
        "[part for pair in node.value for part in pair]",
        "[value for _, value in node.value]",
        "tests/test_config.py",
    ),
    Fault(
        "error-names-the-key-of-another-place",
        "focal_plugin/registry.py",
        "there.key(keys[error.option])",
        "keys[error.option]",
        "tests/test_registry.py",
    ),
    Fault(
        "optional-remark-is-a-fault",
        "focal_plugin_doctor.py",
        "f.remedy is not None and not f.optional",
        "f.remedy is not None",
        "tests/test_doctor.py",
    ),
    Fault(
        "audit-misses-the-last-column-of-anchors",
        "focal_plugin/audit/overlaps.py",
        "self.ranges.last[at])\n        return",
        "self.ranges.last[at] - 1)\n        return",
        "tests/audit/test_labeling.py",
    ),
    Fault(
        "audit-gives-a-weak-anchor-to-the-wrong-object",
        "focal_plugin/audit/matching.py",
        "    _settle_weak(matcher, grid, boxes, images, matched, best)\n",
        "",
        "tests/audit/test_labeling.py",
    ),
    Fault(
        "audit-forgets-the-factor-of-the-loss",
        "focal_plugin/audit/loss_figures.py",
        "start.weight * loss",
        "loss",
        "tests/audit/test_loss_figures.py",
    ),
    Fault(
        "strict-config-is-not-obeyed",
        "focal_plugin/check_data_command.py",
        "strict = args.strict or is_strict(cfg)",
        "strict = args.strict",
        "tests/test_cli.py",
    ),
)


@dataclass(frozen=True)
class Result:
    """
    Verdict on a fault.

    Args:
        verdict: see ``--help``.
        seconds: time of the faulted run.
        unfaulted_seconds: time of the same tests without the fault.
        by: the test that failed, or the reason for another verdict.
    """

    verdict: str
    seconds: float = 0.0
    unfaulted_seconds: float = 0.0
    by: str = ""


@dataclass(frozen=True)
class TestRun:
    """Exit code of pytest (None: ended at the time limit), its time and its output."""

    exit_code: int | None
    seconds: float
    output: str

    @property
    def first_failure(self) -> str:
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", self.output, re.MULTILINE)
        return found[1] if found else self.output.strip().rpartition("\n")[2][:200]


class Planter:
    """
    Runner of faulted tests in copies of a tree.

    Each test run is a fork of this process, which has imported the slow modules. This process must
    therefore not import modules of the tree, and must not have threads.

    Args:
        root: the tree, tracked by git.
        scratch: empty folder for the copies.
        timeout_s: time limit of each test run.
    """

    def __init__(self, root: Path, scratch: Path, *, timeout_s: float) -> None:
        self.root = root
        self.timeout_s = timeout_s
        self.unfaulted: dict[str, TestRun] = {}
        self._scratch = scratch
        self._number = 0
        self._running: list[_Fork] = []

    def examine(self, faults: Sequence[Fault], jobs: int) -> Iterator[tuple[Fault, Result]]:
        """Yield each fault and its verdict as soon as it is known, with ``jobs`` parallel runs."""
        waiting: list[_Plan] = []
        for fault in faults:
            plan = _Plan.of(self.root, fault)
            if isinstance(plan, Result):
                yield fault, plan
            else:
                waiting.append(plan)
        try:
            while waiting or self._running:
                for plan in [x for x in waiting if self._is_pointless(x)]:
                    waiting.remove(plan)
                    yield plan.fault, self._without_baseline(plan)
                while len(self._running) < jobs and (fork := self._next(waiting)) is not None:
                    self._running.append(fork)
                for fork in [x for x in self._running if x.ended()]:
                    self._running.remove(fork)
                    run = fork.finish()
                    if fork.plan is None:
                        self.unfaulted[fork.targets] = run
                    else:
                        before = self.unfaulted[fork.targets]
                        yield fork.plan.fault, judge(run, before, timeout_s=self.timeout_s)
                time.sleep(POLL_S)
        finally:
            for fork in self._running:
                fork.finish()

    def _next(self, waiting: list[_Plan]) -> _Fork | None:
        begun = {fork.targets for fork in self._running if fork.plan is None}
        for plan in waiting:
            if plan.targets in self.unfaulted:
                if not self._is_pointless(plan):
                    waiting.remove(plan)
                    return self._fork(plan.targets, plan)
            elif plan.targets not in begun:
                return self._fork(plan.targets, None)
        return None

    def _is_pointless(self, plan: _Plan) -> bool:
        return plan.targets in self.unfaulted and self.unfaulted[plan.targets].exit_code != 0

    def _without_baseline(self, plan: _Plan) -> Result:
        run = self.unfaulted[plan.targets]
        if run.exit_code is None:
            return Result("timed out", by="without the fault")
        return Result("no baseline", by=run.first_failure)

    def _fork(self, targets: str, plan: _Plan | None) -> _Fork:
        self._number += 1
        folder = self._scratch / str(self._number)
        copy_tree(self.root, folder / "tree")
        if plan is not None:
            planted = folder / "tree" / plan.file
            text = planted.read_text(encoding="utf-8")
            planted.write_text(text.replace(plan.fault.old, plan.fault.new), encoding="utf-8")
        return _Fork(folder, targets, plan, self.timeout_s)


@dataclass(frozen=True)
class _Plan:
    """A fault, the file that it changes, and the targets of pytest."""

    fault: Fault
    file: Path
    targets: str

    @classmethod
    def of(cls, root: Path, fault: Fault) -> _Plan | Result:
        file, count = find_text(root, fault)
        targets = find_targets(root, fault)
        if file is None:
            return Result("does not apply", by=f"the text occurs {count} times")
        if targets is None:
            return Result("does not apply", by=f"{fault.tests} does not exist")
        return cls(fault, file, targets)


class _Fork:
    """A test run in its own process."""

    def __init__(self, folder: Path, targets: str, plan: _Plan | None, timeout_s: float) -> None:
        self.targets = targets
        self.plan = plan
        self._folder = folder
        self._exit_code: int | None = None
        self._started = time.monotonic()
        self._deadline = self._started + timeout_s
        (folder / "tmp").mkdir()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _run_pytest(folder, targets.split())
        self._lives = True

    def ended(self) -> bool:
        """Return True if the test run has ended or exceeded its time limit."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._lives, self._exit_code = False, os.waitstatus_to_exitcode(status)
        return not self._lives or time.monotonic() > self._deadline

    def finish(self) -> TestRun:
        """End the test run if it still runs, and remove its folder and its processes."""
        seconds = round(time.monotonic() - self._started, 1)
        if self._lives:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        end_processes(self._folder, self._pid)
        output = self._folder / "output.txt"
        text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
        shutil.rmtree(self._folder, ignore_errors=True)
        return TestRun(self._exit_code, seconds, text)


def _run_pytest(folder: Path, targets: Sequence[str]) -> NoReturn:
    """Run pytest in the copy as `python -m pytest` does, then end this forked process."""
    exit_code = 3
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        tree = str(folder / "tree")
        os.chdir(tree)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Use the package of the copy, not the installed one.
        sys.path[0] = tree
        os.environ.update({"PYTHONPATH": tree, "TMPDIR": f"{folder}/tmp", MARKER: str(folder)})
        tempfile.tempdir = None
        # The options of the tree's own config are skipped: they may start more processes.
        options = ["-q", "-x", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-o", "addopts="]
        sys.argv = ["pytest", *options, *targets]
        runpy.run_module("pytest", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else 3
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
        os._exit(exit_code)


def judge(run: TestRun, unfaulted: TestRun, *, timeout_s: float) -> Result:
    """Return the verdict on a fault from the test runs with and without it."""
    if run.exit_code is None:
        hung = unfaulted.seconds <= timeout_s / 4
        verdict, reason = "hung" if hung else "timed out", "the time limit"
    else:
        verdict = {0: "missed", 1: "caught"}.get(run.exit_code, "broken")
        reason = "" if verdict == "missed" else run.first_failure
    if verdict == "broken":
        reason = f"exit code {run.exit_code}: {reason}"
    return Result(verdict, run.seconds, unfaulted.seconds, reason)


def find_text(root: Path, fault: Fault) -> tuple[Path | None, int]:
    """
    Find the file to change.

    Returns:
        its path below ``root``, or None; and the number of occurrences of the text. The file that
        the fault names comes first. If it lacks the text, one occurrence in all other files counts.
    """
    count = _count(root / fault.file, fault.old)
    if count:
        return (Path(fault.file) if count == 1 else None), count
    found = {file: _count(root / file, fault.old) for file in package_files(root)}
    found = {file: number for file, number in found.items() if number}
    total = sum(found.values())
    return (next(iter(found)) if total == 1 else None), total


def package_files(root: Path) -> list[Path]:
    """Return the Python files below ``root`` that faults may change."""
    package = (file.relative_to(root) for file in (root / "focal_plugin").rglob("*.py"))
    return [Path("train_net.py"), Path("focal_plugin_doctor.py"), *sorted(package)]


def _count(file: Path, text: str) -> int:
    return file.read_text(encoding="utf-8").count(text) if file.is_file() else 0


def find_targets(root: Path, fault: Fault) -> str | None:
    """Return existing targets of the fault; a missing file becomes its folder, but never tests/."""
    found = []
    for target in fault.tests.split():
        path = Path(target)
        if not (root / path).exists():
            path = path.parent
        if not (root / path).exists() or len(path.parts) < 2:
            return None
        found.append(path.as_posix())
    return " ".join(dict.fromkeys(found))


def copy_tree(root: Path, to: Path) -> None:
    """Copy the built extension, and all files and links that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
    files = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
    files += [file.relative_to(root) for file in (root / "focal_plugin").rglob("_C*.so")]
    for file in dict.fromkeys(files):
        if (root / file).is_file() or (root / file).is_symlink():  # the configs are a link
            (to / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, to / file, follow_symlinks=False)


def end_processes(folder: Path, session: int) -> None:
    """End leftover processes of a test run, found by session or by marker (Linux)."""
    marker = f"{MARKER}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
            # A forked process shows the initial environment of its parent, without the marker.
            variables = (process / "environ").read_bytes().split(b"\0")
            if int(fields[3]) == session or marker in variables:
                os.kill(int(process.name), signal.SIGKILL)


def import_slow_modules() -> None:
    """Import slow modules for all test runs, except those that tests configure before importing."""
    os.environ["OMP_NUM_THREADS"] = "1"  # also prevents threads in this process, which is forked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in SLOW_MODULES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def compare_catches(before: dict[str, str], after: dict[str, str]) -> tuple[list[str], list[str]]:
    """
    Compare two measurements, each with the verdict of every fault.

    Returns:
        the lost catches, including faults that were not measured again, and the gained catches.
    """
    caught = [{name for name, verdict in x.items() if verdict in CAUGHT} for x in (before, after)]
    lost = [name for name in before if name in caught[0] - caught[1]]
    gained = [name for name in after if name in caught[1] - caught[0]]
    return lost, gained


def print_comparison(first: Mapping[str, Result], second: Mapping[str, Result]) -> int:
    """Print lost and gained catches, and return the exit code."""
    before, after = ({name: x.verdict for name, x in of.items()} for of in (first, second))
    lost, gained = compare_catches(before, after)
    for name in lost:
        print(f"lost    {name}: {before[name]} before, {after.get(name, 'not measured')} now")
    for name in gained:
        print(f"gained  {name}: {before.get(name, 'not measured')} before, {after[name]} now")
    kept = sum(verdict in CAUGHT for verdict in before.values()) - len(lost)
    print(f"{kept} catches kept, {len(lost)} lost, {len(gained)} gained")
    return 1 if lost else 0


def list_faults(faults: Sequence[Fault]) -> None:
    """Print each fault: its file, its tests, and its change as a diff."""
    for fault in faults:
        print(f"{fault.name}\n  {fault.file}, seen by {fault.tests}")
        for sign, text in (("-", fault.old), ("+", fault.new)):
            print("\n".join(f"  {sign} {line.strip()}" for line in text.splitlines()))


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="tools/plant_faults.py",
        description=f"{__doc__}\nIt measures what the tests detect, whatever their names.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="print the faults and their tests")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="plant only these faults")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="test runs at a time (default: 1)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=900.0,
        metavar="S",
        help="time limit of a test run in seconds (default: 900)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the results to FILE; with --only, its other results are kept",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("BEFORE.json", "AFTER.json"),
        help="print the catches lost or gained between two results, and plant nothing",
    )
    return parser


def choose(names: Sequence[str] | None) -> list[Fault]:
    """
    Return the faults with these names; without names, all faults.

    Raises:
        ValueError: a name is unknown.
    """
    unknown = sorted(set(names or ()) - {fault.name for fault in FAULTS})
    if unknown:
        raise ValueError(f"no fault is named {', '.join(unknown)}; --list prints all names")
    return [fault for fault in FAULTS if names is None or fault.name in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = argument_parser()
    args = parser.parse_args(argv)
    if args.compare:
        before, after = map(read_results, args.compare)
        return print_comparison(before, after)
    try:
        faults = choose(args.only)
    except ValueError as error:
        parser.error(str(error))
    if args.jobs < 1 or args.timeout <= 0:
        parser.error("--jobs and --timeout must be above 0")
    if args.list:
        list_faults(faults)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return plant_all(faults, jobs=args.jobs, timeout_s=args.timeout, json_file=args.json)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def plant_all(
    faults: Sequence[Fault], *, jobs: int, timeout_s: float, json_file: Path | None
) -> int:
    """Plant the faults, print each verdict, write the results, and return the exit code."""
    results: dict[str, Result] = {}
    kept: dict[str, Result] = {}
    if len(faults) < len(FAULTS) and json_file is not None and json_file.exists():
        kept = read_results(json_file)
    started = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="plant_faults_"))
    planter = Planter(ROOT, scratch, timeout_s=timeout_s)
    try:
        import_slow_modules()
        for fault, result in planter.examine(faults, jobs):
            results[fault.name] = result
            count = f"{len(results):>{len(str(len(faults)))}}/{len(faults)}"
            print(f"{count}  {result.verdict:<14}  {result.seconds:5.0f} s  {fault.name}")
            if result.verdict not in CAUGHT and result.by:
                print(f"        {result.by}")
            sys.stdout.flush()
            if json_file is not None:
                write_results(json_file, {**kept, **results})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    counts = Counter(result.verdict for result in results.values())
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())
    print(f"{len(results)} faults: {said}; {(time.monotonic() - started) / 60:.0f} minutes")
    return 0 if all(result.verdict in CAUGHT for result in results.values()) else 1


def write_results(file: Path, results: Mapping[str, Result]) -> None:
    """Write the results of all existing faults in their order, and create the folder."""
    ordered = {x.name: asdict(results[x.name]) for x in FAULTS if x.name in results}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"faults": ordered}, indent=2) + "\n", encoding="utf-8")


def read_results(file: Path) -> dict[str, Result]:
    """Read the results in a file that ``--json`` wrote."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return {name: Result(**result) for name, result in content["faults"].items()}


if __name__ == "__main__":
    sys.exit(main())
