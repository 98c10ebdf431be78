// The loss for any processor; the compiler uses the vectors that all processors of its kind have.

#include "dense_loss.h"

namespace {
#include "formulas.h"

#include "dense_loss_kernel.h"
}  // namespace

void run_dense_loss_baseline(const DenseLoss& job, long unit) { run(job, unit); }
