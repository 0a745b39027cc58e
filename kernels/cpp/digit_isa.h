// What the linear of two digits needs beside plane_isa.h, in the same namespaces.
//
// Every set has
//   WIDTH        outputs of a tile, of the 32 that stand together
//   MOST_TOKENS  whose sums stay in registers
//   Sums<ROWS>   of a tile, two digits, of one row or a digit each of two rows: clear, add four inputs (a line of weights
//                or two, two words of digits a row),
//                join others, put them to memory, int32 [ROWS, 2, WIDTH]
#pragma once

#include <utility>

#include "products.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

#define DIGIT_INLINE inline __attribute__((always_inline))

template <int... I>
using Numbers = std::integer_sequence<int, I...>;

namespace portable {
constexpr int WIDTH = 16, MOST_TOKENS = 1;
template <int ROWS>
struct Sums {
  Integers high, low;

  void clear() { high = none(), low = none(); }
  void add(const uint8_t* weights, const int32_t* words) {
    const Line line = bytes(weights);
    high = dot_quad(line, reinterpret_cast<const int8_t*>(words), high);
    low = dot_quad(line, reinterpret_cast<const int8_t*>(words + 1), low);
  }
  void join(const Sums& other) {
    for (int i = 0; i < 16; ++i) high.lane[i] += other.high.lane[i], low.lane[i] += other.low.lane[i];
  }
  void put(int32_t* to) const { portable::put(to, high), portable::put(to + WIDTH, low); }
};
}  // namespace portable

#if defined(__aarch64__)
namespace neon {
#define TARGET_NEON __attribute__((target("arch=armv8.2-a+dotprod")))
constexpr int WIDTH = 16, MOST_TOKENS = 1;
template <int ROWS>
struct Sums {
  int32x4_t high[4], low[4], high_ones, low_ones;  // products are of signed bytes: u = w + 128 adds 128 sum x

  TARGET_NEON DIGIT_INLINE void clear() {
    high_ones = low_ones = vdupq_n_s32(0);
    for (int i = 0; i < 4; ++i) high[i] = low[i] = vdupq_n_s32(0);
  }
  TARGET_NEON DIGIT_INLINE void add(const uint8_t* weights, const int32_t* words) {
    const int8x16_t x_high = vreinterpretq_s8_s32(vdupq_n_s32(words[0]));
    const int8x16_t x_low = vreinterpretq_s8_s32(vdupq_n_s32(words[1])), one = vdupq_n_s8(1);
    high_ones = vdotq_s32(high_ones, one, x_high), low_ones = vdotq_s32(low_ones, one, x_low);
    for (int i = 0; i < 4; ++i) {
      const int8x16_t w = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(weights + 16 * i), vdupq_n_u8(128)));
      high[i] = vdotq_s32(high[i], w, x_high), low[i] = vdotq_s32(low[i], w, x_low);
    }
  }
  TARGET_NEON DIGIT_INLINE void join(const Sums& other) {
    high_ones = vaddq_s32(high_ones, other.high_ones), low_ones = vaddq_s32(low_ones, other.low_ones);
    for (int i = 0; i < 4; ++i) high[i] = vaddq_s32(high[i], other.high[i]), low[i] = vaddq_s32(low[i], other.low[i]);
  }
  TARGET_NEON DIGIT_INLINE void put(int32_t* to) const {
    for (int i = 0; i < 4; ++i) {
      vst1q_s32(to + 4 * i, vaddq_s32(high[i], vshlq_n_s32(high_ones, 7)));
      vst1q_s32(to + WIDTH + 4 * i, vaddq_s32(low[i], vshlq_n_s32(low_ones, 7)));
    }
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

#if defined(__x86_64__)
namespace avx2 {
constexpr int WIDTH = 16, MOST_TOKENS = 1;
template <int ROWS>
struct Sums {
  __m256i high[4], low[4];  // of four outputs each, two sums an output

  TARGET_AVX2 DIGIT_INLINE void clear() {
    for (int i = 0; i < 4; ++i) high[i] = low[i] = _mm256_setzero_si256();
  }
  // Products of bytes would be cut off at 16 bits where two of them meet; widened, they are exact.
  TARGET_AVX2 DIGIT_INLINE void add(const uint8_t* weights, const int32_t* words) {
    const __m256i x_high = _mm256_cvtepi8_epi16(_mm_set1_epi32(words[0]));
    const __m256i x_low = _mm256_cvtepi8_epi16(_mm_set1_epi32(words[1]));
    for (int i = 0; i < 4; ++i) {
      const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights) + i));
      high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(wide, x_high));
      low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(wide, x_low));
    }
  }
  TARGET_AVX2 DIGIT_INLINE void join(const Sums& other) {
    for (int i = 0; i < 4; ++i) high[i] = _mm256_add_epi32(high[i], other.high[i]);
    for (int i = 0; i < 4; ++i) low[i] = _mm256_add_epi32(low[i], other.low[i]);
  }
  TARGET_AVX2 DIGIT_INLINE void put(int32_t* to) const { put_pairs(high, to), put_pairs(low, to + WIDTH); }
  // Sums of pairs stand as 0 1 4 5 2 3 6 7.
  TARGET_AVX2 static DIGIT_INLINE void put_pairs(const __m256i* sums, int32_t* to) {
    for (int i = 0; i < 4; i += 2) {
      const __m256i found = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[i], sums[i + 1]), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 4 * i), found);
    }
  }
};
}  // namespace avx2

namespace avx512_vnni {
constexpr int WIDTH = 32, MOST_TOKENS = 6;  // 24 sums in 32 registers
template <int ROWS>
struct Sums {
  __m512i sum[4 * ROWS];  // [row, digit, half]; named one by one, so that they stay in registers
  using Rows = std::make_integer_sequence<int, ROWS>;

  template <int... R>
  TARGET_AVX512_VNNI DIGIT_INLINE void clear_rows(Numbers<R...>) {
    ((sum[4 * R] = sum[4 * R + 1] = sum[4 * R + 2] = sum[4 * R + 3] = _mm512_setzero_si512()), ...);
  }
  template <int I>
  TARGET_AVX512_VNNI DIGIT_INLINE void add_digit(__m512i first, __m512i second, const int32_t* words) {
    const __m512i digits = _mm512_set1_epi32(words[I]);
    add_products(sum[2 * I], first, digits), add_products(sum[2 * I + 1], second, digits);
  }
  template <int... R>
  TARGET_AVX512_VNNI DIGIT_INLINE void add_rows(__m512i first, __m512i second, const int32_t* words, Numbers<R...>) {
    ((add_digit<2 * R>(first, second, words), add_digit<2 * R + 1>(first, second, words)), ...);
  }
  template <int... R>
  TARGET_AVX512_VNNI DIGIT_INLINE void join_rows(const Sums& other, Numbers<R...>) {
    ((sum[R] = _mm512_add_epi32(sum[R], other.sum[R])), ...);
  }
  template <int... R>
  TARGET_AVX512_VNNI DIGIT_INLINE void put_rows(int32_t* to, Numbers<R...>) const {
    (_mm512_storeu_si512(to + 16 * R, sum[R]), ...);
  }

  TARGET_AVX512_VNNI DIGIT_INLINE void clear() { clear_rows(Rows()); }
  TARGET_AVX512_VNNI DIGIT_INLINE void add(const uint8_t* weights, const int32_t* words) {
    add_rows(_mm512_loadu_si512(weights), _mm512_loadu_si512(weights + 64), words, Rows());
  }
  TARGET_AVX512_VNNI DIGIT_INLINE void join(const Sums& other) {
    join_rows(other, std::make_integer_sequence<int, 4 * ROWS>());
  }
  TARGET_AVX512_VNNI DIGIT_INLINE void put(int32_t* to) const {
    put_rows(to, std::make_integer_sequence<int, 4 * ROWS>());
  }
};
}  // namespace avx512_vnni
#endif
