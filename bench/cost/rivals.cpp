// Loops that the library has no need of, to count their instructions beside it: int4 of which every weight is read, and
// inputs that are read whole or not at all; and one to be timed. Two digits of activations and exact sums, as in the
// library.
#include <cstdint>
#include <cstring>
#include <utility>

#include "graded_isa.h"

template <int... A>
using Indices = std::integer_sequence<int, A...>;

#define COUNTED __attribute__((noinline, used))

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
TARGET_AVX2 static inline void add_scaled(float* y, __m256i high, __m256i low, __m256 scale) {
  const __m256i whole = _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
  _mm256_storeu_ps(y, _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, _mm256_loadu_ps(y)));
}
TARGET_AVX2 static inline __m256 widened_scale(const uint16_t* bf16) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bf16));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
#include "rivals_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
TARGET_AVX512_VNNI static inline void add_scaled(float* y, __m512i high, __m512i low, __m512 scale) {
  const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  _mm512_storeu_ps(y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, _mm512_loadu_ps(y)));
}
TARGET_AVX512_VNNI static inline __m512 widened_scale(const uint16_t* bf16) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bf16));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
#include "rivals_body.h"
#undef TARGET
}  // namespace avx512_vnni

// Runs the loop that is timed so many times, over weights that stay where they are.
extern "C" void moesaic_cost_run(int avx512, const uint8_t* w, const int32_t* digits, int64_t quads, int64_t times,
                                 int32_t* y) {
  for (int64_t i = 0; i < times; ++i)
    avx512 ? avx512_vnni::timed<4>(w, digits, quads, y) : avx2::timed<2>(w, digits, quads, y);
}
#endif
