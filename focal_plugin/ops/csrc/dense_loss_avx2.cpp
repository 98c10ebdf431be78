// Loss for processors with AVX2.

#include "dense_loss.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")

namespace {
#include "formulas.h"

#include "dense_loss_kernel.h"
}  // namespace

void run_dense_loss_avx2(const DenseLoss& job, long unit) { run(job, unit); }
#else
void run_dense_loss_avx2(const DenseLoss& job, long unit) { run_dense_loss_baseline(job, unit); }
#endif
