// Loss for processors with AVX2.

#include "dense_loss.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#define HAS_FMA  // g++ does not define __FMA__ for a pragma

namespace {
#include "formulas.h"
#include "scalars.h"

#include "dense_loss_kernel.h"
#include "norm_counts_kernel.h"
}  // namespace

void run_dense_loss_avx2(const DenseLoss& job, long unit, float* scratch) {
  run(job, unit, scratch);
}

void count_norms_avx2(const NormCounts& job, long unit, long* counts) {
  count_unit(job, unit, counts);
}
#else
void run_dense_loss_avx2(const DenseLoss& job, long unit, float* scratch) {
  run_dense_loss_baseline(job, unit, scratch);
}

void count_norms_avx2(const NormCounts& job, long unit, long* counts) {
  count_norms_baseline(job, unit, counts);
}
#endif
