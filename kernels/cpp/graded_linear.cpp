// The graded linear of kernels/graded_linear.py, on weights laid out by kernels/graded/layout.py.
//
// For each token the inputs of every level are listed, then their rows are read, four at a time, as far as the level
// goes: bytes of four rows are interleaved in registers, so that a dot product of four bytes is one of four inputs.
#include <utility>

#include "abi.h"
#include "fixed_point.h"
#include "graded_isa.h"
#include "parallel.h"
#include "scratch.h"

constexpr int MAX_LEVELS = 8;

struct GradedLayer {
  const uint8_t* rows;  // [inputs, row_bytes]: the planes of w + 128, the first over all outputs, then the next
  const float* scale;   // [outputs]
  const float* worth;   // [levels]
  const float* bias;    // [outputs] or null
  int64_t inputs, outputs, row_bytes, levels;
  int64_t widths[MAX_LEVELS];  // of the planes, in bits
};

struct Pass {         // over some planes, for the inputs whose level lies between two
  int32_t least, most;
  int first, count;   // planes
  int32_t scale, mask;    // of a plane by itself: what a unit of its field is worth, and its field in each byte
  int32_t turn[2][2][16];  // [blocks of 128 and of 64][halves or planes]: bits by which lanes are turned left
};

struct Planes {  // of a pass, for one vector's part of a block
  int64_t at[4];
  const int32_t* turn[2];
  int32_t scale, mask;
};

struct Token {
  float half_step;
  int64_t read, bits, constant;    // inputs; bits over all of them; what is added to twice the sum
  int64_t begin[MAX_LEVELS + 1];   // the first quad of each pass
  const uint8_t** row;             // of each input of each quad
  int32_t *high, *low;             // digits of each quad
};

struct Crowd {  // several tokens that read rows together
  Token* token;
  Token all;                     // the rows of all of them
  int32_t *high, *low, *mask;    // [quads, MAX_TOKENS]
  int32_t* most;                 // [inputs], the level that any of them reads
  uint32_t* word;                // [tokens, inputs]
};

struct GradedJob;
using AddCrowd = void (*)(const GradedJob&, const Pass&, const Crowd&, int64_t tokens, int64_t, int64_t);
using AddPass = void (*)(const GradedJob&, const Pass&, const Token&, int64_t, int64_t);

struct GradedJob {
  const GradedLayer& layer;
  int64_t whole_blocks, num_blocks;        // of 128; with the last, of 64
  int64_t sums_stride;                     // from sums with the high digit to those with the low one
  int32_t* sums;                           // [2, num_blocks * 128]
  int64_t num_passes;
  Pass pass[MAX_LEVELS];
  AddPass add[MAX_LEVELS];
  AddCrowd add_crowd[MAX_LEVELS];          // null where tokens are computed one by one
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
  void (*finish)(const GradedJob&, const Token&, const int32_t* sums, int64_t begin, int64_t end, float* y);
  void (*prepare_crowd)(const GradedJob&, const float* x, const float* thresholds, const Work&, int64_t tokens, Crowd&);
  AddCrowd (*crowd_for)(int above, int below);
};

constexpr int64_t BLOCK = 128;                 // outputs
constexpr int64_t AHEAD = 16;                  // rows: all bytes that are read have been asked for
constexpr int64_t CHUNK = 4, NEAR_BLOCKS = 16;  // quads that are read over so many blocks before the next, measured
constexpr int64_t NEAR_BYTES = 512 << 10;      // weights that several tokens find in the second cache
constexpr int64_t MINIMUM_WORK = 1 << 16;      // multiplications that pay for waking another thread
constexpr int64_t MAX_TOKENS = 8;              // whose lists stand in memory at a time
constexpr int64_t TOGETHER_TOKENS = 4;         // from here on they interleave rows once, measured
constexpr int64_t TILE_QUADS = 16;             // that are interleaved before tokens multiply them

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
constexpr GradedKernel KERNEL{WHOLE, prepare, pass_for, finish, nullptr, nullptr};
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "graded_body.h"
constexpr GradedKernel KERNEL{WHOLE, prepare, pass_for, finish, nullptr, nullptr};
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
#include "graded_body.h"
#include "graded_together_body.h"
constexpr GradedKernel KERNEL{WHOLE, prepare, pass_for, finish, prepare_crowd, crowd_for};
#undef TARGET
}  // namespace avx512_vnni
#endif

#include "graded_plan.h"

static const GradedKernel& graded_kernel_for(int isa) {
#if defined(__x86_64__)
  if (isa == PLANE_AVX512_VNNI) return avx512_vnni::KERNEL;
  if (isa == PLANE_AVX2) return avx2::KERNEL;
#endif
  return portable::KERNEL;
}

static void measure(GradedJob& job) {
  const int64_t whole = job.layer.outputs / BLOCK, left = job.layer.outputs % BLOCK;
  job.whole_blocks = whole + (2 * left > BLOCK);
  job.num_blocks = whole + (left > 0);
  job.sums_stride = job.num_blocks * BLOCK;
  int64_t start = 0;
  for (int64_t p = 0; p < job.layer.levels; ++p) {
    const int64_t width = job.layer.widths[p];
    job.plane_start[p] = start;
    start += 16 * (job.whole_blocks * width + (job.num_blocks - job.whole_blocks) * lanes_of(2, width));
  }
}

// Gives the tokens their arrays, one after the other. False when there is no memory.
static bool place(GradedJob& job, Work& work, Crowd& crowd, int64_t tokens, Scratch& scratch) {
  const int64_t inputs = job.layer.inputs, entries = job.num_passes * (inputs + 3) + 16;
  const int64_t each = lines(4 * inputs), rows = lines(8 * (entries + AHEAD)), digits = lines(entries);
  const int64_t sums = tokens * lines(8 * job.sums_stride), shared = MAX_TOKENS * digits;
  const int64_t wanted = 4 * each + lines(4 * entries) + sums + (tokens + 1) * rows + 2 * tokens * digits +
                         3 * shared + tokens * each;
  if (!scratch.holds(wanted)) return false;
  char* at = scratch.memory;
  const auto take = [&at](int64_t bytes) { return at += bytes, at - bytes; };
  work.q = reinterpret_cast<int32_t*>(take(each));
  work.level = reinterpret_cast<int32_t*>(take(each));
  work.word = reinterpret_cast<uint32_t*>(take(each));
  work.entry = reinterpret_cast<uint32_t*>(take(lines(4 * entries)));
  job.sums = reinterpret_cast<int32_t*>(take(sums));
  for (int64_t t = 0; t < tokens; ++t) {
    crowd.token[t].row = reinterpret_cast<const uint8_t**>(take(rows));
    crowd.token[t].high = reinterpret_cast<int32_t*>(take(digits));
    crowd.token[t].low = reinterpret_cast<int32_t*>(take(digits));
  }
  crowd.all.row = reinterpret_cast<const uint8_t**>(take(rows));
  crowd.high = reinterpret_cast<int32_t*>(take(shared));
  crowd.low = reinterpret_cast<int32_t*>(take(shared));
  crowd.mask = reinterpret_cast<int32_t*>(take(shared));
  crowd.most = reinterpret_cast<int32_t*>(take(each));
  crowd.word = reinterpret_cast<uint32_t*>(take(tokens * each));
  return true;
}

static void clear(const GradedJob& job, int64_t token, int64_t first, int64_t last) {
  int32_t* sums = job.sums + 2 * token * job.sums_stride + first * BLOCK;
  for (int half = 0; half < 2; ++half) memset(sums + half * job.sums_stride, 0, (last - first) * BLOCK * sizeof *sums);
}

// Blocks [first, last), token by token: of a few at a time, whose sums stay in the first cache, and where there are
// several tokens the weights in the second.
static void run_alone(const GradedJob& job, const GradedKernel& kernel, const Token* token, int64_t tokens,
                      int64_t first, int64_t last, float* y) {
  const int64_t near = NEAR_BYTES / (job.layer.inputs * BLOCK) + 1, step = tokens > 1 ? least(near, NEAR_BLOCKS) : NEAR_BLOCKS;
  for (int64_t b = first; b < last; b += step) {
    const int64_t end = least(b + step, last);
    for (int64_t t = 0; t < tokens; ++t) {
      clear(job, 0, b, end);
      for (int64_t p = 0; p < job.num_passes; ++p) job.add[p](job, job.pass[p], token[t], b, end);
      kernel.finish(job, token[t], job.sums, b * BLOCK, least(end * BLOCK, job.layer.outputs),
                    y + t * job.layer.outputs);
    }
  }
}

static void run_together(const GradedJob& job, const GradedKernel& kernel, const Crowd& crowd, int64_t tokens,
                         int64_t first, int64_t last, float* y) {
  for (int64_t t = 0; t < tokens; ++t) clear(job, t, first, last);
  for (int64_t p = 0; p < job.num_passes; ++p) job.add_crowd[p](job, job.pass[p], crowd, tokens, first, last);
  const int64_t outputs = job.layer.outputs, end = least(last * BLOCK, outputs);
  for (int64_t t = 0; t < tokens; ++t)
    kernel.finish(job, crowd.token[t], job.sums + 2 * t * job.sums_stride, first * BLOCK, end, y + t * outputs);
}

// At most MAX_TOKENS tokens.
static void compute(const GradedJob& job, const GradedKernel& kernel, const Work& work, Crowd& crowd, const float* x,
                    const float* thresholds, int64_t tokens, int64_t threads, float* y, int64_t* read, int64_t* bits) {
  const GradedLayer& layer = job.layer;
  const bool together = tokens >= TOGETHER_TOKENS && job.add_crowd[0];
  if (together) kernel.prepare_crowd(job, x, thresholds, work, tokens, crowd);
  for (int64_t t = 0; t < tokens; ++t) {
    if (!together) kernel.prepare(job, x + t * layer.inputs, thresholds[t], work, crowd.token[t]);
    read[t] = crowd.token[t].read, bits[t] = crowd.token[t].bits;
  }
  const int64_t useful = tokens * layer.inputs * layer.outputs / MINIMUM_WORK + 1;
  parallel_ranges(job.num_blocks, 1, least(threads, useful), [&](int64_t first, int64_t last) {
    if (together) return run_together(job, kernel, crowd, tokens, first, last, y);
    run_alone(job, kernel, crowd.token, tokens, first, last, y);
  });
}

extern "C" {
// x: [tokens, inputs]; thresholds: [tokens]; y: [tokens, outputs]; counts: [2, tokens], of inputs read and of their
// bits. isa: of `enum PlaneIsa`.
// 1 for success, 0 when there is no memory to work in.
int moesaic_graded_linear(const GradedLayer* layer, const float* x, const float* thresholds, float* y, int64_t* counts,
                          int64_t tokens, int64_t threads, int isa) {
  static thread_local Scratch scratch;
  const GradedKernel& kernel = graded_kernel_for(isa);
  GradedJob job{*layer, 0, 0, 0, nullptr, 0, {}, {}, {}, {}};
  Work work;
  Token token[MAX_TOKENS];
  Crowd crowd{token, {}, nullptr, nullptr, nullptr, nullptr, nullptr};
  measure(job);
  plan(job, kernel);
  for (int64_t t = 0; t < tokens; t += MAX_TOKENS) {
    const int64_t now = least(MAX_TOKENS, tokens - t);
    if (!place(job, work, crowd, now, scratch)) return 0;
    compute(job, kernel, work, crowd, x + t * layer->inputs, thresholds + t, now, threads, y + t * layer->outputs,
            counts + t, counts + tokens + t);
  }
  return 1;
}
}
