// Attention over keys and values in blocks, for activations in fp32, bf16 or fp16 and pages of the same or int8.
//
// The new keys and values are stored, then every tile of rows reads the blocks of its sequence once; either is left out
// where there is nothing to store, or nobody asks. A lone token is
// bound by memory; a chunk of a prompt by arithmetic, two multiplications for each row, position and value of a head.
#include <algorithm>

#include "abi.h"
#include "attention_isa.h"
#include "parallel.h"

constexpr int64_t BLOCK_TOKENS = 16;
constexpr int64_t SPAN_BLOCKS = 4;  // of them keys and values fill the first cache, and nothing more
constexpr int64_t SPAN = SPAN_BLOCKS * BLOCK_TOKENS;
constexpr int64_t MOST_SIZE = 256;                       // of a head
constexpr int64_t TILE_ROWS = 64, TILE_VALUES = 4096;    // rows, and rows times the size of a head
constexpr int64_t MINIMUM_WORK = 1 << 18;                // multiplications that pay for waking another thread
constexpr int64_t MINIMUM_STORED = 1 << 16;              // the same for values that are stored

namespace {  // other sources may have rows and tiles of their own
struct Rows {  // [tokens, heads, size], the last dimension contiguous
  const void* data;
  int64_t token_stride, head_stride;
  int64_t at(int64_t token, int64_t head) const { return token * token_stride + head * head_stride; }
};

struct Attention {
  Rows query, key, value;
  void* out;                        // [tokens, heads, size]
  void *keys, *values;              // [blocks, kv_heads, BLOCK_TOKENS, padded]
  float *key_scale, *value_scale;   // [blocks, kv_heads, BLOCK_TOKENS] or null
  const int32_t* tables;            // [sequences, width]
  const int32_t *row, *positions;   // [tokens]
  const int32_t* seen;              // [tokens], the last position that each sees
  int64_t table_stride, tokens, heads, kv_heads, size, padded;
  float scale;     // of a score, to the base of two
  int64_t window;  // positions that a token sees, its own the last
  float cap;       // of a score, to the base of two; 0 for none
  const float* distances;   // [heads, distance_stride], added to scores by how far ahead a key stands; or null
  int64_t distance_stride, distance_origin;  // origin: the column of keys at the query's own position
  const int32_t* table_of(int64_t token) const { return tables + row[token] * table_stride; }
};

struct Tile {
  int64_t token;      // the first one of the sequence
  int64_t row, rows;  // of the sequence's tokens times the heads of a group
  int64_t kv_head;
};

struct Running {  // over the spans of a row
  float most, total;
};

template <typename Value>
struct Span {
  int64_t begin, window;
  float cap;
  const float *keys, *key_scale, *value_scale;
  const Value* const* values;
};

struct Asking {  // a row of a tile
  int32_t seen;            // the last position
  const float* distances;  // what is added to the score of the key at each position, or null
};
}  // namespace

// 2^x for x <= 0 without branches or contraction: the same bits in vectors of any width. It errs by a unit in the last
// place at most, and stops at 2^-125.
INLINE float power_of_two(float x) {
  x = x < -125.0f ? -125.0f : x;  // written so that a NaN stays one
  const float shifted = x + 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer
  const float r = x - (shifted - 12582912.0f);
  float p = 1.5461444855e-4f;
  p = p * r + 1.3400427997e-3f;
  p = p * r + 9.6180569381e-3f;
  p = p * r + 5.5503271520e-2f;
  p = p * r + 2.4022650719e-1f;
  p = p * r + 6.9314718246e-1f;
  p = p * r + 1.0f;
  return as_float(as_bits(p) + (as_bits(shifted) << 23));
}

// cap tanh(x / cap): up to 0.3 the series, beyond it (1 - e) / (1 + e) with e = exp(-2 |x / cap|).
INLINE float capped(float x, float cap) {
  const float u = x / cap, size = u < 0.0f ? -u : u, square = u * u;
  float series = 0.021869488f;
  series = series * square - 0.053968254f;
  series = series * square + 0.13333333f;
  series = series * square - 0.33333333f;
  const float e = power_of_two(-2.8853900818f * size), far = (1.0f - e) / (1.0f + e);
  return size < 0.3f ? cap * (u + u * square * series) : u < 0.0f ? -cap * far : cap * far;
}

namespace portable {
#define TARGET TARGET_PORTABLE
constexpr int ROWS_AT_ONCE = 1, BLOCKS_AT_ONCE = 1, VECTORS_AT_ONCE = 2;
#include "attention_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
constexpr int ROWS_AT_ONCE = 6, BLOCKS_AT_ONCE = 1, VECTORS_AT_ONCE = 2;  // 12 sums in 16 registers
#include "attention_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512 {
#define TARGET TARGET_AVX512
constexpr int ROWS_AT_ONCE = 6, BLOCKS_AT_ONCE = 4, VECTORS_AT_ONCE = 4;  // 24 sums in 32 registers
#include "attention_body.h"
#undef TARGET
}  // namespace avx512
#endif

struct Kernels {
  void (*keep_tokens)(const Attention&, int64_t, int64_t);
  void (*attend)(const Attention&, const Tile&);
};

template <typename Activation, typename Page>
static Kernels kernels_for(int isa) {
#if defined(__x86_64__)
  if (isa >= AVX512) return {avx512::keep_tokens<Activation, Page>, avx512::attend<Activation, Page>};
  if (isa >= AVX2) return {avx2::keep_tokens<Activation, Page>, avx2::attend<Activation, Page>};
#endif
  return {portable::keep_tokens<Activation, Page>, portable::attend<Activation, Page>};
}

// activation: 0 for fp32, 1 for bf16, 2 for fp16.
static Kernels kernels_of(int isa, int activation, bool int8) {
  if (activation == 0) return int8 ? kernels_for<float, int8_t>(isa) : kernels_for<float, float>(isa);
  if (activation == 1) return int8 ? kernels_for<Bf16, int8_t>(isa) : kernels_for<Bf16, Bf16>(isa);
  return int8 ? kernels_for<Half, int8_t>(isa) : kernels_for<Half, Half>(isa);
}

// body(first token, tokens) for every sequence; returns whether all bodies returned true.
template <typename Body>
static bool all_sequences(const Attention& job, const Body& body) {
  for (int64_t first = 0, end; first < job.tokens; first = end) {
    for (end = first + 1; end < job.tokens && job.row[end] == job.row[first];) ++end;
    if (!body(first, end - first)) return false;
  }
  return true;
}

// body(tile, work) for every tile, those that share keys side by side.
template <typename Body>
static void all_tiles(const Attention& job, const Body& body) {
  const int64_t group = job.heads / job.kv_heads, height = std::min(TILE_ROWS, TILE_VALUES / job.padded);
  all_sequences(job, [&](int64_t token, int64_t tokens) {
    for (int64_t kv_head = 0; kv_head < job.kv_heads; ++kv_head)
      for (int64_t row = 0; row < tokens * group; row += height) {
        const int64_t rows = std::min(height, tokens * group - row);
        const int64_t seen = job.seen[token + (row + rows - 1) / group] + 1;
        body(Tile{token, row, rows, kv_head}, rows * std::min(seen, job.window + SPAN));
      }
    return true;
  });
}

static void attend(const Attention& job, const Kernels& kernels, int64_t threads) {
  int64_t all = 0;
  all_tiles(job, [&](const Tile&, int64_t work) { all += work; });
  threads = std::min(threads, 2 * all * job.padded / MINIMUM_WORK + 1);
  parallel_ranges(all, 1, threads, [&](int64_t begin, int64_t end) {
    int64_t before = 0;
    all_tiles(job, [&](const Tile& tile, int64_t work) {
      if (begin <= before && before < end) kernels.attend(job, tile);
      before += work;
    });
  });
}

// Whether positions that are stored rise in each sequence and what is seen never falls, and tables and the blocks in
// them exist.
static bool is_sound(const Attention& job, int64_t sequences, int64_t width, int64_t blocks) {
  return all_sequences(job, [&](int64_t first, int64_t tokens) {
    const int64_t last = first + tokens - 1;
    if (job.row[first] < 0 || job.row[first] >= sequences || job.positions[first] < 0 || job.seen[first] < 0) return false;
    for (int64_t t = first + 1; t <= last; ++t)
      if (job.seen[t] < job.seen[t - 1] || (job.key.data && job.positions[t] <= job.positions[t - 1])) return false;
    const int64_t used = std::max(job.positions[last], job.seen[last]) / BLOCK_TOKENS + 1;
    const int32_t* table = job.table_of(first);
    return used <= width && std::all_of(table, table + used, [&](int32_t b) { return b >= 0 && b < blocks; });
  });
}

extern "C" {
// activation: 0 for fp32, 1 for bf16, 2 for fp16; window, cap: 0 for none; pages are int8 where there are scales; isa:
// one of `enum Isa`. Without a query nothing is asked, without a key nothing is stored. seen: null for `positions`.
// Returns 0, and has done nothing, where tables, rows or positions point outside.
int moesaic_paged_attention(const void* query, const void* key, const void* value, void* out, void* keys, void* values,
                            float* key_scale, float* value_scale, const int32_t* tables, const int32_t* row,
                            const int32_t* positions, int64_t query_token, int64_t query_head, int64_t key_token,
                            int64_t key_head, int64_t value_token, int64_t value_head, int64_t table_stride,
                            int64_t tokens, int64_t heads, int64_t kv_heads, int64_t size, int64_t padded,
                            int64_t sequences, int64_t width, int64_t blocks, double scale, int64_t window, double cap,
                            int64_t threads, int isa, int activation, const int32_t* seen, const float* distances,
                            int64_t distance_stride, int64_t distance_origin) {
  const Attention job{{query, query_token, query_head},
                      {key, key_token, key_head},
                      {value, value_token, value_head},
                      out,
                      keys,
                      values,
                      key_scale,
                      value_scale,
                      tables,
                      row,
                      positions,
                      seen ? seen : positions,
                      table_stride,
                      tokens,
                      heads,
                      kv_heads,
                      size,
                      padded,
                      static_cast<float>(scale * 1.4426950408889634),
                      window ? window : int64_t(1) << 40,
                      static_cast<float>(cap * 1.4426950408889634),
                      distances,
                      distance_stride,
                      distance_origin};
  if (!is_sound(job, sequences, width, blocks)) return 0;
  const Kernels kernels = kernels_of(isa, activation, key_scale != nullptr);
  if (key)
    parallel_ranges(tokens, 1, std::min(threads, 2 * tokens * kv_heads * size / MINIMUM_STORED + 1),
                    [&](int64_t begin, int64_t end) { kernels.keep_tokens(job, begin, end); });
  if (query) attend(job, kernels, threads);
  return 1;
}
}
