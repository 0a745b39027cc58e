// sum += products of unsigned bytes (weights) and signed ones, four and four, where one instruction does it.
//
// Written as it is: of the intrinsic GCC 12 makes two copies of every sum, and stores some of them in each step.
#pragma once

#include "plane_isa.h"

#if defined(__x86_64__)
namespace avx512_vnni {
TARGET_AVX512_VNNI static inline __attribute__((always_inline)) void add_products(__m512i& sum, __m512i weights,
                                                                                  __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
}

TARGET_AVX512_VNNI static inline __attribute__((always_inline)) void add_products(__m256i& sum, __m256i weights,
                                                                                  __m256i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
}
}  // namespace avx512_vnni
#endif
