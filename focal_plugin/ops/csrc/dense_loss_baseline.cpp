// Loss for any processor, with the vectors of the baseline instruction set.

#include "dense_loss.h"

namespace {
#include "formulas.h"
#include "scalars.h"

#include "dense_loss_kernel.h"
#include "norm_counts_kernel.h"
}  // namespace

void run_dense_loss_baseline(const DenseLoss& job, long unit, float* scratch) {
  run(job, unit, scratch);
}

void count_norms_baseline(const NormCounts& job, long unit, long* counts) {
  count_unit(job, unit, counts);
}
