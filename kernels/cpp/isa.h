// One vector of fp32 lanes per instruction set, under the same names, so that a kernel body is written once and
// compiled for each of them. Functions carry `target` attributes: the library runs on any processor of its family
// and `moesaic_isa` says which set may be used. No -march flag, so nothing outside these functions needs it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

struct Bf16 {  // a weight; the upper half of an fp32
  uint16_t bits;
};

enum Isa { PORTABLE = 0, AVX2 = 1, AVX512 = 2, AVX512_BF16 = 3 };

// Every set has
//   Element      one activation as it lies in memory
//   Operand      LANES activations or weights, ready to be multiplied
//   Vector       fp32 sums
//   zero, load, multiply_add
//   narrow4      four fp32 values to four Elements
//   broadcast, store   one fp32 value to all lanes; LANES sums to memory (in the sets whose Element is float)
//   add_lanes    four sums of lanes; a sum does not depend on which of the four places it is given
namespace portable {
#define TARGET_PORTABLE
constexpr int64_t LANES = 8;
using Element = float;
struct Vector {
  float lane[LANES];
};
using Operand = Vector;

static inline Vector zero() { return Vector{}; }

static inline Operand load(const float* x) {
  Operand v;
  memcpy(v.lane, x, sizeof v.lane);
  return v;
}

static inline Operand load(const int8_t* weight) {
  Operand v;
  for (int i = 0; i < LANES; ++i) v.lane[i] = weight[i];
  return v;
}

static inline Operand load(const Bf16* weight) {
  Operand v;
  for (int i = 0; i < LANES; ++i) {
    const uint32_t bits = static_cast<uint32_t>(weight[i].bits) << 16;
    memcpy(v.lane + i, &bits, sizeof bits);
  }
  return v;
}

static inline Vector multiply_add(Operand a, Operand b, Vector sum) {
  for (int i = 0; i < LANES; ++i) sum.lane[i] += a.lane[i] * b.lane[i];
  return sum;
}

static inline Vector broadcast(float value) {
  Vector v;
  for (int i = 0; i < LANES; ++i) v.lane[i] = value;
  return v;
}

static inline void store(float* out, Vector v) { memcpy(out, v.lane, sizeof v.lane); }

static inline float add(Vector v) {
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v.lane[i] += v.lane[i + half];
  return v.lane[0];
}

static inline void add_lanes(Vector a, Vector b, Vector c, Vector d, float* out) {
  out[0] = add(a), out[1] = add(b), out[2] = add(c), out[3] = add(d);
}

static inline void narrow4(const float* values, float* out) { memcpy(out, values, 4 * sizeof *out); }
}  // namespace portable

#if defined(__x86_64__)
#include <immintrin.h>

namespace avx2 {
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
constexpr int64_t LANES = 8;
using Element = float;
using Vector = __m256;
using Operand = __m256;

TARGET_AVX2 static inline Vector zero() { return _mm256_setzero_ps(); }

TARGET_AVX2 static inline Operand load(const float* x) { return _mm256_loadu_ps(x); }

TARGET_AVX2 static inline Operand load(const int8_t* weight) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weight));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

TARGET_AVX2 static inline Operand load(const Bf16* weight) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

TARGET_AVX2 static inline Vector multiply_add(Operand a, Operand b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }

TARGET_AVX2 static inline Vector broadcast(float value) { return _mm256_set1_ps(value); }

TARGET_AVX2 static inline void store(float* out, Vector v) { _mm256_storeu_ps(out, v); }

TARGET_AVX2 static inline void add_lanes(Vector a, Vector b, Vector c, Vector d, float* out) {
  const Vector quarter = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(quarter), _mm256_extractf128_ps(quarter, 1)));
}

static inline void narrow4(const float* values, float* out) { memcpy(out, values, 4 * sizeof *out); }
}  // namespace avx2

namespace avx512 {
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
constexpr int64_t LANES = 16;
using Element = float;
using Vector = __m512;
using Operand = __m512;

TARGET_AVX512 static inline Vector zero() { return _mm512_setzero_ps(); }

TARGET_AVX512 static inline Operand load(const float* x) { return _mm512_loadu_ps(x); }

TARGET_AVX512 static inline Operand load(const int8_t* weight) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weight))));
}

TARGET_AVX512 static inline Operand load(const Bf16* weight) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

TARGET_AVX512 static inline Vector multiply_add(Operand a, Operand b, Vector sum) { return _mm512_fmadd_ps(a, b, sum); }

TARGET_AVX512 static inline Vector broadcast(float value) { return _mm512_set1_ps(value); }

TARGET_AVX512 static inline void store(float* out, Vector v) { _mm512_storeu_ps(out, v); }

TARGET_AVX512 static inline void add_lanes(Vector a, Vector b, Vector c, Vector d, float* out) {
  const Vector ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  const Vector cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
  // one 128-bit quarter each for a, b, c and d
  Vector sum = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4E));
  sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xB1));
  const __m512i quarters = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(quarters, sum)));
}

static inline void narrow4(const float* values, float* out) { memcpy(out, values, 4 * sizeof *out); }
}  // namespace avx512

namespace avx512_bf16 {
#define TARGET_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")))
constexpr int64_t LANES = 32;
using Element = uint16_t;
using Vector = __m512;
using Operand = __m512bh;
using avx512::add_lanes;
using avx512::zero;

TARGET_AVX512_BF16 static inline Operand load(const uint16_t* x) {
  return reinterpret_cast<Operand>(_mm512_loadu_si512(x));
}

TARGET_AVX512_BF16 static inline Operand load(const Bf16* weight) {
  return reinterpret_cast<Operand>(_mm512_loadu_si512(weight));
}

// int8 is exact in bf16
TARGET_AVX512_BF16 static inline Operand load(const int8_t* weight) {
  return _mm512_cvtne2ps_pbh(avx512::load(weight + 16), avx512::load(weight));
}

TARGET_AVX512_BF16 static inline Vector multiply_add(Operand a, Operand b, Vector sum) {
  return _mm512_dpbf16_ps(sum, a, b);
}

TARGET_AVX512_BF16 static inline void store(uint16_t* out, Operand v) {
  _mm512_storeu_si512(out, reinterpret_cast<__m512i>(v));
}

TARGET_AVX512_BF16 static inline void narrow4(const float* values, uint16_t* out) {
  const __m128bh four = _mm_cvtneps_pbh(_mm_loadu_ps(values));
  memcpy(out, &four, 4 * sizeof *out);
}
}  // namespace avx512_bf16
#endif

static inline int best_isa() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return AVX512_BF16;
  if (avx512) return AVX512;
  if (avx2) return AVX2;
#endif
  return PORTABLE;
}
