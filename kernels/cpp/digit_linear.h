// An int8 linear whose activations are two digits of int8, exact in integers: kernels/digit_linear.py.
#pragma once

#include <cstdint>

struct DigitLayer {
  const uint8_t* tiles;  // [blocks, quads, 32 outputs, 4 inputs]: w + 128; 128 for what fills up blocks and quads
  const float* scale;    // [blocks * 32]
  const float* bias;     // [blocks * 32] or null
  int64_t inputs, outputs;
};

extern "C" int moesaic_digit_linear(const DigitLayer* layer, const float* x, float* y, int64_t tokens, int64_t threads,
                                    int isa);
