// What the linear of two digits needs beside plane_isa.h, in the same namespaces.
//
// Every set has
//   Pair                 sums of 16 outputs with both digits of a token
//   MOST_BLOCKS, MOST_TOKENS   of sums that stay in registers
//   no_sums              zeros
//   add_quad             adds 16 outputs times four inputs: a line of weights, two words of digits
//   together             two sums of the same, added
//   put_pair             to memory, int32 [2, 16]
#pragma once

#include "plane_isa.h"

#define DIGIT_INLINE static inline __attribute__((always_inline))

namespace portable {
constexpr int MOST_BLOCKS = 1, MOST_TOKENS = 1;
struct Pair {
  Integers high, low;
};

DIGIT_INLINE Pair no_sums() { return Pair{}; }

DIGIT_INLINE void add_quad(Pair& sum, const uint8_t* weights, int32_t high, int32_t low) {
  const Line line = bytes(weights);
  sum.high = dot_quad(line, reinterpret_cast<const int8_t*>(&high), sum.high);
  sum.low = dot_quad(line, reinterpret_cast<const int8_t*>(&low), sum.low);
}

DIGIT_INLINE void join(Integers& sum, const Integers& other) {
  for (int i = 0; i < 16; ++i) sum.lane[i] += other.lane[i];
}

DIGIT_INLINE Pair together(Pair sum, const Pair& other) {
  join(sum.high, other.high), join(sum.low, other.low);
  return sum;
}

DIGIT_INLINE void put_pair(int32_t* to, const Pair& sum) { put(to, sum.high), put(to + 16, sum.low); }
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
constexpr int MOST_BLOCKS = 1, MOST_TOKENS = 1;
struct Pair {  // of four outputs each, two sums an output
  __m256i high[4], low[4];
};

TARGET_AVX2 DIGIT_INLINE Pair no_sums() {
  Pair sum;
  for (int i = 0; i < 4; ++i) sum.high[i] = sum.low[i] = _mm256_setzero_si256();
  return sum;
}

// Products of bytes would be cut off at 16 bits where two of them meet; widened, they are exact.
TARGET_AVX2 DIGIT_INLINE void add_quad(Pair& sum, const uint8_t* weights, int32_t high, int32_t low) {
  const __m256i x_high = _mm256_cvtepi8_epi16(_mm_set1_epi32(high)), x_low = _mm256_cvtepi8_epi16(_mm_set1_epi32(low));
  for (int i = 0; i < 4; ++i) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights) + i));
    sum.high[i] = _mm256_add_epi32(sum.high[i], _mm256_madd_epi16(wide, x_high));
    sum.low[i] = _mm256_add_epi32(sum.low[i], _mm256_madd_epi16(wide, x_low));
  }
}

TARGET_AVX2 DIGIT_INLINE Pair together(Pair sum, const Pair& other) {
  for (int i = 0; i < 4; ++i) {
    sum.high[i] = _mm256_add_epi32(sum.high[i], other.high[i]);
    sum.low[i] = _mm256_add_epi32(sum.low[i], other.low[i]);
  }
  return sum;
}

// Sums of pairs stand as 0 1 4 5 2 3 6 7.
TARGET_AVX2 DIGIT_INLINE void put_pairs(int32_t* to, const __m256i* sums) {
  for (int i = 0; i < 4; i += 2) {
    const __m256i found = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[i], sums[i + 1]), 0xD8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 4 * i), found);
  }
}

TARGET_AVX2 DIGIT_INLINE void put_pair(int32_t* to, const Pair& sum) {
  put_pairs(to, sum.high), put_pairs(to + 16, sum.low);
}
}  // namespace avx2

namespace avx512_vnni {
constexpr int MOST_BLOCKS = 2, MOST_TOKENS = 6;  // 24 sums in 32 registers
struct Pair {
  __m512i high, low;
};

TARGET_AVX512_VNNI DIGIT_INLINE Pair no_sums() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }

TARGET_AVX512_VNNI DIGIT_INLINE void add_quad(Pair& sum, const uint8_t* weights, int32_t high, int32_t low) {
  const __m512i line = _mm512_loadu_si512(weights);
  sum.high = _mm512_dpbusd_epi32(sum.high, line, _mm512_set1_epi32(high));
  sum.low = _mm512_dpbusd_epi32(sum.low, line, _mm512_set1_epi32(low));
}

TARGET_AVX512_VNNI DIGIT_INLINE Pair together(Pair sum, const Pair& other) {
  return {_mm512_add_epi32(sum.high, other.high), _mm512_add_epi32(sum.low, other.low)};
}

TARGET_AVX512_VNNI DIGIT_INLINE void put_pair(int32_t* to, const Pair& sum) {
  _mm512_storeu_si512(to, sum.high), _mm512_storeu_si512(to + 16, sum.low);
}
}  // namespace avx512_vnni
#endif
