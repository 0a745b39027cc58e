// Activation functions without branches and without contraction, so that a loop over them becomes vectors of any
// width with the same bits. Against exact values they err by at most 5e-7 of the value, tails included.
#pragma once

#include <cstdint>
#include <cstring>

enum Activation { SILU = 0, RELU = 1, GELU = 2, GELU_TANH = 3, SQUAREPLUS = 4 };

#define INLINE static inline __attribute__((always_inline))

// e^x = 2^n e^r with |r| <= ln 2 / 2: the polynomial is that of Cephes' expf. A double keeps the error of x itself,
// which would come back multiplied by x, out of the result.
INLINE float exponential(double x) {
  x = x > 100.0 ? 100.0 : x;  // written so that a NaN stays one
  x = x < -110.0 ? -110.0 : x;
  const double shift = 6755399441055744.0;  // 1.5 * 2^52: what is added to it is rounded to an integer
  const double shifted = x * 1.4426950408889634 + shift;
  const float r = static_cast<float>(x - (shifted - shift) * 0.6931471805599453);
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint64_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  const int32_t n = static_cast<int32_t>(static_cast<uint32_t>(bits));
  // in two steps, for results below and above what one factor can express
  const int32_t half = n >> 1, rest = n - half;
  const uint32_t first = static_cast<uint32_t>(half + 127) << 23, second = static_cast<uint32_t>(rest + 127) << 23;
  float a, b;
  memcpy(&a, &first, sizeof a);
  memcpy(&b, &second, sizeof b);
  return p * a * b;
}

INLINE float silu(float x) { return x / (1.0f + exponential(-static_cast<double>(x))); }

INLINE float relu(float x) { return x < 0.0f ? 0.0f : x; }  // NaN stays NaN

INLINE float absolute(float x) { return x < 0.0f ? -x : x; }

// (x + sqrt(x^2 + 4)) / 2
INLINE float squareplus(float x) {
  const float root = __builtin_sqrtf(x * x + 4.0f);
  return x < 0.0f ? 2.0f / (root - x) : 0.5f * (x + root);
}

// e^(-z^2 / 2)
INLINE float bell(float z) { return exponential(-0.5 * static_cast<double>(z) * static_cast<double>(z)); }

// Phi(-z) / bell(z) = t P(t), t = 1 / (1 + z / sqrt 8), for 0 <= z; P fitted for z <= 16 to 5e-8
INLINE float tail_over_bell(float z) {
  const float t = 1.0f / (1.0f + 0.35355339f * z);
  float p = -0.0296571637f;
  p = p * t + 0.142886432f;
  p = p * t - 0.2448408f;
  p = p * t + 0.140453695f;
  p = p * t - 0.0142912553f;
  p = p * t + 0.101757322f;
  p = p * t + 0.121447354f;
  p = p * t + 0.141202001f;
  p = p * t + 0.141042393f;
  return p * t;
}

INLINE float gelu(float x) {
  const float tail = tail_over_bell(absolute(x)) * bell(x);
  return x < 0.0f ? x * tail : x * (1.0f - tail);
}

// 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
INLINE float gelu_tanh(float x) {
  const double wide = x;
  return x / (1.0f + exponential(-1.5957691216057308 * (wide + 0.044715 * wide * wide * wide)));
}
