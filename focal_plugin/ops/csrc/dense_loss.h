// Inputs of the loss of a tensor of logits, and its implementations.
//
// Shape shorthand: G groups of K planes of T anchors, see `focal_plugin/ops/dense_loss.py`.

#pragma once

enum class Kind {
  cross_entropy,
  focal,
  focal_star,
  poly_focal,
  hinge,
  detached_focal,
  gumbel,
  gumbel_complement,
  quality_focal,
  varifocal,
  soft_target,
};

// Number of anchors in a unit of work: a constant, so that sums do not depend on the threads.
constexpr long ANCHORS_PER_UNIT = 1024;

struct DenseLoss {
  long num_groups;   // G
  int num_classes;   // K
  long num_anchors;  // T
  bool is_bfloat16;  // the logits and their gradient; else float
  const void* logits;    // (G, K, T)
  const int* labels;     // (G, T), in {-1 (ignored), 0..K-1, K (background)}
  const float* quality;  // (G, T), or null
  const float* weights;  // (2, K), of the positives and of the negatives
  Kind positive, negative;
  float positive_parameters[4], negative_parameters[4];
  float factor;          // factor of the gradient
  const float* factors;  // (G, T), replaces `factor`, or null
  float* per_anchor;     // (G, T), out
  void* gradient;        // (G, K, T), out, or null if no gradient is requested

  // T = 1: the logits of an anchor are adjacent, and units consist of groups, not of planes.
  bool rows() const { return num_anchors == 1; }

  // None if there are no anchors: T = 0 of the one group of K = 1, as well as G = 0.
  long units() const {
    return rows() ? units_of(num_groups) : num_groups * units_of(num_anchors);
  }

  static long units_of(long anchors) {
    return (anchors + ANCHORS_PER_UNIT - 1) / ANCHORS_PER_UNIT;
  }
};

// Compute one of `units()`. All implementations do the same, with vectors of different width.
void run_dense_loss_baseline(const DenseLoss& job, long unit);
void run_dense_loss_avx2(const DenseLoss& job, long unit);
void run_dense_loss_avx512(const DenseLoss& job, long unit);
