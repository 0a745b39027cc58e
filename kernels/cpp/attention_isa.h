// What paged attention needs beside isa.h, in the same namespaces, and the 16-bit floats of pages and activations.
//
// Every set has
//   load        LANES values of fp16, too
//   larger      of two vectors, lane by lane; where one is no number, the second
//   most        the largest lane
//   transpose   [16, 16] of a page, rows `stride` apart, to fp32 with rows 16 apart
#pragma once

#include "activation.h"  // INLINE
#include "isa.h"

struct Half {  // fp16
  uint16_t bits;
};

INLINE float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

INLINE float widened(float value) { return value; }

INLINE float widened(Bf16 value) { return as_float(static_cast<uint32_t>(value.bits) << 16); }

// The exponents of fp16 and fp32 begin 112 apart, subnormal numbers too; infinity and NaN have the last of them.
INLINE float widened(Half value) {
  const uint32_t magnitude = (value.bits & 0x7fffu) << 13, sign = (value.bits & 0x8000u) << 16;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return as_float(as_bits(as_float(magnitude) * 0x1p112f) | special | sign);
}

INLINE void narrow(float value, float& out) { out = value; }

INLINE void narrow(float value, Bf16& out) {
  const uint32_t bits = as_bits(value), rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  out.bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded >> 16);
}

INLINE void narrow(float value, Half& out) {
  const uint32_t sign = as_bits(value) & 0x80000000u, bits = as_bits(value) ^ sign;
  const uint32_t normal = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1u)) >> 13;
  const uint32_t small = as_bits(as_float(bits) + 0.5f) - as_bits(0.5f);  // 0.5: its last bit is fp16's smallest number
  const uint32_t large = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t found = bits >= (143u << 23) ? large : bits < (113u << 23) ? small : normal;
  out.bits = static_cast<uint16_t>(found | sign >> 16);
}

namespace portable {
static inline Operand load(const Half* x) {
  Operand v;
  for (int i = 0; i < LANES; ++i) v.lane[i] = widened(x[i]);
  return v;
}

static inline Vector larger(Vector a, Vector b) {
  for (int i = 0; i < LANES; ++i) b.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return b;
}

static inline float most(Vector v) {
  for (int i = 1; i < LANES; ++i) v.lane[0] = v.lane[i] > v.lane[0] ? v.lane[i] : v.lane[0];
  return v.lane[0];
}

template <typename Page>
static inline void transpose(const Page* from, int64_t stride, float* to) {
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; column += LANES) {
      const Operand v = load(from + row * stride + column);
      for (int i = 0; i < LANES; ++i) to[(column + i) * 16 + row] = v.lane[i];
    }
}
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
TARGET_AVX2 static inline Operand load(const Half* x) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  const __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fff)), 13);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x8000)), 16);
  const __m256i is_special = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x0f7fffff));
  const __m256i special = _mm256_and_si256(is_special, _mm256_set1_epi32(0x7f800000));
  const __m256 wide = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p112f));
  return _mm256_or_ps(wide, _mm256_castsi256_ps(_mm256_or_si256(special, sign)));
}

TARGET_AVX2 static inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }

TARGET_AVX2 static inline float most(Vector v) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

template <typename Page>
TARGET_AVX2 static inline void transpose8(const Page* from, int64_t stride, float* to) {
  __m256 row[8], pair[8];
  for (int i = 0; i < 8; ++i) row[i] = load(from + i * stride);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; ++k) {  // row[i + c]: of column c, and in the upper half 4 + c, the rows i to i + 3
      row[i + 2 * k] = _mm256_shuffle_ps(pair[i + k], pair[i + k + 2], 0x44);
      row[i + 2 * k + 1] = _mm256_shuffle_ps(pair[i + k], pair[i + k + 2], 0xEE);
    }
  for (int column = 0; column < 4; ++column) {
    store(to + column * 16, _mm256_permute2f128_ps(row[column], row[4 + column], 0x20));
    store(to + (4 + column) * 16, _mm256_permute2f128_ps(row[column], row[4 + column], 0x31));
  }
}

template <typename Page>
TARGET_AVX2 static inline void transpose(const Page* from, int64_t stride, float* to) {
  for (int row = 0; row < 16; row += 8)
    for (int column = 0; column < 16; column += 8)
      transpose8(from + row * stride + column, stride, to + column * 16 + row);
}
}  // namespace avx2

namespace avx512 {
TARGET_AVX512 static inline Operand load(const Half* x) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

TARGET_AVX512 static inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }

TARGET_AVX512 static inline float most(Vector v) {
  __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

template <typename Page>
TARGET_AVX512 static inline void transpose(const Page* from, int64_t stride, float* to) {
  __m512 row[16], pair[16];
  for (int i = 0; i < 16; ++i) row[i] = load(from + i * stride);
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int k = 0; k < 2; ++k) {  // row[i + c]: in quarter q, of column 4 q + c, the rows i to i + 3
      row[i + 2 * k] = _mm512_shuffle_ps(pair[i + k], pair[i + k + 2], 0x44);
      row[i + 2 * k + 1] = _mm512_shuffle_ps(pair[i + k], pair[i + k + 2], 0xEE);
    }
  for (int c = 0; c < 4; ++c) {
    const __m512 even = _mm512_shuffle_f32x4(row[c], row[4 + c], 0x88), odd = _mm512_shuffle_f32x4(row[c], row[4 + c], 0xDD);
    const __m512 even8 = _mm512_shuffle_f32x4(row[8 + c], row[12 + c], 0x88);
    const __m512 odd8 = _mm512_shuffle_f32x4(row[8 + c], row[12 + c], 0xDD);
    store(to + c * 16, _mm512_shuffle_f32x4(even, even8, 0x88));
    store(to + (4 + c) * 16, _mm512_shuffle_f32x4(odd, odd8, 0x88));
    store(to + (8 + c) * 16, _mm512_shuffle_f32x4(even, even8, 0xDD));
    store(to + (12 + c) * 16, _mm512_shuffle_f32x4(odd, odd8, 0xDD));
  }
}
}  // namespace avx512
#endif
