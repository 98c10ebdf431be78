// What the operators on logits share: the choice of an instruction set, and checks of tensors.

#pragma once

#include "check.h"
#include "dense_loss.h"

#include <ATen/ATen.h>
#include <ATen/Version.h>

#include <array>
#include <limits>
#include <optional>
#include <string>

namespace {

// The function for the instruction set that PyTorch uses, which `ATEN_CPU_CAPABILITY` limits.
template <class Function>
Function* kernel(Function* baseline, Function* avx2, Function* avx512) {
  const std::string capability = at::get_cpu_capability();
  return capability == "AVX512" ? avx512 : capability == "AVX2" ? avx2 : baseline;
}

template <class T>
T* data(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() ? tensor->data_ptr<T>() : nullptr;
}

Logits logits_of(const at::Tensor& logits, const at::Tensor& labels) {
  TORCH_CHECK(logits.dim() == 3, "logits must be (G, K, T), got ", logits.sizes());
  const auto dtype = logits.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  check("logits", logits, logits.sizes(), dtype);
  check("labels", labels, {logits.size(0), logits.size(2)}, at::kInt);
  TORCH_CHECK(logits.size(1) <= std::numeric_limits<int>::max(), "too many classes");
  return {logits.size(0),          static_cast<int>(logits.size(1)), logits.size(2),
          dtype == at::kBFloat16, logits.data_ptr(),                labels.data_ptr<int>()};
}

// The loss and the gradient are written to the tensors. A factor is a number, or one per anchor.
LossOfLogits loss_of(const at::Tensor& logits, const at::Tensor& labels,
                     const std::optional<at::Tensor>& factor, const at::Tensor& per_anchor,
                     const std::optional<at::Tensor>& gradient) {
  LossOfLogits job{logits_of(logits, labels)};
  const std::array<int64_t, 2> anchors{logits.size(0), logits.size(2)};
  const bool is_number = factor.has_value() && factor->dim() == 0;
  check("factor", factor, is_number ? at::IntArrayRef{} : at::IntArrayRef{anchors}, at::kFloat);
  check("per_anchor", per_anchor, anchors, at::kFloat);
  check("gradient", gradient, logits.sizes(), logits.scalar_type());
  TORCH_CHECK(factor.has_value() == gradient.has_value(), "a gradient requires a factor");
  if (gradient.has_value()) job.gradient = gradient->data_ptr();
  if (is_number) {
    job.factor = factor->item<float>();
  } else {
    job.factors = data<float>(factor);
  }
  job.per_anchor = per_anchor.data_ptr<float>();
  return job;
}

}  // namespace
