// The graded linear of kernels/graded_linear.py, on weights laid out by kernels/graded/layout.py.
//
// For each token the inputs of every level are listed, then their rows are read, four at a time, as far as the level
// goes: bytes of four rows are interleaved in registers, so that a dot product of four bytes is one of four inputs.
// Several tokens interleave what any of them reads once, where that takes fewer instructions.
#include "abi.h"
#include "digit_isa.h"
#include "fixed_point.h"
#include "graded_isa.h"
#include "graded_job.h"
#include "parallel.h"
#include "scratch.h"

constexpr int64_t NEAR_BYTES = 512 << 10;       // weights that several tokens find in the second cache
constexpr int64_t NEAR_TOTALS = 256;            // blocks of totals, of all tokens, that stay there
constexpr int64_t MINIMUM_WORK = 1 << 16;       // multiplications that pay for waking another thread
constexpr int64_t MAX_TOKENS = 32;              // whose lists stand in memory at a time

#define GRADED_KERNEL(...)                                                                                        \
  constexpr GradedKernel KERNEL {                                                                                 \
    WHOLE, MOST_ROWS, MASK_WORDS, __VA_ARGS__, measure, list_quads, pass_for, finish, fill_for, join, list_all, take, \
        multiply, finish_total                                                                                    \
  }

namespace portable {
#define TARGET TARGET_PORTABLE
#include "graded_body.h"
#include "digit_tile_body.h"
#include "graded_together_body.h"
GRADED_KERNEL(Counts{{208, 416, 496}, {96, 208, 280}, 104, 148});  // nobody counted: as AVX2
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "graded_body.h"
#include "digit_tile_body.h"
#include "graded_together_body.h"
GRADED_KERNEL(Counts{{208, 416, 496}, {96, 208, 280}, 104, 148});
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
#include "graded_body.h"
#include "digit_tile_body.h"
#include "graded_together_body.h"
GRADED_KERNEL(Counts{{66, 105, 136}, {51, 91, 120}, 30, 43});
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

static void set_blocks(GradedJob& job) {
  const int64_t whole = job.layer.outputs / BLOCK, left = job.layer.outputs % BLOCK;
  job.whole_blocks = whole + (2 * left > BLOCK);
  job.num_blocks = whole + (left > 0);
  job.stride = job.num_blocks * BLOCK;
  int64_t start = 0;
  for (int64_t p = 0; p < job.layer.levels; ++p) {
    const int64_t width = job.layer.widths[p];
    job.plane_start[p] = start;
    start += 16 * (job.whole_blocks * width + (job.num_blocks - job.whole_blocks) * lanes_of(2, width));
  }
}

// Memory that is given out piece by piece: first counted, then taken.
struct Pieces {
  char* at;
  int64_t bytes;
  template <class T>
  void take(T*& piece, int64_t count) {
    const int64_t size = lines(count * int64_t(sizeof(T)));
    piece = reinterpret_cast<T*>(at + bytes), bytes += size;
  }
};

// Twice, so that what is counted is what is taken. False when there is no memory.
template <typename Body>
static bool share_out(Scratch& scratch, const Body& body) {
  Pieces none{nullptr, 0};
  body(none);
  if (!scratch.holds(none.bytes)) return false;
  Pieces pieces{scratch.memory, 0};
  return body(pieces), true;
}

static bool place_tokens(const GradedJob& job, Crowd& crowd, uint32_t*& word, Scratch& scratch) {
  const int64_t inputs = job.layer.inputs;
  return share_out(scratch, [&](Pieces& pieces) {
    for (int64_t t = 0; t < crowd.tokens; ++t) {
      pieces.take(crowd.token[t].q, inputs), pieces.take(crowd.token[t].level, inputs);
      pieces.take(crowd.token[t].word, inputs + 1);
    }
    pieces.take(crowd.most, inputs), pieces.take(word, inputs);
  });
}

static void take_list(List& list, int64_t entries, Pieces& pieces) {
  pieces.take(list.row, entries + AHEAD_ROWS), pieces.take(list.entry, entries + AHEAD_ROWS);
}

static bool place_alone(GradedJob& job, Crowd& crowd, Scratch& scratch) {
  const int64_t entries = job.num_passes * (job.layer.inputs + 3);
  return share_out(scratch, [&](Pieces& pieces) {
    for (int64_t t = 0; t < crowd.tokens; ++t) {
      take_list(crowd.token[t].own, entries, pieces);
      pieces.take(crowd.token[t].high, entries), pieces.take(crowd.token[t].low, entries);
    }
    pieces.take(job.sums, 2 * job.stride);
  });
}

static bool place_together(GradedJob& job, const GradedKernel& kernel, Crowd& crowd, Scratch& scratch) {
  const int64_t entries = job.layer.inputs + 6 * job.num_passes, quads = entries / 4 + 1;
  crowd.groups = ceil_divide(crowd.tokens, kernel.most_rows);
  return share_out(scratch, [&](Pieces& pieces) {
    take_list(crowd.all, entries, pieces);
    for (int64_t g = 0; g < crowd.groups; ++g) {
      Group& group = crowd.group[g];
      group.first = crowd.tokens * g / crowd.groups;
      group.count = crowd.tokens * (g + 1) / crowd.groups - group.first;
      pieces.take(group.words, 2 * quads * group.count);
      pieces.take(group.masks, kernel.mask_words * quads * group.count);
    }
    pieces.take(job.totals, crowd.tokens * job.stride);
  });
}

// Whether fewer instructions are needed where tokens read rows together.
static bool pays_together(const GradedJob& job, const GradedKernel& kernel, const Crowd& crowd) {
  if (!job.fill[0]) return false;
  const GradedLayer& layer = job.layer;
  const Counts& counts = kernel.counts;
  int64_t alone = 0, together = 0, read[2 * MAX_LEVELS + 2] = {};
  for (int64_t k = 0; k < layer.inputs; ++k) ++read[crowd.most[k]];
  for (int64_t l = 1; l <= layer.levels; ++l) {
    const int64_t bits = bits_above(layer, l), kind = bits <= 4 ? 0 : bits <= 6 ? 1 : 2;
    for (int64_t t = 0; t < crowd.tokens; ++t) {
      const int64_t* reach = crowd.token[t].reach;
      alone += (reach[l] - (l < layer.levels ? reach[l + 1] : 0)) * counts.alone[kind];
    }
    together += (read[2 * l] + read[2 * l + 1]) * counts.fill[kind];
    together += crowd.tokens * (read[2 * l] * counts.row + read[2 * l + 1] * counts.masked);
  }
  return together < alone;
}

static void clear(const GradedJob& job, int64_t first, int64_t last) {
  for (int half = 0; half < 2; ++half)
    memset(job.sums + half * job.stride + first * BLOCK, 0, (last - first) * BLOCK * sizeof *job.sums);
}

// Blocks [first, last), token by token: of a few at a time, whose sums stay in the first cache, and where there are
// several tokens the weights in the second.
static void run_alone(const GradedJob& job, const GradedKernel& kernel, const Crowd& crowd, int64_t first, int64_t last,
                      float* y) {
  const int64_t near = NEAR_BYTES / (job.layer.inputs * BLOCK) + 1;
  const int64_t step = crowd.tokens > 1 ? least(near, NEAR_BLOCKS) : NEAR_BLOCKS;
  for (int64_t b = first; b < last; b += step) {
    const int64_t end = least(b + step, last);
    for (int64_t t = 0; t < crowd.tokens; ++t) {
      const Token& token = crowd.token[t];
      clear(job, b, end);
      for (int64_t p = 0; p < job.num_passes; ++p) job.add[p](job, job.pass[p], token, b, end);
      kernel.finish(job, token, job.sums, b * BLOCK, least(end * BLOCK, job.layer.outputs),
                    y + t * job.layer.outputs);
    }
  }
}

// The same of all tokens at once.
static void run_together(const GradedJob& job, const GradedKernel& kernel, const Crowd& crowd, int64_t first,
                         int64_t last, float* y) {
  alignas(64) uint8_t tile[TILE_BYTES];
  const int64_t step = least(NEAR_TOTALS / crowd.tokens, NEAR_BLOCKS), outputs = job.layer.outputs;
  for (int64_t b = first; b < last; b += step) {
    const int64_t end = least(b + step, last);
    for (int64_t t = 0; t < crowd.tokens; ++t)
      memset(job.totals + t * job.stride + b * BLOCK, 0, (end - b) * BLOCK * sizeof *job.totals);
    for (int64_t part = 0; part < 2 * job.num_passes; ++part) {
      const int64_t p = part / 2, stop = crowd.all.begin[part + 1];
      for (int64_t q = crowd.all.begin[part]; q < stop; q += TILE_QUADS)
        for (int64_t block = b; block < end; ++block) {
          job.fill[p](job, job.pass[p], crowd.all, q, least(q + TILE_QUADS, stop), block, tile);
          kernel.multiply(job, crowd, tile, q, least(q + TILE_QUADS, stop), block, part % 2);
        }
    }
    for (int64_t t = 0; t < crowd.tokens; ++t)
      kernel.finish_total(job, crowd.token[t], job.totals + t * job.stride, b * BLOCK, least(end * BLOCK, outputs),
                          y + t * outputs);
  }
}

static int64_t useful(int64_t work, int64_t threads) { return least(threads, work / MINIMUM_WORK + 1); }

// At most MAX_TOKENS tokens. False when there is no memory.
static bool compute(GradedJob& job, const GradedKernel& kernel, Crowd& crowd, const float* x, const float* thresholds,
                    int64_t threads, float* y, int64_t* read, int64_t* bits) {
  static thread_local Scratch measured, listed;
  const int64_t inputs = job.layer.inputs;
  uint32_t* word;
  if (!place_tokens(job, crowd, word, measured)) return false;
  const int64_t preparing = useful(crowd.tokens * inputs, threads);
  const int64_t multiplying = useful(crowd.tokens * inputs * job.layer.outputs, threads);
  crowd.whole = true;
  for (int64_t t = 0; t < crowd.tokens; ++t) crowd.whole = crowd.whole && thresholds[t] <= 0.0f;
  parallel_ranges(crowd.tokens, 1, preparing, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) kernel.measure(job, x + t * inputs, thresholds[t], crowd.token[t]);
  });
  for (int64_t t = 0; t < crowd.tokens; ++t) read[t] = crowd.token[t].read, bits[t] = crowd.token[t].bits;
  kernel.join(job, crowd);
  if (!pays_together(job, kernel, crowd)) {
    if (!place_alone(job, crowd, listed)) return false;
    for (int64_t t = 0; t < crowd.tokens; ++t) kernel.list(job, word, crowd.token[t]);
    parallel_ranges(job.num_blocks, 1, multiplying, [&](int64_t first, int64_t last) {
      run_alone(job, kernel, crowd, first, last, y);
    });
    return true;
  }
  if (!place_together(job, kernel, crowd, listed)) return false;
  kernel.list_all(job, word, crowd);
  parallel_ranges(crowd.groups, 1, preparing, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      for (int64_t i = 0; i < crowd.group[g].count; ++i) kernel.take(job, crowd, crowd.group[g], i);
  });
  parallel_ranges(job.num_blocks, 1, multiplying, [&](int64_t first, int64_t last) {
    run_together(job, kernel, crowd, first, last, y);
  });
  return true;
}

extern "C" {
// x: [tokens, inputs]; thresholds: [tokens]; y: [tokens, outputs]; counts: [2, tokens], of inputs read and of their
// bits. isa: of `enum PlaneIsa`.
// 1 for success, 0 when there is no memory to work in.
int moesaic_graded_linear(const GradedLayer* layer, const float* x, const float* thresholds, float* y, int64_t* counts,
                          int64_t tokens, int64_t threads, int isa) {
  const GradedKernel& kernel = graded_kernel_for(isa);
  GradedJob job{*layer, 0, 0, 0, nullptr, nullptr, 0, {}, {}, {}, {}};
  Token token[MAX_TOKENS];
  Group group[MAX_TOKENS];
  set_blocks(job);
  plan(job, kernel);
  for (int64_t t = 0; t < tokens; t += MAX_TOKENS) {
    Crowd crowd{token, group, least(MAX_TOKENS, tokens - t), 0, false, {}, nullptr};
    if (!compute(job, kernel, crowd, x + t * layer->inputs, thresholds + t, threads, y + t * layer->outputs, counts + t,
                 counts + tokens + t))
      return 0;
  }
  return 1;
}
}
