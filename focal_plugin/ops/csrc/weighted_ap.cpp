// `torch.ops.focal_plugin.weighted_ap`: see `focal_plugin/ops/weighted_ap_cpp.py`.
//
// A block of rows of weights passes through all detections at once, with its sums in the cache. One
// pass sums the detections that count at every threshold. Another one for each threshold adds the
// rest, and makes the curve at the true positives, the only places where it can rise. There is one
// thread, and no function of ATen that may start another: a report works in forks, and OpenMP's
// threads do not survive a fork.

#include "check.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

// Compiled twice. The processor chooses when the library is loaded. Both give the same bits.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_INSTRUCTION_SET __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_INSTRUCTION_SET
#endif
#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

constexpr int kWide = 32;        // rows of weights of a block
constexpr int kRecalls = 101;    // recall 0, .01, ... 1
constexpr double kStep = 0.01;   // between two of them
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kSmallest = std::numeric_limits<double>::epsilon();  // as pycocotools

// Detections by descending score, in the order in which the passes read them.
struct Detections {
  struct Always {
    int32_t image;
    bool counts;  // at every threshold
    bool rises;   // right at some threshold: the curves need the sum up to here
  };
  // At one threshold: a true positive, or a detection that counts at some thresholds only
  struct Event {
    int32_t image, rise;  // row of the sums of `always`; -1 for a false positive
    bool shown;           // not in those sums
  };
  std::vector<Always> always;
  std::vector<std::vector<Event>> events;
  int64_t rises = 0, most_hits = 0;
};

Detections detections_of(const bool* matched, const bool* ignored, const int32_t* image,
                         int64_t thresholds, int64_t size) {
  Detections found;
  found.events.resize(thresholds);
  found.always.reserve(size);
  std::vector<int64_t> hits(thresholds);
  for (int64_t i = 0; i < size; ++i) {
    bool counts = true, rises = false;
    for (int64_t t = 0; t < thresholds; ++t) {
      const bool ignores = ignored[t * size + i];
      counts &= !ignores;
      rises |= matched[t * size + i] && !ignores;
    }
    const auto rise = static_cast<int32_t>(found.rises);
    found.rises += rises;
    if (counts || rises) found.always.push_back({image[i], counts, rises});
    for (int64_t t = 0; t < thresholds; ++t) {
      if (ignored[t * size + i]) continue;
      const bool hit = matched[t * size + i];
      hits[t] += hit;
      if (hit || !counts) found.events[t].push_back({image[i], hit ? rise : -1, !counts});
    }
  }
  for (const int64_t count : hits) found.most_hits = std::max(found.most_hits, count);
  return found;
}

// Memory of a block of rows
struct Memory {
  Memory(const Detections& found, int64_t images, int64_t lanes)
      : weights(images * lanes),
        shown(found.rises * lanes),
        precisions(found.most_hits * lanes),
        reached((1 + found.most_hits) * lanes) {}

  std::vector<double> weights;     // (I, lanes)
  std::vector<double> shown;       // (rises, lanes)
  std::vector<double> precisions;  // (hits, lanes)
  std::vector<int32_t> reached;    // (1 + hits, lanes)
};

// The number of recalls that are at most x, which is in [0, 1].
ALWAYS_INLINE int32_t recalls_up_to(double x) {
  const auto whole = static_cast<int32_t>(x * 100 + 1e-9);
  return whole + (whole * kStep <= x);
}

template <int kLanes>
ALWAYS_INLINE void sum_always(const Detections& found, Memory& memory) {
  double sum[kLanes] = {};
  double* row = memory.shown.data();
  for (const auto& [image, counts, rises] : found.always) {
    if (counts) {
      const double* of_image = &memory.weights[image * kLanes];
      for (int lane = 0; lane < kLanes; ++lane) sum[lane] += of_image[lane];
    }
    if (rises) row = std::copy_n(sum, kLanes, row);
  }
}

// Write the area below the curve of one threshold, and its final recall.
template <int kLanes>
ALWAYS_INLINE void area_of(const std::vector<Detections::Event>& events, const double* objects,
                           Memory& memory, double* area, double* recall) {
  double right[kLanes] = {}, sometimes[kLanes] = {};
  double* precision = memory.precisions.data();
  int32_t* reached = memory.reached.data();
  reached = std::fill_n(reached, kLanes, 0);
  for (const auto& [image, rise, shown] : events) {
    const double* of_image = &memory.weights[image * kLanes];
    if (shown) {
      for (int lane = 0; lane < kLanes; ++lane) sometimes[lane] += of_image[lane];
    }
    if (rise < 0) continue;
    const double* always = &memory.shown[rise * kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      right[lane] += of_image[lane];
      precision[lane] = right[lane] / (always[lane] + sometimes[lane] + kSmallest);
      reached[lane] = recalls_up_to(right[lane] / objects[lane]);
    }
    precision += kLanes;
    reached += kLanes;
  }
  double envelope[kLanes] = {};
  std::fill_n(area, kLanes, 0.0);
  while (precision != memory.precisions.data()) {
    precision -= kLanes;
    reached -= kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      envelope[lane] = std::max(envelope[lane], precision[lane]);
      area[lane] += envelope[lane] * (reached[lane] - reached[lane - kLanes]);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    area[lane] /= kRecalls;
    recall[lane] = right[lane] / objects[lane];
  }
}

// Write precision and recall of a block, (T, kLanes) each.
template <int kLanes>
ALWAYS_INLINE void block_of(const Detections& found, const double* objects, Memory& memory,
                            double* precisions, double* recalls) {
  sum_always<kLanes>(found, memory);
  for (size_t t = 0; t < found.events.size(); ++t) {
    area_of<kLanes>(found.events[t], objects, memory, precisions + t * kLanes,
                    recalls + t * kLanes);
  }
}

FOR_EACH_INSTRUCTION_SET void wide_block(const Detections& found, const double* objects,
                                         Memory& memory, double* precisions, double* recalls) {
  block_of<kWide>(found, objects, memory, precisions, recalls);
}

void single_row(const Detections& found, const double* objects, Memory& memory,
                double* precisions, double* recalls) {
  block_of<1>(found, objects, memory, precisions, recalls);
}

// matched, ignored: bool (T, N); image: (N,), int32; weights: (I, B) and objects: (B,), float64.
// Returns the average precision and the final recall, float64 (2, B, T).
at::Tensor weighted_ap(const at::Tensor& matched, const at::Tensor& ignored,
                       const at::Tensor& image, const at::Tensor& weights,
                       const at::Tensor& objects) {
  TORCH_CHECK(matched.dim() == 2, "matched must be (T, N), got ", matched.sizes());
  TORCH_CHECK(weights.dim() == 2, "weights must be (I, B), got ", weights.sizes());
  const int64_t thresholds = matched.size(0), size = matched.size(1);
  const int64_t images = weights.size(0), rows = weights.size(1);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / kWide;
  TORCH_CHECK(size <= kMost && images <= kMost, "too many detections or images");
  check("matched", matched, matched.sizes(), at::kBool);
  check("ignored", ignored, matched.sizes(), at::kBool);
  check("image", image, {size}, at::kInt);
  check("weights", weights, weights.sizes(), at::kDouble);
  check("objects", objects, {rows}, at::kDouble);
  const int32_t* of_detection = image.const_data_ptr<int32_t>();
  TORCH_CHECK(std::all_of(of_detection, of_detection + size,
                          [&](int32_t i) { return 0 <= i && i < images; }),
              "image must be in [0, ", images, ")");
  const Detections found = detections_of(matched.const_data_ptr<bool>(),
                                         ignored.const_data_ptr<bool>(), of_detection, thresholds,
                                         size);
  const int64_t width = rows == 1 ? 1 : kWide;
  const auto block = rows == 1 ? single_row : wide_block;
  Memory memory(found, images, width);
  std::vector<double> known(width);  // objects; of a row without, infinite: its recall is 0
  std::vector<double> precisions(thresholds * width), recalls(thresholds * width);

  at::Tensor result = at::empty({2, rows, thresholds}, weights.options());
  auto results = result.accessor<double, 3>();
  const double* weight = weights.const_data_ptr<double>();
  const double* total = objects.const_data_ptr<double>();
  for (int64_t begin = 0; begin < rows; begin += width) {
    const int64_t lanes = std::min(width, rows - begin);
    for (int64_t i = 0; i < images; ++i) {
      std::copy_n(weight + i * rows + begin, lanes, &memory.weights[i * width]);
    }
    std::fill(known.begin(), known.end(), std::numeric_limits<double>::infinity());
    for (int64_t lane = 0; lane < lanes; ++lane) {
      if (total[begin + lane] > 0) known[lane] = total[begin + lane];
    }
    block(found, known.data(), memory, precisions.data(), recalls.data());
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const bool has_objects = total[begin + lane] > 0;
      for (int64_t t = 0; t < thresholds; ++t) {
        const int64_t at = t * width + lane;
        results[0][begin + lane][t] = has_objects ? precisions[at] : kNaN;
        results[1][begin + lane][t] = has_objects ? recalls[at] : kNaN;
      }
    }
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def(
      "weighted_ap(Tensor matched, Tensor ignored, Tensor image, Tensor weights, Tensor objects) "
      "-> Tensor");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) { m.impl("weighted_ap", weighted_ap); }
