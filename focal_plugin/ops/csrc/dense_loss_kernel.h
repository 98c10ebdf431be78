// Loss of a block of anchors. One file per instruction set includes this, inside a namespace of its
// own, so that the widest vectors of the machine can be chosen at run time. It includes only code
// that is compiled for the same instruction set.
//
// Shape shorthand: logits (G, K, T), labels (G, T); see `focal_plugin/ops/dense_loss.py`.

struct Bfloat16 {
  unsigned short bits;
};

INLINE float load(float x) { return x; }

INLINE float load(Bfloat16 x) {
  const unsigned bits = static_cast<unsigned>(x.bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE void store(float* to, float x) { *to = x; }

INLINE void store(Bfloat16* to, float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const unsigned rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // ties to even
  to->bits = static_cast<unsigned short>(x == x ? rounded : 0x7FC0);
}

// See FLUSHED_BELOW in `focal_plugin/ops/dense_loss_block.py`. A NaN stays a NaN.
INLINE bool is_flushed(float slope) { return focal::magnitude(slope) < 1e-20f; }

inline focal::Cost cost_of_positive(const DenseLoss& job, float x, float quality) {
  const focal::Point at = focal::point(x);
  const float* p = job.positive_parameters;
  switch (job.positive) {
    case Kind::cross_entropy: return focal::CrossEntropy(p)(at);
    case Kind::focal: return focal::Focal<focal::Power>(p)(at);
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

// Adds the one logit of each anchor that its label names, to `loss` (anchors) and to `gradient`.
// There, logit (k, i) of anchor i is at k * plane + i * step.
template <class Scalar>
void positives(const DenseLoss& job, const Scalar* logits, Scalar* gradient, const int* labels,
               const float* quality, const float* factor, long anchors, long plane, long step,
               float* loss) {
  for (long i = 0; i < anchors; ++i) {
    const int label = labels[i];
    if (label < 0 || label >= job.num_classes) continue;
    const long at = label * plane + i * step;
    const float weight = job.weights[label];
    const focal::Cost cost =
        cost_of_positive(job, load(logits[at]), quality == nullptr ? 0.0f : quality[i]);
    loss[i] += weight * cost.value;
    if (gradient != nullptr) {
      const float scale = weight * (factor == nullptr ? job.factor : factor[i]);
      store(gradient + at, is_flushed(cost.slope) ? 0.0f : cost.slope * scale);
    }
  }
}

// T != 1: the logits of one class are adjacent. `count` anchors of one group, starting at `first`.
template <class Negative, class Scalar, bool WITH_GRADIENT>
void planes(const DenseLoss& job, long group, long first, long count, float* loss) {
  const Negative negative(job.negative_parameters);
  const long offset = group * job.num_anchors + first;
  const int* labels = job.labels + offset;
  const long origin = group * job.num_classes * job.num_anchors + first;
  const Scalar* logits = static_cast<const Scalar*>(job.logits) + origin;
  Scalar* gradient = WITH_GRADIENT ? static_cast<Scalar*>(job.gradient) + origin : nullptr;
  const float* factor = job.factors == nullptr ? nullptr : job.factors + offset;
  const float* quality = job.quality == nullptr ? nullptr : job.quality + offset;

  float factor_of[ANCHORS_PER_UNIT];
  bool any = false;
  for (long i = 0; i < count; ++i) {
    factor_of[i] = factor == nullptr ? job.factor : factor[i];
    loss[i] = 0;
    any |= labels[i] >= 0;
  }
  if (!any) {  // common if mining keeps few anchors
    for (int k = 0; WITH_GRADIENT && k < job.num_classes; ++k) {
      for (long i = 0; i < count; ++i) store(gradient + k * job.num_anchors + i, 0.0f);
    }
    return;
  }
  for (int k = 0; k < job.num_classes; ++k) {
    const Scalar* x = logits + k * job.num_anchors;
    Scalar* g = WITH_GRADIENT ? gradient + k * job.num_anchors : nullptr;
    const float weight = job.weights[job.num_classes + k];
#pragma omp simd
    for (long i = 0; i < count; ++i) {
      const bool counts = (labels[i] != k) & (labels[i] >= 0);
      const focal::Cost cost = negative(focal::point(-load(x[i])));
      loss[i] += counts ? weight * cost.value : 0.0f;
      if (WITH_GRADIENT) {
        const bool stays = counts & !is_flushed(cost.slope);
        store(g + i, stays ? cost.slope * (-weight * factor_of[i]) : 0.0f);
      }
    }
  }
  positives(job, logits, gradient, labels, quality, factor, count, job.num_anchors, 1, loss);
}

// T = 1: the logits of one anchor are adjacent. `count` anchors, starting at `first`.
template <class Negative, class Scalar, bool WITH_GRADIENT>
void rows(const DenseLoss& job, long first, long count, float* loss) {
  const Negative negative(job.negative_parameters);
  const int num_classes = job.num_classes;
  const float* weights = job.weights + num_classes;
  const int* labels = job.labels + first;
  const Scalar* logits = static_cast<const Scalar*>(job.logits) + first * num_classes;
  Scalar* gradient =
      WITH_GRADIENT ? static_cast<Scalar*>(job.gradient) + first * num_classes : nullptr;
  const float* factor = job.factors == nullptr ? nullptr : job.factors + first;
  const float* quality = job.quality == nullptr ? nullptr : job.quality + first;

  for (long i = 0; i < count; ++i) {
    const Scalar* x = logits + i * num_classes;
    Scalar* g = WITH_GRADIENT ? gradient + i * num_classes : nullptr;
    const int label = labels[i];
    const bool ignored = label < 0;
    const float scale = factor == nullptr ? job.factor : factor[i];
    float sum = 0;
    if (ignored) {
      if (WITH_GRADIENT) {
        for (int k = 0; k < num_classes; ++k) store(g + k, 0.0f);
      }
    } else {
#pragma omp simd reduction(+ : sum)
      for (int k = 0; k < num_classes; ++k) {
        const bool counts = label != k;
        const focal::Cost cost = negative(focal::point(-load(x[k])));
        sum += counts ? weights[k] * cost.value : 0.0f;
        if (WITH_GRADIENT) {
          const bool stays = counts & !is_flushed(cost.slope);
          store(g + k, stays ? cost.slope * (-weights[k] * scale) : 0.0f);
        }
      }
    }
    loss[i] = sum;
  }
  positives(job, logits, gradient, labels, quality, factor, count, 1, num_classes, loss);
}

template <class Negative, class Scalar, bool WITH_GRADIENT>
void run_unit(const DenseLoss& job, long unit) {
  float loss[ANCHORS_PER_UNIT];
  long group = 0, end = job.num_groups;
  if (!job.rows()) {
    const long units = DenseLoss::units_of(job.num_anchors);
    group = unit / units;
    unit %= units;
    end = job.num_anchors;
  }
  const long first = unit * ANCHORS_PER_UNIT;
  const long count = end - first < ANCHORS_PER_UNIT ? end - first : ANCHORS_PER_UNIT;
  if (job.rows()) {
    rows<Negative, Scalar, WITH_GRADIENT>(job, first, count, loss);
  } else {
    planes<Negative, Scalar, WITH_GRADIENT>(job, group, first, count, loss);
  }
  float* per_anchor = job.per_anchor + group * job.num_anchors + first;
  __builtin_memcpy(per_anchor, loss, count * sizeof(float));
}

template <class Negative>
void run_formula(const DenseLoss& job, long unit) {
  const bool with_gradient = job.gradient != nullptr;
  if (job.is_bfloat16) {
    with_gradient ? run_unit<Negative, Bfloat16, true>(job, unit)
                  : run_unit<Negative, Bfloat16, false>(job, unit);
  } else {
    with_gradient ? run_unit<Negative, float, true>(job, unit)
                  : run_unit<Negative, float, false>(job, unit);
  }
}

template <template <class> class Negative>
void run_formula_with_power(const DenseLoss& job, long unit) {
  const float gamma = job.negative_parameters[0];
  gamma == 2 ? run_formula<Negative<focal::Square>>(job, unit)
             : run_formula<Negative<focal::Power>>(job, unit);
}

void run(const DenseLoss& job, long unit) {
  switch (job.negative) {
    case Kind::cross_entropy: return run_formula<focal::CrossEntropy>(job, unit);
    case Kind::focal: return run_formula_with_power<focal::Focal>(job, unit);
    case Kind::focal_star: return run_formula<focal::FocalStar>(job, unit);
    case Kind::poly_focal: return run_formula_with_power<focal::PolyFocal>(job, unit);
    case Kind::hinge: return run_formula<focal::Hinge>(job, unit);
    case Kind::detached_focal: return run_formula_with_power<focal::DetachedFocal>(job, unit);
    case Kind::gumbel: return run_formula<focal::Gumbel>(job, unit);
    case Kind::gumbel_complement: return run_formula<focal::GumbelComplement>(job, unit);
    case Kind::quality_focal:
    case Kind::varifocal:
    case Kind::soft_target: return;  // for positives only
  }
}
