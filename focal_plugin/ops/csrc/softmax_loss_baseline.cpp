// Softmax loss for any processor, with the vectors of the baseline instruction set.

#include "softmax_loss.h"

namespace {
#include "formulas.h"
#include "scalars.h"

#include "softmax_loss_kernel.h"
}  // namespace

void run_softmax_loss_baseline(const SoftmaxLoss& job, long unit, float* scratch) {
  run_softmax(job, unit, scratch);
}
