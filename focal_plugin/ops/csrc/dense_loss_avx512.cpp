// Loss for processors with AVX512.

#include "dense_loss.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512")
#define HAS_FMA  // g++ does not define __FMA__ for a pragma

namespace {
#include "formulas.h"
#include "scalars.h"

#include "dense_loss_kernel.h"
#include "norm_counts_kernel.h"
}  // namespace

void run_dense_loss_avx512(const DenseLoss& job, long unit, float* scratch) {
  run(job, unit, scratch);
}

void count_norms_avx512(const NormCounts& job, long unit, long* counts) {
  count_unit(job, unit, counts);
}
#else
void run_dense_loss_avx512(const DenseLoss& job, long unit, float* scratch) {
  run_dense_loss_baseline(job, unit, scratch);
}

void count_norms_avx512(const NormCounts& job, long unit, long* counts) {
  count_norms_baseline(job, unit, counts);
}
#endif
