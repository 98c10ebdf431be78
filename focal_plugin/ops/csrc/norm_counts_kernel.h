// Count of the logits of a unit by their gradient norm. It is included like `dense_loss_kernel.h`,
// and bins the bits that `BinnedCrossEntropy` reads there.

// Adds `count` bins to their counts.
inline void add(const int* bins, long count, long* counts) {
  long i = 0;
  for (; i + HISTOGRAMS <= count; i += HISTOGRAMS) {
    for (int h = 0; h < HISTOGRAMS; ++h) ++counts[bins[i + h] * HISTOGRAMS + h];
  }
  for (; i < count; ++i) ++counts[bins[i] * HISTOGRAMS];
}

// Fills the first stage of the norms, which is the same for positives and negatives.
template <class Scalar>
inline void prepare(const Scalar* logits, long count, float* prepared) {
#pragma omp simd
  for (long i = 0; i < count; ++i) prepared[i] = focal::OfPoint::first(load(logits[i]));
}

INLINE int bin_of(float x_t, float prepared, int bins) {
  return focal::bin_of(focal::BinnedCrossEntropy::second(x_t, prepared).a, bins);
}

// T != 1. An ignored anchor is in the bin after the last one.
template <class Scalar>
void count_planes(const NormCounts& job, long group, long first, long count, long* counts) {
  const int* labels = job.labels + group * job.num_anchors + first;
  float prepared[ANCHORS_PER_UNIT];
  int bins[ANCHORS_PER_UNIT];
  for (int k = 0; k < job.num_classes; ++k) {
    const long origin = (group * job.num_classes + k) * job.num_anchors + first;
    const Scalar* x = static_cast<const Scalar*>(job.logits) + origin;
    prepare(x, count, prepared);
#pragma omp simd
    for (long i = 0; i < count; ++i) {
      const float x_t = labels[i] == k ? load(x[i]) : -load(x[i]);
      const int bin = bin_of(x_t, prepared[i], job.bins);
      bins[i] = labels[i] < 0 ? job.bins : bin;
    }
    add(bins, count, counts);
  }
}

// T = 1. All logits count as negatives first, whatever their anchor.
template <class Scalar>
void count_rows(const NormCounts& job, long first, long count, long* counts) {
  const long num_classes = job.num_classes, end = (first + count) * num_classes;
  const Scalar* logits = static_cast<const Scalar*>(job.logits);
  float prepared[ANCHORS_PER_UNIT];
  int bins[ANCHORS_PER_UNIT];
  for (long start = first * num_classes; start < end; start += ANCHORS_PER_UNIT) {
    const long stop = end - start < ANCHORS_PER_UNIT ? end : start + ANCHORS_PER_UNIT;
    prepare(logits + start, stop - start, prepared);
#pragma omp simd
    for (long i = start; i < stop; ++i) {
      bins[i - start] = bin_of(-load(logits[i]), prepared[i - start], job.bins);
    }
    for (long anchor = start / num_classes; anchor * num_classes < stop; ++anchor) {
      const int label = job.labels[anchor];
      const long begin = anchor * num_classes, own = begin + label;
      if (job.is_class(label) && own >= start && own < stop) {
        bins[own - start] = bin_of(load(logits[own]), prepared[own - start], job.bins);
      }
      for (long i = begin; label < 0 && i < begin + num_classes; ++i) {  // ignored
        if (i >= start && i < stop) bins[i - start] = job.bins;
      }
    }
    add(bins, stop - start, counts);
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
