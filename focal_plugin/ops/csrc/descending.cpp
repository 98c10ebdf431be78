// `torch.ops.focal_plugin.descending`: see `focal_plugin/ops/descending_cpp.py`.
//
// A radix select finds the lowest of the scores to return, and a stable radix sort orders those. So
// a row is read four times, and only its result is sorted.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for has a single thread without -fopenmp"
#endif

namespace {

constexpr int kDigitBits = 11;
constexpr uint32_t kDigitMask = (1 << kDigitBits) - 1;
constexpr std::array<int, 3> kShifts{0, 11, 22};  // of the digits, the lowest first

struct Entry {
  uint32_t key;
  int32_t index;
};

using Counts = std::array<int32_t, 1 << kDigitBits>;

// Keys ascend as scores descend. 0 and -0 have the same key.
uint32_t key_of(float score) {
  score += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return bits >> 31 ? bits : ~bits & 0x7FFFFFFF;
}

uint32_t digit_of(uint32_t key, int shift) { return key >> shift & kDigitMask; }

// The key at `rank` (from 1) in ascending order, and the number of equal keys up to that rank.
Entry key_at(const std::vector<uint32_t>& keys, int64_t rank) {
  uint32_t prefix = 0, known = 0;
  for (auto shift = kShifts.rbegin(); shift != kShifts.rend(); ++shift) {
    Counts counts{};
    for (const uint32_t key : keys) {
      if ((key & known) == prefix) ++counts[digit_of(key, *shift)];
    }
    uint32_t digit = 0;
    for (; counts[digit] < rank; ++digit) rank -= counts[digit];
    prefix |= digit << *shift;
    known |= kDigitMask << *shift;
  }
  return {prefix, static_cast<int32_t>(rank)};
}

// The entries of the `count` lowest keys, in the order of their indices.
std::vector<Entry> lowest(const std::vector<uint32_t>& keys, int64_t count) {
  std::vector<Entry> entries;
  entries.reserve(count);
  Entry last = key_at(keys, count);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] < last.key || (keys[i] == last.key && last.index-- > 0)) {
      entries.push_back({keys[i], static_cast<int32_t>(i)});
    }
  }
  return entries;
}

void sort(std::vector<Entry>& entries) {
  std::vector<Entry> sorted(entries.size());
  for (const int shift : kShifts) {
    Counts place{};
    for (const Entry& entry : entries) ++place[digit_of(entry.key, shift)];
    int32_t before = 0;
    for (int32_t& at : place) before += std::exchange(at, before);
    for (const Entry& entry : entries) sorted[place[digit_of(entry.key, shift)]++] = entry;
    entries.swap(sorted);
  }
}

void order_row(const float* scores, int64_t size, int64_t count, int64_t* out) {
  std::vector<uint32_t> keys(size);
  std::transform(scores, scores + size, keys.begin(), key_of);
  std::vector<Entry> entries = lowest(keys, count);
  sort(entries);
  for (const Entry& entry : entries) *out++ = entry.index;
}

// scores: (P, C), float32, without NaN; count: 0..C. Returns int64 (P, count).
at::Tensor descending(const at::Tensor& scores, int64_t count) {
  TORCH_CHECK(scores.is_cpu() && scores.is_contiguous() && scores.scalar_type() == at::kFloat &&
                  scores.dim() == 2,
              "scores must be contiguous Float (P, C) on the CPU, got ", scores.scalar_type(), " ",
              scores.sizes(), " on ", scores.device());
  const int64_t rows = scores.size(0), size = scores.size(1);
  TORCH_CHECK(size <= std::numeric_limits<int32_t>::max(), "too many scores");
  TORCH_CHECK(0 <= count && count <= size, "count must be in 0..", size, ", got ", count);
  at::Tensor order = at::empty({rows, count}, scores.options().dtype(at::kLong));
  if (count == 0) return order;
  const float* from = scores.const_data_ptr<float>();
  int64_t* to = order.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      order_row(from + row * size, size, count, to + row * count);
    }
  });
  return order;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def("descending(Tensor scores, int count) -> Tensor");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) { m.impl("descending", descending); }
