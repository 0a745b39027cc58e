// The weights of a bit-plane FFN in the order of kernels/planes/layout.py, which fills it in.
#pragma once

#include <cstdint>

struct DigitLayer;

struct PlaneLayer {
  const uint8_t* groups;    // [width / 16, group_bytes]: high planes of gate and up, and as bf16 their fit
  const uint8_t* low;       // [width, low_bytes]: the next bits of gate and up
  const float* exact;       // [width, 1 to 4]: scales of gate and up, then biases, if any
  const int8_t* down;       // [width, columns]: down transposed, hidden in whole lines
  const float* down_scale;  // [hidden]
  const float* down_bias;   // [hidden] or null
  const DigitLayer* whole;  // down once more, in the order of whoever reads all of it, or null
  int64_t hidden, width, group_bytes, low_bytes, columns, bits, refined_bits, gated, biased;
};

// y = down h for what neurons give, [tokens, width], 0 of those that are not computed: cpp/plane_down.cpp.
int plane_down(const PlaneLayer& layer, const float* h, float* y, int64_t tokens, int64_t threads, int isa);
