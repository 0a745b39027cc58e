// What the linear of two digits needs beside plane_isa.h, in the same namespaces.
//
// Every set has
//   WIDTH        outputs of a tile, of the 32 that stand together
//   MOST_TOKENS  whose sums stay in registers
//   AHEAD_ROWS   the most rows for which two quads have sums of their own, so that no sum waits for another
//   WHOLE        whether words hold four numbers of 16 bits of a row; else the high and the low digits of four, or the
//                digits of four of each of two rows
//   RUN_QUADS    after so many the sums are put to memory, before they leave int32
//   Sums<ROWS>   of a tile, two digits, of one row or a digit each of two rows: clear, add four inputs (a line of weights
//                or two, two words a row), join others, put them to memory, int32 [ROWS, 2, WIDTH], where those that are
//                whole become two digits and are added to what is there
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

constexpr int64_t NEVER = int64_t(1) << 40;  // as many quads as no row has

namespace portable {
constexpr int WIDTH = 16, MOST_TOKENS = 1, AHEAD_ROWS = 1;
constexpr bool WHOLE = false;
constexpr int64_t RUN_QUADS = NEVER;
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
constexpr int WIDTH = 16, MOST_TOKENS = 1, AHEAD_ROWS = 1;
constexpr bool WHOLE = false;
constexpr int64_t RUN_QUADS = NEVER;
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
// Products of bytes would be cut off at 16 bits where two of them meet, so that weights are widened; numbers of 16 bits
// then cost what one digit does.
constexpr int WIDTH = 16, MOST_TOKENS = 3, AHEAD_ROWS = 1;  // 12 sums in 16 registers
constexpr bool WHOLE = true;
constexpr int64_t RUN_QUADS = 128;  // two of four products fall to a lane: 256 * 32639 * 255 < 2^31
template <int ROWS>
struct Sums {
  __m256i sum[4 * ROWS];  // of four outputs each, two sums an output
  using Rows = std::make_integer_sequence<int, ROWS>;
  using Every = std::make_integer_sequence<int, 4 * ROWS>;

  template <int... I>
  TARGET_AVX2 DIGIT_INLINE void clear_each(Numbers<I...>) {
    ((sum[I] = _mm256_setzero_si256()), ...);
  }
  // Written as it is: of the intrinsics GCC 12 keeps most sums in memory. The third row has no register of its own.
  template <int R>
  TARGET_AVX2 DIGIT_INLINE void add_row(__m256i& to, __m256i wide, const __m256i* x, const int64_t* numbers) {
    __m256i products;
    if constexpr (R < 2)
      asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(to), "=&x"(products) : "x"(wide), "x"(x[R]));
    else
      asm("vpbroadcastq %3, %1\n\tvpmaddwd %1, %2, %1\n\tvpaddd %1, %0, %0"
          : "+x"(to), "=&x"(products)
          : "x"(wide), "m"(numbers[R]));
  }
  template <int PART, int... R>
  TARGET_AVX2 DIGIT_INLINE void add_part(const uint8_t* weights, const __m256i* x, const int64_t* numbers, Numbers<R...>) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights) + PART));
    (add_row<R>(sum[4 * R + PART], wide, x, numbers), ...);
  }
  TARGET_AVX2 DIGIT_INLINE void add_rows(const uint8_t* weights, const int32_t* words, Rows rows) {
    const int64_t* numbers = reinterpret_cast<const int64_t*>(words);
    const __m256i x[2] = {_mm256_set1_epi64x(numbers[0]), _mm256_set1_epi64x(numbers[ROWS > 1])};
    add_part<0>(weights, x, numbers, rows), add_part<1>(weights, x, numbers, rows);
    add_part<2>(weights, x, numbers, rows), add_part<3>(weights, x, numbers, rows);
  }
  template <int... I>
  TARGET_AVX2 DIGIT_INLINE void join_each(const Sums& other, Numbers<I...>) {
    ((sum[I] = _mm256_add_epi32(sum[I], other.sum[I])), ...);
  }

  TARGET_AVX2 DIGIT_INLINE void clear() { clear_each(Every()); }
  TARGET_AVX2 DIGIT_INLINE void add(const uint8_t* weights, const int32_t* words) { add_rows(weights, words, Rows()); }
  TARGET_AVX2 DIGIT_INLINE void join(const Sums& other) { join_each(other, Every()); }
  TARGET_AVX2 DIGIT_INLINE void put(int32_t* to) const { put_rows(to, Rows()); }
  template <int... R>
  TARGET_AVX2 DIGIT_INLINE void put_rows(int32_t* to, Numbers<R...>) const {
    ((put_half(sum[4 * R], sum[4 * R + 1], to + 2 * R * WIDTH),
      put_half(sum[4 * R + 2], sum[4 * R + 3], to + 2 * R * WIDTH + 8)), ...);
  }
  // Eight outputs, whose sums of pairs stand as 0 1 4 5 2 3 6 7 once they are added up.
  TARGET_AVX2 static DIGIT_INLINE void put_half(__m256i first, __m256i second, int32_t* to) {
    const __m256i mask = _mm256_set1_epi32(255);
    const __m256i high = _mm256_hadd_epi32(_mm256_srai_epi32(first, 8), _mm256_srai_epi32(second, 8));
    const __m256i low = _mm256_hadd_epi32(_mm256_and_si256(first, mask), _mm256_and_si256(second, mask));
    add_to(to, _mm256_permute4x64_epi64(high, 0xD8)), add_to(to + WIDTH, _mm256_permute4x64_epi64(low, 0xD8));
  }
  TARGET_AVX2 static DIGIT_INLINE void add_to(int32_t* to, __m256i found) {
    __m256i* at = reinterpret_cast<__m256i*>(to);
    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), found));
  }
};
}  // namespace avx2

namespace avx512_vnni {
constexpr int WIDTH = 32, MOST_TOKENS = 6, AHEAD_ROWS = 2;  // 24 sums in 32 registers
constexpr bool WHOLE = false;
constexpr int64_t RUN_QUADS = NEVER;
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
