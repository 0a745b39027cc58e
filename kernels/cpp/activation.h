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

// Phi(-z) = t exp(P(t) - z^2 / 2), t = 1 / (1 + z / sqrt 8); P fitted for 0 <= z <= 15 to 6e-8
INLINE float normal_tail(double z) {
  const double t = 1.0 / (1.0 + 0.3535533905932738 * z);
  double p = 0.15311418088325311;
  p = p * t - 0.72491220166395709;
  p = p * t + 1.259149595131507;
  p = p * t - 0.83051062607288037;
  p = p * t + 0.028797035841980672;
  p = p * t - 0.05548053843634198;
  p = p * t + 0.053437193598796202;
  p = p * t + 0.38280908954309904;
  p = p * t + 0.99906485691581522;
  p = p * t - 1.9586157126726431;
  return static_cast<float>(t) * exponential(p - 0.5 * z * z);
}

INLINE float gelu(float x) {
  const float tail = normal_tail(x < 0.0f ? -static_cast<double>(x) : static_cast<double>(x));
  return x < 0.0f ? x * tail : x * (1.0f - tail);
}

// 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
INLINE float gelu_tanh(float x) {
  const double wide = x;
  return x / (1.0f + exponential(-1.5957691216057308 * (wide + 0.044715 * wide * wide * wide)));
}
