// y[t] = bias + scale * sum over the neurons n of the experts of token t of  h[t, n] * down[n],
// h[t, n] = act(up[n] x[t]) or act(gate[n] x[t]) * (up[n] x[t]), for fp32 activations and fp32, bf16 or int8 weights.
//
// Only rows of experts that some token uses are read, each once for all tokens that use it. Every h is one sum over
// k in a fixed order, and every y adds its neurons in ascending order with one multiply_add each: a row of the result
// depends on nothing but its own inputs. Threads share the rows of up and gate, and then the columns of down.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "abi.h"
#include "activation.h"
#include "expert_ffn.h"
#include "isa.h"
#include "parallel.h"

namespace {  // other sources may have rows and plans of their own
struct ExpertFfn : ExpertLayer {
  const float* x;         // [tokens, hidden]
  const uint8_t* active;  // [tokens, experts]
  float* y;               // [tokens, hidden]
  int64_t tokens;
};

struct Row {  // of an active neuron
  int64_t neuron;
  float* h;  // one for each token of its segment
};

struct Segment {       // rows that are used by the same tokens
  int64_t begin, end;  // of the rows
  std::vector<int32_t> tokens;
};

struct Plan {
  std::vector<Row> rows;
  std::vector<Segment> segments;
  std::unique_ptr<float[]> h;
};

struct Kernels {
  void (*up_rows)(const ExpertFfn&, const Row*, int64_t, int64_t, const int32_t*, int64_t);
  void (*down_rows)(const ExpertFfn&, const Row*, int64_t, int64_t, const int32_t*, int64_t, int64_t, int64_t);
};
}  // namespace

constexpr int PREFETCH_LEVEL = 1;          // not the first cache: a block of fp32 rows would fill it
constexpr int UP_ROWS = 8;                 // rows of up that are read side by side, and how far ahead they are fetched
constexpr int DOWN_ROWS = 8;               // rows added to y while it is in registers; 16 are too many streams
constexpr int64_t TOKENS_AT_ONCE = 128;    // a bound on the memory that h takes
constexpr int64_t MINIMUM_WORK = 1 << 16;  // multiplications that pay for waking another thread

namespace portable {
#define TARGET TARGET_PORTABLE
constexpr int TOKEN_BLOCK = 1;
#include "dots.h"
#include "expert_ffn_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
constexpr int TOKEN_BLOCK = 2;  // 16 registers
#include "dots.h"
#include "expert_ffn_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512 {
#define TARGET TARGET_AVX512
constexpr int TOKEN_BLOCK = 6;  // with 4 vectors: 24 sums, 4 weights and 1 activation in 32 registers
#include "dots.h"
#include "expert_ffn_body.h"
#undef TARGET
}  // namespace avx512
#endif

template <typename Weight>
static Kernels kernels_for(int isa) {
#if defined(__x86_64__)
  if (isa >= AVX512) return {avx512::up_rows<Weight>, avx512::down_rows<Weight>};
  if (isa >= AVX2) return {avx2::up_rows<Weight>, avx2::down_rows<Weight>};
#endif
  return {portable::up_rows<Weight>, portable::down_rows<Weight>};
}

// Pairs of a row and a token.
static int64_t work_of(const Plan& plan) {
  int64_t work = 0;
  for (const Segment& s : plan.segments) work += (s.end - s.begin) * s.tokens.size();
  return work;
}

// h for every row, one float for each token of its segment.
static void place_h(Plan& plan, float* h) {
  for (const Segment& s : plan.segments)
    for (int64_t r = s.begin; r < s.end; ++r, h += s.tokens.size()) plan.rows[r].h = h;
}

// Experts in ascending order; neighbours that the same tokens use become one segment.
static Plan plan_of(const ExpertFfn& job) {
  Plan plan;
  const int64_t experts = job.experts();
  std::vector<int32_t> tokens;
  for (int64_t e = 0; e < experts; ++e) {
    tokens.clear();
    for (int64_t t = 0; t < job.tokens; ++t)
      if (job.active[t * experts + e]) tokens.push_back(static_cast<int32_t>(t));
    if (tokens.empty()) continue;
    const int64_t begin = plan.rows.size(), first = e * job.expert_size;
    for (int64_t n = first; n < std::min(first + job.expert_size, job.width); ++n) plan.rows.push_back({n, nullptr});
    if (plan.segments.empty() || plan.segments.back().tokens != tokens) plan.segments.push_back({begin, 0, tokens});
    plan.segments.back().end = plan.rows.size();
  }
  plan.h.reset(new float[work_of(plan)]);
  place_h(plan, plan.h.get());
  return plan;
}

// Rows whose h is zero for all of their tokens add nothing, and are not read.
static void drop_zeros(Plan& plan) {
  int64_t kept = 0;
  for (Segment& s : plan.segments) {
    const int64_t begin = kept, tokens = s.tokens.size();
    for (int64_t r = s.begin; r < s.end; ++r) {
      const float* h = plan.rows[r].h;
      if (std::any_of(h, h + tokens, [](float value) { return value != 0.0f; })) plan.rows[kept++] = plan.rows[r];
    }
    s.begin = begin, s.end = kept;
  }
  plan.rows.resize(kept);
}

// body(segment, row, count) for blocks of at most `height` rows, those that begin at [begin, end) of all the work.
template <typename Body>
static void blocks_between(const Plan& plan, int64_t height, int64_t begin, int64_t end, const Body& body) {
  int64_t work = 0;
  for (const Segment& s : plan.segments)
    for (int64_t r = s.begin; r < s.end; r += height) {
      const int64_t count = std::min(height, s.end - r);
      if (begin <= work && work < end) body(s, r, count);
      work += count * s.tokens.size();
    }
}

static void up(const ExpertFfn& job, const Plan& plan, const Kernels& kernels, int64_t threads) {
  const int64_t work = work_of(plan), rows = plan.rows.size();
  parallel_ranges(work, 1, std::min(threads, work * job.hidden / MINIMUM_WORK + 1), [&](int64_t begin, int64_t end) {
    blocks_between(plan, UP_ROWS, begin, end, [&](const Segment& s, int64_t row, int64_t count) {
      kernels.up_rows(job, &plan.rows[row], count, rows - row, s.tokens.data(), s.tokens.size());
    });
  });
}

static void finish(const ExpertFfn& job, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < job.tokens; ++t) {
    float* y = job.y + t * job.hidden;
    for (int64_t j = begin; j < end; ++j)
      y[j] = y[j] * (job.down_scale ? job.down_scale[j] : 1.0f) + (job.down_bias ? job.down_bias[j] : 0.0f);
  }
}

static void down(const ExpertFfn& job, const Plan& plan, const Kernels& kernels, int64_t line, int64_t threads) {
  const int64_t work = work_of(plan), rows = plan.rows.size();
  threads = std::min(threads, work * job.hidden / MINIMUM_WORK + 1);
  parallel_ranges(job.hidden, line, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < job.tokens; ++t) std::fill_n(job.y + t * job.hidden + begin, end - begin, 0.0f);
    blocks_between(plan, DOWN_ROWS, 0, work, [&](const Segment& s, int64_t row, int64_t count) {
      kernels.down_rows(job, &plan.rows[row], count, rows - row, s.tokens.data(), s.tokens.size(), begin, end);
    });
    finish(job, begin, end);
  });
}

template <typename Weight>
static void run(const ExpertFfn& job, int isa, int64_t threads) {
  const Kernels kernels = kernels_for<Weight>(isa);
  const int64_t experts = job.experts();
  for (int64_t t = 0; t < job.tokens; t += TOKENS_AT_ONCE) {
    ExpertFfn part = job;
    part.x += t * job.hidden, part.y += t * job.hidden, part.active += t * experts;
    part.tokens = std::min(TOKENS_AT_ONCE, job.tokens - t);
    Plan plan = plan_of(part);
    up(part, plan, kernels, threads);
    if (job.activation == RELU) drop_zeros(plan);
    down(part, plan, kernels, 64 / sizeof(Weight), threads);
  }
}

extern "C" {
// x: [tokens, hidden]; active: [tokens, experts]; y: [tokens, hidden]; isa: one of `enum Isa`.
void moesaic_expert_ffn(const ExpertLayer* layer, const float* x, const uint8_t* active, float* y, int64_t tokens,
                        int64_t threads, int isa) {
  const ExpertFfn job{*layer, x, active, y, tokens};
  if (layer->weight == 0) return run<float>(job, isa, threads);
  if (layer->weight == 1) return run<Bf16>(job, isa, threads);
  return run<int8_t>(job, isa, threads);
}

// out[n, t] = act(matrix[n] x[t]), [rows, tokens], by the same sums.
void moesaic_rows(const float* x, const void* matrix, float* out, int64_t tokens, int64_t hidden, int64_t rows,
                  int64_t threads, int isa, int weight, int activation) {
  ExpertFfn job{};
  job.x = x, job.up = matrix, job.hidden = hidden, job.activation = activation;
  Plan plan;
  plan.segments.push_back({0, rows, std::vector<int32_t>(tokens)});
  std::iota(plan.segments[0].tokens.begin(), plan.segments[0].tokens.end(), 0);
  for (int64_t n = 0; n < rows; ++n) plan.rows.push_back({n, nullptr});
  place_h(plan, out);
  const auto kernels = weight == 0 ? kernels_for<float> : weight == 1 ? kernels_for<Bf16> : kernels_for<int8_t>;
  up(job, plan, kernels(isa), threads);
}
}
