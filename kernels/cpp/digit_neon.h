// Dot products of NEON for digit_isa.h.
#pragma once

#include "digit_isa.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace neon {
#define TARGET_NEON __attribute__((target("arch=armv8.2-a+dotprod")))
using portable::MASK_WORDS;
using portable::MOST_QUADS;
using portable::MOST_ROWS;
using portable::put_words;

template <int ROWS>
struct DigitSums {
  static constexpr int WIDTH = 16, TOTALS = 2, AHEAD = 2;
  int32x4_t high[4], low[4], high_ones, low_ones;  // products are of signed bytes: u = w + 128 adds 128 sum x

  TARGET_NEON DIGIT_INLINE void clear() {
    high_ones = low_ones = vdupq_n_s32(0);
    for (int i = 0; i < 4; ++i) high[i] = low[i] = vdupq_n_s32(0);
  }
  template <bool>
  TARGET_NEON DIGIT_INLINE void add(const uint8_t* weights, const int32_t* words, const int32_t*) {
    const int8x16_t x_high = vreinterpretq_s8_s32(vdupq_n_s32(words[0]));
    const int8x16_t x_low = vreinterpretq_s8_s32(vdupq_n_s32(words[1])), one = vdupq_n_s8(1);
    high_ones = vdotq_s32(high_ones, one, x_high), low_ones = vdotq_s32(low_ones, one, x_low);
    for (int i = 0; i < 4; ++i) {
      const int8x16_t w = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(weights + 16 * i), vdupq_n_u8(128)));
      high[i] = vdotq_s32(high[i], w, x_high), low[i] = vdotq_s32(low[i], w, x_low);
    }
  }
  TARGET_NEON DIGIT_INLINE void join(const DigitSums& other) {
    high_ones = vaddq_s32(high_ones, other.high_ones), low_ones = vaddq_s32(low_ones, other.low_ones);
    for (int i = 0; i < 4; ++i) high[i] = vaddq_s32(high[i], other.high[i]), low[i] = vaddq_s32(low[i], other.low[i]);
  }
  TARGET_NEON DIGIT_INLINE void put(double* to) const {
    for (int i = 0; i < 4; ++i) {
      put_four(vaddq_s32(high[i], vshlq_n_s32(high_ones, 7)), to + 4 * i);
      put_four(vaddq_s32(low[i], vshlq_n_s32(low_ones, 7)), to + WIDTH + 4 * i);
    }
  }
  TARGET_NEON static DIGIT_INLINE void put_four(int32x4_t found, double* to) {
    int32_t four[4];
    vst1q_s32(four, found);
    for (int i = 0; i < 4; ++i) to[i] = 2.0 * four[i];
  }
};

// Whether this processor has dot products of bytes.
static inline bool is_here() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
  return true;  // every one that runs this
#else
  return false;
#endif
}
}  // namespace neon
#endif
