// `torch.ops.focal_plugin.suppress`: see `focal_plugin/ops/suppression_cpp.py`.
//
// One pass over each list, in which a box is compared with the kept boxes only. A grid finds those
// that it may overlap enough. The comparison itself repeats each float operation of torchvision's
// nms, so that the survivors are the same. The grid is a little too wide, so rounding cannot matter.

#include "check.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for has a single thread without -fopenmp"
#endif

namespace {

constexpr double kMargin = 1e-3;  // relative, far above the rounding of float
// Below this threshold, boxes of very different sizes suppress each other: a grid does not help.
constexpr double kLeastThreshold = 0.1;
// Only such boxes have a cell: an area that is no subnormal number, and cells that can be counted.
constexpr float kLeastArea = 1e-30f;
constexpr double kFarthest = 1e6;  // from 0 to the box, in its sides
constexpr double kThinnest = 1e6;  // ratio of the sides

struct Box {
  float x1, y1, x2, y2, area;
  int64_t group;
};

Box load(const float* xyxy, int64_t group) {
  const float x1 = xyxy[0], y1 = xyxy[1], x2 = xyxy[2], y2 = xyxy[3];
  return {x1, y1, x2, y2, (x2 - x1) * (y2 - y1), group};
}

// False if its IoU with every box is 0 or NaN.
bool can_overlap(const Box& box) {
  return box.x1 < box.x2 && box.y1 < box.y2 && 0 < box.area &&
      box.area < std::numeric_limits<float>::infinity();
}

// Whether the IoU exceeds the threshold. The division follows only if it may: without it, and with a
// single branch, most pairs cost little.
bool overlap(const Box& a, const Box& b, double threshold) {
  const float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  const float height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  const float intersection = std::max(width, 0.0f) * std::max(height, 0.0f);
  const float area = a.area + b.area - intersection;
  const double least = threshold * (1 - kMargin) * area;
  if (!((intersection > least) & (a.group == b.group))) return false;
  return intersection / area > threshold;
}

struct Cells {
  int64_t x1, y1, x2, y2;  // both ends belong to it

  int64_t count() const { return (x2 - x1 + 1) * (y2 - y1 + 1); }
};

// A grid for the boxes of each size, in whose cells their centers are.
//
// If the IoU of two boxes exceeds t, the ratio of their areas does, too, and so do their overlaps in
// x and y relative to the longer side. So their sizes differ by at most 1 if a size spans log2(1/t)
// octaves, and their centers differ by less than max(1 - t, (1/t - 1) / 2) sides of either box.
class Grid {
 public:
  explicit Grid(double threshold) : helps_(threshold >= kLeastThreshold) {
    const double t = threshold * (1 - kMargin);
    const double octaves = std::log2(1 / std::min(t, 0.5)) + kErrorOfLog2;
    sizes_per_unit_ = 1 / (octaves * kUnitsPerOctave);
    reach_ = std::max(1 - t, (1 / t - 1) / 2) * (1 + kMargin);
    for (int size = -1; size <= kMostSizes; ++size) {
      const double area = std::exp2((size + 1) * octaves - 127);
      cells_per_pixel_.push_back(1 / std::sqrt(area));
    }
  }

  bool has(const Box& box) const {
    const double width = box.x2 - box.x1, height = box.y2 - box.y1;
    return helps_ && box.area > kLeastArea && width < kThinnest * height &&
        height < kThinnest * width && std::abs(box.x1) < kFarthest * width &&
        std::abs(box.y1) < kFarthest * height;
  }

  // In -1..kMostSizes with its neighbors. The bits of a float are its logarithm, interpolated.
  int64_t size_of(const Box& box) const {
    uint32_t bits;
    std::memcpy(&bits, &box.area, sizeof bits);
    return static_cast<int64_t>(bits * sizes_per_unit_);
  }

  // The cells of a size whose boxes may overlap the box enough.
  Cells near(const Box& box, int64_t size) const { return around(box, size, reach_); }

  Cells center(const Box& box, int64_t size) const { return around(box, size, 0); }

 private:
  static constexpr double kUnitsPerOctave = 1 << 23;
  static constexpr double kErrorOfLog2 = 0.09;
  static constexpr int kMostSizes = 256;

  Cells around(const Box& box, int64_t size, double sides) const {
    const double scale = cells_per_pixel_[size + 1];
    const double x = (static_cast<double>(box.x1) + box.x2) / 2;
    const double y = (static_cast<double>(box.y1) + box.y2) / 2;
    const double dx = sides * (box.x2 - box.x1), dy = sides * (box.y2 - box.y1);
    return {floor((x - dx) * scale), floor((y - dy) * scale), floor((x + dx) * scale),
            floor((y + dy) * scale)};
  }

  static int64_t floor(double value) {
    const auto truncated = static_cast<int64_t>(value);
    return truncated - (value < static_cast<double>(truncated));
  }

  bool helps_;
  double sizes_per_unit_, reach_;
  std::vector<double> cells_per_pixel_;  // of each size
};

// The kept boxes, by their cells.
class Kept {
 public:
  Kept(const Grid& grid, double threshold, int64_t capacity) : grid_(grid), threshold_(threshold) {
    boxes_.reserve(capacity);
    next_.reserve(capacity);
    size_t slots = 64;
    while (static_cast<int64_t>(slots) < capacity) slots *= 2;
    first_.assign(slots, -1);
  }

  bool suppresses(const Box& box) const {
    if (any_overlaps(box, without_cell_)) return true;
    std::array<Cells, 3> near;
    const int64_t size = grid_.size_of(box);
    if (!grid_.has(box) || !find_near(box, size, near)) {
      return std::any_of(boxes_.begin(), boxes_.end(),
                         [&](const Box& kept) { return overlap(kept, box, threshold_); });
    }
    for (int64_t step = -1; step <= 1; ++step) {
      const Cells& cells = near[step + 1];
      const uint64_t seed = seed_of(box, size + step);
      for (int64_t y = cells.y1; y <= cells.y2; ++y) {
        for (int64_t x = cells.x1; x <= cells.x2; ++x) {
          if (any_overlaps(box, first_[slot(seed, x, y)])) return true;
        }
      }
    }
    return false;
  }

  void add(const Box& box) {
    int32_t* first = &without_cell_;
    if (grid_.has(box)) {
      const int64_t size = grid_.size_of(box);
      const Cells cell = grid_.center(box, size);
      first = &first_[slot(seed_of(box, size), cell.x1, cell.y1)];
    }
    next_.push_back(*first);
    *first = static_cast<int32_t>(boxes_.size());
    boxes_.push_back(box);
  }

 private:
  bool any_overlaps(const Box& box, int32_t first) const {
    for (int32_t i = first; i >= 0; i = next_[i]) {
      if (overlap(boxes_[i], box, threshold_)) return true;
    }
    return false;
  }

  // Finds the cells of the next smaller size, of this one and of the next larger one. Returns false
  // if they are more than the boxes.
  bool find_near(const Box& box, int64_t size, std::array<Cells, 3>& near) const {
    int64_t total = 0;
    for (int64_t step = -1; step <= 1; ++step) {
      near[step + 1] = grid_.near(box, size + step);
      total += near[step + 1].count();
    }
    return total <= static_cast<int64_t>(boxes_.size());
  }

  static uint64_t mix(uint64_t value) {
    value *= 0x9E3779B97F4A7C15u;
    return value ^ value >> 32;
  }

  static uint64_t seed_of(const Box& box, int64_t size) {
    return mix(mix(static_cast<uint64_t>(box.group)) + static_cast<uint64_t>(size));
  }

  // Several cells may share a slot: then a box is compared with a few more.
  size_t slot(uint64_t seed, int64_t x, int64_t y) const {
    return mix(seed + static_cast<uint64_t>(x) + (static_cast<uint64_t>(y) << 32)) &
        (first_.size() - 1);
  }

  const Grid& grid_;
  double threshold_;
  std::vector<Box> boxes_;
  std::vector<int32_t> next_;    // of each box, the next one in its slot
  std::vector<int32_t> first_;   // of each slot; -1 ends a slot
  int32_t without_cell_ = -1;    // the first box without a cell
};

void suppress_list(const Grid& grid, const float* boxes, const int64_t* groups,
                   const bool* competing, int64_t size, double threshold, bool* survives) {
  Kept kept(grid, threshold, std::count(competing, competing + size, true));
  for (int64_t i = 0; i < size; ++i) {
    survives[i] = competing[i];
    if (!competing[i]) continue;
    const Box box = load(boxes + 4 * i, groups[i]);
    if (!can_overlap(box)) continue;
    survives[i] = !kept.suppresses(box);
    if (survives[i]) kept.add(box);
  }
}

// boxes: (P, V, 4), float32, XYXY; groups: (P, V), int64; competing: (P, V), bool.
// Returns the survivors of each list, bool (P, V).
at::Tensor suppress(const at::Tensor& boxes, const at::Tensor& groups, const at::Tensor& competing,
                    double threshold) {
  TORCH_CHECK(groups.dim() == 2, "groups must be (P, V), got ", groups.sizes());
  const int64_t lists = groups.size(0), size = groups.size(1);
  TORCH_CHECK(size <= std::numeric_limits<int32_t>::max(), "too many boxes");
  check("boxes", boxes, {lists, size, 4}, at::kFloat);
  check("groups", groups, groups.sizes(), at::kLong);
  check("competing", competing, groups.sizes(), at::kBool);
  at::Tensor survivors = at::empty_like(competing);
  const float* xyxy = boxes.const_data_ptr<float>();
  const int64_t* group = groups.const_data_ptr<int64_t>();
  const bool* competes = competing.const_data_ptr<bool>();
  bool* survives = survivors.mutable_data_ptr<bool>();
  const Grid grid(threshold);
  at::parallel_for(0, lists, 1, [&](int64_t begin, int64_t end) {
    for (int64_t list = begin; list < end; ++list) {
      const int64_t at = list * size;
      suppress_list(grid, xyxy + 4 * at, group + at, competes + at, size, threshold,
                    survives + at);
    }
  });
  return survivors;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def("suppress(Tensor boxes, Tensor groups, Tensor competing, float threshold) -> Tensor");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) { m.impl("suppress", suppress); }
