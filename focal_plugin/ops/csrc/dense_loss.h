// Inputs of the loss of a tensor of logits, and its implementations.
//
// Shape shorthand: G groups of K planes of T anchors, see `focal_plugin/ops/dense_loss.py`.

#pragma once

enum class Kind {
  cross_entropy,
  binned_cross_entropy,
  focal,
  asymmetric_negative,
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

// Least argument of an exponential. The compiler does not see its value: it would compute all that
// follows from it, and select that instead of the argument.
extern const float LEAST_EXPONENT;

// Number of anchors in a unit of work: a constant, so that sums do not depend on the threads.
constexpr long ANCHORS_PER_UNIT = 1024;

constexpr long ARRAYS_OF_SCRATCH = 4;

// The loss of the positives, or of the negatives.
struct Side {
  Kind kind;
  const float* weights;     // (K,)
  const float* parameters;  // (4, K) if `per_class`, else (4, 1)
  bool per_class;           // each class has its own parameters
  const float* table;       // (entries,), of formulas that look up a table; else null
  int entries;
};

// Logits in memory, and the labels of their anchors.
struct Logits {
  long num_groups;     // G
  int num_classes;     // K
  long num_anchors;    // T
  bool is_bfloat16;    // else float
  const void* logits;  // (G, K, T)
  const int* labels;   // (G, T), in {-1 (ignored), 0..K-1, K (background)}

  bool is_class(int label) const { return label >= 0 && label < num_classes; }

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

// Logits, and the loss and the gradient to compute.
struct LossOfLogits : Logits {
  float factor;          // factor of the gradient
  const float* factors;  // (G, T), replaces `factor`, or null
  float* per_anchor;     // (G, T), out
  void* gradient;        // (G, K, T), out, or null if no gradient is requested
};

struct DenseLoss : LossOfLogits {
  const float* quality;  // (G, T), or null
  Side positive, negative;
  // (K,), weights of the negatives of an anchor with a class: 0 for a spared class, else the same
  const float* beside_object;
  const float* anchor_weights;  // (K+1,), of all logits of an anchor, by its label; or null
  double* slopes;  // (units, 2, K), zeros, out: sums of |weighted slope| of each class; or null

  long scratch_size() const { return ARRAYS_OF_SCRATCH * (num_classes + ANCHORS_PER_UNIT); }
};

// Count of the logits by the gradient norm |p - y|, in equal bins of [0, 1].
struct NormCounts : Logits {
  int bins;
};

constexpr int HISTOGRAMS = 4;  // interleaved, so that equal bins do not wait for each other

// Compute one of `units()`. All implementations do the same, with vectors of different width.
// There are `scratch_size()` floats of scratch.
void run_dense_loss_baseline(const DenseLoss& job, long unit, float* scratch);
void run_dense_loss_avx2(const DenseLoss& job, long unit, float* scratch);
void run_dense_loss_avx512(const DenseLoss& job, long unit, float* scratch);

// Add the counts of one of `units()` to (bins, HISTOGRAMS) numbers.
void count_norms_baseline(const NormCounts& job, long unit, long* counts);
void count_norms_avx2(const NormCounts& job, long unit, long* counts);
void count_norms_avx512(const NormCounts& job, long unit, long* counts);
