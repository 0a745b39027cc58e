// What the graded kernel needs beside plane_isa.h, in the same namespaces: vectors of bytes that hold lanes of 16.
//
// Every vector type V has
//   LANES        pieces of 16 bytes, each of which is interleaved by itself
//   Bytes        V::LANES * 16 bytes, or as many / 4 sums in int32
//   lanes<N>     N lanes from memory, repeated to fill all
//   low8, high8, low16, high16   two vectors interleaved by bytes or pairs of bytes, lower or upper halves of lanes
//   field        bytes turned left by so many bits in their group of four, and masked
//   halves       the same of two vectors, the first where a mask is set and the second elsewhere
//   dot          sum + scale * (products of unsigned bytes and signed ones, four and four)
//   upper        half 0 or 1 of each byte, as its upper half where bytes are WHOLE, else as its lower half
//   topmost      half 0 or 1 of each byte, as its upper half
//   joined       the same of two vectors, as the upper and the lower half of bytes
//   four_alike, scale_of, load, store
// and every namespace has
//   WHOLE        whether `dot` takes all bytes exactly; else those of at most 7 bits, in units that `scale` says
//   REGISTERS    for vectors
//   Whole, Part  the vectors for blocks of 128 outputs and for the last of 64
//   listed       the words of inputs whose level lies between two, in order
#pragma once

#include "products.h"

#define GRADED_INLINE static inline __attribute__((always_inline))

namespace portable {
constexpr bool WHOLE = true;
constexpr int REGISTERS = 16;
struct Vector2 {
  static constexpr int LANES = 2;
  union Bytes {
    uint8_t byte[32];
    uint16_t pair[16];
    int32_t four[8];
  };

  template <int N>
  GRADED_INLINE Bytes lanes(const uint8_t* from) {
    Bytes v;
    for (int i = 0; i < 2; ++i) memcpy(v.byte + 16 * i, from + i % N * 16, 16);
    return v;
  }

  template <int FROM>
  GRADED_INLINE Bytes by_bytes(Bytes a, Bytes b) {
    Bytes v;
    for (int i = 0; i < 32; i += 16)
      for (int k = 0; k < 16; ++k) v.byte[i + k] = (k % 2 ? b : a).byte[i + FROM + k / 2];
    return v;
  }

  template <int FROM>
  GRADED_INLINE Bytes by_pairs(Bytes a, Bytes b) {
    Bytes v;
    for (int i = 0; i < 16; i += 8)
      for (int k = 0; k < 8; ++k) v.pair[i + k] = (k % 2 ? b : a).pair[i + FROM + k / 2];
    return v;
  }

  GRADED_INLINE Bytes low8(Bytes a, Bytes b) { return by_bytes<0>(a, b); }
  GRADED_INLINE Bytes high8(Bytes a, Bytes b) { return by_bytes<8>(a, b); }
  GRADED_INLINE Bytes low16(Bytes a, Bytes b) { return by_pairs<0>(a, b); }
  GRADED_INLINE Bytes high16(Bytes a, Bytes b) { return by_pairs<4>(a, b); }

  GRADED_INLINE Bytes field(Bytes v, const int32_t* turn, int32_t mask) {
    for (int i = 0; i < 8; ++i) {
      const uint32_t four = v.four[i];
      v.four[i] = int32_t((four << turn[i] | four >> (-turn[i] & 31)) & uint32_t(mask));
    }
    return v;
  }

  GRADED_INLINE Bytes halves(Bytes v, const int32_t* turn, Bytes other, const int32_t* other_turn, int32_t mask) {
    v = field(v, turn, mask), other = field(other, other_turn, ~mask);
    for (int i = 0; i < 8; ++i) v.four[i] |= other.four[i];
    return v;
  }

  template <int HALF>
  GRADED_INLINE Bytes upper(Bytes v) {
    for (uint8_t& byte : v.byte) byte = HALF ? byte & 0xF0 : uint8_t(byte << 4);
    return v;
  }

  template <int HALF>
  GRADED_INLINE Bytes topmost(Bytes v) {
    return upper<HALF>(v);
  }

  template <int HALF>
  GRADED_INLINE Bytes joined(Bytes v, Bytes other) {
    v = upper<HALF>(v);
    for (int i = 0; i < 32; ++i) v.byte[i] |= HALF ? other.byte[i] >> 4 : other.byte[i] & 15;
    return v;
  }

  GRADED_INLINE Bytes dot(Bytes sum, Bytes weights, Bytes x, Bytes) {
    for (int i = 0; i < 8; ++i)
      for (int k = 4 * i; k < 4 * i + 4; ++k) sum.four[i] += int32_t(weights.byte[k]) * int8_t(x.byte[k]);
    return sum;
  }

  GRADED_INLINE Bytes four_alike(int32_t value) {
    Bytes v;
    for (int i = 0; i < 8; ++i) v.four[i] = value;
    return v;
  }

  GRADED_INLINE Bytes scale_of(int) { return Bytes{}; }

  GRADED_INLINE Bytes load(const int32_t* from) {
    Bytes v;
    memcpy(v.four, from, sizeof v.four);
    return v;
  }

  GRADED_INLINE void store(int32_t* to, Bytes v) { memcpy(to, v.four, sizeof v.four); }
};
using Whole = Vector2;
using Part = Vector2;

static inline int64_t listed(const int32_t* level, const uint32_t* word, int64_t count, int first, int last,
                             uint32_t* to) {
  int64_t found = 0;
  for (int64_t k = 0; k < count; ++k) {
    to[found] = word[k];
    found += (level[k] >= first) & (level[k] <= last);
  }
  return found;
}
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
constexpr bool WHOLE = false;  // two products of bytes meet in 16 bits
constexpr int REGISTERS = 16;
using portable::listed;
struct Vector2 {
  static constexpr int LANES = 2;
  using Bytes = __m256i;

  template <int N>
  TARGET_AVX2 GRADED_INLINE Bytes lanes(const uint8_t* from) {
    if (N == 1) return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }

  TARGET_AVX2 GRADED_INLINE Bytes low8(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
  TARGET_AVX2 GRADED_INLINE Bytes high8(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
  TARGET_AVX2 GRADED_INLINE Bytes low16(Bytes a, Bytes b) { return _mm256_unpacklo_epi16(a, b); }
  TARGET_AVX2 GRADED_INLINE Bytes high16(Bytes a, Bytes b) { return _mm256_unpackhi_epi16(a, b); }

  TARGET_AVX2 GRADED_INLINE Bytes field(Bytes v, const int32_t* turn, int32_t mask) {
    const __m256i left = load(turn), right = _mm256_sub_epi32(_mm256_set1_epi32(32), left);
    const __m256i turned = _mm256_or_si256(_mm256_sllv_epi32(v, left), _mm256_srlv_epi32(v, right));
    return _mm256_and_si256(turned, _mm256_set1_epi32(mask));
  }

  TARGET_AVX2 GRADED_INLINE Bytes halves(Bytes v, const int32_t* turn, Bytes other, const int32_t* other_turn,
                                         int32_t mask) {
    return _mm256_or_si256(field(v, turn, mask), field(other, other_turn, ~mask));
  }

  template <int HALF>
  TARGET_AVX2 GRADED_INLINE Bytes upper(Bytes v) {
    return _mm256_and_si256(HALF ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
  }

  template <int HALF>
  TARGET_AVX2 GRADED_INLINE Bytes topmost(Bytes v) {
    return _mm256_andnot_si256(_mm256_set1_epi8(15), HALF ? v : _mm256_slli_epi16(v, 4));
  }

  template <int HALF>
  TARGET_AVX2 GRADED_INLINE Bytes joined(Bytes v, Bytes other) {
    return _mm256_or_si256(topmost<HALF>(v), upper<HALF>(other));
  }

  TARGET_AVX2 GRADED_INLINE Bytes dot(Bytes sum, Bytes weights, Bytes x, Bytes scale) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), scale));
  }

  TARGET_AVX2 GRADED_INLINE Bytes four_alike(int32_t value) { return _mm256_set1_epi32(value); }

  TARGET_AVX2 GRADED_INLINE Bytes scale_of(int scale) { return _mm256_set1_epi16(int16_t(scale)); }

  TARGET_AVX2 GRADED_INLINE Bytes load(const int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }

  TARGET_AVX2 GRADED_INLINE void store(int32_t* to, Bytes v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
  }
};
using Whole = Vector2;
using Part = Vector2;
}  // namespace avx2

namespace avx512_vnni {
constexpr bool WHOLE = true;
constexpr int REGISTERS = 32;
struct Vector4 {
  static constexpr int LANES = 4;
  using Bytes = __m512i;

  template <int N>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes lanes(const uint8_t* from) {
    if (N == 1) return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    if (N == 2) return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_loadu_si512(from);
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes low8(Bytes a, Bytes b) { return _mm512_unpacklo_epi8(a, b); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes high8(Bytes a, Bytes b) { return _mm512_unpackhi_epi8(a, b); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes low16(Bytes a, Bytes b) { return _mm512_unpacklo_epi16(a, b); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes high16(Bytes a, Bytes b) { return _mm512_unpackhi_epi16(a, b); }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes field(Bytes v, const int32_t* turn, int32_t mask) {
    return _mm512_and_si512(_mm512_rolv_epi32(v, load(turn)), _mm512_set1_epi32(mask));
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes halves(Bytes v, const int32_t* turn, Bytes other, const int32_t* other_turn,
                                                int32_t mask) {
    const Bytes first = _mm512_rolv_epi32(v, load(turn)), second = _mm512_rolv_epi32(other, load(other_turn));
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(mask), first, second, 0xCA);
  }

  template <int HALF>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes upper(Bytes v) {
    return _mm512_and_si512(HALF ? v : _mm512_slli_epi16(v, 4), _mm512_set1_epi8(char(0xF0)));
  }

  template <int HALF>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes topmost(Bytes v) {
    return upper<HALF>(v);
  }

  template <int HALF>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes joined(Bytes v, Bytes other) {
    const Bytes first = HALF ? v : _mm512_slli_epi16(v, 4), second = HALF ? _mm512_srli_epi16(other, 4) : other;
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8(char(0xF0)), first, second, 0xCA);
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes dot(Bytes sum, Bytes weights, Bytes x, Bytes) {
    add_products(sum, weights, x);
    return sum;
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes four_alike(int32_t value) { return _mm512_set1_epi32(value); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes scale_of(int) { return _mm512_setzero_si512(); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes load(const int32_t* from) { return _mm512_loadu_si512(from); }
  TARGET_AVX512_VNNI GRADED_INLINE void store(int32_t* to, Bytes v) { _mm512_storeu_si512(to, v); }
};

struct Vector2 {
  static constexpr int LANES = 2;
  using Bytes = __m256i;

  template <int N>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes lanes(const uint8_t* from) {
    if (N == 1) return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes low8(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes high8(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes low16(Bytes a, Bytes b) { return _mm256_unpacklo_epi16(a, b); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes high16(Bytes a, Bytes b) { return _mm256_unpackhi_epi16(a, b); }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes field(Bytes v, const int32_t* turn, int32_t mask) {
    return _mm256_and_si256(_mm256_rolv_epi32(v, load(turn)), _mm256_set1_epi32(mask));
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes halves(Bytes v, const int32_t* turn, Bytes other, const int32_t* other_turn,
                                                int32_t mask) {
    const Bytes first = _mm256_rolv_epi32(v, load(turn)), second = _mm256_rolv_epi32(other, load(other_turn));
    return _mm256_ternarylogic_epi32(_mm256_set1_epi32(mask), first, second, 0xCA);
  }

  template <int HALF>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes upper(Bytes v) {
    return _mm256_and_si256(HALF ? v : _mm256_slli_epi16(v, 4), _mm256_set1_epi8(char(0xF0)));
  }

  template <int HALF>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes topmost(Bytes v) {
    return upper<HALF>(v);
  }

  template <int HALF>
  TARGET_AVX512_VNNI GRADED_INLINE Bytes joined(Bytes v, Bytes other) {
    const Bytes first = HALF ? v : _mm256_slli_epi16(v, 4), second = HALF ? _mm256_srli_epi16(other, 4) : other;
    return _mm256_ternarylogic_epi32(_mm256_set1_epi8(char(0xF0)), first, second, 0xCA);
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes dot(Bytes sum, Bytes weights, Bytes x, Bytes) {
    add_products(sum, weights, x);
    return sum;
  }

  TARGET_AVX512_VNNI GRADED_INLINE Bytes four_alike(int32_t value) { return _mm256_set1_epi32(value); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes scale_of(int) { return _mm256_setzero_si256(); }
  TARGET_AVX512_VNNI GRADED_INLINE Bytes load(const int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  TARGET_AVX512_VNNI GRADED_INLINE void store(int32_t* to, Bytes v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
  }
};
using Whole = Vector4;
using Part = Vector2;

TARGET_AVX512_VNNI static inline int64_t listed(const int32_t* level, const uint32_t* word, int64_t count, int first,
                                                int last, uint32_t* to) {
  int64_t found = 0;
  const __m512i least = _mm512_set1_epi32(first), span = _mm512_set1_epi32(last - first);
  for (int64_t k = 0; k < count; k += 16) {
    const __mmask16 there = count - k < 16 ? __mmask16((1u << (count - k)) - 1) : __mmask16(0xFFFF);
    const __m512i above = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(there, level + k), least);
    const __mmask16 wanted = _mm512_mask_cmple_epu32_mask(there, above, span);
    _mm512_storeu_si512(to + found, _mm512_maskz_compress_epi32(wanted, _mm512_maskz_loadu_epi32(there, word + k)));
    found += __builtin_popcount(wanted);
  }
  return found;
}
}  // namespace avx512_vnni
#endif
