// Count of the logits of a unit by their gradient norm. It is included like `dense_loss_kernel.h`,
// and bins the bits that `BinnedCrossEntropy` reads there.

// Adds `count` bins to their counts.
inline void add(const int* bins, long count, long* counts) {
  for (long i = 0; i < count; ++i) ++counts[bins[i] * HISTOGRAMS + i % HISTOGRAMS];
}

// T != 1. An ignored anchor is in the bin after the last one.
template <class Scalar>
void count_planes(const NormCounts& job, long group, long first, long count, long* counts) {
  const int* labels = job.labels + group * job.num_anchors + first;
  int bins[ANCHORS_PER_UNIT];
  for (int k = 0; k < job.num_classes; ++k) {
    const long origin = (group * job.num_classes + k) * job.num_anchors + first;
    const Scalar* x = static_cast<const Scalar*>(job.logits) + origin;
#pragma omp simd
    for (long i = 0; i < count; ++i) {
      const float x_t = labels[i] == k ? load(x[i]) : -load(x[i]);
      const int bin = focal::bin_of(focal::point(x_t).q, job.bins);
      bins[i] = labels[i] < 0 ? job.bins : bin;
    }
    add(bins, count, counts);
  }
}

// T = 1.
template <class Scalar>
void count_rows(const NormCounts& job, long first, long count, long* counts) {
  int bins[ANCHORS_PER_UNIT];
  for (long anchor = first; anchor < first + count; ++anchor) {
    const int label = job.labels[anchor];
    const Scalar* x = static_cast<const Scalar*>(job.logits) + anchor * job.num_classes;
    for (int start = 0; label >= 0 && start < job.num_classes; start += ANCHORS_PER_UNIT) {
      const int left = job.num_classes - start;
      const int classes = left < ANCHORS_PER_UNIT ? left : ANCHORS_PER_UNIT;
#pragma omp simd
      for (int k = 0; k < classes; ++k) {
        const float x_t = label == start + k ? load(x[start + k]) : -load(x[start + k]);
        bins[k] = focal::bin_of(focal::point(x_t).q, job.bins);
      }
      add(bins, classes, counts);
    }
  }
}

template <class Scalar>
void count_scalars(const NormCounts& job, long unit, long* counts) {
  const long units = NormCounts::units_of(job.num_anchors);
  const long group = job.rows() ? 0 : unit / units;
  const long first = (job.rows() ? unit : unit % units) * ANCHORS_PER_UNIT;
  const long left = (job.rows() ? job.num_groups : job.num_anchors) - first;
  const long count = left < ANCHORS_PER_UNIT ? left : ANCHORS_PER_UNIT;
  job.rows() ? count_rows<Scalar>(job, first, count, counts)
             : count_planes<Scalar>(job, group, first, count, counts);
}

void count_unit(const NormCounts& job, long unit, long* counts) {
  job.is_bfloat16 ? count_scalars<Bfloat16>(job, unit, counts)
                  : count_scalars<float>(job, unit, counts);
}
