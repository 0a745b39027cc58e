// A row of activations in 16-bit fixed point: q = round(x / step), step = max|x| / 32639. Without branches, so that
// loops over it become vectors of any width with the same numbers.
#pragma once

#include <cstdint>
#include <cstring>

constexpr float LARGEST = 32639.0f;            // 127 * 256 + 127: both digits are signed bytes
constexpr float LEAST_STEP = 1.17549435e-38f;  // of fp32 in full precision

#define FIXED_INLINE static inline __attribute__((always_inline))

// The largest magnitude of a row; false where one of its values is no number or has no end.
FIXED_INLINE bool find_largest(const float* x, int64_t inputs, float& largest) {
  int32_t most = 0;  // magnitudes of floats are ordered as their bits
  for (int64_t k = 0; k < inputs; ++k) {
    int32_t bits;
    memcpy(&bits, x + k, sizeof bits);
    bits &= 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  memcpy(&largest, &most, sizeof largest);
  return most < 0x7F800000;
}

// The step of a row; false as above.
FIXED_INLINE bool find_step(const float* x, int64_t inputs, float& step) {
  float largest;
  const bool sound = find_largest(x, inputs, largest);
  step = largest / LARGEST > LEAST_STEP ? largest / LARGEST : LEAST_STEP;
  return sound;
}

// round(x / step), half to even.
FIXED_INLINE int32_t in_steps(float x, float step) {
  const float shifted = x / step + 12582912.0f;  // 1.5 * 2^23 leaves the rounded number in the low bits
  int32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4B400000;
}
