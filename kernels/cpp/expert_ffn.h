// The weights of an FFN in experts: kernels/native_expert_ffn.py fills it in.
#pragma once

#include <cstdint>

struct ExpertLayer {
  const void *up, *gate, *down;                     // [width, hidden]; gate may be null
  const float *up_scale, *gate_scale, *down_scale;  // [width], [width], [hidden]; or null
  const float *up_bias, *gate_bias, *down_bias;     // the same
  int64_t hidden, width, expert_size;
  int64_t weight;      // 0 for fp32, 1 for bf16, 2 for int8
  int64_t activation;  // one of `enum Activation`

  int64_t experts() const { return (width + expert_size - 1) / expert_size; }
};
