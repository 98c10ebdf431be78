// `torch.ops.focal_plugin.dense_loss` and `count_norms`: see `focal_plugin/ops/dense_loss_cpp.py` and
// `norm_counts_cpp.py`.

#include "operator.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for has a single thread without -fopenmp"
#endif

const float LEAST_EXPONENT = -87.0f;

namespace {

Kind kind_of(const std::string& name) {
  static const std::unordered_map<std::string, Kind> kinds{
      {"cross_entropy", Kind::cross_entropy},
      {"binned_cross_entropy", Kind::binned_cross_entropy},
      {"focal", Kind::focal},
      {"asymmetric_negative", Kind::asymmetric_negative},
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

Side side_of(const char* name, int64_t num_classes, const std::string& kind,
             const at::Tensor& weights, const at::Tensor& parameters,
             const std::optional<at::Tensor>& table) {
  const bool per_class = parameters.dim() == 2 && parameters.size(1) != 1;
  check(name, parameters, {4, per_class ? num_classes : 1}, at::kFloat);
  const int64_t entries = table.has_value() ? table->numel() : 0;
  check("table", table, {entries}, at::kFloat);
  TORCH_CHECK(entries <= std::numeric_limits<int>::max(), "too many entries of a table");
  Side side{};
  side.kind = kind_of(kind);
  TORCH_CHECK((side.kind == Kind::binned_cross_entropy) == (entries > 0), kind,
              " requires a table, or has none");
  side.weights = weights.data_ptr<float>();
  side.parameters = parameters.data_ptr<float>();
  side.per_class = per_class;
  side.table = data<float>(table);
  side.entries = static_cast<int>(entries);
  return side;
}

void dense_loss(const at::Tensor& logits, const at::Tensor& labels,
                const std::optional<at::Tensor>& quality, const at::Tensor& weights,
                const std::optional<at::Tensor>& anchor_weights, const std::string& positive,
                const at::Tensor& positive_parameters,
                const std::optional<at::Tensor>& positive_table, const std::string& negative,
                const at::Tensor& negative_parameters,
                const std::optional<at::Tensor>& negative_table,
                const std::optional<at::Tensor>& factor, const at::Tensor& per_anchor,
                const std::optional<at::Tensor>& gradient,
                const std::optional<at::Tensor>& slopes) {
  DenseLoss job{loss_of(logits, labels, factor, per_anchor, gradient)};
  const int64_t num_classes = job.num_classes;
  check("quality", quality, {logits.size(0), logits.size(2)}, at::kFloat);
  check("weights", weights, {3, num_classes}, at::kFloat);
  check("anchor_weights", anchor_weights, {num_classes + 1}, at::kFloat);
  check("slopes", slopes, {2, num_classes}, at::kDouble);

  job.positive = side_of("positive_parameters", num_classes, positive, weights,
                         positive_parameters, positive_table);
  job.negative = side_of("negative_parameters", num_classes, negative, weights,
                         negative_parameters, negative_table);
  TORCH_CHECK(!for_positives_only(job.negative.kind), negative, " is a formula for positives");
  job.negative.weights += num_classes;
  job.beside_object = job.negative.weights + num_classes;
  job.quality = data<float>(quality);
  job.anchor_weights = data<float>(anchor_weights);
  std::vector<double> of_units;
  if (slopes.has_value()) of_units.resize(job.units() * 2 * num_classes);
  if (!of_units.empty()) job.slopes = of_units.data();

  const auto run =
      kernel(run_dense_loss_baseline, run_dense_loss_avx2, run_dense_loss_avx512);
  at::parallel_for(0, job.units(), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(job.scratch_size());
    for (int64_t unit = begin; unit < end; ++unit) run(job, unit, scratch.data());
  });
  // In the order of the units, whatever the threads
  for (size_t i = 0; i < of_units.size(); ++i) {
    slopes->data_ptr<double>()[i % (2 * num_classes)] += of_units[i];
  }
}

at::Tensor count_norms(const at::Tensor& logits, const at::Tensor& labels, int64_t bins) {
  TORCH_CHECK(bins >= 1 && bins < std::numeric_limits<int>::max(), "bins must be >= 1, got ", bins);
  const NormCounts job{logits_of(logits, labels), static_cast<int>(bins)};
  const auto total = at::zeros({bins}, at::kLong);
  int64_t* of_bins = total.data_ptr<int64_t>();
  std::mutex mutex;
  const auto run = kernel(count_norms_baseline, count_norms_avx2, count_norms_avx512);
  at::parallel_for(0, job.units(), 1, [&](int64_t begin, int64_t end) {
    std::vector<long> counts((bins + 1) * HISTOGRAMS);  // the last bin has the ignored anchors
    for (int64_t unit = begin; unit < end; ++unit) run(job, unit, counts.data());
    const std::lock_guard<std::mutex> lock(mutex);
    for (int64_t i = 0; i < bins * HISTOGRAMS; ++i) of_bins[i / HISTOGRAMS] += counts[i];
  });
  return total;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def(
      "dense_loss(Tensor logits, Tensor labels, Tensor? quality, Tensor weights, "
      "Tensor? anchor_weights, str positive, Tensor positive_parameters, Tensor? positive_table, "
      "str negative, Tensor negative_parameters, Tensor? negative_table, Tensor? factor, "
      "Tensor(a!) per_anchor, Tensor(b!)? gradient, Tensor(c!)? slopes) -> ()");
  m.def("count_norms(Tensor logits, Tensor labels, int bins) -> Tensor");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) {
  m.impl("dense_loss", dense_loss);
  m.impl("count_norms", count_norms);
}
