// The bit-plane FFN of kernels/plane_ffn.py, one call a layer, on weights laid out by kernels/planes/layout.py.
//
// The high planes of 16 neurons (a group) lie side by side and are read from end to end; a lane of a sum is a neuron.
// The low planes of a neuron and its row of down are read where they are needed, each in one piece.
#include "abi.h"
#include "activation.h"
#include "parallel.h"
#include "plane_isa.h"
#include "scratch.h"

struct PlaneLayer {
  const uint8_t* groups;    // [width / 16, group_bytes]: high planes of gate and up, and as bf16 their fit
  const uint8_t* low;       // [width, low_bytes]: the next bits of gate and up
  const float* exact;       // [width, 1 to 4]: scales of gate and up, then biases, if any
  const int8_t* down;       // [width, columns]: down transposed, hidden in whole lines
  const float* down_scale;  // [hidden]
  const float* down_bias;   // [hidden] or null
  int64_t hidden, width, group_bytes, low_bytes, columns, bits, refined_bits, gated, biased;
};

struct PlaneJob {
  const PlaneLayer& layer;
  int64_t tokens, num_groups, parts;    // at most TOKEN_BLOCK tokens
  int activation;                       // one of `enum Activation`
  bool together;                        // whether the tokens choose together
  int64_t stride;                       // bytes from one token's x to the next
  int64_t fit_offset;                   // where the fit starts in a group
  const float* thresholds;              // [tokens, 2], of kernels/planes/choice.py
  int8_t* x;                            // [tokens, stride]
  float* scale;                         // [tokens]
  int32_t* sum;                         // [tokens], of x
  float* sums;                          // [parts, tokens, layer.columns]
  int32_t* counts;                      // [parts, tokens, 2], rows of down and refined
};

struct Kernel {
  void (*quantize)(const PlaneJob&, const float* x, int64_t token);
  void (*groups)(const PlaneJob&, int64_t begin, int64_t end);
  void (*gather)(const PlaneJob&, int64_t token, float* y);
};

constexpr int TOKEN_BLOCK = 8;                // that weights are read for at a time: kernels/planes/together.py
constexpr float LEAST_THRESHOLD = 1e-18f;     // its square is still a number
constexpr int MAX_ROWS = 2;                   // gate and up
constexpr int DOWN_ROWS = 8;                  // added to y in one pass over it
constexpr int64_t PART_GROUPS = 8;            // of neurons that have sums of their own: each part may have a thread
constexpr int64_t MAX_PARTS = 64;
constexpr int64_t PREFETCH_BYTES = 8192;      // ahead in what is read from end to end
constexpr int64_t GROUPS_TOGETHER = 48;       // that are scored before any of them is finished
constexpr int64_t LEAD_LINES = 160;           // asked for before they are needed, where memory is read by scores
constexpr int64_t MINIMUM_WORK = 1 << 16;     // multiplications that pay for waking another thread

#define INLINE_MEMBER inline __attribute__((always_inline))

// Lines of one plane of a group: each has 8 / width slots, shared by the rows (gate and up), of four inputs.
static int64_t group_lines(int64_t hidden, int64_t width, int64_t rows) {
  return ceil_divide(ceil_divide(hidden, 4), 8 / width / rows);
}

// Bytes of one plane of a neuron: slot s holds row s % rows of the inputs from s / rows times this number on.
static int64_t low_part_bytes(int64_t hidden, int64_t width, int64_t rows) {
  return ceil_divide(ceil_divide(hidden, 8 / width / rows), 64) * 64;
}

static int64_t part_begin(const PlaneJob& job, int64_t part) { return job.num_groups * part / job.parts; }

namespace portable {
#define TARGET TARGET_PORTABLE
#include "plane_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "plane_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
#include "plane_body.h"
#undef TARGET
}  // namespace avx512_vnni
#endif

static const Kernel& kernel_for(int isa) {
#if defined(__x86_64__)
  if (isa == PLANE_AVX512_VNNI) return avx512_vnni::KERNEL;
  if (isa == PLANE_AVX2) return avx2::KERNEL;
#endif
  return portable::KERNEL;
}

// Gives a job its arrays, one after the other. False when there is no memory.
static bool place(PlaneJob& job, Scratch& scratch) {
  const int64_t bytes[] = {job.tokens * job.stride, job.tokens * 4, job.tokens * 4, job.parts * job.tokens * 8,
                           job.parts * job.tokens * job.layer.columns * 4};
  int64_t begin[6] = {};
  for (int i = 0; i < 5; ++i) begin[i + 1] = begin[i] + ceil_divide(bytes[i], 64) * 64;
  if (!scratch.holds(begin[5])) return false;
  job.x = reinterpret_cast<int8_t*>(scratch.memory);
  job.scale = reinterpret_cast<float*>(scratch.memory + begin[1]);
  job.sum = reinterpret_cast<int32_t*>(scratch.memory + begin[2]);
  job.counts = reinterpret_cast<int32_t*>(scratch.memory + begin[3]);
  job.sums = reinterpret_cast<float*>(scratch.memory + begin[4]);
  return true;
}

static int64_t counted(const PlaneJob& job, int64_t token, int64_t which) {
  int64_t count = 0;
  for (int64_t p = 0; p < job.parts; ++p) count += job.counts[2 * (p * job.tokens + token) + which];
  return count;
}

// Tokens [0, job.tokens), at most a block of them.
static void run(const PlaneJob& job, const Kernel& kernel, const float* x, int64_t threads, float* y, int64_t* active,
                int64_t* fine) {
  const int64_t hidden = job.layer.hidden, span = job.tokens * job.layer.columns, pairs = 2 * job.tokens;
  for (int64_t t = 0; t < job.tokens; ++t) kernel.quantize(job, x + t * hidden, t);
  parallel_ranges(job.parts, 1, threads, [&](int64_t first, int64_t last) {
    memset(job.sums + first * span, 0, (last - first) * span * sizeof *job.sums);
    memset(job.counts + first * pairs, 0, (last - first) * pairs * sizeof *job.counts);
    kernel.groups(job, part_begin(job, first), part_begin(job, last));
  });
  for (int64_t t = 0; t < job.tokens; ++t) {
    kernel.gather(job, t, y + t * hidden);
    active[t] = counted(job, t, 0), fine[t] = counted(job, t, 1);
  }
}

extern "C" {
int moesaic_plane_isa() { return best_plane_isa(); }

// x: [tokens, hidden]; thresholds: [tokens, 2]; y: [tokens, hidden]; active, fine: [tokens]. together: whether tokens
// choose together, TOKEN_BLOCK at a time. 1 for success, 0 when there is no memory to work in.
int moesaic_plane_ffn(const PlaneLayer* layer, const float* x, const float* thresholds, float* y, int64_t* active,
                      int64_t* fine, int64_t tokens, int64_t threads, int activation, int isa, int together) {
  static thread_local Scratch scratch;
  const int64_t hidden = layer->hidden, rows = layer->gated ? 2 : 1, num_groups = ceil_divide(layer->width, 16);
  const int64_t wanted = ceil_divide(num_groups, PART_GROUPS), parts = wanted < MAX_PARTS ? wanted : MAX_PARTS;
  int64_t fit_offset = 0;
  for (int64_t width = 4; width; width /= 2)
    if (layer->bits & width) fit_offset += group_lines(hidden, width, rows) * 64;
  for (int64_t t = 0; t < tokens; t += TOKEN_BLOCK) {
    const int64_t now = tokens - t < TOKEN_BLOCK ? tokens - t : TOKEN_BLOCK;
    PlaneJob job{*layer, now, num_groups, parts, activation, together != 0, ceil_divide(hidden, 64) * 64 + 576,
                 fit_offset, thresholds + 2 * t, nullptr, nullptr, nullptr, nullptr, nullptr};
    if (!place(job, scratch)) return 0;
    const int64_t useful = now * hidden * layer->width / MINIMUM_WORK + 1;
    run(job, kernel_for(isa), x + t * hidden, threads < useful ? threads : useful, y + t * hidden, active + t, fine + t);
  }
  return 1;
}
}
