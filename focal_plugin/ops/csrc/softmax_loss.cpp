// `torch.ops.focal_plugin.softmax_loss`: see `focal_plugin/ops/softmax_loss_cpp.py`.

#include "softmax_loss.h"

#include "operator.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for has a single thread without -fopenmp"
#endif

namespace {

Kind kind_of(const std::string& formula) {
  if (formula == "cross_entropy") return Kind::cross_entropy;
  if (formula == "focal") return Kind::focal;
  TORCH_CHECK(false, "there is no formula ", formula, " of softmax logits");
}

void softmax_loss(const at::Tensor& logits, const at::Tensor& labels,
                  const std::optional<at::Tensor>& weights, const std::string& formula,
                  const at::Tensor& parameters, const std::optional<at::Tensor>& factor,
                  const at::Tensor& per_anchor, const std::optional<at::Tensor>& gradient) {
  SoftmaxLoss job{loss_of(logits, labels, factor, per_anchor, gradient)};
  check("weights", weights, {job.num_classes}, at::kFloat);
  check("parameters", parameters, {4}, at::kFloat);

  job.kind = kind_of(formula);
  std::copy_n(parameters.data_ptr<float>(), 4, job.parameters);
  job.weights = data<float>(weights);

  const auto run =
      kernel(run_softmax_loss_baseline, run_softmax_loss_avx2, run_softmax_loss_avx512);
  at::parallel_for(0, job.units(), 1, [&](int64_t begin, int64_t end) {
    const auto scratch = at::empty({job.scratch_size()}, at::kFloat);  // aligned to vectors
    for (int64_t unit = begin; unit < end; ++unit) run(job, unit, scratch.data_ptr<float>());
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def(
      "softmax_loss(Tensor logits, Tensor labels, Tensor? weights, str formula, Tensor parameters, "
      "Tensor? factor, Tensor(a!) per_anchor, Tensor(b!)? gradient) -> ()");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) { m.impl("softmax_loss", softmax_loss); }
