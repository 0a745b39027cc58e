// Sums of int8 rows times 16-bit numbers, two rows at a time, in the namespaces of plane_isa.h.
//
// Every set has
//   PAIRED               columns of a step, a divisor of 64
//   Sums                 of so many columns, int32, in an order of its own
//   sums, put            from and to memory
//   add_pair             sums + numbers[0] * first[c] + numbers[1] * second[c]
//   place_of             where a column's sum is in memory
#pragma once

#include "plane_isa.h"

namespace portable {
constexpr int PAIRED = 16;
struct Sums {
  int32_t lane[16];
};

static inline Sums sums(const int32_t* from) {
  Sums all;
  memcpy(all.lane, from, sizeof all.lane);
  return all;
}

static inline void put(int32_t* to, Sums all) { memcpy(to, all.lane, sizeof all.lane); }

static inline void add_pair(Sums& all, const int8_t* first, const int8_t* second, const int16_t* numbers) {
  for (int i = 0; i < 16; ++i) all.lane[i] += numbers[0] * first[i] + numbers[1] * second[i];
}

static inline int64_t place_of(int64_t column) { return column; }
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
constexpr int PAIRED = 16;
struct Sums {
  __m256i low, high;
};

TARGET_AVX2 static inline Sums sums(const int32_t* from) {
  const __m256i* source = reinterpret_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(source), _mm256_loadu_si256(source + 1)};
}

TARGET_AVX2 static inline void put(int32_t* to, Sums all) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), all.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to) + 1, all.high);
}

TARGET_AVX2 static inline void add_pair(Sums& all, const int8_t* first, const int8_t* second, const int16_t* numbers) {
  int32_t both;
  memcpy(&both, numbers, sizeof both);
  const __m256i number = _mm256_set1_epi32(both);
  const __m256i a = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first)));
  const __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(second)));
  all.low = _mm256_add_epi32(all.low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), number));
  all.high = _mm256_add_epi32(all.high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), number));
}

// Of each eight columns, the first four are in the first half.
static inline int64_t place_of(int64_t column) {
  const int64_t at = column % 16;
  return column - at + at / 4 % 2 * 8 + at / 8 * 4 + at % 4;
}
}  // namespace avx2

namespace avx512_vnni {
constexpr int PAIRED = 32;
struct Sums {
  __m512i low, high;
};

TARGET_AVX512_VNNI static inline Sums sums(const int32_t* from) {
  return {_mm512_loadu_si512(from), _mm512_loadu_si512(from + 16)};
}

TARGET_AVX512_VNNI static inline void put(int32_t* to, Sums all) {
  _mm512_storeu_si512(to, all.low);
  _mm512_storeu_si512(to + 16, all.high);
}

TARGET_AVX512_VNNI static inline void add_pair(Sums& all, const int8_t* first, const int8_t* second,
                                               const int16_t* numbers) {
  int32_t both;
  memcpy(&both, numbers, sizeof both);
  const __m512i number = _mm512_set1_epi32(both);
  const __m512i a = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)));
  const __m512i b = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)));
  all.low = _mm512_dpwssd_epi32(all.low, _mm512_unpacklo_epi16(a, b), number);
  all.high = _mm512_dpwssd_epi32(all.high, _mm512_unpackhi_epi16(a, b), number);
}

static inline int64_t place_of(int64_t column) {
  const int64_t at = column % 32;
  return column - at + at / 4 % 2 * 16 + at / 8 * 4 + at % 4;
}
}  // namespace avx512_vnni
#endif
