// What the linear of two digits needs beside plane_isa.h, in the same namespaces: sums of products of weights, unsigned
// bytes, and numbers of 16 bits.
//
// A line holds four inputs of each of 32 outputs. Where an instruction multiplies bytes, numbers are two digits of 8
// bits, and each digit has sums of its own, exact in int32; else weights are widened and numbers stay whole.
//
// Every set has
//   MOST_ROWS         whose sums stay in registers
//   MOST_QUADS        lines after which a sum may leave int32
//   MASK_WORDS        of a mask over four inputs
//   put_words         numbers to words: two for each four of them
//   put_mask          a mask of four bytes to words
//   DigitSums<ROWS>   of WIDTH outputs of a line, ROWS rows, TOTALS for each output
//     AHEAD           lines that have sums of their own, so that no sum waits for another
//     clear, join     those of another line to these
//     add             a line for each row, MASKED if bits of it are not read
//     put             twice the sums to memory, exact in fp64: [ROWS, TOTALS, WIDTH], the first of high digits
#pragma once

#include <utility>

#include "products.h"

#define DIGIT_INLINE inline __attribute__((always_inline))

template <int... I>
using Numbers = std::integer_sequence<int, I...>;

// Two digits of each number: four bytes of high ones, then four of low ones.
static inline __attribute__((always_inline)) void put_digits(const int32_t* q, int64_t quads, int32_t* words,
                                                             int64_t stride) {
  constexpr int64_t RUN = 64;
  for (int64_t first = 0; first < quads; first += RUN) {
    const int64_t count = quads - first < RUN ? quads - first : RUN;
    int8_t high[4 * RUN], low[4 * RUN];
    for (int64_t k = 0; k < 4 * count; ++k) high[k] = int8_t((q[4 * first + k] + 128) >> 8);
    for (int64_t k = 0; k < 4 * count; ++k) low[k] = int8_t(q[4 * first + k]);  // what the high digit leaves, mod 256
    for (int64_t i = 0; i < count; ++i, words += stride)
      memcpy(words, high + 4 * i, 4), memcpy(words + 1, low + 4 * i, 4);
  }
}

namespace portable {
constexpr int MOST_ROWS = 1, MOST_QUADS = 1 << 14, MASK_WORDS = 1;
static inline void put_words(const int32_t* q, int64_t quads, int32_t* words, int64_t stride) {
  put_digits(q, quads, words, stride);
}
static inline void put_mask(const uint8_t* mask, int32_t* words) { memcpy(words, mask, 4); }

template <int ROWS>
struct DigitSums {
  static constexpr int WIDTH = 16, TOTALS = 2, AHEAD = 2;
  Integers high, low;

  void clear() { high = none(), low = none(); }
  template <bool MASKED>
  void add(const uint8_t* weights, const int32_t* words, const int32_t* masks) {
    Line line = bytes(weights);
    if constexpr (MASKED)
      for (int i = 0; i < 64; ++i) line.lane[i] &= reinterpret_cast<const uint8_t*>(masks)[i % 4];
    high = dot_quad(line, reinterpret_cast<const int8_t*>(words), high);
    low = dot_quad(line, reinterpret_cast<const int8_t*>(words + 1), low);
  }
  void join(const DigitSums& other) {
    for (int i = 0; i < 16; ++i) high.lane[i] += other.high.lane[i], low.lane[i] += other.low.lane[i];
  }
  void put(double* to) const {
    for (int i = 0; i < 16; ++i) to[i] = 2.0 * high.lane[i], to[WIDTH + i] = 2.0 * low.lane[i];
  }
};
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
constexpr int MOST_ROWS = 2, MOST_QUADS = 128, MASK_WORDS = 2;  // 128 * 2 * 32639 * 255 < 2^31
TARGET_AVX2 static inline void put_words(const int32_t* q, int64_t quads, int32_t* words, int64_t stride) {
  for (int64_t i = 0; i < quads; ++i, q += 4, words += stride) {
    int16_t four[4];
    for (int k = 0; k < 4; ++k) four[k] = int16_t(q[k]);
    memcpy(words, four, sizeof four);
  }
}
static inline void put_mask(const uint8_t* mask, int32_t* words) {
  const int16_t four[4] = {mask[0], mask[1], mask[2], mask[3]};
  memcpy(words, four, sizeof four);
}

template <int ROWS>
struct DigitSums {
  static constexpr int WIDTH = 32 / ROWS, TOTALS = 1, AHEAD = 1, VECTORS = WIDTH / 4;
  __m256i sum[8];  // [row, vector] of four outputs, two sums an output; named one by one to stay in registers
  using Vectors = std::make_integer_sequence<int, VECTORS>;
  using Rows = std::make_integer_sequence<int, ROWS>;

  TARGET_AVX2 static DIGIT_INLINE __m256i four_alike(const int32_t* words) {
    int64_t four;
    memcpy(&four, words, sizeof four);
    return _mm256_set1_epi64x(four);
  }
  template <int V, int R, bool MASKED>
  TARGET_AVX2 DIGIT_INLINE void add_row(__m256i wide, const __m256i* x, const __m256i* mask) {
    const __m256i read = MASKED ? _mm256_and_si256(wide, mask[R]) : wide, products = _mm256_madd_epi16(read, x[R]);
    asm("vpaddd %1, %0, %0" : "+x"(sum[R * VECTORS + V]) : "x"(products));  // written as products.h is
  }
  template <int V, bool MASKED, int... R>
  TARGET_AVX2 DIGIT_INLINE void add_vector(const uint8_t* weights, const __m256i* x, const __m256i* mask,
                                           Numbers<R...>) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights) + V));
    (add_row<V, R, MASKED>(wide, x, mask), ...);
  }
  template <bool MASKED, int... V, int... R>
  TARGET_AVX2 DIGIT_INLINE void add_all(const uint8_t* weights, const int32_t* words, const int32_t* masks,
                                        Numbers<V...>, Numbers<R...>) {
    const __m256i x[] = {four_alike(words + 2 * R)...};
    const __m256i mask[] = {four_alike((MASKED ? masks : words) + 2 * R)...};
    (add_vector<V, MASKED>(weights, x, mask, Rows()), ...);
  }
  template <int... V>
  TARGET_AVX2 DIGIT_INLINE void clear_all(Numbers<V...>) {
    ((sum[V] = _mm256_setzero_si256()), ...);
  }
  template <int... V>
  TARGET_AVX2 DIGIT_INLINE void put_all(double* to, Numbers<V...>) const {
    (put_four(sum[V], to + 4 * V), ...);
  }
  TARGET_AVX2 static DIGIT_INLINE void put_four(__m256i pairs, double* to) {
    const __m256d first = _mm256_cvtepi32_pd(_mm256_castsi256_si128(pairs));
    const __m256d second = _mm256_cvtepi32_pd(_mm256_extracti128_si256(pairs, 1));
    const __m256d found = _mm256_permute4x64_pd(_mm256_hadd_pd(first, second), 0xD8);
    _mm256_storeu_pd(to, _mm256_add_pd(found, found));
  }

  TARGET_AVX2 DIGIT_INLINE void clear() { clear_all(std::make_integer_sequence<int, 8>()); }
  template <bool MASKED>
  TARGET_AVX2 DIGIT_INLINE void add(const uint8_t* weights, const int32_t* words, const int32_t* masks) {
    add_all<MASKED>(weights, words, masks, Vectors(), Rows());
  }
  TARGET_AVX2 DIGIT_INLINE void put(double* to) const { put_all(to, std::make_integer_sequence<int, 8>()); }
};
}  // namespace avx2

namespace avx512_vnni {
constexpr int MOST_ROWS = 6, MOST_QUADS = 1 << 14, MASK_WORDS = 1;  // 24 sums in 32 registers
TARGET_AVX512_VNNI static inline void put_words(const int32_t* q, int64_t quads, int32_t* words, int64_t stride) {
  put_digits(q, quads, words, stride);
}
static inline void put_mask(const uint8_t* mask, int32_t* words) { memcpy(words, mask, 4); }

template <int ROWS>
struct DigitSums {
  static constexpr int WIDTH = 32, TOTALS = 2, AHEAD = ROWS > 2 ? 1 : 2;
  __m512i sum[4 * ROWS];  // [row, digit, half]; named one by one, so that they stay in registers
  using Rows = std::make_integer_sequence<int, ROWS>;
  using All = std::make_integer_sequence<int, 4 * ROWS>;

  template <int I>
  TARGET_AVX512_VNNI DIGIT_INLINE void add_digit(__m512i first, __m512i second, const int32_t* words) {
    const __m512i digits = _mm512_set1_epi32(words[I]);
    add_products(sum[2 * I], first, digits), add_products(sum[2 * I + 1], second, digits);
  }
  template <int R, bool MASKED>
  TARGET_AVX512_VNNI DIGIT_INLINE void add_row(__m512i first, __m512i second, const int32_t* words,
                                               const int32_t* masks) {
    if constexpr (MASKED) {
      const __m512i mask = _mm512_set1_epi32(masks[R]);
      first = _mm512_and_si512(first, mask), second = _mm512_and_si512(second, mask);
    }
    add_digit<2 * R>(first, second, words), add_digit<2 * R + 1>(first, second, words);
  }
  template <bool MASKED, int... R>
  TARGET_AVX512_VNNI DIGIT_INLINE void add_rows(__m512i first, __m512i second, const int32_t* words,
                                                const int32_t* masks, Numbers<R...>) {
    (add_row<R, MASKED>(first, second, words, masks), ...);
  }
  template <int... I>
  TARGET_AVX512_VNNI DIGIT_INLINE void clear_all(Numbers<I...>) {
    ((sum[I] = _mm512_setzero_si512()), ...);
  }
  template <int... I>
  TARGET_AVX512_VNNI DIGIT_INLINE void join_all(const DigitSums& other, Numbers<I...>) {
    ((sum[I] = _mm512_add_epi32(sum[I], other.sum[I])), ...);
  }
  TARGET_AVX512_VNNI static DIGIT_INLINE void put_sixteen(__m512i found, double* to) {
    const __m512d low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(found));
    const __m512d high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(found, 1));
    _mm512_storeu_pd(to, _mm512_add_pd(low, low)), _mm512_storeu_pd(to + 8, _mm512_add_pd(high, high));
  }
  template <int... I>
  TARGET_AVX512_VNNI DIGIT_INLINE void put_all(double* to, Numbers<I...>) const {
    (put_sixteen(sum[I], to + 16 * I), ...);
  }

  TARGET_AVX512_VNNI DIGIT_INLINE void clear() { clear_all(All()); }
  template <bool MASKED>
  TARGET_AVX512_VNNI DIGIT_INLINE void add(const uint8_t* weights, const int32_t* words, const int32_t* masks) {
    add_rows<MASKED>(_mm512_loadu_si512(weights), _mm512_loadu_si512(weights + 64), words, masks, Rows());
  }
  TARGET_AVX512_VNNI DIGIT_INLINE void join(const DigitSums& other) { join_all(other, All()); }
  TARGET_AVX512_VNNI DIGIT_INLINE void put(double* to) const { put_all(to, All()); }
};
}  // namespace avx512_vnni
#endif
