// Matching of anchors with objects, without the matrix of all pairs. There are two passes over
// chunks of anchors. The second visits only the chunks with an object's best anchor.
//
// Every float operation is that of detectron2.structures.pairwise_iou, in its order, and none is
// contracted (-ffp-contract=off). All results equal those of its matrix bit for bit.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

// The widest vectors of the machine; the compiler's default if the loader cannot choose.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define WIDEST_VECTORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST_VECTORS
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t kChunk = 256;  // anchors; about a third of a row of the finest level
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Box {
  float x1, y1, x2, y2;
};

struct Object {
  Box box;
  float area;
};

// The last chunk is padded with empty boxes at the origin, which have no overlap.
struct alignas(64) Chunk {
  float x1[kChunk], y1[kChunk], x2[kChunk], y2[kChunk], area[kChunk];
  Box bounds;  // around all its anchors
};

// Results of each anchor in a chunk.
struct alignas(64) Matches {
  float iou[kChunk] = {};
  int32_t object[kChunk] = {};
};

INLINE float area_of(const Box& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

INLINE float larger(float a, float b) {
  return a > b ? a : b;
}

INLINE float smaller(float a, float b) {
  return a < b ? a : b;
}

// Divides before it compares, which avoids a branch: neither 0 / 0 nor a NaN is above 0. A box with
// a NaN has an area of NaN and thus no overlap.
INLINE float iou_of(const Object& object, const Chunk& chunk, int64_t i) {
  const float width = smaller(object.box.x2, chunk.x2[i]) - larger(object.box.x1, chunk.x1[i]);
  const float height = smaller(object.box.y2, chunk.y2[i]) - larger(object.box.y1, chunk.y1[i]);
  const float overlap = larger(width, 0.0f) * larger(height, 0.0f);
  return larger(overlap / (object.area + chunk.area[i] - overlap), 0.0f);
}

// False only if the IoU of the object is 0 with every anchor in the bounds.
INLINE bool may_overlap(const Object& object, const Box& bounds) {
  return (object.box.x1 < bounds.x2) & (object.box.x2 > bounds.x1) &
      (object.box.y1 < bounds.y2) & (object.box.y2 > bounds.y1);
}

WIDEST_VECTORS void load(const float* anchors, int64_t count, Chunk& chunk) {
  Box bounds{kInfinity, kInfinity, -kInfinity, -kInfinity};
  for (int64_t i = 0; i < count; ++i) {
    const Box box{anchors[4 * i], anchors[4 * i + 1], anchors[4 * i + 2], anchors[4 * i + 3]};
    chunk.x1[i] = box.x1;
    chunk.y1[i] = box.y1;
    chunk.x2[i] = box.x2;
    chunk.y2[i] = box.y2;
  }
  for (int64_t i = count; i < kChunk; ++i) {
    chunk.x1[i] = chunk.y1[i] = chunk.x2[i] = chunk.y2[i] = 0;
  }
  float x1 = bounds.x1, y1 = bounds.y1, x2 = bounds.x2, y2 = bounds.y2;
#pragma omp simd reduction(min : x1, y1) reduction(max : x2, y2)
  for (int64_t i = 0; i < kChunk; ++i) {
    chunk.area[i] = (chunk.x2[i] - chunk.x1[i]) * (chunk.y2[i] - chunk.y1[i]);
    x1 = smaller(chunk.x1[i], x1);
    y1 = smaller(chunk.y1[i], y1);
    x2 = larger(chunk.x2[i], x2);
    y2 = larger(chunk.y2[i], y2);
  }
  chunk.bounds = {x1, y1, x2, y2};
}

// Assigns the object to the anchors that overlap it more than any before it. Returns its largest
// IoU.
WIDEST_VECTORS float match(const Object& object, int32_t number, const Chunk& chunk, Matches& best) {
  float top = 0;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < kChunk; ++i) {
    const float iou = iou_of(object, chunk, i);
    best.object[i] = iou > best.iou[i] ? number : best.object[i];
    best.iou[i] = larger(iou, best.iou[i]);
    top = larger(iou, top);
  }
  return top;
}

// Marks the anchors that attain the object's largest IoU.
WIDEST_VECTORS void mark(const Object& object, float top, const Chunk& chunk, int32_t* marked) {
#pragma omp simd
  for (int64_t i = 0; i < kChunk; ++i) {
    marked[i] |= iou_of(object, chunk, i) == top;
  }
}

class Image {
 public:
  Image(const at::Tensor& boxes, const float* anchors, int64_t num_anchors)
      : anchors_(anchors), num_anchors_(num_anchors), objects_(boxes.size(0)) {
    const float* coordinates = boxes.const_data_ptr<float>();
    for (size_t m = 0; m < objects_.size(); ++m) {
      const float* box = coordinates + 4 * m;
      objects_[m].box = {box[0], box[1], box[2], box[3]};
      objects_[m].area = area_of(objects_[m].box);
    }
    tops_.resize(num_chunks() * objects_.size());
  }

  // The first pass. labels[t] applies if an IoU reaches thresholds[t - 1].
  void match_all(
      const std::vector<float>& thresholds, at::IntArrayRef labels, int64_t* idxs, int8_t* out) {
    at::parallel_for(0, num_chunks(), grain(), [&](int64_t begin, int64_t end) {
      Chunk chunk;
      for (int64_t c = begin; c < end; ++c) {
        load(anchors_ + 4 * kChunk * c, size_of(c), chunk);
        Matches best;
        for (size_t m = 0; m < objects_.size(); ++m) {
          tops_[c * objects_.size() + m] =
              may_overlap(objects_[m], chunk.bounds) ? match(objects_[m], m, chunk, best) : 0;
        }
        int32_t chunk_labels[kChunk];
        label(best, thresholds, labels, chunk_labels);
        std::copy_n(best.object, size_of(c), idxs + kChunk * c);
        std::copy_n(chunk_labels, size_of(c), out + kChunk * c);
      }
    });
  }

  // The second pass: each anchor that is the best one of some object becomes positive, unless its
  // own best IoU is below `rescue_from`. One thread does this small amount of work.
  void rescue(float rescue_from, const int64_t* idxs, int8_t* out) const {
    const std::vector<float> best = best_of_objects();
    Chunk chunk;
    for (int64_t c = 0; c < num_chunks(); ++c) {
      int32_t marked[kChunk];
      bool is_loaded = false;
      for (size_t m = 0; m < objects_.size(); ++m) {
        if (!(best[m] > 0 && tops_[c * objects_.size() + m] == best[m])) {
          continue;
        }
        if (!is_loaded) {
          load(anchors_ + 4 * kChunk * c, size_of(c), chunk);
          std::fill_n(marked, kChunk, 0);
          is_loaded = true;
        }
        mark(objects_[m], best[m], chunk, marked);
      }
      for (int64_t i = 0; is_loaded && i < size_of(c); ++i) {
        const int64_t r = kChunk * c + i;
        if (marked[i] && iou_of(objects_[idxs[r]], chunk, i) >= rescue_from) {
          out[r] = 1;
        }
      }
    }
  }

 private:
  // Number of chunks that justify starting a thread: about half a millisecond of work.
  int64_t grain() const {
    return std::max<int64_t>(1, (1 << 22) / (kChunk * (1 + objects_.size())));
  }

  static void label(
      const Matches& best, const std::vector<float>& thresholds, at::IntArrayRef labels,
      int32_t* out) {
    std::fill_n(out, kChunk, static_cast<int32_t>(labels[0]));
    for (size_t t = 0; t < thresholds.size(); ++t) {
      const float threshold = thresholds[t];
      const int32_t label = labels[t + 1];
#pragma omp simd
      for (int64_t i = 0; i < kChunk; ++i) {
        out[i] = best.iou[i] >= threshold ? label : out[i];
      }
    }
  }

  std::vector<float> best_of_objects() const {
    std::vector<float> best(objects_.size(), 0);
    for (int64_t c = 0; c < num_chunks(); ++c) {
      for (size_t m = 0; m < objects_.size(); ++m) {
        best[m] = larger(tops_[c * objects_.size() + m], best[m]);
      }
    }
    return best;
  }

  int64_t num_chunks() const {
    return (num_anchors_ + kChunk - 1) / kChunk;
  }

  int64_t size_of(int64_t chunk) const {
    return std::min(kChunk, num_anchors_ - kChunk * chunk);
  }

  const float* anchors_;
  int64_t num_anchors_;
  std::vector<Object> objects_;
  std::vector<float> tops_;  // the largest IoU of each object in each chunk
};

void check(const char* name, const at::Tensor& boxes) {
  TORCH_CHECK(boxes.is_cpu() && boxes.scalar_type() == at::kFloat && boxes.dim() == 2 &&
                  boxes.size(1) == 4,
              name, " must be Float (.., 4) on the CPU, got ", boxes.scalar_type(), " ",
              boxes.sizes(), " on ", boxes.device());
}

// gt_boxes: one (M, 4) per image; anchors: (R, 4); all float32, XYXY.
// labels: one more than thresholds, which ascend. rescue_from: infinity rescues none.
// Returns the index of each anchor's object, (N, R) int64, and the anchor's label, int8.
std::tuple<at::Tensor, at::Tensor> match_anchors(
    at::TensorList gt_boxes, const at::Tensor& anchors, at::ArrayRef<double> thresholds,
    at::IntArrayRef labels, double rescue_from) {
  TORCH_CHECK(labels.size() == thresholds.size() + 1, "labels must be one more than thresholds");
  check("anchors", anchors);
  for (const at::Tensor& boxes : gt_boxes) check("gt_boxes", boxes);
  const int64_t num_images = gt_boxes.size(), num_anchors = anchors.size(0);
  const at::Tensor rows = anchors.contiguous();
  at::Tensor idxs = at::empty({num_images, num_anchors}, anchors.options().dtype(at::kLong));
  at::Tensor out = at::empty({num_images, num_anchors}, anchors.options().dtype(at::kChar));
  const std::vector<float> limits(thresholds.begin(), thresholds.end());
  for (int64_t n = 0; n < num_images; ++n) {
    Image image(gt_boxes[n].contiguous(), rows.const_data_ptr<float>(), num_anchors);
    int64_t* image_idxs = idxs.mutable_data_ptr<int64_t>() + n * num_anchors;
    int8_t* image_out = out.mutable_data_ptr<int8_t>() + n * num_anchors;
    image.match_all(limits, labels, image_idxs, image_out);
    if (rescue_from < kInfinity) {
      image.rescue(rescue_from, image_idxs, image_out);
    }
  }
  return {idxs, out};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def(
      "match_anchors(Tensor[] gt_boxes, Tensor anchors, float[] thresholds, int[] labels, "
      "float rescue_from) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) {
  m.impl("match_anchors", match_anchors);
}
