// The graded linear of kernels/graded_linear.py, on weights laid out by kernels/graded/layout.py.
//
// For each token the inputs of every level are listed, then their rows are read, four at a time, as far as the level
// goes: bytes of four rows are interleaved in registers, so that a dot product of four bytes is one of four inputs.
#include <utility>

#include "graded_isa.h"
#include "parallel.h"
#include "scratch.h"

constexpr int MAX_LEVELS = 8;

struct GradedLayer {
  const uint8_t* rows;  // [inputs, row_bytes]: the planes of w + 128, the first over all outputs, then the next
  const float* scale;   // [outputs]
  const float* worth;   // [levels, inputs]
  const float* bias;    // [outputs] or null
  int64_t inputs, outputs, row_bytes, levels;
  int64_t widths[MAX_LEVELS];  // of the planes, in bits
};

struct Pass {         // over some planes, for the inputs whose level lies between two
  int32_t least, most;
  int first, count;   // planes
  int32_t scale, mask;    // of a plane by itself: what a unit of its field is worth, and its field in each byte
  int32_t turn[2][2][16];  // [blocks of 128 and of 64]: bits by which lanes are turned left, of two halves or two planes
};

struct Planes {  // of a pass, for one vector's part of a block
  int64_t at[4];
  const int32_t* turn[2];
  int32_t scale, mask;
};

struct Token {
  float half_step;
  int64_t bits, constant;          // over all inputs; what is added to twice the sum
  int64_t begin[MAX_LEVELS + 1];   // the first quad of each pass
  const uint8_t** row;             // of each input of each quad
  int32_t *high, *low;             // digits of each quad
};

struct GradedJob;
using AddPass = void (*)(const GradedJob&, const Pass&, const Token&, int64_t, int64_t);

struct GradedJob {
  const GradedLayer& layer;
  int64_t whole_blocks, num_blocks;        // of 128; with the last, of 64
  int64_t chunk;                           // quads that are read over all blocks before the next ones
  int64_t sums_stride;                     // from sums with the high digit to those with the low one
  int32_t* sums;                           // [2, num_blocks * 128]
  int64_t num_passes;
  Pass pass[MAX_LEVELS];
  AddPass add[MAX_LEVELS];
  int64_t plane_start[MAX_LEVELS];         // bytes from the beginning of a row
};

struct Work {  // of one token, [inputs] each
  int32_t *q, *level;
  uint32_t *word, *entry;  // entry: [quads * 4 of all passes]
};

struct GradedKernel {
  bool whole;  // whether all bits of a byte may be multiplied at once
  void (*prepare)(const GradedJob&, const float* x, float threshold, const Work&, Token&);
  AddPass (*pass_for)(int above, int below);
  void (*finish)(const GradedJob&, const Token&, int64_t begin, int64_t end, float* y);
};

constexpr int64_t BLOCK = 128;                 // outputs
constexpr int64_t AHEAD = 16;                  // rows: all bytes that are read have been asked for
constexpr int64_t WIDE_BYTES = 1024;           // of a row
constexpr int64_t CHUNK = 4, WIDE_CHUNK = 1;   // quads that are read over all blocks before the next ones, measured
constexpr int64_t NEAR_BYTES = 512 << 10;      // weights that several tokens find in the second cache
constexpr int64_t MINIMUM_WORK = 1 << 16;      // multiplications that pay for waking another thread
constexpr float LEAST_STEP = 1.17549435e-38f;  // of fp32 in full precision

// Pieces of 16 bytes of a block of 32 * groups outputs in a plane.
constexpr int lanes_of(int groups, int64_t width) { return groups * width < 4 ? 1 : int(groups * width / 4); }

// Planes of a kind of `half_bytes`.
constexpr int planes_of(int kind) { return kind > 4 ? 2 : kind > 0; }

template <int... A>
using Indices = std::integer_sequence<int, A...>;

template <class T>
constexpr T least(T a, T b) {
  return a < b ? a : b;
}

namespace portable {
#define TARGET TARGET_PORTABLE
#include "graded_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "graded_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
#include "graded_body.h"
#undef TARGET
}  // namespace avx512_vnni
#endif

static const GradedKernel& graded_kernel_for(int isa) {
#if defined(__x86_64__)
  if (isa == PLANE_AVX512_VNNI) return avx512_vnni::KERNEL;
  if (isa == PLANE_AVX2) return avx2::KERNEL;
#endif
  return portable::KERNEL;
}

// The bits of the planes above one.
static int64_t bits_above(const GradedLayer& layer, int64_t plane) {
  int64_t bits = 0;
  for (int64_t p = 0; p < plane; ++p) bits += layer.widths[p];
  return bits;
}

// Lanes of a plane of this width are turned so that slot 4 / width * half of the first lies at bit `place`.
static void set_turn(int64_t width, int64_t half, int64_t place, int which, Pass& pass) {
  for (int small = 0; small < 2; ++small)
    for (int lane = 0; lane < 16; ++lane) {
      const int64_t slot = 4 / width * half + lane / 4 / lanes_of(small ? 2 : 4, width);
      pass.turn[small][which][lane] = int32_t((place - width * slot) & 31);
    }
}

// The kind of `half_bytes` that planes [first, last) are, 0 for none, -1 for one that has no code.
static int kind_of(const GradedLayer& layer, int64_t first, int64_t last) {
  int kind = 0;
  for (int64_t p = first; p < last; ++p) kind = 10 * kind + int(layer.widths[p]);
  return kind == 0 || kind == 2 || kind == 22 || kind == 4 ? kind : -1;
}

// Code for the first planes of a weight together, or null.
static AddPass together(const GradedLayer& layer, const GradedKernel& kernel, int64_t count, Pass& pass) {
  int64_t split = 0;
  while (split < count && bits_above(layer, split) < 4) ++split;
  const int above = kind_of(layer, 0, split), below = kind_of(layer, split, count);
  if (above <= 0 || below < 0) return nullptr;
  set_turn(2, 0, 2, 0, pass), set_turn(2, 0, 0, 1, pass);
  return kernel.pass_for(above, below);
}

// Code for one plane by itself.
static AddPass alone(const GradedLayer& layer, const GradedKernel& kernel, int64_t plane, Pass& pass) {
  const int64_t width = layer.widths[plane], under = 8 - bits_above(layer, plane + 1), place = kernel.whole ? under : 0;
  pass.scale = 1 << under;
  pass.mask = int32_t(0x01010101u * uint32_t(((1 << width) - 1) << place));
  for (int half = 0; half < 2; ++half) set_turn(width, half, place, half, pass);
  return kernel.pass_for(int(width), -1);
}

// A pass for each level where there is code for its planes together, else for each plane.
static void plan(GradedJob& job, const GradedKernel& kernel) {
  const int32_t levels = int32_t(job.layer.levels);
  bool fits = true;
  for (int32_t l = 1; l <= levels; ++l) {
    job.pass[l - 1].least = job.pass[l - 1].most = l;
    job.pass[l - 1].first = 0, job.pass[l - 1].count = l;
    job.add[l - 1] = together(job.layer, kernel, l, job.pass[l - 1]);
    fits = fits && job.add[l - 1];
  }
  job.num_passes = levels;
  if (fits) return;
  for (int32_t l = 1; l <= levels; ++l) {
    job.pass[l - 1].most = levels;
    job.pass[l - 1].first = l - 1, job.pass[l - 1].count = 1;
    job.add[l - 1] = alone(job.layer, kernel, l - 1, job.pass[l - 1]);
  }
}

static void measure(GradedJob& job) {
  const int64_t whole = job.layer.outputs / BLOCK, left = job.layer.outputs % BLOCK;
  job.whole_blocks = whole + (2 * left > BLOCK);
  job.num_blocks = whole + (left > 0);
  job.sums_stride = job.num_blocks * BLOCK;
  job.chunk = job.layer.row_bytes > WIDE_BYTES ? WIDE_CHUNK : CHUNK;
  int64_t start = 0;
  for (int64_t p = 0; p < job.layer.levels; ++p) {
    const int64_t width = job.layer.widths[p];
    job.plane_start[p] = start;
    start += 16 * (job.whole_blocks * width + (job.num_blocks - job.whole_blocks) * lanes_of(2, width));
  }
}

static int64_t lines(int64_t bytes) { return ceil_divide(bytes, 64) * 64; }

// Gives `tokens` tokens their arrays, one after the other. False when there is no memory.
static bool place(GradedJob& job, Work& work, Token* token, int64_t tokens, Scratch& scratch) {
  const int64_t inputs = job.layer.inputs, entries = job.num_passes * (inputs + 3) + 16;
  const int64_t each = lines(4 * inputs), rows = lines(8 * (entries + AHEAD)), digits = lines(entries);
  const int64_t wanted = 3 * each + lines(4 * entries) + lines(8 * job.sums_stride) + tokens * (rows + 2 * digits);
  if (!scratch.holds(wanted)) return false;
  char* at = scratch.memory;
  const auto take = [&at](int64_t bytes) { return at += bytes, at - bytes; };
  work.q = reinterpret_cast<int32_t*>(take(each));
  work.level = reinterpret_cast<int32_t*>(take(each));
  work.word = reinterpret_cast<uint32_t*>(take(each));
  work.entry = reinterpret_cast<uint32_t*>(take(lines(4 * entries)));
  job.sums = reinterpret_cast<int32_t*>(take(lines(8 * job.sums_stride)));
  for (int64_t t = 0; t < tokens; ++t) {
    token[t].row = reinterpret_cast<const uint8_t**>(take(rows));
    token[t].high = reinterpret_cast<int32_t*>(take(digits));
    token[t].low = reinterpret_cast<int32_t*>(take(digits));
  }
  return true;
}

// Blocks [first, last) of all tokens; several tokens find the weights of a few blocks in the cache.
static void run(const GradedJob& job, const GradedKernel& kernel, const Token* token, int64_t tokens, int64_t first,
                int64_t last, float* y) {
  const int64_t near = NEAR_BYTES / (job.layer.inputs * BLOCK) + 1, step = tokens > 1 ? near : last - first;
  for (int64_t b = first; b < last; b += step) {
    const int64_t end = least(b + step, last);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t half = 0; half < 2; ++half)
        memset(job.sums + half * job.sums_stride + b * BLOCK, 0, (end - b) * BLOCK * sizeof *job.sums);
      for (int64_t p = 0; p < job.num_passes; ++p) job.add[p](job, job.pass[p], token[t], b, end);
      kernel.finish(job, token[t], b * BLOCK, least(end * BLOCK, job.layer.outputs), y + t * job.layer.outputs);
    }
  }
}

constexpr int64_t MAX_TOKENS = 16;  // whose lists stand in memory at a time

extern "C" {
// x: [tokens, inputs]; thresholds: [tokens]; y: [tokens, outputs]; bits: [tokens]. isa: of `enum PlaneIsa`.
// 1 for success, 0 when there is no memory to work in.
int moesaic_graded_linear(const GradedLayer* layer, const float* x, const float* thresholds, float* y, int64_t* bits,
                          int64_t tokens, int64_t threads, int isa) {
  static thread_local Scratch scratch;
  const GradedKernel& kernel = graded_kernel_for(isa);
  GradedJob job{*layer, 0, 0, 0, 0, nullptr, 0, {}, {}, {}};
  Work work;
  Token token[MAX_TOKENS];
  measure(job);
  plan(job, kernel);
  for (int64_t t = 0; t < tokens; t += MAX_TOKENS) {
    const int64_t now = least(MAX_TOKENS, tokens - t);
    if (!place(job, work, token, now, scratch)) return 0;
    for (int64_t i = 0; i < now; ++i) {
      kernel.prepare(job, x + (t + i) * layer->inputs, thresholds[t + i], work, token[i]);
      bits[t + i] = token[i].bits;
    }
    const int64_t useful = now * layer->inputs * layer->outputs / MINIMUM_WORK + 1;
    parallel_ranges(job.num_blocks, 1, least(threads, useful), [&](int64_t first, int64_t last) {
      run(job, kernel, token, now, first, last, y + t * layer->outputs);
    });
  }
  return 1;
}
}
