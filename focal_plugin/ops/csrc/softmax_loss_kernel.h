// Softmax loss of a block of anchors. It is included like `dense_loss_kernel.h`, after
// `formulas.h` and `scalars.h`.
//
// Let x_t be the logit of the label minus the logsumexp of all others, so that softmax(x)[label] is
// sigmoid(x_t). One formula of x_t is the loss of the anchor. Its slope is the gradient of the label,
// and its negative, shared out by the softmax of the others, is that of the others.
//
// Shape shorthand: logits (G, C, T), labels (G, T); see `focal_plugin/ops/softmax_loss.py`.

constexpr float LARGEST = __FLT_MAX__;

// Anchors of a block. There, logit (k, i) of anchor i is at k * plane + i * step.
template <class Scalar>
struct SoftmaxBlock {
  const SoftmaxLoss& job;
  const long count, plane, step;
  const Scalar* logits;
  Scalar* gradient;   // or null
  const int* labels;  // (count,)
  const long width;   // of a row of `others`
  float* others;      // rows: (count, width), planes: (C, width): the logits, without the label's
  float own[ANCHORS_PER_UNIT];      // logit of the label
  float largest[ANCHORS_PER_UNIT];  // of the others
  float sum[ANCHORS_PER_UNIT];      // of exp(others - largest)
  float weight[ANCHORS_PER_UNIT];
  float scale[ANCHORS_PER_UNIT];  // of the gradient
  float slope[ANCHORS_PER_UNIT];  // of the label
  float share[ANCHORS_PER_UNIT];  // slope of another logit, divided by its exponential
  float* loss;                    // (count,), out

  // `count` anchors of one group, starting at `first`; or, if T = 1, as many groups.
  SoftmaxBlock(const SoftmaxLoss& job, long group, long first, long count, float* scratch)
      : job(job),
        count(count),
        plane(job.rows() ? 1 : job.num_anchors),
        step(job.rows() ? job.num_classes : 1),
        width(SoftmaxLoss::padded(job.rows() ? job.num_classes : count)),
        others(scratch) {
    const long offset = group * job.num_anchors + first;
    const long origin = group * job.num_classes * job.num_anchors + first * step;
    logits = static_cast<const Scalar*>(job.logits) + origin;
    gradient = job.gradient == nullptr ? nullptr : static_cast<Scalar*>(job.gradient) + origin;
    labels = job.labels + offset;
    loss = job.per_anchor + offset;
    for (long i = 0; i < count; ++i) {
      weight[i] = job.weights == nullptr || !job.is_class(labels[i]) ? 1.0f : job.weights[labels[i]];
      scale[i] = weight[i] * (job.factors == nullptr ? job.factor : job.factors[offset + i]);
    }
  }

  bool all_ignored() const {
    bool any = false;
    for (long i = 0; i < count; ++i) any |= job.is_class(labels[i]);
    return !any;
  }

  void write_nothing() {
    for (long i = 0; i < count; ++i) loss[i] = 0;
    if (gradient == nullptr) return;
    for (long k = 0; k < (job.rows() ? count : job.num_classes); ++k) {
      Scalar* to = gradient + k * (job.rows() ? step : plane);
      for (long i = 0; i < (job.rows() ? job.num_classes : count); ++i) store(to + i, 0.0f);
    }
  }

  // Moves the logit of the label of anchor i to `own`. Its logits are `distance` numbers apart.
  void take_own(float* of_anchor, long i, long distance = 1) {
    own[i] = 0;
    if (!job.is_class(labels[i])) return;
    own[i] = of_anchor[labels[i] * distance];
    of_anchor[labels[i] * distance] = -LARGEST;
  }

  // Sets `others` to exp(others - largest). The label and the padding have the smallest exponential,
  // which is lost in the sum.
  void exponentials_of_rows() {
    for (long i = 0; i < count; ++i) {
      float* row = others + i * width;
      const Scalar* from = logits + i * step;
      // Copied even if ignored. The results are dropped
      for (long k = 0; k < job.num_classes; ++k) row[k] = load(from[k]);
      for (long k = job.num_classes; k < width; ++k) row[k] = -LARGEST;
      take_own(row, i);
      float most = -LARGEST;
#pragma omp simd reduction(max : most)
      for (long k = 0; k < width; ++k) most = row[k] > most ? row[k] : most;
      float total = 0;
#pragma omp simd reduction(+ : total)
      for (long k = 0; k < width; ++k) {
        row[k] = focal::exponential_of(row[k] - most);
        total += row[k];
      }
      largest[i] = most;
      sum[i] = total;
    }
  }

  void exponentials_of_planes() {
    for (long k = 0; k < job.num_classes; ++k) {
      const Scalar* from = logits + k * plane;
      for (long i = 0; i < count; ++i) others[k * width + i] = load(from[i]);
    }
    for (long i = 0; i < count; ++i) {
      largest[i] = -LARGEST;
      sum[i] = 0;
      take_own(others + i, i, width);
    }
    for (long k = 0; k < job.num_classes; ++k) {
      const float* x = others + k * width;
#pragma omp simd
      for (long i = 0; i < count; ++i) largest[i] = x[i] > largest[i] ? x[i] : largest[i];
    }
    for (long k = 0; k < job.num_classes; ++k) {
      float* x = others + k * width;
#pragma omp simd
      for (long i = 0; i < count; ++i) {
        x[i] = focal::exponential_of(x[i] - largest[i]);
        sum[i] += x[i];
      }
    }
  }

  template <class Formula>
  void costs() {
    const float* p = job.parameters;
    const Formula formula(focal::Parameters{{p[0], p[1], p[2], p[3]}});
#pragma omp simd
    for (long i = 0; i < count; ++i) {
      const bool counts = job.is_class(labels[i]);
      const float margin = (own[i] - largest[i]) - focal::log_of(sum[i]);
      const focal::Cost cost = cost_of(formula, margin > LARGEST ? LARGEST : margin);
      loss[i] = counts ? weight[i] * cost.value : 0.0f;
      slope[i] = counts & !is_flushed(cost.slope) ? cost.slope : 0.0f;
      share[i] = -slope[i] / sum[i];
    }
  }

  void write_gradient_of_rows() {
    for (long i = 0; i < count; ++i) {
      const float* row = others + i * width;
      Scalar* to = gradient + i * step;
      if (!job.is_class(labels[i])) {
        for (long k = 0; k < job.num_classes; ++k) store(to + k, 0.0f);
        continue;
      }
      const float of_others = share[i], factor = scale[i];
#pragma omp simd
      for (long k = 0; k < job.num_classes; ++k) {
        const float shared = row[k] * of_others;
        store(to + k, is_flushed(shared) ? 0.0f : shared * factor);
      }
      store(to + labels[i], slope[i] * scale[i]);
    }
  }

  void write_gradient_of_planes() {
    for (long k = 0; k < job.num_classes; ++k) {
      const float* row = others + k * width;
      Scalar* to = gradient + k * plane;
#pragma omp simd
      for (long i = 0; i < count; ++i) {
        const float shared = row[i] * share[i];
        const bool stays = job.is_class(labels[i]) & !is_flushed(shared);
        store(to + i, stays ? shared * scale[i] : 0.0f);
      }
    }
    for (long i = 0; i < count; ++i) {
      if (job.is_class(labels[i])) store(gradient + labels[i] * plane + i, slope[i] * scale[i]);
    }
  }

  void run() {
    if (all_ignored()) return write_nothing();  // common if mining keeps few anchors
    job.rows() ? exponentials_of_rows() : exponentials_of_planes();
    if (job.kind == Kind::cross_entropy) {
      costs<focal::CrossEntropy>();
    } else if (job.parameters[0] == 2) {
      costs<focal::Focal<focal::Square>>();
    } else {
      costs<focal::Focal<focal::Power>>();
    }
    if (gradient == nullptr) return;
    job.rows() ? write_gradient_of_rows() : write_gradient_of_planes();
  }
};

template <class Scalar>
void run_softmax_unit(const SoftmaxLoss& job, long unit, float* scratch) {
  const long units = SoftmaxLoss::units_of(job.num_anchors);
  const long group = job.rows() ? 0 : unit / units;
  const long begin = (job.rows() ? unit : unit % units) * ANCHORS_PER_UNIT;
  const long all = job.rows() ? job.num_groups : job.num_anchors;
  const long end = all - begin < ANCHORS_PER_UNIT ? all : begin + ANCHORS_PER_UNIT;
  const long size = job.anchors_per_block();
  for (long first = begin; first < end; first += size) {
    const long count = end - first < size ? end - first : size;
    SoftmaxBlock<Scalar>(job, group, first, count, scratch).run();
  }
}

void run_softmax(const SoftmaxLoss& job, long unit, float* scratch) {
  job.is_bfloat16 ? run_softmax_unit<Bfloat16>(job, unit, scratch)
                  : run_softmax_unit<float>(job, unit, scratch);
}
