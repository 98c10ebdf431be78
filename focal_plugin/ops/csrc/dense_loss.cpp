// `torch.ops.focal_plugin.dense_loss`: see `focal_plugin/ops/dense_loss_cpp.py`.

#include "dense_loss.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <unordered_map>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for has a single thread without -fopenmp"
#endif

namespace {

Kind kind_of(const std::string& name) {
  static const std::unordered_map<std::string, Kind> kinds{
      {"cross_entropy", Kind::cross_entropy},
      {"focal", Kind::focal},
      {"focal_star", Kind::focal_star},
      {"poly_focal", Kind::poly_focal},
      {"hinge", Kind::hinge},
      {"detached_focal", Kind::detached_focal},
      {"gumbel", Kind::gumbel},
      {"gumbel_complement", Kind::gumbel_complement},
      {"quality_focal", Kind::quality_focal},
      {"varifocal", Kind::varifocal},
      {"soft_target", Kind::soft_target},
  };
  const auto found = kinds.find(name);
  TORCH_CHECK(found != kinds.end(), "there is no formula ", name);
  return found->second;
}

bool for_positives_only(Kind kind) {
  return kind == Kind::quality_focal || kind == Kind::varifocal || kind == Kind::soft_target;
}

// The instruction set that PyTorch uses, which `ATEN_CPU_CAPABILITY` limits.
auto kernel() {
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return run_dense_loss_avx512;
  if (capability == "AVX2") return run_dense_loss_avx2;
  return run_dense_loss_baseline;
}

template <class T>
T* data(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() ? tensor->data_ptr<T>() : nullptr;
}

// The kernel reads raw memory by these shapes, so no other tensor may reach it.
void check(const char* name, const std::optional<at::Tensor>& tensor, at::IntArrayRef shape,
           at::ScalarType dtype) {
  if (!tensor.has_value()) return;
  TORCH_CHECK(tensor->is_cpu() && tensor->is_contiguous() && tensor->scalar_type() == dtype &&
                  tensor->sizes() == shape,
              name, " must be contiguous ", dtype, " ", shape, " on the CPU, got ",
              tensor->scalar_type(), " ", tensor->sizes(), " on ", tensor->device());
}

void dense_loss(const at::Tensor& logits, const at::Tensor& labels,
                const std::optional<at::Tensor>& quality, const at::Tensor& weights,
                const std::string& positive, at::ArrayRef<double> positive_parameters,
                const std::string& negative, at::ArrayRef<double> negative_parameters,
                const std::optional<at::Tensor>& factor, const at::Tensor& per_anchor,
                const std::optional<at::Tensor>& gradient) {
  TORCH_CHECK(logits.dim() == 3, "logits must be (G, K, T), got ", logits.sizes());
  const auto dtype = logits.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const int64_t num_classes = logits.size(1);
  const std::array<int64_t, 2> anchors{logits.size(0), logits.size(2)};
  const bool is_number = factor.has_value() && factor->dim() == 0;
  check("logits", logits, logits.sizes(), dtype);
  check("labels", labels, anchors, at::kInt);
  check("quality", quality, anchors, at::kFloat);
  check("weights", weights, {2, num_classes}, at::kFloat);
  check("factor", factor, is_number ? at::IntArrayRef{} : at::IntArrayRef{anchors}, at::kFloat);
  check("per_anchor", per_anchor, anchors, at::kFloat);
  check("gradient", gradient, logits.sizes(), dtype);
  TORCH_CHECK(factor.has_value() == gradient.has_value(), "a gradient requires a factor");
  TORCH_CHECK(num_classes <= std::numeric_limits<int>::max(), "too many classes");
  TORCH_CHECK(positive_parameters.size() <= 4 && negative_parameters.size() <= 4);

  DenseLoss job{};
  job.num_groups = logits.size(0);
  job.num_classes = static_cast<int>(num_classes);
  job.num_anchors = logits.size(2);
  job.is_bfloat16 = dtype == at::kBFloat16;
  job.logits = logits.data_ptr();
  job.labels = labels.data_ptr<int>();
  job.quality = data<float>(quality);
  job.weights = weights.data_ptr<float>();
  job.positive = kind_of(positive);
  job.negative = kind_of(negative);
  TORCH_CHECK(!for_positives_only(job.negative), negative, " is a formula for positives");
  std::copy(positive_parameters.begin(), positive_parameters.end(), job.positive_parameters);
  std::copy(negative_parameters.begin(), negative_parameters.end(), job.negative_parameters);
  if (gradient.has_value()) job.gradient = gradient->data_ptr();
  if (is_number) {
    job.factor = factor->item<float>();
  } else {
    job.factors = data<float>(factor);
  }
  job.per_anchor = per_anchor.data_ptr<float>();

  const auto run = kernel();
  at::parallel_for(0, job.units(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) run(job, unit);
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def(
      "dense_loss(Tensor logits, Tensor labels, Tensor? quality, Tensor weights, str positive, "
      "float[] positive_parameters, str negative, float[] negative_parameters, Tensor? factor, "
      "Tensor(a!) per_anchor, Tensor(b!)? gradient) -> ()");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) { m.impl("dense_loss", dense_loss); }
