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

#if defined(HAS_FMA) || defined(__FMA__) || defined(__aarch64__)
INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
INLINE float multiply_add(float a, float b, float c) { return a * b + c; }
#endif

// exp(y) = power * (1 + rest) for y <= 88, by Cody and Waite's reduction to |r| <= ln(2) / 2 and a
// polynomial. A subnormal result becomes exp(-87). A NaN stays a NaN.
struct Exponential {
  float power;  // of two
  float rest;

  INLINE float value() const { return multiply_add(rest, power, power); }
  INLINE float minus_one() const { return rest * power + (power - 1.0f); }
};

INLINE Exponential exponential(float y) {
  const float clamped = y < LEAST_EXPONENT ? LEAST_EXPONENT : y;
  // Adding 1.5 * 2^23 + 127 rounds to an integer, which is then in the low bits: those of a power.
  const float shifted = multiply_add(clamped, 1.44269504f, 12583039.0f);
  const float n = shifted - 12583039.0f;
  float r = multiply_add(n, -0.693359375f, clamped);
  r = multiply_add(n, 2.12194440e-4f, r);
  const float r2 = r * r;
  const float low = multiply_add(1.66666655e-1f, r, 5.00000012e-1f);
  const float middle = multiply_add(8.33345191e-3f, r, 4.16657959e-2f);
  const float high = multiply_add(1.98756915e-4f, r, 1.39819995e-3f);
  const float poly = multiply_add(multiply_add(high, r2, middle), r2, low);
  unsigned bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits <<= 23;
  float power_of_two;
  __builtin_memcpy(&power_of_two, &bits, sizeof bits);
  return {power_of_two, multiply_add(poly, r2, r)};
}

INLINE float exponential_of(float y) { return exponential(y).value(); }

// log(1 + e) for e in [0, 1]: e times a minimax polynomial of the ratio, accurate to 4e-8. The
// added number does not change the ratio. Without it, powers would be subnormal, which is slow.
INLINE float log_of_one_plus(float e) {
  const float y = e + 1e-9f;
  const float y2 = y * y, y4 = y2 * y2;
  const float first = multiply_add(-4.99996483e-1f, y, 1.0f);
  const float second = multiply_add(-2.48571485e-1f, y, 3.33213210e-1f);
  const float third = multiply_add(-1.37536734e-1f, y, 1.91535950e-1f);
  const float fourth = multiply_add(-3.00648510e-2f, y, 7.92030096e-2f);
  const float low = multiply_add(second, y2, first);
  const float high = multiply_add(5.36458893e-3f, y4, multiply_add(fourth, y2, third));
  return multiply_add(high, y4, low) * e;
}

// log(x) of a positive normal number, accurate to the last bits: Cephes' polynomial of x / 2^n - 1.
// A NaN stays a NaN.
INLINE float log_of(float x) {
  int bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const int n = (bits - 0x3F3504F3) >> 23;  // x / 2^n is in [sqrt(1/2), sqrt(2))
  const int mantissa = bits - (n << 23);
  float m;
  __builtin_memcpy(&m, &mantissa, sizeof m);
  m -= 1.0f;
  float poly = 7.0376836292e-2f;
  poly = multiply_add(poly, m, -1.1514610310e-1f);
  poly = multiply_add(poly, m, 1.1676998740e-1f);
  poly = multiply_add(poly, m, -1.2420140846e-1f);
  poly = multiply_add(poly, m, 1.4249322787e-1f);
  poly = multiply_add(poly, m, -1.6668057665e-1f);
  poly = multiply_add(poly, m, 2.0000714765e-1f);
  poly = multiply_add(poly, m, -2.4999993993e-1f);
  poly = multiply_add(poly, m, 3.3333331174e-1f);
  const float exponent = static_cast<float>(n);
  float rest = poly * m * (m * m);
  rest = multiply_add(exponent, -2.12194440e-4f, rest);
  rest = multiply_add(m * m, -0.5f, rest) + m;
  const float result = multiply_add(exponent, 0.693359375f, rest);
  return x == x ? result : x;
}

struct Cost {
  float value;
  float slope;  // derivative with respect to x_t
};

// The kernels compute a formula in three stages: `first`, `second`, and the call with what `at`
// returns. Each is a loop of its own. In a single loop, the chain of dependent operations would be
// longer than what a processor reorders, and its units would wait.

// What the second stage hands over for one logit.
struct Parts {
  float a, b, c;
};

// Quantities of most formulas.
struct Point {
  float x;        // x_t
  float p;        // p_t = sigmoid(x_t)
  float q;        // 1 - p_t
  float ce;       // -log(p_t)
  float ce_of_q;  // -log(1 - p_t)
};

// Stages of a formula of a point.
struct OfPoint {
  INLINE static float first(float x) { return exponential_of(-magnitude(x)); }  // in [0, 1]

  INLINE static Parts second(float, float e) {
    return {e, 1.0f / (1.0f + e), log_of_one_plus(e)};
  }

  INLINE static Point at(float x, const Parts& parts) {
    const float larger = parts.b, smaller = parts.a * larger, log1p_e = parts.c;
    const bool likely = x >= 0;
    return {x,
            likely ? larger : smaller,
            likely ? smaller : larger,
            positive_part(-x) + log1p_e,
            positive_part(x) + log1p_e};
  }
};

// All stages at once, for a single logit.
template <class Stages>
INLINE auto point_of(const Stages& stages, float x) {
  return stages.at(x, stages.second(x, stages.first(x)));
}

INLINE Point point(float x) { return point_of(OfPoint(), x); }

// Cost of a single logit; `rest` is what else the formula requires.
template <class Formula, class... Rest>
INLINE Cost cost_of(const Formula& formula, float x, Rest... rest) {
  return formula(point_of(formula, x), rest...);
}

// base^whole for whole = 0..7, by multiplication.
INLINE float whole_power(float base, int whole) {
  const float square = base * base;
  const float one = whole & 1 ? base : 1.0f;
  const float two = whole & 2 ? square : 1.0f;
  const float four = whole & 4 ? square * square : 1.0f;
  return one * two * four;
}

// A power of 1 - p_t, its integer part by multiplication: exact to the last bits for large powers.
struct Power {
  int whole;  // 0..7
  float rest;

  explicit Power(float gamma) {
    // Not `gamma < 7 ? ... : 7`: the compiler would turn a constant into branches of the loop
    const float excess = positive_part(gamma - 7.0f);
    whole = static_cast<int>(gamma - excess);
    rest = gamma - static_cast<float>(whole);
  }

  INLINE float operator()(const Point& at) const {
    return whole_power(at.q, whole) * exponential_of(-rest * at.ce_of_q);
  }
};

// The usual formula, without a power.
struct Square {
  explicit Square(float) {}
  INLINE float operator()(const Point& at) const { return at.q * at.q; }
};

// Parameters of a formula, for one class.
struct Parameters {
  float numbers[4];

  INLINE float operator[](int i) const { return numbers[i]; }
};

// Each formula has the parameters of its Python counterpart, in the same order.

struct CrossEntropy : OfPoint {
  explicit CrossEntropy(const Parameters&) {}
  INLINE Cost operator()(const Point& at) const { return {at.ce, -at.q}; }
};

// The bin of a norm in [0, 1]. A NaN is in the first one.
INLINE int bin_of(float norm, int bins) {
  const float last = static_cast<float>(bins - 1);
  const float scaled = norm * static_cast<float>(bins);
  const float bounded = scaled > last ? last : scaled;
  return static_cast<int>(bounded > 0 ? bounded : 0.0f);
}

// Cross entropy times the entry of a table for the bin of 1 - p_t, a constant for the slope.
struct BinnedCrossEntropy {
  struct Point {
    float q, ce;
  };

  explicit BinnedCrossEntropy(const Parameters&) {}

  INLINE static float first(float x) { return OfPoint::first(x); }

  INLINE static Parts second(float x, float e) {
    const focal::Point at = OfPoint::at(x, OfPoint::second(x, e));
    return {at.q, at.ce, 0.0f};  // the first one is the norm that the table is read for
  }

  INLINE static Point at(float, const Parts& parts) { return {parts.a, parts.b}; }

  INLINE Cost operator()(const Point& at, float entry) const {
    return {entry * at.ce, -entry * at.q};
  }
};

template <class Formula>
constexpr bool HAS_TABLE = false;
template <>
constexpr bool HAS_TABLE<BinnedCrossEntropy> = true;

// Focal loss of a negative with a margin: of the probability p_m = max(q - clip, 0), for clip > 0.
template <bool WHOLE>
struct AsymmetricNegative {
  struct Point {
    float p, q;
    float rest;  // 1 - p_m
    float ce;    // -log(1 - p_m)
  };

  float gamma, clip;
  Power power;

  explicit AsymmetricNegative(const Parameters& p) : gamma(p[0]), clip(p[1]), power(p[0]) {}

  INLINE static float first(float x) { return OfPoint::first(x); }

  INLINE Parts second(float x, float e) const {
    const float larger = 1.0f / (1.0f + e), smaller = e * larger;
    const float p = x >= 0 ? larger : smaller;
    return {p, x >= 0 ? smaller : larger, -log_of(rest_of(p))};
  }

  INLINE Point at(float, const Parts& parts) const {
    return {parts.a, parts.b, rest_of(parts.a), parts.c};
  }

  INLINE float rest_of(float p) const {
    const float sum = p + clip;  // not 1 - p_m: q rounds to 1
    return sum > 1.0f ? 1.0f : sum;
  }

  INLINE Cost operator()(const Point& at) const {
    const float p_m = at.q <= clip ? 0.0f : at.q - clip;  // 0: value and slope are 0
    const float base = p_m > LEAST ? p_m : LEAST;
    float m = whole_power(p_m, power.whole);
    if (!WHOLE) m *= exponential_of(power.rest * log_of(base));
    // gamma * ce / p_m + 1 / (1 - p_m)
    const float sum_of_slopes = multiply_add(gamma * at.ce, at.rest, base) / (base * at.rest);
    const float slope = -at.p * at.q * m * sum_of_slopes;
    return {m * at.ce, p_m == 0 ? 0.0f : slope};
  }

  static constexpr float LEAST = 1e-30f;
};

template <class PowerOf>
struct Focal : OfPoint {
  float gamma, half_smoothing;
  PowerOf power;

  explicit Focal(const Parameters& p) : gamma(p[0]), half_smoothing(p[1] / 2), power(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float m = power(at);
    const float ce = multiply_add(half_smoothing, at.x, at.ce);
    return {m * ce, m * (half_smoothing - at.q - gamma * at.p * ce)};
  }
};

struct FocalStar {
  float gamma, beta;

  explicit FocalStar(const Parameters& p) : gamma(p[0]), beta(p[1]) {}

  INLINE float first(float x) const { return OfPoint::first(shifted(x)); }
  INLINE static Parts second(float x, float e) { return OfPoint::second(x, e); }
  INLINE Point at(float x, const Parts& parts) const { return OfPoint::at(shifted(x), parts); }
  INLINE float shifted(float x) const { return gamma * x + beta; }

  INLINE Cost operator()(const Point& at) const { return {at.ce / gamma, -at.q}; }
};

template <class PowerOf>
struct PolyFocal : OfPoint {
  float gamma, alpha_t, epsilon;
  PowerOf power;

  explicit PolyFocal(const Parameters& p) : gamma(p[0]), alpha_t(p[1]), epsilon(p[2]), power(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float m = power(at);
    const float focal = alpha_t * (gamma * at.p * at.ce + at.q);
    const float added = epsilon * (gamma + 1) * at.p * at.q;
    return {m * (alpha_t * at.ce + epsilon * at.q), -m * (focal + added)};
  }
};

struct Hinge : OfPoint {
  float margin;

  explicit Hinge(const Parameters& p) : margin(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float excess = at.q - (1 - margin);
    // not `excess > 0`: a NaN must propagate
    return {excess <= 0 ? 0.0f : excess, excess <= 0 ? 0.0f : -at.p * at.q};
  }
};

// The weight (1 - p_t)^gamma is a constant for the slope.
template <class PowerOf>
struct DetachedFocal : OfPoint {
  PowerOf power;

  explicit DetachedFocal(const Parameters& p) : power(p[0]) {}

  INLINE Cost operator()(const Point& at) const {
    const float m = power(at);
    return {m * at.ce, -m * at.q};
  }
};

// p = exp(-u), u = exp(-x), for x in [LOW, HIGH]; outside, the loss is that of the nearer end.
constexpr float GUMBEL_LOW = -4.0f, GUMBEL_HIGH = 10.0f;

// -log(p). x_t is x.
struct Gumbel {
  struct Point {
    float u;
    bool outside;
  };

  explicit Gumbel(const Parameters&) {}

  INLINE static float first(float x) {
    return exponential_of(-(x < GUMBEL_LOW ? GUMBEL_LOW : x > GUMBEL_HIGH ? GUMBEL_HIGH : x));
  }

  INLINE static Parts second(float, float u) { return {u, 0.0f, 0.0f}; }

  INLINE static Point at(float x, const Parts& parts) {
    const bool outside = (x < GUMBEL_LOW) | (x > GUMBEL_HIGH);
    return {parts.a, outside};
  }

  INLINE Cost operator()(const Point& at) const { return {at.u, at.outside ? 0.0f : -at.u}; }
};

// -log(1 - p). x_t is -x.
struct GumbelComplement {
  struct Point {
    float log_u;      // or 0, with the first of these:
    float numerator;  // 1 / (1 - p) is 1 + p / (1 - p), or 1 / u times 1 + (u - (1 - p)) / (1 - p)
    float u_p;        // u * p
    float not_p;      // 1 - p
    bool outside;
  };

  explicit GumbelComplement(const Parameters&) {}

  INLINE static float log_u(float x) {
    return x < -GUMBEL_HIGH ? -GUMBEL_HIGH : x > -GUMBEL_LOW ? -GUMBEL_LOW : x;
  }

  INLINE static bool is_unlikely(float x) { return x > -0.3665129f; }  // p < 1 / 2

  INLINE static float first(float x) { return exponential_of(log_u(x)); }

  INLINE static Parts second(float x, float u) {
    const Exponential exp = exponential(-u);
    const float p = exp.value(), not_p = -exp.minus_one();
    return {is_unlikely(x) ? p : u - not_p, u * p, not_p};
  }

  INLINE static Point at(float x, const Parts& parts) {
    const bool outside = (x < -GUMBEL_HIGH) | (x > -GUMBEL_LOW);
    return {is_unlikely(x) ? 0.0f : log_u(x), parts.a, parts.b, parts.c, outside};
  }

  INLINE Cost operator()(const Point& at) const {
    const float inverse = 1.0f / at.not_p;
    const float value = log_of_one_plus(at.numerator * inverse) - at.log_u;
    return {value, at.outside ? 0.0f : -at.u_p * inverse};
  }
};

// For positives only: the target is a quality y in [0, 1].

INLINE float soft_cross_entropy(const Point& at, float y) {
  return y * at.ce + (1 - y) * at.ce_of_q;
}

struct QualityFocal : OfPoint {
  float beta;

  explicit QualityFocal(const Parameters& p) : beta(p[0]) {}

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

struct Varifocal : OfPoint {
  float alpha, gamma;
  Power power;

  explicit Varifocal(const Parameters& p) : alpha(p[0]), gamma(p[1]), power(p[1]) {}

  INLINE Cost operator()(const Point& at, float y) const {
    if (y == 0) {  // the box misses the object: a negative
      const float m = alpha * power(Point{-at.x, at.q, at.p, at.ce_of_q, at.ce});
      return {m * at.ce_of_q, m * (gamma * at.q * at.ce_of_q + at.p)};
    }
    return {y * soft_cross_entropy(at, y), y * (at.p - y)};
  }
};

// The target max(p^b * y^a, c) is a constant for the slope.
struct SoftTarget : OfPoint {
  float quality_power, score_power, least;

  explicit SoftTarget(const Parameters& p) : quality_power(p[0]), score_power(p[1]), least(p[2]) {}

  INLINE Cost operator()(const Point& at, float y) const {
    const float aligned =
        exponential_of(-score_power * at.ce) * __builtin_powf(y, quality_power);
    const float target = aligned < least ? least : aligned;
    return {soft_cross_entropy(at, target), at.p - target};
  }
};

}  // namespace focal
