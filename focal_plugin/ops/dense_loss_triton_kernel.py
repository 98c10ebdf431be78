"""
Triton kernel of :mod:`~focal_plugin.ops.dense_loss_triton`, with the formulas of `csrc/formulas.h`.

Importing this file imports Triton.

Shape shorthand: G groups of K planes of T anchors, see :mod:`~focal_plugin.ops.dense_loss`. A block
is BLOCK_T anchors of one group, and BLOCK_K of their classes at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

FLUSHED_BELOW = tl.constexpr(1e-20)  # as in `dense_loss_block.py`
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
GUMBEL_LOW = tl.constexpr(-4.0)
GUMBEL_HIGH = tl.constexpr(10.0)


@triton.jit(do_not_specialize=["num_blocks", "num_anchors"])
def dense_loss_kernel(
    logits: tl.tensor,
    labels: tl.tensor,
    quality: tl.tensor,
    weights: tl.tensor,
    anchor_weights: tl.tensor,
    positive_parameters: tl.tensor,
    positive_table: tl.tensor,
    negative_parameters: tl.tensor,
    negative_table: tl.tensor,
    factor: tl.tensor,
    per_anchor: tl.tensor,
    gradient: tl.tensor,
    slopes: tl.tensor,
    positive_weight: float,
    negative_weight: float,
    num_blocks: int,
    num_anchors: int,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    FACTOR_PER_ANCHOR: tl.constexpr,
    SPARES: tl.constexpr,
    POSITIVE: tl.constexpr,
    POSITIVE_1: tl.constexpr,
    POSITIVE_2: tl.constexpr,
    POSITIVE_3: tl.constexpr,
    NEGATIVE: tl.constexpr,
    NEGATIVE_1: tl.constexpr,
    NEGATIVE_2: tl.constexpr,
    NEGATIVE_3: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """
    Compute all classes of BLOCK_T anchors.

    There are G * num_blocks programs. No two programs add to one sum, so every run returns the same
    bits.

    Args:
        logits: (G, K, T); or (1, T, K) if ROWS. The ``gradient`` has the same layout.
        labels, quality, per_anchor: (G, T).
        weights: (3, K), see `Terms.weights`. None: ``positive_weight`` and ``negative_weight``
            apply to all classes.
        anchor_weights: (K+1,), weight of all logits of an anchor, by its label. None: 1.
        positive_parameters, negative_parameters: (4, K). None: the constants apply to all classes.
        positive_table, negative_table: see :func:`cost`.
        factor: (), or (G, T) if FACTOR_PER_ANCHOR. None, like the gradient, if no gradient is
            requested.
        slopes: (G * num_blocks, 2, K), the sums of |weighted slope| of each class. None: they are
            not computed.
        num_anchors: T / ALIGNMENT. The compiler knows a divisor of the product, and so how many
            logits it can load at once.
        SPARES: row 2 of the weights differs from row 1.
        POSITIVE, NEGATIVE: name of a formula, followed by its parameters.
    """
    EXACT: tl.constexpr = logits.dtype.element_ty == tl.float32
    T = num_anchors.to(tl.int64) * ALIGNMENT  # int64, as there can be more than 2^31 logits
    group = tl.program_id(0) // num_blocks
    anchors = (tl.program_id(0) % num_blocks).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    in_group = anchors < T
    at = group * T + anchors
    label = tl.load(labels + at, mask=in_group, other=-1)
    valid = label >= 0
    plane = 1 if ROWS else T
    start = at * K if ROWS else group * T * K + anchors

    # The one logit of each anchor that its label names
    has_class = valid & (label < K)
    x = tl.load(logits + start + label * plane, mask=has_class, other=0.0)
    y = 0.0
    if quality is not None:
        y = tl.load(quality + at, mask=in_group, other=0.0)
    weight = positive_weight
    if weights is not None:
        weight = tl.load(weights + label, mask=has_class, other=0.0)
    x = x.to(tl.float32)
    if positive_parameters is not None:
        own = positive_parameters + label
        first_parameter = tl.load(own, mask=has_class, other=1.0)
        second_parameter = tl.load(own + K, mask=has_class, other=1.0)
        third_parameter = tl.load(own + 2 * K, mask=has_class, other=1.0)
        value, fall = cost(
            x,
            y,
            POSITIVE,
            first_parameter,
            second_parameter,
            third_parameter,
            positive_table,
            True,
            EXACT,
        )
    else:
        value, fall = cost(
            x, y, POSITIVE, POSITIVE_1, POSITIVE_2, POSITIVE_3, positive_table, False, EXACT
        )
    loss = tl.where(has_class, weight * value, 0.0)
    of_anchor = tl.full([BLOCK_T], 1.0, tl.float32)
    if anchor_weights is not None:
        of_anchor = tl.load(anchor_weights + label, mask=valid, other=0.0)
    if gradient is not None:
        if FACTOR_PER_ANCHOR:
            scale = tl.load(factor + at, mask=in_group, other=0.0)[:, None]
        else:
            scale = tl.load(factor)
        scale = scale * of_anchor[:, None]
        at_label = tl.where(has_class, -weight * flushed(fall), 0.0)[:, None] * scale
    if slopes is not None:
        of_program = slopes + tl.program_id(0).to(tl.int64) * 2 * K
        at_class = tl.where(has_class, tl.abs(weight * flushed(fall)) * of_anchor, 0.0)[:, None]

    # All other logits, for which x_t = -x
    tile = start[:, None] + tl.arange(0, BLOCK_K)[None, :] * plane
    sums = tl.zeros([BLOCK_T, BLOCK_K], dtype=tl.float32)
    for first in range(0, K, BLOCK_K):
        classes = first + tl.arange(0, BLOCK_K)[None, :]
        exists = in_group[:, None]
        elsewhere = label[:, None] != classes
        if K % BLOCK_K != 0:
            exists = exists & (classes < K)
            elsewhere = elsewhere & (classes < K)
        tile_x = tl.load(logits + tile, mask=exists, other=0.0)
        x_t = tile_x.to(tl.float32) * -1.0
        if negative_parameters is not None:
            of_class = negative_parameters + classes
            tile_first = tl.load(of_class, mask=classes < K, other=1.0)
            tile_second = tl.load(of_class + K, mask=classes < K, other=1.0)
            tile_third = tl.load(of_class + 2 * K, mask=classes < K, other=1.0)
            tile_value, tile_fall = cost(
                x_t,
                0.0,
                NEGATIVE,
                tile_first,
                tile_second,
                tile_third,
                negative_table,
                True,
                EXACT,
            )
        else:
            tile_value, tile_fall = cost(
                x_t, 0.0, NEGATIVE, NEGATIVE_1, NEGATIVE_2, NEGATIVE_3, negative_table, False, EXACT
            )
        tile_weight = negative_weight
        if weights is not None:
            tile_weight = tl.load(weights + K + classes, mask=classes < K, other=0.0)
            if SPARES:
                beside = tl.load(weights + 2 * K + classes, mask=classes < K, other=0.0)
                tile_weight = tl.where(has_class[:, None], beside, tile_weight)
        sums += tl.where(elsewhere, tile_weight, 0.0) * tile_value
        if slopes is not None:
            negative = elsewhere & valid[:, None]
            magnitude = tl.abs(flushed(tile_fall)) * (tile_weight * of_anchor[:, None])
            magnitude = tl.sum(tl.where(negative, magnitude, 0.0), axis=0)
            own_slope = tl.sum(tl.where(label[:, None] == classes, at_class, 0.0), axis=0)
            columns = first + tl.arange(0, BLOCK_K)
            tl.store(of_program + columns, own_slope, mask=columns < K)
            tl.store(of_program + K + columns, magnitude, mask=columns < K)
        if gradient is not None:
            slope = flushed(tile_fall) * (tile_weight * scale)
            # at_label is also 0 for ignored anchors
            slope = tl.where(elsewhere & valid[:, None], slope, at_label)
            tl.store(gradient + tile, slope.to(gradient.dtype.element_ty), mask=exists)
        tile += BLOCK_K * plane
    # The sum of an ignored anchor may be NaN
    loss = tl.where(valid, (loss + tl.sum(sums, axis=1)) * of_anchor, 0.0)
    tl.store(per_anchor + at, loss, mask=in_group)


@triton.jit
def flushed(slope: tl.tensor) -> tl.tensor:
    """Return 0 if the slope is smaller than `FLUSHED_BELOW`."""
    return tl.where(tl.abs(slope) < FLUSHED_BELOW, 0.0, slope)  # a NaN stays one


@triton.jit
def odds_and_q(x: tl.tensor, EXACT: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return p_t / (1 - p_t), bounded to stay finite, and 1 - p_t, both without cancellation."""
    odds = exp(tl.minimum(x, 80.0, propagate_nan=tl.PropagateNan.ALL), EXACT)
    root_of_q = tl.rsqrt(1.0 + odds)  # one instruction; a division takes five
    q = root_of_q * root_of_q
    if EXACT:  # one step of Newton's method
        q = tl.fma(q, tl.fma(q * -1.0, 1.0 + odds, 1.0), q)
    return odds, q


@triton.jit
def bin_of(norm: tl.tensor, BINS: tl.constexpr) -> tl.tensor:
    """Return the bin of a norm among equal bins of [0, 1], int32. A NaN is in the first one."""
    scaled = norm * BINS
    scaled = tl.where(scaled > BINS - 1, BINS - 1.0, scaled)
    return tl.where(scaled > 0, scaled, 0.0).to(tl.int32)


@triton.jit
def cost(
    x: tl.tensor,
    y: tl.tensor,
    NAME: tl.constexpr,
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    table: tl.tensor,
    PER_CLASS: tl.constexpr,
    EXACT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """
    Evaluate a formula.

    Args:
        x: x_t, any shape.
        y: the quality, the same shape, for formulas of positives that require it.
        NAME: its `kernel` in Python.
        a, b, c: its parameters in that order, constants unless PER_CLASS; the number of entries for
            a formula with a table.
        table: its table, or None.
        PER_CLASS: the parameters are tensors that broadcast with x.
        EXACT: compute to the last bits of float32, not only to half precision.

    Returns:
        its value, and the negative of its slope in x_t.
    """
    if NAME == "focal_star":
        x = a * x + b
    odds, q = odds_and_q(x, EXACT)
    p = odds * q
    minus_log_of_larger = minus_log1m(tl.minimum(p, q))
    ce = tl.maximum(x * -1.0, 0.0) + minus_log_of_larger
    ce_of_q = tl.maximum(x, 0.0) + minus_log_of_larger
    soft_ce = y * ce + (1.0 - y) * ce_of_q  # the compiler drops it if it is unused

    if NAME == "focal":
        m = power(q, ce_of_q, a, PER_CLASS, EXACT)
        if PER_CLASS:
            value = m * (ce + b / 2 * x)
            fall = m * (q - b / 2) + a * p * value
        elif b == 0:
            value = m * ce
            fall = m * q + a * p * value
        else:
            value = m * (ce + b / 2 * x)
            fall = m * (q - b / 2) + a * p * value
    elif NAME == "cross_entropy":
        value = ce
        fall = q
    elif NAME == "binned_cross_entropy":
        weight = tl.load(table + bin_of(q, a))
        value = weight * ce
        fall = weight * q
    elif NAME == "asymmetric_negative":
        p_m = tl.maximum(q - b, 1e-30, propagate_nan=tl.PropagateNan.ALL)  # 1e-30 stands for 0
        one_minus_p_m = tl.minimum(p + b, 1.0, propagate_nan=tl.PropagateNan.ALL)
        ce_m = tl.log(one_minus_p_m) * -1.0
        m = power(p_m, tl.log(p_m) * -1.0, a, PER_CLASS, EXACT)
        value = m * ce_m
        fall = p * q * m * (a * ce_m / p_m + 1.0 / one_minus_p_m)
        fall = tl.where(q <= b, 0.0, fall)
    elif NAME == "focal_star":
        value = ce / a
        fall = q
    elif NAME == "poly_focal":
        m = power(q, ce_of_q, a, PER_CLASS, EXACT)
        value = m * (b * ce + c * q)
        fall = m * (b * (a * p * ce + q) + c * (a + 1) * p * q)
    elif NAME == "hinge":
        excess = q - (1 - a)
        value = tl.where(excess <= 0, 0.0, excess)  # not > 0: a NaN must propagate
        fall = tl.where(excess <= 0, 0.0, p * q)
    elif NAME == "detached_focal":
        m = power(q, ce_of_q, a, PER_CLASS, EXACT)
        value = m * ce
        fall = m * q
    elif NAME == "gumbel":
        inside = (x >= GUMBEL_LOW) & (x <= GUMBEL_HIGH) | (x != x)  # a NaN must propagate
        value = exp(clamped(x, GUMBEL_LOW, GUMBEL_HIGH) * -1.0, EXACT)
        fall = tl.where(inside, value, 0.0)
    elif NAME == "gumbel_complement":
        inside = (x >= -GUMBEL_HIGH) & (x <= -GUMBEL_LOW) | (x != x)
        log_u = clamped(x, -GUMBEL_HIGH, -GUMBEL_LOW)
        u = exp(log_u, EXACT)
        likelihood = exp(u * -1.0, EXACT)
        complement = one_minus_exp(u, likelihood)
        likely = likelihood > 0.5  # from there on, log(1 - p) is log(u) + log((1 - p) / u)
        value = minus_log1m(tl.minimum(likelihood, 0.5, propagate_nan=tl.PropagateNan.ALL))
        value = tl.where(likely, minus_log1m((u - complement) / u) - log_u, value)
        fall = tl.where(inside, u * likelihood / complement, 0.0)
    elif NAME == "quality_focal":
        error = y - p
        distance = tl.abs(error)
        minus_log = tl.log(tl.maximum(distance, 1e-30)) * -1.0
        tl.static_assert(not PER_CLASS)
        m = power(distance, minus_log, a, False, EXACT)
        value = m * soft_ce
        fall = m * error
        if a != 0:
            sign = tl.where(error > 0, 1.0, tl.where(error < 0, -1.0, 0.0))
            dm = a * sign * power(distance, minus_log, a - 1, False, EXACT)
            fall += dm * p * q * soft_ce
    elif NAME == "soft_target":
        positive_y = tl.maximum(y, 1e-30, propagate_nan=tl.PropagateNan.ALL)
        minus_log = tl.log(positive_y) * -1.0
        target = power(y, minus_log, a, PER_CLASS, EXACT) * power(p, ce, b, PER_CLASS, EXACT)
        target = tl.maximum(target, c, propagate_nan=tl.PropagateNan.ALL)
        value = target * ce + (1.0 - target) * ce_of_q
        fall = target - p
    else:
        tl.static_assert(NAME == "varifocal")
        # y = 0: the box misses the object, which makes it a negative
        m = a * power(p, ce, b, PER_CLASS, EXACT)
        value = tl.where(y == 0, m * ce_of_q, y * soft_ce)
        fall = tl.where(y == 0, m * (b * q * ce_of_q + p) * -1.0, y * (y - p))
    return value, fall


@triton.jit
def power(
    base: tl.tensor,
    minus_log_of_base: tl.tensor,
    exponent: tl.tensor,
    PER_CLASS: tl.constexpr,
    EXACT: tl.constexpr,
) -> tl.tensor:
    """
    Compute base^exponent, its integer part by multiplication, exact to the last bits.

    The exponent is a constant, unless PER_CLASS.
    """
    if PER_CLASS:
        whole = tl.minimum(exponent, 7.0).to(tl.int32)
        result = exp((whole.to(tl.float32) - exponent) * minus_log_of_base, EXACT)
        result *= tl.where(whole % 2 >= 1, base, 1.0)
        result *= tl.where(whole % 4 >= 2, base * base, 1.0)
        result *= tl.where(whole >= 4, base * base * (base * base), 1.0)
    else:
        WHOLE: tl.constexpr = exponent // 1 if exponent < 8 else 7
        result = 1.0
        if exponent != WHOLE:
            result = exp((WHOLE - exponent) * minus_log_of_base, EXACT)
        if WHOLE % 2 >= 1:
            result *= base
        if WHOLE % 4 >= 2:
            result *= base * base
        if WHOLE % 8 >= 4:
            result *= base * base * (base * base)
    return result


@triton.jit
def clamped(x: tl.tensor, LOW: tl.constexpr, HIGH: tl.constexpr) -> tl.tensor:
    """Return the number of [LOW, HIGH] that is nearest to x; a NaN stays one."""
    x = tl.minimum(x, HIGH, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(x, LOW, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def one_minus_exp(u: tl.tensor, exp_of_minus_u: tl.tensor) -> tl.tensor:
    """Compute 1 - e^-u for u >= 0 without cancellation: by its series where u is small."""
    series = 1.0 - u * (1.0 / 8)
    series = 1.0 - u * series * (1.0 / 7)
    series = 1.0 - u * series * (1.0 / 6)
    series = 1.0 - u * series * (1.0 / 5)
    series = 1.0 - u * series * (1.0 / 4)
    series = 1.0 - u * series * (1.0 / 3)
    series = 1.0 - u * series * (1.0 / 2)
    return tl.where(u < 0.7, u * series, 1.0 - exp_of_minus_u)


@triton.jit
def exp(x: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """Compute e^x, with the single GPU instruction for a power of 2."""
    exponent = x * LOG2_E
    result = tl.exp2(exponent)
    if EXACT:  # add back the rounding error of the exponent: x - exponent * log(2)
        result = tl.fma(result, tl.fma(exponent, -LN_2, x), result)
    return result


@triton.jit
def minus_log1m(w: tl.tensor) -> tl.tensor:
    """Compute -log(1 - w) for w in [0, 1/2], to 2e-7 relative: a minimax polynomial times w."""
    ratio = 1.44110799
    ratio = ratio * w - 1.69581175
    ratio = ratio * w + 1.25766933
    ratio = ratio * w - 0.203538552
    ratio = ratio * w + 0.26961261
    ratio = ratio * w + 0.242805108
    ratio = ratio * w + 0.333700597
    ratio = ratio * w + 0.499992847
    ratio = ratio * w + 1.0
    return ratio * w
