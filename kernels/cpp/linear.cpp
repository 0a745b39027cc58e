// y[t, n] = scale[n] * sum_k x[t, k] * weight[n, k] + bias[n], for activations in fp32 or bf16 and weights in int8 or
// bf16.
//
// Weights are read once per block of rows, turned into floating point in registers and summed in fp32. For one
// token this moves outputs * inputs weights and is bound by memory; from about eight on it is bound by arithmetic.
#include "abi.h"
#include "isa.h"
#include "parallel.h"

struct Linear {
  const void* x;       // [tokens, inputs]
  const void* weight;  // [outputs, inputs]
  const float* scale;  // [outputs] or null
  const float* bias;   // [outputs] or null
  void* y;             // [tokens, outputs]
  int64_t tokens, inputs, outputs;
};

constexpr int64_t PREFETCH_BYTES = 4096;    // measured: 2048 is late, 8192 no better
constexpr int64_t NARROW_BYTES = 64 << 10;  // weights that stay in the second cache while tokens pass over them
constexpr int64_t WIDE_BYTES = 128 << 10;   // the same after widening to bf16
constexpr int64_t WIDEN_TOKENS = 24;        // from here on it pays to widen a row once, not for each token block
constexpr int64_t WIDEN_INPUTS = 2048;      // four longer rows would fill the first cache
constexpr int64_t MINIMUM_WORK = 1 << 16;   // multiplications that pay for waking another thread

namespace portable {
#define TARGET TARGET_PORTABLE
constexpr int TOKEN_BLOCK = 1;
#include "linear_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
constexpr int TOKEN_BLOCK = 2;  // 16 registers
#include "linear_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512 {
#define TARGET TARGET_AVX512
constexpr int TOKEN_BLOCK = 6;  // with 4 rows: 24 sums, 4 weights and 1 activation in 32 registers
#include "linear_body.h"
#undef TARGET
}  // namespace avx512

namespace avx512_bf16 {
#define TARGET TARGET_AVX512_BF16
#define WIDEN_ROWS
constexpr int TOKEN_BLOCK = 6;
#include "linear_body.h"
#undef WIDEN_ROWS
#undef TARGET
}  // namespace avx512_bf16
#endif

using Rows = void (*)(const Linear&, int64_t, int64_t);

template <typename Weight>
static Rows rows_for(int isa, bool bf16) {
#if defined(__x86_64__)
  if constexpr (!std::is_same_v<Weight, float>)
    if (bf16) return avx512_bf16::rows<Weight>;
  if (isa >= AVX512) return avx512::rows<Weight>;
  if (isa >= AVX2) return avx2::rows<Weight>;
#endif
  return portable::rows<Weight>;
}

extern "C" {
int moesaic_isa() { return best_isa(); }

int moesaic_has_threads() { return has_threads(); }

// x_is_bf16: of x and y (needs isa AVX512_BF16), else fp32; weight_kind: 0 for int8, 1 for bf16, 2 for fp32 under fp32.
void moesaic_linear(const void* x, const void* weight, const float* scale, const float* bias, void* y, int64_t tokens,
                    int64_t inputs, int64_t outputs, int64_t threads, int isa, int x_is_bf16, int weight_kind) {
  const Linear job{x, weight, scale, bias, y, tokens, inputs, outputs};
  const bool bf16 = x_is_bf16 != 0;
  const Rows rows = weight_kind == 2   ? rows_for<float>(isa, false)
                    : weight_kind == 1 ? rows_for<Bf16>(isa, bf16)
                                       : rows_for<int8_t>(isa, bf16);
  const int64_t useful = tokens * inputs * outputs / MINIMUM_WORK + 1;
  parallel_ranges(outputs, 8, threads < useful ? threads : useful,
                  [&](int64_t begin, int64_t end) { rows(job, begin, end); });
}
}
