// Check of a tensor that an operator reads as raw memory.

#pragma once

#include <ATen/ATen.h>

#include <optional>

// The kernels read raw memory by these shapes, so no other tensor may reach them.
inline void check(const char* name, const std::optional<at::Tensor>& tensor, at::IntArrayRef shape,
                  at::ScalarType dtype) {
  if (!tensor.has_value()) return;
  TORCH_CHECK(tensor->is_cpu() && tensor->is_contiguous() && tensor->scalar_type() == dtype &&
                  tensor->sizes() == shape,
              name, " must be contiguous ", dtype, " ", shape, " on the CPU, got ",
              tensor->scalar_type(), " ", tensor->sizes(), " on ", tensor->device());
}
