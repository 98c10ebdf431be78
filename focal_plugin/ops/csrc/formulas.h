// Loss of a single logit and its derivative, as in `focal_plugin/ops/formula.py`. It is plain
// scalar code without branches, which the compiler vectorizes.
//
// x_t is the signed logit: x of a positive, -x of a negative.

#pragma once

// A call that is not inlined prevents the vectorization of a loop.
#define INLINE __attribute__((always_inline)) inline

namespace focal {

INLINE float magnitude(float x) { return __builtin_fabsf(x); }

INLINE float positive_part(float x) { return x > 0 ? x : 0.0f; }

#ifdef __FMA__
INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
INLINE float multiply_add(float a, float b, float c) { return a * b + c; }
#endif

// exp(y) = power * (1 + rest) for y <= 88, by Cody and Waite's reduction to |r| <= ln(2) / 2 and a
// polynomial. A subnormal result becomes exp(-87). A NaN stays a NaN.
struct Exponential {
  float power;  // of two
  float rest;

  INLINE float value() const { return (rest + 1.0f) * power; }
  INLINE float minus_one() const { return rest * power + (power - 1.0f); }
};

INLINE Exponential exponential(float y) {
  const float clamped = y < -87.0f ? -87.0f : y;
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
  const float shifted = multiply_add(clamped, 1.44269504f, 12582912.0f);
  const float n = shifted - 12582912.0f;
  float r = multiply_add(n, -0.693359375f, clamped);
  r = multiply_add(n, 2.12194440e-4f, r);
  float poly = 1.98756915e-4f;
  poly = multiply_add(poly, r, 1.39819995e-3f);
  poly = multiply_add(poly, r, 8.33345191e-3f);
  poly = multiply_add(poly, r, 4.16657959e-2f);
  poly = multiply_add(poly, r, 1.66666655e-1f);
  poly = multiply_add(poly, r, 5.00000012e-1f);
  poly = multiply_add(poly, r * r, r);
  int bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  const int exponent = (bits - 0x4B400000 + 127) << 23;
  float power_of_two;
  __builtin_memcpy(&power_of_two, &exponent, sizeof exponent);
  return {power_of_two, poly};
}

INLINE float exponential_of(float y) { return exponential(y).value(); }

// log(1 + e) for e in [0, 1]: e times a minimax polynomial of the ratio, accurate to 4e-8.
INLINE float log_of_one_plus(float e) {
  float ratio = 5.36458893e-3f;
  ratio = multiply_add(ratio, e, -3.00648510e-2f);
  ratio = multiply_add(ratio, e, 7.92030096e-2f);
  ratio = multiply_add(ratio, e, -1.37536734e-1f);
  ratio = multiply_add(ratio, e, 1.91535950e-1f);
  ratio = multiply_add(ratio, e, -2.48571485e-1f);
  ratio = multiply_add(ratio, e, 3.33213210e-1f);
  ratio = multiply_add(ratio, e, -4.99996483e-1f);
  ratio = multiply_add(ratio, e, 1.0f);
  return ratio * e;
}

// Quantities of the formulas.
struct Point {
  float x;        // x_t
  float p;        // p_t = sigmoid(x_t)
  float q;        // 1 - p_t
  float ce;       // -log(p_t)
  float ce_of_q;  // -log(1 - p_t)
};

INLINE Point point(float x) {
  const float e = exponential_of(-magnitude(x));  // in [0, 1]
  const float larger = 1.0f / (1.0f + e);
  const float smaller = e * larger;
  const float log1p_e = log_of_one_plus(e);
  const bool likely = x >= 0;
  return {x,
          likely ? larger : smaller,
          likely ? smaller : larger,
          positive_part(-x) + log1p_e,
          positive_part(x) + log1p_e};
}

struct Cost {
  float value;
  float slope;  // derivative with respect to x_t
};

// A power of 1 - p_t, its integer part by multiplication: exact to the last bits for large powers.
struct Power {
  int whole;  // 0..7
  float rest;

  explicit Power(float gamma) : whole(gamma < 7 ? static_cast<int>(gamma) : 7) {
    rest = gamma - static_cast<float>(whole);
  }

  INLINE float operator()(const Point& at) const {
    const float q2 = at.q * at.q;
    const float one = whole & 1 ? at.q : 1.0f;
    const float two = whole & 2 ? q2 : 1.0f;
    const float four = whole & 4 ? q2 * q2 : 1.0f;
    return one * two * four * exponential_of(-rest * at.ce_of_q);
  }
};

// The usual formula, without a power.
struct Square {
  explicit Square(float) {}
  INLINE float operator()(const Point& at) const { return at.q * at.q; }
};

// Each formula has the parameters of its Python counterpart, in the same order.

struct CrossEntropy {
  explicit CrossEntropy(const float*) {}
  INLINE Cost operator()(const Point& at) const { return {at.ce, -at.q}; }
};

template <class PowerOf>
struct Focal {
  float gamma, half_smoothing;
  PowerOf power;

  explicit Focal(const float* p) : gamma(p[0]), half_smoothing(p[1] / 2), power(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float m = power(at);
    const float ce = multiply_add(half_smoothing, at.x, at.ce);
    return {m * ce, m * (half_smoothing - at.q - gamma * at.p * ce)};
  }
};

struct FocalStar {
  float gamma, beta;

  explicit FocalStar(const float* p) : gamma(p[0]), beta(p[1]) {}

  INLINE Cost operator()(const Point& at) const {
    const Point shifted = point(gamma * at.x + beta);
    return {shifted.ce / gamma, -shifted.q};
  }
};

template <class PowerOf>
struct PolyFocal {
  float gamma, alpha_t, epsilon;
  PowerOf power;

  explicit PolyFocal(const float* p) : gamma(p[0]), alpha_t(p[1]), epsilon(p[2]), power(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float m = power(at);
    const float focal = alpha_t * (gamma * at.p * at.ce + at.q);
    const float added = epsilon * (gamma + 1) * at.p * at.q;
    return {m * (alpha_t * at.ce + epsilon * at.q), -m * (focal + added)};
  }
};

struct Hinge {
  float margin;

  explicit Hinge(const float* p) : margin(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float excess = at.q - (1 - margin);
    // not `excess > 0`: a NaN must propagate
    return {excess <= 0 ? 0.0f : excess, excess <= 0 ? 0.0f : -at.p * at.q};
  }
};

// The weight (1 - p_t)^gamma is a constant for the slope.
template <class PowerOf>
struct DetachedFocal {
  PowerOf power;

  explicit DetachedFocal(const float* p) : power(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float m = power(at);
    return {m * at.ce, -m * at.q};
  }
};

// p = exp(-u), u = exp(-x), for x in [LOW, HIGH]; outside, the loss is that of the nearer end.
constexpr float GUMBEL_LOW = -4.0f, GUMBEL_HIGH = 10.0f;

// -log(p). x_t is x.
struct Gumbel {
  explicit Gumbel(const float*) {}

  INLINE Cost operator()(const Point& at) const {
    const bool below = at.x < GUMBEL_LOW, above = at.x > GUMBEL_HIGH;
    const float u = exponential_of(-(below ? GUMBEL_LOW : above ? GUMBEL_HIGH : at.x));
    return {u, below | above ? 0.0f : -u};
  }
};

// -log(1 - p). x_t is -x.
struct GumbelComplement {
  explicit GumbelComplement(const float*) {}

  INLINE Cost operator()(const Point& at) const {
    const bool below = at.x < -GUMBEL_HIGH, above = at.x > -GUMBEL_LOW;
    const float log_u = below ? -GUMBEL_HIGH : above ? -GUMBEL_LOW : at.x;
    const float u = exponential_of(log_u);
    const Exponential exp = exponential(-u);
    const float p = exp.value(), not_p = -exp.minus_one();
    // 1 / (1 - p) is 1 + p / (1 - p), or 1 / u times 1 + (u - (1 - p)) / (1 - p)
    const bool unlikely = p <= 0.5f;
    const float value = log_of_one_plus((unlikely ? p : u - not_p) / not_p);
    return {unlikely ? value : value - log_u, below | above ? 0.0f : -u * p / not_p};
  }
};

// For positives only: the target is a quality y in [0, 1].

INLINE float soft_cross_entropy(const Point& at, float y) {
  return y * at.ce + (1 - y) * at.ce_of_q;
}

struct QualityFocal {
  float beta;

  explicit QualityFocal(const float* p) : beta(p[0]) {}

  INLINE Cost operator()(const Point& at, float y) const {
    const float error = y - at.p;
    const float ce = soft_cross_entropy(at, y);
    const float m = __builtin_powf(magnitude(error), beta);
    if (beta == 0) return {ce, -error};
    const float dm = beta * __builtin_powf(magnitude(error), beta - 1);
    const float sign = static_cast<float>((error > 0) - (error < 0));
    return {m * ce, -m * error - dm * sign * at.p * at.q * ce};
  }
};

struct Varifocal {
  float alpha, gamma;
  Power power;

  explicit Varifocal(const float* p) : alpha(p[0]), gamma(p[1]), power(p[1]) {}

  INLINE Cost operator()(const Point& at, float y) const {
    if (y == 0) {  // the box misses the object: a negative
      const float m = alpha * power(Point{-at.x, at.q, at.p, at.ce_of_q, at.ce});
      return {m * at.ce_of_q, m * (gamma * at.q * at.ce_of_q + at.p)};
    }
    return {y * soft_cross_entropy(at, y), y * (at.p - y)};
  }
};

// The target max(p^b * y^a, c) is a constant for the slope.
struct SoftTarget {
  float quality_power, score_power, least;

  explicit SoftTarget(const float* p) : quality_power(p[0]), score_power(p[1]), least(p[2]) {}

  INLINE Cost operator()(const Point& at, float y) const {
    const float aligned =
        exponential_of(-score_power * at.ce) * __builtin_powf(y, quality_power);
    const float target = aligned < least ? least : aligned;
    return {soft_cross_entropy(at, target), at.p - target};
  }
};

}  // namespace focal
