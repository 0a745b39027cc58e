// The linear of kernels/digit_linear.py: int8 weights, activations in two digits of int8, sums in integers.
//
// With u = w + 128, sum q w = 256 sum h u + sum l u - 128 sum q. Weights stand in blocks of 16 outputs, four inputs of
// each side by side, so that one instruction multiplies a line of them with four digits of a row, and nothing is left
// to be added up across lanes.
#include "digit_linear.h"

#include "digit_isa.h"
#include "parallel.h"
#include "scratch.h"

constexpr int64_t RUN = 512;                   // inputs whose digits are made at a time
constexpr int64_t NEAR_BYTES = 256 << 10;      // digits of rows that stay in the second cache
constexpr int64_t MINIMUM_WORK = 1 << 16;      // multiplications that pay for another thread
constexpr float LEAST_STEP = 1.17549435e-38f;  // of fp32 in full precision

namespace {
struct Digits {  // of a row
  int32_t *high, *low;  // [quads]
  int64_t sum;
  float half_step;
};

struct DigitJob {
  const DigitLayer& layer;
  int64_t quads;
  Digits* rows;
  float* y;
};

struct DigitKernel {
  void (*take_digits)(const float* x, int64_t inputs, Digits& row);
  void (*blocks)(const DigitJob&, int64_t begin, int64_t end, int64_t first, int64_t last);
};
}  // namespace

namespace portable {
#define TARGET TARGET_PORTABLE
#include "digit_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "digit_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
#include "digit_body.h"
#undef TARGET
}  // namespace avx512_vnni
#endif

static DigitKernel kernel_for(int isa) {
#if defined(__x86_64__)
  if (isa == PLANE_AVX512_VNNI) return {avx512_vnni::take_digits, avx512_vnni::blocks};
  if (isa == PLANE_AVX2) return {avx2::take_digits, avx2::blocks};
#endif
  return {portable::take_digits, portable::blocks};
}

// Gives every row its arrays. False when there is no memory.
static bool place(DigitJob& job, int64_t tokens, Scratch& scratch) {
  const int64_t line = ceil_divide(4 * job.quads, 64) * 64, heads = ceil_divide(tokens * sizeof(Digits), 64) * 64;
  if (!scratch.holds(heads + 2 * tokens * line)) return false;
  job.rows = reinterpret_cast<Digits*>(scratch.memory);
  char* at = scratch.memory + heads;
  for (int64_t t = 0; t < tokens; ++t, at += 2 * line)
    job.rows[t] = {reinterpret_cast<int32_t*>(at), reinterpret_cast<int32_t*>(at + line), 0, 0.0f};
  return true;
}

extern "C" {
// x: [tokens, inputs]; y: [tokens, outputs]; isa: of `enum PlaneIsa`. 1 for success, 0 when there is no memory.
int moesaic_digit_linear(const DigitLayer* layer, const float* x, float* y, int64_t tokens, int64_t threads, int isa) {
  static thread_local Scratch scratch;
  const DigitKernel kernel = kernel_for(isa);
  const int64_t inputs = layer->inputs, blocks = ceil_divide(layer->outputs, 16);
  DigitJob job{*layer, ceil_divide(inputs, 4), nullptr, y};
  if (!place(job, tokens, scratch)) return 0;
  const int64_t digits = tokens * inputs / MINIMUM_WORK + 1, products = tokens * inputs * layer->outputs / MINIMUM_WORK + 1;
  parallel_ranges(tokens, 1, threads < digits ? threads : digits, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) kernel.take_digits(x + t * inputs, inputs, job.rows[t]);
  });
  const int64_t fit = NEAR_BYTES / (8 * job.quads), near = fit < 6 ? 6 : fit / 6 * 6;
  parallel_ranges(blocks, 2, threads < products ? threads : products, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < tokens; first += near)
      kernel.blocks(job, begin, end, first, first + near < tokens ? first + near : tokens);
  });
  return 1;
}
}
