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
  const focal::Point at = focal::point(x);
  const Side& side = job.positive;
  const focal::Parameters p = parameters_of(side, side.per_class, label, job.num_classes);
  switch (side.kind) {
    case Kind::cross_entropy: return focal::CrossEntropy(p)(at);
    case Kind::binned_cross_entropy:
      return focal::BinnedCrossEntropy(p)(at, side.table[focal::bin_of(at.q, side.entries)]);
    case Kind::focal: return focal::Focal<focal::Power>(p)(at);
    case Kind::asymmetric_negative: return focal::AsymmetricNegative<false>(p)(at);
    case Kind::focal_star: return focal::FocalStar(p)(at);
    case Kind::poly_focal: return focal::PolyFocal<focal::Power>(p)(at);
    case Kind::hinge: return focal::Hinge(p)(at);
    case Kind::detached_focal: return focal::DetachedFocal<focal::Power>(p)(at);
    case Kind::gumbel: return focal::Gumbel(p)(at);
    case Kind::gumbel_complement: return focal::GumbelComplement(p)(at);
    case Kind::quality_focal: return focal::QualityFocal(p)(at, quality);
    case Kind::varifocal: return focal::Varifocal(p)(at, quality);
    case Kind::soft_target: return focal::SoftTarget(p)(at, quality);
  }
  __builtin_unreachable();
}

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

// The logits in float32; a copy if they are not.
inline const float* as_float(const float* logits, long, float*) { return logits; }

SHARED const float* as_float(const Bfloat16* logits, long count, float* copy) {
  for (long i = 0; i < count; ++i) copy[i] = load(logits[i]);
  return copy;
}

// Writes the slopes times the factors to the gradient, unless it is null.
template <class Scalar>
SHARED void write_gradient(const float* slopes, long count, const float* factor, long step,
                           Scalar* gradient) {
  if (gradient == nullptr) return;
  for (long i = 0; i < count; ++i) store(gradient + i, slopes[i] * factor[i * step]);
}

template <class Scalar>
SHARED void write_zeros(Scalar* gradient, long count) {
  for (long i = 0; i < count; ++i) store(gradient + i, 0.0f);
}

SHARED float sum_of_magnitudes(const float* slopes, long count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (long i = 0; i < count; ++i) sum += focal::magnitude(slopes[i]);
  return sum;
}

SHARED void add_magnitudes(const float* slopes, long count, double* sums) {
  for (long i = 0; i < count; ++i) sums[i] += focal::magnitude(slopes[i]);
}

// Entries of the table for negatives, with what led to them: (3, count) numbers, see
// `focal::cost_of`. The look-up itself is not vectorized.
template <class Scalar>
SHARED void look_up(const Side& side, const Scalar* logits, long count, float* entries) {
  int bins[ANCHORS_PER_UNIT];
  for (long first = 0; first < count; first += ANCHORS_PER_UNIT) {
    const long left = count - first;
    const long some = left < ANCHORS_PER_UNIT ? left : ANCHORS_PER_UNIT;
#pragma omp simd
    for (long i = 0; i < some; ++i) {
      const focal::Point at = focal::point(-load(logits[first + i]));
      bins[i] = focal::bin_of(at.q, side.entries);
      entries[count + first + i] = at.q;
      entries[2 * count + first + i] = at.ce;
    }
    for (long i = 0; i < some; ++i) entries[first + i] = side.table[bins[i]];
  }
}

// Negatives of class k. The slopes of `float` logits share it with the gradient.
template <class Negative, class Scalar, bool WITH_GRADIENT>
SHARED void plane(const DenseLoss& job, int k, const int* labels, long count, const float* scale,
                  const Scalar* logits, float* loss, Scalar* gradient, float* entries) {
  if (focal::HAS_TABLE<Negative>) look_up(job.negative, logits, count, entries);
  const Negative negative(parameters_of(job.negative, job.negative.per_class, k, job.num_classes));
  const float weight = job.negative.weights[k];
#pragma omp simd
  for (long i = 0; i < count; ++i) {
    const bool counts = (labels[i] != k) & (labels[i] >= 0);
    const float factor = -weight * scale[i];  // before all stores: a later load is conditional
    const focal::Cost cost = focal::cost_of(negative, -load(logits[i]), entries, i, count);
    const bool stays = counts & !is_flushed(cost.slope);
    const float slope = stays ? cost.slope * factor : 0.0f;
    loss[i] += counts ? weight * cost.value : 0.0f;
    if (WITH_GRADIENT) store(gradient + i, slope);
  }
}

// T != 1: the logits of one class are adjacent.
template <class Negative, class Scalar, bool WITH_GRADIENT>
void planes(Anchors<Scalar>& anchors, float* scratch) {
  const DenseLoss& job = anchors.job;
  const long count = anchors.count;
  for (int k = 0; k < job.num_classes; ++k) {
    const Scalar* logits = anchors.logits + k * anchors.plane;
    Scalar* gradient = WITH_GRADIENT ? anchors.gradient + k * anchors.plane : nullptr;
    if (!anchors.any) {  // common if mining keeps few anchors
      if (WITH_GRADIENT) write_zeros(gradient, count);
      continue;
    }
    const bool is_spared = job.beside_object[k] != job.negative.weights[k];
    const int* labels = is_spared ? anchors.background : anchors.labels;
    if (anchors.slopes == nullptr) {
      plane<Negative, Scalar, WITH_GRADIENT>(job, k, labels, count, anchors.scale, logits,
                                             anchors.loss, gradient, scratch);
      continue;
    }
    float *slopes = scratch + 3 * count, *copy = slopes + count;
    plane<Negative, float, true>(job, k, labels, count, anchors.weight,
                                 as_float(logits, count, copy), anchors.loss, slopes, scratch);
    anchors.slopes[job.num_classes + k] = sum_of_magnitudes(slopes, count);
    write_gradient(slopes, count, anchors.factor, 1, gradient);
  }
}

// The formula of class k. It is no variable of a vectorized loop, which would be kept in memory.
template <bool PER_CLASS, class Negative>
INLINE focal::Cost cost_of_negative(const DenseLoss& job, const Negative& of_all, long k, float x,
                                    const float* entries) {
  if (!PER_CLASS) return focal::cost_of(of_all, -x, entries, k, job.num_classes);
  const Negative negative(parameters_of(job.negative, true, k, job.num_classes));
  return focal::cost_of(negative, -x, entries, k, job.num_classes);
}

// Negatives of an anchor that is not ignored. Returns their loss.
template <class Negative, class Scalar, bool WITH_GRADIENT, bool PER_CLASS>
SHARED float row(const DenseLoss& job, int label, float scale, const Scalar* logits,
                 Scalar* gradient, float* entries) {
  const int num_classes = job.num_classes;
  if (focal::HAS_TABLE<Negative>) look_up(job.negative, logits, num_classes, entries);
  const Negative of_all(parameters_of(job.negative, false, 0, num_classes));
  const float* weights = job.is_class(label) ? job.beside_object : job.negative.weights;
  float loss = 0;
#pragma omp simd reduction(+ : loss)
  for (int k = 0; k < num_classes; ++k) {
    const bool counts = label != k;
    const focal::Cost cost =
        cost_of_negative<PER_CLASS>(job, of_all, k, load(logits[k]), entries);
    const float weight = weights[k];
    const bool stays = counts & !is_flushed(cost.slope);
    loss += counts ? weight * cost.value : 0.0f;
    if (WITH_GRADIENT) store(gradient + k, stays ? cost.slope * (-weight * scale) : 0.0f);
  }
  return loss;
}

// T = 1: the logits of one anchor are adjacent.
template <class Negative, class Scalar, bool WITH_GRADIENT, bool PER_CLASS>
void rows(Anchors<Scalar>& anchors, float* scratch) {
  const DenseLoss& job = anchors.job;
  const int num_classes = job.num_classes;
  for (long i = 0; i < anchors.count; ++i) {
    const Scalar* logits = anchors.logits + i * num_classes;
    Scalar* gradient = WITH_GRADIENT ? anchors.gradient + i * num_classes : nullptr;
    const int label = anchors.labels[i];
    if (label < 0) {  // ignored
      if (WITH_GRADIENT) write_zeros(gradient, num_classes);
      continue;
    }
    if (anchors.slopes == nullptr) {
      anchors.loss[i] = row<Negative, Scalar, WITH_GRADIENT, PER_CLASS>(
          job, label, anchors.scale[i], logits, gradient, scratch);
      continue;
    }
    float *slopes = scratch + 3 * num_classes, *copy = slopes + num_classes;
    anchors.loss[i] = row<Negative, float, true, PER_CLASS>(
        job, label, anchors.weight[i], as_float(logits, num_classes, copy), slopes, scratch);
    add_magnitudes(slopes, num_classes, anchors.slopes + num_classes);
    write_gradient(slopes, num_classes, anchors.factor + i, 0, gradient);
  }
}

template <class Negative, class Scalar, bool WITH_GRADIENT, bool PER_CLASS>
void run_unit(const DenseLoss& job, long unit, float* scratch) {
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
    rows<Negative, Scalar, WITH_GRADIENT, PER_CLASS>(anchors, scratch);
  } else {
    planes<Negative, Scalar, WITH_GRADIENT>(anchors, scratch);
  }
  anchors.finish();
  float* per_anchor = job.per_anchor + group * job.num_anchors + first;
  __builtin_memcpy(per_anchor, anchors.loss, count * sizeof(float));
}

template <class Negative, bool PER_CLASS = false>
void run_formula(const DenseLoss& job, long unit, float* scratch) {
  const bool with_gradient = job.gradient != nullptr;
  if (job.is_bfloat16) {
    with_gradient ? run_unit<Negative, Bfloat16, true, PER_CLASS>(job, unit, scratch)
                  : run_unit<Negative, Bfloat16, false, PER_CLASS>(job, unit, scratch);
  } else {
    with_gradient ? run_unit<Negative, float, true, PER_CLASS>(job, unit, scratch)
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
