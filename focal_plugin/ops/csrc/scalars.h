// Conversion of logits from and to memory. It is included like `dense_loss_kernel.h`.

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
