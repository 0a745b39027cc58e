// The linear of kernels/digit_linear.py: int8 weights, activations in two digits of int8, sums in integers.
//
// With u = w + 128, sum q w = 256 sum h u + sum l u - 128 sum q. Weights stand in blocks of 32 outputs, four inputs of
// each side by side: one instruction multiplies a line of them with four digits of a row, nothing is left to be added
// up across lanes, and a thread reads one stream. Where activations have one digit, two rows take the place of two digits.
#include "abi.h"
#include "digit_isa.h"
#include "digit_neon.h"
#include "fixed_point.h"
#include "parallel.h"
#include "scratch.h"

constexpr int64_t BLOCK = 32;                  // outputs
constexpr int64_t LINE_BYTES = 4 * BLOCK;
constexpr int64_t RUN = 512;                   // inputs whose digits are made at a time
constexpr int64_t NEAR_BYTES = 256 << 10;      // digits of rows that stay in the second cache
constexpr int64_t MINIMUM_WORK = 1 << 16;      // multiplications that pay for another thread

struct DigitLayer {
  const uint8_t* tiles;  // [blocks, quads, 32 outputs, 4 inputs]: w + 128; 128 for what fills up blocks and quads
  const float* scale;    // [blocks * 32]
  const float* bias;     // [blocks * 32] or null
  int64_t inputs, outputs;
  int64_t digits;  // of an activation: 2, or 1
};

namespace {
struct Row {
  int64_t sum;  // of q
  float half_step;
};

struct Group {  // rows, or pairs of rows, that are multiplied at a time
  int64_t first, count;
  int32_t* words;  // [quads, count, 2 digits], four inputs each
};

struct DigitJob {
  const DigitLayer& layer;
  int64_t tokens, quads;
  Row* rows;
  Group* groups;
  float* y;
};

struct DigitKernel {
  int64_t most_rows;
  bool pairs;  // whether two rows of one digit take the place of one of two
  void (*take_whole)(const float* x, int64_t inputs, int32_t* words, int64_t stride, Row& row);
  void (*take_digit)(const float* x, int64_t inputs, int32_t* words, int64_t stride, Row& row);
  void (*blocks)(const DigitJob&, int64_t begin, int64_t end, int64_t first, int64_t last);
};
}  // namespace

namespace portable {
#define TARGET TARGET_PORTABLE
#include "digit_tile_body.h"
#include "digit_body.h"
#undef TARGET
}  // namespace portable

#if defined(__aarch64__)
namespace neon {
#define TARGET TARGET_NEON
#include "digit_tile_body.h"
#include "digit_body.h"
#undef TARGET
}  // namespace neon
#endif

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "digit_tile_body.h"
#include "digit_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
#include "digit_tile_body.h"
#include "digit_body.h"
#undef TARGET
}  // namespace avx512_vnni
#endif

#define DIGIT_KERNEL(isa) \
  DigitKernel { isa::MOST_ROWS, isa::DigitSums<1>::TOTALS == 2, isa::take_whole, isa::take_digit, isa::blocks }

static DigitKernel kernel_for(int isa) {
#if defined(__x86_64__)
  if (isa == PLANE_AVX512_VNNI) return DIGIT_KERNEL(avx512_vnni);
  if (isa == PLANE_AVX2) return DIGIT_KERNEL(avx2);
#elif defined(__aarch64__)
  if (isa == PLANE_PORTABLE && neon::is_here()) return DIGIT_KERNEL(neon);
#endif
  return DIGIT_KERNEL(portable);
}

// Gives rows and groups of nearly equal size their memory; units are rows, or pairs of them. False when there is none.
static bool place(DigitJob& job, int64_t units, int64_t groups, Scratch& scratch) {
  const int64_t rows = lines(job.tokens * sizeof(Row)), heads = lines(groups * sizeof(Group));
  if (!scratch.holds(rows + heads + lines(8 * job.quads * units))) return false;
  job.rows = reinterpret_cast<Row*>(scratch.memory);
  job.groups = reinterpret_cast<Group*>(scratch.memory + rows);
  int32_t* words = reinterpret_cast<int32_t*>(scratch.memory + rows + heads);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = units * g / groups, next = units * (g + 1) / groups;
    job.groups[g] = {first, next - first, words + 2 * job.quads * first};
  }
  return true;
}

// The digits of a group's rows. x: [tokens, inputs].
static void take(const DigitJob& job, const DigitKernel& kernel, const float* x, const Group& group) {
  const int64_t inputs = job.layer.inputs, stride = 2 * group.count;
  const bool pairs = job.layer.digits == 1 && kernel.pairs;
  if (pairs && 2 * (group.first + group.count) > job.tokens)  // of the row that is not there
    memset(group.words, 0, 4 * job.quads * stride);
  for (int64_t i = 0; i < group.count; ++i) {
    const int64_t unit = group.first + i;
    int32_t* words = group.words + 2 * i;
    if (!pairs)
      (job.layer.digits == 2 ? kernel.take_whole : kernel.take_digit)(x + unit * inputs, inputs, words, stride,
                                                                      job.rows[unit]);
    else
      for (int64_t row = 2 * unit; row < 2 * unit + 2 && row < job.tokens; ++row)
        kernel.take_digit(x + row * inputs, inputs, words + row % 2, stride, job.rows[row]);
  }
}

static int multiply(const DigitKernel& kernel, const DigitLayer& layer, const float* x, float* y, int64_t tokens,
                    int64_t threads) {
  static thread_local Scratch scratch;
  if (!tokens) return 1;
  const int64_t inputs = layer.inputs, units = layer.digits == 1 && kernel.pairs ? ceil_divide(tokens, 2) : tokens;
  const int64_t groups = ceil_divide(units, kernel.most_rows);
  DigitJob job{layer, tokens, ceil_divide(inputs, 4), nullptr, nullptr, y};
  if (!place(job, units, groups, scratch)) return 0;
  const int64_t digits = tokens * inputs / MINIMUM_WORK + 1, products = tokens * inputs * layer.outputs / MINIMUM_WORK + 1;
  parallel_ranges(groups, 1, threads < digits ? threads : digits, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) take(job, kernel, x, job.groups[g]);
  });
  const int64_t fit = NEAR_BYTES / (8 * job.quads * kernel.most_rows), near = fit < 1 ? 1 : fit;
  const int64_t blocks = ceil_divide(layer.outputs, BLOCK);
  parallel_ranges(blocks, 1, threads < products ? threads : products, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < groups; first += near)
      kernel.blocks(job, begin, end, first, first + near < groups ? first + near : groups);
  });
  return 1;
}

extern "C" {
// x: [tokens, inputs]; y: [tokens, outputs]; isa: of `enum PlaneIsa`. 1 for success, 0 when there is no memory.
int moesaic_digit_linear(const DigitLayer* layer, const float* x, float* y, int64_t tokens, int64_t threads, int isa) {
  return multiply(kernel_for(isa), *layer, x, y, tokens, threads);
}
}
