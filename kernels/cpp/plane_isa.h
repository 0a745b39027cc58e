// What the bit-plane kernel needs beside isa.h, in the same namespaces: sums of products of unsigned bytes (weights)
// and signed bytes (activations), exact in int32, and 16 columns of fp32.
//
// Every set has
//   Line         64 bytes of weights
//   Integers     16 sums
//   SHIFTED      whether `field` moves its bits down to zero; else they stay, and sums carry the factor 2^SHIFT
//   SUMS         how many Integers stay in registers
//   bytes, field, none, dot_quad, dot_line, put, total
//   Columns      16 fp32
//   columns, doubled, filled                 from memory, 2 * int32 + offset, all alike
//   put, plus, times, magnitude
//   above        a bit for each value that is greater than a threshold
#pragma once

#include "isa.h"

namespace portable {
constexpr bool SHIFTED = true;
constexpr int SUMS = 4;
struct Line {
  uint8_t lane[64];
};
struct Integers {
  int32_t lane[16];
};
struct Columns {
  float lane[16];
};

static inline Line bytes(const uint8_t* from) {
  Line line;
  memcpy(line.lane, from, sizeof line.lane);
  return line;
}

template <int SHIFT, int WIDTH>
static inline Line field(Line line) {
  for (int i = 0; i < 64; ++i) line.lane[i] = line.lane[i] >> SHIFT & ((1 << WIDTH) - 1);
  return line;
}

static inline Integers none() { return Integers{}; }

static inline Integers dot_line(Line weights, const int8_t* x, Integers sum) {
  for (int i = 0; i < 16; ++i)
    for (int k = 4 * i; k < 4 * i + 4; ++k) sum.lane[i] += int32_t(weights.lane[k]) * x[k];
  return sum;
}

static inline Integers dot_quad(Line weights, const int8_t* quad, Integers sum) {
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 4; ++k) sum.lane[i] += int32_t(weights.lane[4 * i + k]) * quad[k];
  return sum;
}

static inline void put(int32_t* to, Integers sum) { memcpy(to, sum.lane, sizeof sum.lane); }

static inline int32_t total(Integers sum) {
  int32_t all = 0;
  for (int i = 0; i < 16; ++i) all += sum.lane[i];
  return all;
}

static inline Columns columns(const float* from) {
  Columns v;
  memcpy(v.lane, from, sizeof v.lane);
  return v;
}

static inline void put(float* to, Columns v) { memcpy(to, v.lane, sizeof v.lane); }

static inline Columns filled(float value) {
  Columns v;
  for (int i = 0; i < 16; ++i) v.lane[i] = value;
  return v;
}

static inline Columns doubled(const int32_t* from, int32_t offset) {
  Columns v;
  for (int i = 0; i < 16; ++i) v.lane[i] = float(2 * from[i] + offset);
  return v;
}

static inline Columns plus(Columns a, Columns b) {
  for (int i = 0; i < 16; ++i) a.lane[i] += b.lane[i];
  return a;
}

static inline Columns times(Columns a, Columns b) {
  for (int i = 0; i < 16; ++i) a.lane[i] *= b.lane[i];
  return a;
}

static inline Columns magnitude(Columns v) {
  for (int i = 0; i < 16; ++i) v.lane[i] = __builtin_fabsf(v.lane[i]);
  return v;
}

static inline uint32_t above(Columns v, float threshold) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; ++i) bits |= uint32_t(v.lane[i] > threshold) << i;
  return bits;
}
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
constexpr bool SHIFTED = true;  // two products of bytes meet in 16 bits: with fields of at most 7 bits they fit
constexpr int SUMS = 4;
struct Line {
  __m256i half[2];
};
using Integers = Line;
struct Columns {
  __m256 half[2];
};

TARGET_AVX2 static inline Line bytes(const uint8_t* from) {
  const __m256i* source = reinterpret_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(source), _mm256_loadu_si256(source + 1)};
}

template <int SHIFT, int WIDTH>
TARGET_AVX2 static inline Line field(Line line) {
  const __m256i mask = _mm256_set1_epi8((1 << WIDTH) - 1);
  for (int i = 0; i < 2; ++i) line.half[i] = _mm256_and_si256(_mm256_srli_epi16(line.half[i], SHIFT), mask);
  return line;
}

TARGET_AVX2 static inline Integers none() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

TARGET_AVX2 static inline __m256i add_dots(__m256i weights, __m256i x, __m256i sum) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), _mm256_set1_epi16(1)));
}

TARGET_AVX2 static inline Integers dot_line(Line weights, const int8_t* x, Integers sum) {
  const __m256i* source = reinterpret_cast<const __m256i*>(x);
  for (int i = 0; i < 2; ++i) sum.half[i] = add_dots(weights.half[i], _mm256_loadu_si256(source + i), sum.half[i]);
  return sum;
}

TARGET_AVX2 static inline Integers dot_quad(Line weights, const int8_t* quad, Integers sum) {
  int32_t four;
  memcpy(&four, quad, sizeof four);
  for (int i = 0; i < 2; ++i) sum.half[i] = add_dots(weights.half[i], _mm256_set1_epi32(four), sum.half[i]);
  return sum;
}

TARGET_AVX2 static inline void put(int32_t* to, Integers sum) {
  for (int i = 0; i < 2; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to) + i, sum.half[i]);
}

TARGET_AVX2 static inline int32_t total(Integers sum) {
  const __m256i both = _mm256_add_epi32(sum.half[0], sum.half[1]);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

TARGET_AVX2 static inline Columns columns(const float* from) { return {load(from), load(from + 8)}; }

TARGET_AVX2 static inline void put(float* to, Columns v) {
  for (int i = 0; i < 2; ++i) _mm256_storeu_ps(to + 8 * i, v.half[i]);
}

TARGET_AVX2 static inline Columns filled(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }

TARGET_AVX2 static inline Columns doubled(const int32_t* from, int32_t offset) {
  Columns v;
  for (int i = 0; i < 2; ++i) {
    const __m256i once = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + i);
    v.half[i] = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_add_epi32(once, once), _mm256_set1_epi32(offset)));
  }
  return v;
}

TARGET_AVX2 static inline Columns plus(Columns a, Columns b) {
  return {_mm256_add_ps(a.half[0], b.half[0]), _mm256_add_ps(a.half[1], b.half[1])};
}

TARGET_AVX2 static inline Columns times(Columns a, Columns b) {
  return {_mm256_mul_ps(a.half[0], b.half[0]), _mm256_mul_ps(a.half[1], b.half[1])};
}

TARGET_AVX2 static inline Columns magnitude(Columns v) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, v.half[0]), _mm256_andnot_ps(sign, v.half[1])};
}

TARGET_AVX2 static inline uint32_t above(Columns v, float threshold) {
  const __m256 thresholds = _mm256_set1_ps(threshold);
  const uint32_t low = _mm256_movemask_ps(_mm256_cmp_ps(v.half[0], thresholds, _CMP_GT_OQ));
  return low | uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(v.half[1], thresholds, _CMP_GT_OQ))) << 8;
}
}  // namespace avx2

namespace avx512_vnni {
#define TARGET_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni")))
constexpr bool SHIFTED = false;
constexpr int SUMS = 16;
using Line = __m512i;
using Integers = __m512i;
using Columns = __m512;

TARGET_AVX512_VNNI static inline Line bytes(const uint8_t* from) { return _mm512_loadu_si512(from); }

template <int SHIFT, int WIDTH>
TARGET_AVX512_VNNI static inline Line field(Line line) {
  return _mm512_and_si512(line, _mm512_set1_epi8(char(((1 << WIDTH) - 1) << SHIFT)));
}

TARGET_AVX512_VNNI static inline Integers none() { return _mm512_setzero_si512(); }

TARGET_AVX512_VNNI static inline Integers dot_line(Line weights, const int8_t* x, Integers sum) {
  return _mm512_dpbusd_epi32(sum, weights, _mm512_loadu_si512(x));
}

TARGET_AVX512_VNNI static inline Integers dot_quad(Line weights, const int8_t* quad, Integers sum) {
  int32_t four;
  memcpy(&four, quad, sizeof four);
  return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
}

TARGET_AVX512_VNNI static inline void put(int32_t* to, Integers sum) { _mm512_storeu_si512(to, sum); }

TARGET_AVX512_VNNI static inline int32_t total(Integers sum) { return _mm512_reduce_add_epi32(sum); }

TARGET_AVX512_VNNI static inline Columns columns(const float* from) { return _mm512_loadu_ps(from); }

TARGET_AVX512_VNNI static inline void put(float* to, Columns v) { _mm512_storeu_ps(to, v); }

TARGET_AVX512_VNNI static inline Columns filled(float value) { return _mm512_set1_ps(value); }

TARGET_AVX512_VNNI static inline Columns doubled(const int32_t* from, int32_t offset) {
  const __m512i once = _mm512_loadu_si512(from);
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_add_epi32(once, once), _mm512_set1_epi32(offset)));
}

TARGET_AVX512_VNNI static inline Columns plus(Columns a, Columns b) { return _mm512_add_ps(a, b); }

TARGET_AVX512_VNNI static inline Columns times(Columns a, Columns b) { return _mm512_mul_ps(a, b); }

TARGET_AVX512_VNNI static inline Columns magnitude(Columns v) { return _mm512_abs_ps(v); }

TARGET_AVX512_VNNI static inline uint32_t above(Columns v, float threshold) {
  return _mm512_cmp_ps_mask(v, _mm512_set1_ps(threshold), _CMP_GT_OQ);
}
}  // namespace avx512_vnni
#endif

enum PlaneIsa { PLANE_PORTABLE = 0, PLANE_AVX2 = 1, PLANE_AVX512_VNNI = 2 };

static inline int best_plane_isa() {
  const int isa = best_isa();
#if defined(__x86_64__)
  if (isa >= AVX512 && __builtin_cpu_supports("avx512vnni")) return PLANE_AVX512_VNNI;
#endif
  return isa >= AVX2 ? PLANE_AVX2 : PLANE_PORTABLE;
}
