// The bit-plane FFN of kernels/plane_ffn.py, one call a layer, on weights laid out by kernels/planes/layout.py.
//
// The high planes of 16 neurons (a group) lie side by side and are read from end to end; a lane of a sum is a neuron.
// The low planes of a neuron are read where they are needed, in one piece. Rows of down are left to plane_down.cpp.
#include "abi.h"
#include "activation.h"
#include "parallel.h"
#include "plane_isa.h"
#include "plane_layer.h"
#include "scratch.h"

struct PlaneJob {
  const PlaneLayer& layer;
  int64_t tokens, num_groups;           // at most TOKEN_BLOCK tokens
  int activation;                       // one of `enum Activation`
  bool together;                        // whether the tokens choose together
  int64_t stride;                       // bytes from one token's x to the next
  int64_t fit_offset;                   // where the fit starts in a group
  const float* thresholds;              // [tokens, 2], of kernels/planes/choice.py
  int8_t* x;                            // [tokens, stride]
  float* scale;                         // [tokens]
  int32_t* sum;                         // [tokens], of x
  int32_t* counts;                      // [num_groups, tokens, 2], computed and refined
  float* h;                             // [tokens, layer.width], 0 of neurons that are not computed
};

struct Kernel {
  void (*quantize)(const PlaneJob&, const float* x, int64_t token);
  void (*groups)(const PlaneJob&, int64_t begin, int64_t end);
};

constexpr int TOKEN_BLOCK = 8;                // that weights are read for at a time: kernels/planes/together.py
constexpr float LEAST_THRESHOLD = 1e-18f;     // its square is still a number
constexpr int MAX_ROWS = 2;                   // gate and up
constexpr int64_t TOKENS_AT_ONCE = 8 * TOKEN_BLOCK;  // a bound on the memory that h takes
constexpr int64_t UNIT_GROUPS = 8;            // of neurons that pay for being somebody's
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
  const int64_t bytes[] = {job.tokens * job.stride, job.tokens * 4, job.tokens * 4, job.num_groups * job.tokens * 8};
  int64_t begin[5] = {};
  for (int i = 0; i < 4; ++i) begin[i + 1] = begin[i] + lines(bytes[i]);
  if (!scratch.holds(begin[4])) return false;
  job.x = reinterpret_cast<int8_t*>(scratch.memory);
  job.scale = reinterpret_cast<float*>(scratch.memory + begin[1]);
  job.sum = reinterpret_cast<int32_t*>(scratch.memory + begin[2]);
  job.counts = reinterpret_cast<int32_t*>(scratch.memory + begin[3]);
  return true;
}

static int64_t counted(const PlaneJob& job, int64_t token, int64_t which) {
  int64_t count = 0;
  for (int64_t g = 0; g < job.num_groups; ++g) count += job.counts[2 * (g * job.tokens + token) + which];
  return count;
}

// What neurons give to tokens [0, job.tokens), at most a block of them.
static void find_neurons(const PlaneJob& job, const Kernel& kernel, const float* x, int64_t threads, int64_t* active,
                         int64_t* fine) {
  for (int64_t t = 0; t < job.tokens; ++t) kernel.quantize(job, x + t * job.layer.hidden, t);
  parallel_ranges(job.num_groups, UNIT_GROUPS, threads,
                  [&](int64_t begin, int64_t end) { kernel.groups(job, begin, end); });
  for (int64_t t = 0; t < job.tokens; ++t) {
    active[t] = counted(job, t, 0), fine[t] = counted(job, t, 1);
    if (job.scale[t] != job.scale[t]) job.h[t * job.layer.width] = job.scale[t];  // a token that is no number gives none
  }
}

extern "C" {
int moesaic_plane_isa() { return best_plane_isa(); }

// x: [tokens, hidden]; thresholds: [tokens, 2]; y: [tokens, hidden]; active, fine: [tokens]. together: whether tokens
// choose together, TOKEN_BLOCK at a time. 1 for success, 0 when there is no memory to work in.
int moesaic_plane_ffn(const PlaneLayer* layer, const float* x, const float* thresholds, float* y, int64_t* active,
                      int64_t* fine, int64_t tokens, int64_t threads, int activation, int isa, int together) {
  static thread_local Scratch scratch, of_h;
  const int64_t hidden = layer->hidden, width = layer->width, rows = layer->gated ? 2 : 1;
  int64_t fit_offset = 0;
  for (int64_t field = 4; field; field /= 2)
    if (layer->bits & field) fit_offset += group_lines(hidden, field, rows) * 64;
  for (int64_t first = 0; first < tokens; first += TOKENS_AT_ONCE) {
    const int64_t last = first + TOKENS_AT_ONCE < tokens ? first + TOKENS_AT_ONCE : tokens;
    if (!of_h.holds(lines((last - first) * width * 4))) return 0;
    float* h = reinterpret_cast<float*>(of_h.memory);
    for (int64_t t = first; t < last; t += TOKEN_BLOCK) {
      const int64_t now = last - t < TOKEN_BLOCK ? last - t : TOKEN_BLOCK;
      PlaneJob job{*layer, now, ceil_divide(width, 16), activation, together != 0, lines(hidden) + 576,
                   fit_offset, thresholds + 2 * t, nullptr, nullptr, nullptr, nullptr, h + (t - first) * width};
      if (!place(job, scratch)) return 0;
      const int64_t useful = now * hidden * width / MINIMUM_WORK + 1;
      find_neurons(job, kernel_for(isa), x + t * hidden, threads < useful ? threads : useful, active + t, fine + t);
    }
    if (!plane_down(*layer, h, y + first * hidden, last - first, threads, isa)) return 0;
  }
  return 1;
}
}
