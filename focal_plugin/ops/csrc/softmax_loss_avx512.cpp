// Softmax loss for processors with AVX512.

#include "softmax_loss.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512")
#define HAS_FMA  // g++ does not define __FMA__ for a pragma

namespace {
#include "formulas.h"
#include "scalars.h"

#include "softmax_loss_kernel.h"
}  // namespace

void run_softmax_loss_avx512(const SoftmaxLoss& job, long unit, float* scratch) {
  run_softmax(job, unit, scratch);
}
#else
void run_softmax_loss_avx512(const SoftmaxLoss& job, long unit, float* scratch) {
  run_softmax_loss_baseline(job, unit, scratch);
}
#endif
