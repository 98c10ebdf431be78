// `torch.ops.focal_plugin.ranking_tally` and `ranking_write`: see `focal_plugin/ops/ranking_cpp.py`.
//
// Both stream the negatives of (G, K, T) logits once, and find the bucket of each one. A table of
// equal cells gives the few edges that the bucket depends on, and a binary search decides among
// them. So the buckets are those of `torch.bucketize`, and most are found without a search.

#include "check.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for has a single thread without -fopenmp"
#endif

namespace {

// Number of parts that are tallied apart, a function of the shape only. So the sums do not depend on
// the number of threads.
constexpr int64_t kMostParts = 64;
constexpr int64_t kLogitsPerPart = 1 << 16;

class Buckets {
 public:
  explicit Buckets(const at::Tensor& edges)
      : edges_(edges.data_ptr<double>()), count_(edges.numel()) {
    int64_t cells = 256;
    while (cells < 8 * count_ && cells < (1 << 16)) cells *= 2;
    last_ = static_cast<double>(cells - 1);
    const double width = edges_[count_ - 1] - edges_[0];
    scale_ = width > 0 ? cells / width : 0;
    first_.assign(cells + 1, 0);
    for (int64_t i = 0; i < count_; ++i) ++first_[cell_of(edges_[i]) + 1];
    for (int64_t cell = 0; cell < cells; ++cell) first_[cell + 1] += first_[cell];
  }

  double lowest() const { return edges_[0]; }

  // The number of edges <= x. A cell never decreases with x, so only the edges in the cell of x
  // can be on either side of it.
  int64_t of(double x) const {
    const int64_t cell = cell_of(x);
    const int32_t begin = first_[cell], end = first_[cell + 1];
    if (begin == end) return begin;
    return std::upper_bound(edges_ + begin, edges_ + end, x) - edges_;
  }

 private:
  int64_t cell_of(double x) const {
    const double at = (x - edges_[0]) * scale_;
    return at > 0 ? static_cast<int64_t>(std::min(at, last_)) : 0;  // 0 for NaN
  }

  const double* edges_;
  int64_t count_;
  double scale_, last_;
  std::vector<int32_t> first_;  // edges in the cells before each cell
};

// Call `visit(i, is_negative)` for each of the logits begin..end-1 in memory.
template <class Visit>
void each_logit(const at::Tensor& logits, const int* labels, int64_t begin, int64_t end,
                const Visit& visit) {
  const int64_t num_classes = logits.size(1), num_anchors = logits.size(2);
  if (num_anchors == 1) {  // the logits of an anchor are adjacent
    for (int64_t i = begin; i < end;) {
      const int64_t anchor = i / num_classes, label = labels[anchor];
      const int64_t row = anchor * num_classes, stop = std::min(end, row + num_classes);
      for (; i < stop; ++i) visit(i, label >= 0 && label != i - row);
    }
    return;
  }
  for (int64_t i = begin; i < end;) {  // those of a class are adjacent
    const int64_t plane = i / num_anchors, first = i % num_anchors;
    const int64_t stop = std::min(end, i + num_anchors - first);
    const int* label = labels + plane / num_classes * num_anchors + first;
    const int of_class = static_cast<int>(plane % num_classes);
    for (; i < stop; ++i, ++label) visit(i, *label >= 0 && *label != of_class);
  }
}

void check_inputs(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& edges,
                  const at::Tensor& left) {
  TORCH_CHECK(logits.dim() == 3, "logits must be (G, K, T), got ", logits.sizes());
  check("logits", logits, logits.sizes(), logits.scalar_type());
  check("labels", labels, {logits.size(0), logits.size(2)}, at::kInt);
  TORCH_CHECK(edges.dim() == 1 && edges.numel() > 0, "edges must be (B,) with B > 0");
  TORCH_CHECK(edges.numel() < (1 << 30), "too many edges");
  check("edges", edges, edges.sizes(), at::kDouble);
  check("left", left, {edges.numel() + 1}, at::kDouble);
}

#define DISPATCH(dtype, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, name, __VA_ARGS__)

std::tuple<at::Tensor, at::Tensor> ranking_tally(const at::Tensor& logits, const at::Tensor& labels,
                                         const at::Tensor& edges, const at::Tensor& left) {
  check_inputs(logits, labels, edges, left);
  const int64_t total = logits.numel(), size = left.numel();
  const int64_t parts = std::clamp<int64_t>(total / std::max(kLogitsPerPart, 8 * size), 1, kMostParts);
  at::Tensor counts = at::zeros({parts, size}, left.options());
  at::Tensor sums = at::zeros({parts, size}, left.options());
  const Buckets buckets(edges);
  const int* label = labels.data_ptr<int>();
  const double* left_edge = left.data_ptr<double>();
  DISPATCH(logits.scalar_type(), "ranking_tally", [&] {
    const auto* x = logits.const_data_ptr<scalar_t>();
    at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        double* count = counts.data_ptr<double>() + part * size;
        double* sum = sums.data_ptr<double>() + part * size;
        each_logit(logits, label, total * part / parts, total * (part + 1) / parts,
                   [&](int64_t i, bool is_negative) {
                     const double value = static_cast<double>(x[i]);
                     if (!is_negative || value < buckets.lowest()) return;
                     const int64_t bucket = buckets.of(value);
                     count[bucket] += 1;
                     sum[bucket] += value - left_edge[bucket];
                   });
      }
    });
  });
  return {counts.sum(0), sums.sum(0)};
}

void ranking_write(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& edges,
           const at::Tensor& left, const at::Tensor& heights, const at::Tensor& slopes,
           const at::Tensor& gradient) {
  check_inputs(logits, labels, edges, left);
  check("heights", heights, left.sizes(), at::kDouble);
  check("slopes", slopes, left.sizes(), at::kDouble);
  check("gradient", gradient, logits.sizes(), logits.scalar_type());
  const Buckets buckets(edges);
  const int* label = labels.data_ptr<int>();
  const double* left_edge = left.data_ptr<double>();
  const double* height = heights.data_ptr<double>();
  const double* slope = slopes.data_ptr<double>();
  DISPATCH(logits.scalar_type(), "ranking_write", [&] {
    const auto* x = logits.const_data_ptr<scalar_t>();
    auto* out = gradient.data_ptr<scalar_t>();
    at::parallel_for(0, logits.numel(), kLogitsPerPart, [&](int64_t begin, int64_t end) {
      each_logit(logits, label, begin, end, [&](int64_t i, bool is_negative) {
        const double value = static_cast<double>(x[i]);
        double result = 0;
        if (is_negative && !(value < buckets.lowest())) {
          const int64_t bucket = buckets.of(value);
          result = height[bucket] + slope[bucket] * (value - left_edge[bucket]);
        }
        out[i] = static_cast<scalar_t>(result);
      });
    });
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def("ranking_tally(Tensor logits, Tensor labels, Tensor edges, Tensor left) -> (Tensor, Tensor)");
  m.def(
      "ranking_write(Tensor logits, Tensor labels, Tensor edges, Tensor left, Tensor heights, "
      "Tensor slopes, Tensor(a!) gradient) -> ()");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) {
  m.impl("ranking_tally", ranking_tally);
  m.impl("ranking_write", ranking_write);
}
