// Loss for any processor, with the vectors of the baseline instruction set.

#include "dense_loss.h"

namespace {
#include "formulas.h"

#include "dense_loss_kernel.h"
}  // namespace

void run_dense_loss_baseline(const DenseLoss& job, long unit) { run(job, unit); }
