// Loss of a block of anchors. One file per instruction set includes this, inside a namespace of its
// own, so that the widest vectors of the machine can be chosen at run time. It includes only code
// that is compiled for the same instruction set.
//
// Shape shorthand: logits (G, K, T), labels (G, T); see `focal_plugin/ops/dense_loss.py`.

// The parameters of class k of K; `per_class` is a constant where a loop over k is vectorized.
INLINE focal::Parameters parameters_of(const Side& side, bool per_class, long k, long num_classes) {
  const float* p = side.parameters + (per_class ? k : 0);
  const long step = per_class ? num_classes : 1;
  return {{p[0], p[step], p[2 * step], p[3 * step]}};
}

inline focal::Cost cost_of_positive(const DenseLoss& job, int label, float x, float quality) {
  const Side& side = job.positive;
  const focal::Parameters p = parameters_of(side, side.per_class, label, job.num_classes);
  switch (side.kind) {
    case Kind::cross_entropy: return cost_of(focal::CrossEntropy(p), x);
    case Kind::binned_cross_entropy: {
      const float entry = side.table[focal::bin_of(focal::point(x).q, side.entries)];
      return cost_of(focal::BinnedCrossEntropy(p), x, entry);
    }
    case Kind::focal: return cost_of(focal::Focal<focal::Power>(p), x);
    case Kind::asymmetric_negative: return cost_of(focal::AsymmetricNegative<false>(p), x);
    case Kind::focal_star: return cost_of(focal::FocalStar(p), x);
    case Kind::poly_focal: return cost_of(focal::PolyFocal<focal::Power>(p), x);
    case Kind::hinge: return cost_of(focal::Hinge(p), x);
    case Kind::detached_focal: return cost_of(focal::DetachedFocal<focal::Power>(p), x);
    case Kind::gumbel: return cost_of(focal::Gumbel(p), x);
    case Kind::gumbel_complement: return cost_of(focal::GumbelComplement(p), x);
    case Kind::quality_focal: return cost_of(focal::QualityFocal(p), x, quality);
    case Kind::varifocal: return cost_of(focal::Varifocal(p), x, quality);
    case Kind::soft_target: return cost_of(focal::SoftTarget(p), x, quality);
  }
  __builtin_unreachable();
}

constexpr long LOGITS_PER_CHUNK = 128;  // enough for long loops, few enough to fetch meanwhile
constexpr long LOGITS_AT_ONCE = 256;    // of rows, a multiple of the former

// Code that all formulas share is compiled once, not into the loops of each.
#define SHARED __attribute__((noinline))

// Anchors of a unit. There, logit (k, i) of anchor i is at k * plane + i * step.
template <class Scalar>
struct Anchors {
  const DenseLoss& job;
  long count, plane, step;
  const Scalar* logits;
  Scalar* gradient;      // or null
  const int* labels;     // (count,)
  const float* quality;  // (count,), or null
  double* slopes;        // (2, K), or null
  float weight[ANCHORS_PER_UNIT];
  float factor[ANCHORS_PER_UNIT];  // of the gradient, besides the weight
  float scale[ANCHORS_PER_UNIT];   // their product
  float loss[ANCHORS_PER_UNIT];    // out, without the weight until `finish`
  int background[ANCHORS_PER_UNIT];  // the labels, with objects ignored
  bool any;                          // some anchor is not ignored

  // `count` anchors of one group, starting at `first`; or, if T = 1, as many groups.
  SHARED Anchors(const DenseLoss& job, long group, long first, long count, double* slopes)
      : job(job), count(count), slopes(slopes), any(false) {
    plane = job.rows() ? 1 : job.num_anchors;
    step = job.rows() ? job.num_classes : 1;
    const long offset = group * job.num_anchors + first;
    const long origin = group * job.num_classes * job.num_anchors + first * step;
    logits = static_cast<const Scalar*>(job.logits) + origin;
    gradient = job.gradient == nullptr ? nullptr : static_cast<Scalar*>(job.gradient) + origin;
    labels = job.labels + offset;
    quality = job.quality == nullptr ? nullptr : job.quality + offset;
    for (long i = 0; i < count; ++i) {
      const bool is_weighted = job.anchor_weights != nullptr && labels[i] >= 0;
      weight[i] = is_weighted ? job.anchor_weights[labels[i]] : 1.0f;
      factor[i] = job.factors == nullptr ? job.factor : job.factors[offset + i];
      scale[i] = weight[i] * factor[i];
      loss[i] = 0;
      background[i] = job.is_class(labels[i]) ? -1 : labels[i];
      any |= labels[i] >= 0;
    }
  }

  // Adds the one logit of each anchor that its label names, and applies the weights.
  SHARED void finish() {
    for (long i = 0; i < count; ++i) {
      const int label = labels[i];
      if (!job.is_class(label)) continue;
      const long at = label * plane + i * step;
      const float weight_of_class = job.positive.weights[label];
      const focal::Cost cost =
          cost_of_positive(job, label, load(logits[at]), quality == nullptr ? 0.0f : quality[i]);
      const float slope = is_flushed(cost.slope) ? 0.0f : cost.slope;
      loss[i] += weight_of_class * cost.value;
      if (gradient != nullptr) store(gradient + at, slope * (weight_of_class * scale[i]));
      if (slopes != nullptr) {
        slopes[label] += focal::magnitude(slope) * (weight_of_class * weight[i]);
      }
    }
    if (job.anchor_weights == nullptr) return;
    for (long i = 0; i < count; ++i) loss[i] *= weight[i];
  }
};

template <class Scalar>
SHARED void write_zeros(Scalar* gradient, long count) {
  for (long i = 0; i < count; ++i) store(gradient + i, 0.0f);
}

// Numbers of a range of logits: what a stage hands over, at last value and slope of x_t.
struct Scratch {
  float *a, *b, *c;
  float* entries;  // of a table

  Scratch(const DenseLoss& job, float* numbers) {
    const long size = job.scratch_size() / ARRAYS_OF_SCRATCH;
    a = numbers;
    b = a + size;
    c = b + size;
    entries = c + size;
  }

  INLINE focal::Parts parts(long i) const { return {a[i], b[i], c[i]}; }
  float* values() const { return a; }
  float* slopes() const { return b; }
};

// The formula of negative i of a range. It is no variable of a vectorized loop, which would be kept
// in memory.
template <class Negative, bool PER_CLASS>
struct Negatives {
  const Side& side;
  const long num_classes;
  const Negative of_all;

  // k: class of all logits of the range, or of the first one
  Negatives(const DenseLoss& job, long k)
      : side(job.negative),
        num_classes(job.num_classes),
        of_all(parameters_of(side, side.per_class, k, num_classes)) {}

  INLINE Negative of_class(long i) const {
    return Negative(parameters_of(side, true, i, num_classes));
  }

  INLINE float first(long i, float x) const {
    if constexpr (PER_CLASS) return of_class(i).first(-x);
    return of_all.first(-x);
  }

  INLINE focal::Parts second(long i, float x, float first) const {
    if constexpr (PER_CLASS) return of_class(i).second(-x, first);
    return of_all.second(-x, first);
  }

  INLINE focal::Cost cost(long i, float x, const Scratch& scratch) const {
    if constexpr (focal::HAS_TABLE<Negative>) {
      return of_all(of_all.at(-x, scratch.parts(i)), scratch.entries[i]);
    } else if constexpr (PER_CLASS) {
      return of_class(i)(of_class(i).at(-x, scratch.parts(i)));
    } else {
      return of_all(of_all.at(-x, scratch.parts(i)));
    }
  }
};

// Fills the entries of the table for `count` norms. The look-up itself is not vectorized.
INLINE void look_up(const Side& side, const float* norms, long count, float* entries) {
  const int size = side.entries;
  const float* table = side.table;
  int bins[LOGITS_PER_CHUNK];
#pragma omp simd
  for (long i = 0; i < count; ++i) bins[i] = focal::bin_of(norms[i], size);
  for (long i = 0; i < count; ++i) entries[i] = table[bins[i]];
}

// Memory as long as a range of logits that is read or written after it. It is fetched meanwhile: its
// parts lie in many pages, which the processor does not foresee.
template <class Scalar>
struct Upcoming {
  const Scalar *read, *write;  // or null

  INLINE void fetch(long first, long end) const {
    constexpr long LINE = 64 / sizeof(Scalar);
    for (long i = first; read != nullptr && i < end; i += LINE) __builtin_prefetch(read + i, 0);
    for (long i = first; write != nullptr && i < end; i += LINE) __builtin_prefetch(write + i, 1);
  }
};

// Fills the scratch with the costs of a range of logits, all of them as negatives. These loops have
// no condition that depends on an anchor, so that all of them are vectorized.
template <class Negative, bool WITH_SLOPES, bool PER_CLASS, class Scalar>
SHARED void evaluate(const Negatives<Negative, PER_CLASS> negatives, const Scalar* logits,
                     long count, const Upcoming<Scalar> upcoming, const Scratch scratch) {
  float *a = scratch.a, *b = scratch.b, *c = scratch.c;
  for (long first = 0; first < count; first += LOGITS_PER_CHUNK) {
    const long end = count - first < LOGITS_PER_CHUNK ? count : first + LOGITS_PER_CHUNK;
    upcoming.fetch(first, end);
#pragma omp simd
    for (long i = first; i < end; ++i) a[i] = negatives.first(i, load(logits[i]));
#pragma omp simd
    for (long i = first; i < end; ++i) {
      const focal::Parts parts = negatives.second(i, load(logits[i]), a[i]);
      a[i] = parts.a;
      b[i] = parts.b;
      c[i] = parts.c;
    }
    if constexpr (focal::HAS_TABLE<Negative>) {
      look_up(negatives.side, a + first, end - first, scratch.entries + first);
    }
#pragma omp simd
    for (long i = first; i < end; ++i) {
      const focal::Cost cost = negatives.cost(i, load(logits[i]), scratch);
      a[i] = cost.value;
      if (WITH_SLOPES) b[i] = cost.slope;
    }
  }
}

// Adds the negatives of class k to the losses, and writes their gradient.
template <class Scalar>
SHARED void add_plane(Anchors<Scalar>& anchors, int k, const float* values, const float* slopes) {
  const DenseLoss& job = anchors.job;
  const float weight = job.negative.weights[k];
  const bool is_spared = job.beside_object[k] != weight;
  const int* labels = is_spared ? anchors.background : anchors.labels;
  const float* scale = anchors.scale;
  float* loss = anchors.loss;
  const auto counts = [=](long i) {
    return (-static_cast<int>(labels[i] == k) | labels[i]) >= 0;  // not ignored, without a branch
  };
#pragma omp simd
  for (long i = 0; i < anchors.count; ++i) loss[i] += counts(i) ? weight * values[i] : 0.0f;
  if (anchors.gradient != nullptr) {
    Scalar* gradient = anchors.gradient + k * anchors.plane;
#pragma omp simd
    for (long i = 0; i < anchors.count; ++i) {
      const bool stays = counts(i) & !is_flushed(slopes[i]);
      store(gradient + i, stays ? slopes[i] * (-weight * scale[i]) : 0.0f);
    }
  }
  if (anchors.slopes == nullptr) return;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (long i = 0; i < anchors.count; ++i) {
    const bool stays = counts(i) & !is_flushed(slopes[i]);
    sum += stays ? focal::magnitude(slopes[i]) * (weight * anchors.weight[i]) : 0.0f;
  }
  anchors.slopes[job.num_classes + k] = sum;
}

// T != 1: the logits of one class are adjacent.
template <class Negative, bool WITH_SLOPES, class Scalar>
void planes(Anchors<Scalar>& anchors, const Scratch& scratch) {
  const DenseLoss& job = anchors.job;
  for (int k = 0; k < job.num_classes; ++k) {
    if (anchors.any) {
      const Negatives<Negative, false> negatives(job, k);
      const Scalar* logits = anchors.logits + k * anchors.plane;
      const bool is_last = k + 1 == job.num_classes, writes = anchors.gradient != nullptr;
      const Upcoming<Scalar> upcoming{is_last ? nullptr : logits + anchors.plane,
                                      writes ? anchors.gradient + k * anchors.plane : nullptr};
      evaluate<Negative, WITH_SLOPES>(negatives, logits, anchors.count, upcoming, scratch);
      add_plane(anchors, k, scratch.values(), scratch.slopes());
    } else if (anchors.gradient != nullptr) {  // common if mining keeps few anchors
      write_zeros(anchors.gradient + k * anchors.plane, anchors.count);
    }
  }
}

// Sets the loss of anchor i to that of its negatives, and writes their gradient.
template <class Scalar>
SHARED void add_row(Anchors<Scalar>& anchors, long i, float* values, float* slopes) {
  const DenseLoss& job = anchors.job;
  const int num_classes = job.num_classes, label = anchors.labels[i];
  Scalar* gradient = anchors.gradient == nullptr ? nullptr : anchors.gradient + i * num_classes;
  if (label < 0) {  // ignored
    if (gradient != nullptr) write_zeros(gradient, num_classes);
    return;
  }
  const float* weights = job.negative.weights;
  if (job.is_class(label)) {
    weights = job.beside_object;
    values[label] = slopes[label] = 0;  // no negative
  }
  float loss = 0;
#pragma omp simd reduction(+ : loss)
  for (int k = 0; k < num_classes; ++k) loss += weights[k] * values[k];
  anchors.loss[i] = loss;
  if (gradient != nullptr) {
    const float scale = anchors.scale[i];
#pragma omp simd
    for (int k = 0; k < num_classes; ++k) {
      store(gradient + k, is_flushed(slopes[k]) ? 0.0f : slopes[k] * (-weights[k] * scale));
    }
  }
  if (anchors.slopes == nullptr) return;
  const float weight = anchors.weight[i];
  double* sums = anchors.slopes + num_classes;
  for (int k = 0; k < num_classes; ++k) {
    const float magnitude = focal::magnitude(slopes[k]) * (weights[k] * weight);
    sums[k] += is_flushed(slopes[k]) ? 0.0f : magnitude;
  }
}

// T = 1: the logits of one anchor are adjacent. Several anchors are evaluated at once, unless the
// formula depends on the class.
template <class Negative, bool WITH_SLOPES, bool PER_CLASS, class Scalar>
void rows(Anchors<Scalar>& anchors, const Scratch& scratch) {
  const DenseLoss& job = anchors.job;
  const long num_classes = job.num_classes;
  const Negatives<Negative, PER_CLASS> negatives(job, 0);
  const long at_once = PER_CLASS ? 1 : 1 + LOGITS_AT_ONCE / (num_classes + 1);
  for (long first = 0; first < anchors.count; first += at_once) {
    const long left = anchors.count - first, some = left < at_once ? left : at_once;
    bool any = false;
    for (long i = 0; i < some; ++i) any |= anchors.labels[first + i] >= 0;
    if (any) {
      const Scalar* logits = anchors.logits + first * num_classes;
      const Upcoming<Scalar> adjacent{nullptr, nullptr};  // foreseen by the processor
      evaluate<Negative, WITH_SLOPES>(negatives, logits, some * num_classes, adjacent, scratch);
    }
    for (long i = 0; i < some; ++i) {
      const long at = i * num_classes;
      add_row(anchors, first + i, scratch.values() + at, scratch.slopes() + at);
    }
  }
}

template <class Negative, class Scalar, bool WITH_SLOPES, bool PER_CLASS>
void run_unit(const DenseLoss& job, long unit, float* numbers) {
  const Scratch scratch(job, numbers);
  double* slopes = job.slopes == nullptr ? nullptr : job.slopes + unit * 2 * job.num_classes;
  long group = 0, end = job.num_groups;
  if (!job.rows()) {
    const long units = DenseLoss::units_of(job.num_anchors);
    group = unit / units;
    unit %= units;
    end = job.num_anchors;
  }
  const long first = unit * ANCHORS_PER_UNIT;
  const long count = end - first < ANCHORS_PER_UNIT ? end - first : ANCHORS_PER_UNIT;
  Anchors<Scalar> anchors(job, group, first, count, slopes);
  if (job.rows()) {
    rows<Negative, WITH_SLOPES, PER_CLASS>(anchors, scratch);
  } else {
    planes<Negative, WITH_SLOPES>(anchors, scratch);
  }
  anchors.finish();
  float* per_anchor = job.per_anchor + group * job.num_anchors + first;
  __builtin_memcpy(per_anchor, anchors.loss, count * sizeof(float));
}

template <class Negative, bool PER_CLASS = false>
void run_formula(const DenseLoss& job, long unit, float* scratch) {
  const bool with_slopes = job.gradient != nullptr || job.slopes != nullptr;
  if (job.is_bfloat16) {
    with_slopes ? run_unit<Negative, Bfloat16, true, PER_CLASS>(job, unit, scratch)
                  : run_unit<Negative, Bfloat16, false, PER_CLASS>(job, unit, scratch);
  } else {
    with_slopes ? run_unit<Negative, float, true, PER_CLASS>(job, unit, scratch)
                  : run_unit<Negative, float, false, PER_CLASS>(job, unit, scratch);
  }
}

template <class Negative>
void run_formula_per_class(const DenseLoss& job, long unit, float* scratch) {
  job.negative.per_class ? run_formula<Negative, true>(job, unit, scratch)
                         : run_formula<Negative>(job, unit, scratch);
}

template <template <class> class Negative>
void run_formula_with_power(const DenseLoss& job, long unit, float* scratch) {
  const bool is_square = !job.negative.per_class && job.negative.parameters[0] == 2;
  is_square ? run_formula<Negative<focal::Square>>(job, unit, scratch)
            : run_formula_per_class<Negative<focal::Power>>(job, unit, scratch);
}

void run_asymmetric(const DenseLoss& job, long unit, float* scratch) {
  const float gamma = job.negative.parameters[0];
  const bool is_whole = !job.negative.per_class && focal::Power(gamma).rest == 0;
  is_whole ? run_formula<focal::AsymmetricNegative<true>>(job, unit, scratch)
           : run_formula_per_class<focal::AsymmetricNegative<false>>(job, unit, scratch);
}

void run(const DenseLoss& job, long unit, float* scratch) {
  switch (job.negative.kind) {
    case Kind::cross_entropy: return run_formula<focal::CrossEntropy>(job, unit, scratch);
    case Kind::binned_cross_entropy: return run_formula<focal::BinnedCrossEntropy>(job, unit, scratch);
    case Kind::focal: return run_formula_with_power<focal::Focal>(job, unit, scratch);
    case Kind::asymmetric_negative: return run_asymmetric(job, unit, scratch);
    case Kind::focal_star: return run_formula_per_class<focal::FocalStar>(job, unit, scratch);
    case Kind::poly_focal: return run_formula_with_power<focal::PolyFocal>(job, unit, scratch);
    case Kind::hinge: return run_formula_per_class<focal::Hinge>(job, unit, scratch);
    case Kind::detached_focal: return run_formula_with_power<focal::DetachedFocal>(job, unit, scratch);
    case Kind::gumbel: return run_formula<focal::Gumbel>(job, unit, scratch);
    case Kind::gumbel_complement: return run_formula<focal::GumbelComplement>(job, unit, scratch);
    case Kind::quality_focal:
    case Kind::varifocal:
    case Kind::soft_target: return;  // for positives only
  }
}
