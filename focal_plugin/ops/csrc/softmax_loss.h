// Inputs of the loss of softmax logits, and its implementations.
//
// Shape shorthand: G groups of C planes of T anchors; plane C-1 is the background.

#pragma once

#include "dense_loss.h"

// `num_classes` of the base is C.
struct SoftmaxLoss : LossOfLogits {
  Kind kind;
  float parameters[4];   // of the formula
  const float* weights;  // (C,), of an anchor, by its label; or null

  // The anchors that are computed together, whole vectors: few, so that their exponentials fit the
  // cache, but not so few that each plane contributes only a line of memory.
  long anchors_per_block() const {
    const long fitting = FLOATS_PER_BLOCK / padded(num_classes) / VECTOR * VECTOR;
    return fitting < LEAST ? LEAST : fitting > ANCHORS_PER_UNIT ? ANCHORS_PER_UNIT : fitting;
  }

  long scratch_size() const { return padded(num_classes) * anchors_per_block(); }

  static long padded(long length) { return (length + VECTOR - 1) / VECTOR * VECTOR; }

  static constexpr long VECTOR = 16;  // floats of the widest vector
  static constexpr long LEAST = 4 * VECTOR;
  static constexpr long FLOATS_PER_BLOCK = 1 << 15;
};

// Compute one of `units()`. All implementations do the same, with vectors of different width.
// There are `scratch_size()` floats of scratch.
void run_softmax_loss_baseline(const SoftmaxLoss& job, long unit, float* scratch);
void run_softmax_loss_avx2(const SoftmaxLoss& job, long unit, float* scratch);
void run_softmax_loss_avx512(const SoftmaxLoss& job, long unit, float* scratch);
