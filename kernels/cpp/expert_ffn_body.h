// Included by expert_ffn.cpp inside the namespace of each instruction set, with TARGET set to its attribute and
// TOKEN_BLOCK tokens to a tile.

#include "activation_body.h"

// Rows of one matrix times tokens, scaled and biased: out[t * ROWS + r].
template <int ROWS, int TOKENS, typename Weight>
TARGET static inline void project(const ExpertFfn& job, const void* matrix, const float* scale, const float* bias,
                                  const Row* rows, const Row* ahead, const float* const* x, float* out) {
  const Weight *w[ROWS], *next[ROWS];
  float scales[ROWS], biases[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    w[r] = static_cast<const Weight*>(matrix) + rows[r].neuron * job.hidden;
    next[r] = ahead ? static_cast<const Weight*>(matrix) + ahead[r].neuron * job.hidden : nullptr;
    scales[r] = scale ? scale[rows[r].neuron] : 1.0f;
    biases[r] = bias ? bias[rows[r].neuron] : 0.0f;
  }
  dots<ROWS, TOKENS>(w, ahead ? next : nullptr, x, job.hidden, out);
  for (int t = 0; t < TOKENS; ++t)
    for (int r = 0; r < ROWS; ++r) out[t * ROWS + r] = out[t * ROWS + r] * scales[r] + biases[r];
}

// h of ROWS rows for the tokens [first, first + TOKENS) of their segment. `ahead`: the ROWS rows that follow, or null.
template <int ROWS, int TOKENS, typename Weight>
TARGET static void up_tile(const ExpertFfn& job, const Row* rows, const Row* ahead, const int32_t* tokens,
                           int64_t first) {
  const float* x[TOKENS];
  for (int t = 0; t < TOKENS; ++t) x[t] = job.x + tokens[first + t] * job.hidden;
  float value[TOKENS * ROWS], gate[TOKENS * ROWS];
  project<ROWS, TOKENS, Weight>(job, job.up, job.up_scale, job.up_bias, rows, ahead, x, value);
  if (job.gate) project<ROWS, TOKENS, Weight>(job, job.gate, job.gate_scale, job.gate_bias, rows, ahead, x, gate);
  activate(int(job.activation), job.gate ? gate : nullptr, value, TOKENS * ROWS);
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) rows[r].h[first + t] = value[t * ROWS + r];
}

template <int TOKENS, typename Weight>
TARGET static void up_tile_of(const ExpertFfn& job, const Row* rows, const Row* ahead, const int32_t* tokens,
                              int64_t first, int64_t count) {
  if (count == TOKENS) return up_tile<4, TOKENS, Weight>(job, rows, ahead, tokens, first);
  if constexpr (TOKENS > 1) up_tile_of<TOKENS - 1, Weight>(job, rows, ahead, tokens, first, count);
}

// One block of rows for all tokens of its segment, tokens in tiles of nearly equal size. `left`: rows from here on.
template <typename Weight>
TARGET static void up_rows(const ExpertFfn& job, const Row* rows, int64_t count, int64_t left, const int32_t* tokens,
                           int64_t num_tokens) {
  const int64_t tiles = (num_tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = num_tokens * i / tiles, size = num_tokens * (i + 1) / tiles - first;
    int64_t r = 0;
    const auto ahead = [&](int64_t height) {
      return i == 0 && r + count + height <= left ? rows + r + count : nullptr;
    };
    if (num_tokens == 1 && count == UP_ROWS) {  // eight sums in flight hide the latency of an addition
      up_tile<UP_ROWS, 1, Weight>(job, rows, ahead(UP_ROWS), tokens, 0);
      continue;
    }
    for (; r + 4 <= count; r += 4) up_tile_of<TOKEN_BLOCK, Weight>(job, rows + r, ahead(4), tokens, first, size);
    if (r == count) continue;
    Row last[4];  // fewer than four are left: some are done twice, with the same result
    for (int64_t i = 0; i < 4; ++i) last[i] = rows[std::min(r + i, count - 1)];
    up_tile_of<TOKEN_BLOCK, Weight>(job, last, nullptr, tokens, first, size);
  }
}

// y[t][j] += sum_r h[r][t] w[r][j] for VECTORS * LANES columns from j on, r ascending.
template <int TOKENS, int VECTORS, typename Weight>
TARGET INLINE void down_step(const Weight* const* w, const float* const* h, int64_t rows, float* const* y, int64_t j) {
  Vector sum[TOKENS][VECTORS];
  for (int t = 0; t < TOKENS; ++t)
    for (int v = 0; v < VECTORS; ++v) sum[t][v] = load(y[t] + j + v * LANES);
  for (int64_t r = 0; r < rows; ++r) {
    Operand weight[VECTORS];
    for (int v = 0; v < VECTORS; ++v) weight[v] = load(w[r] + j + v * LANES);
    for (int t = 0; t < TOKENS; ++t) {
      const Vector value = broadcast(h[r][t]);
      for (int v = 0; v < VECTORS; ++v) sum[t][v] = multiply_add(weight[v], value, sum[t][v]);
    }
  }
  for (int t = 0; t < TOKENS; ++t)
    for (int v = 0; v < VECTORS; ++v) store(y[t] + j + v * LANES, sum[t][v]);
}

// The same for the columns [begin, end). `ahead`: as many rows that are read next, or null.
template <int TOKENS, typename Weight>
TARGET static void down_tile(const Weight* const* w, const Weight* const* ahead, const float* const* h, int64_t rows,
                             float* const* y, int64_t begin, int64_t end) {
  constexpr int VECTORS = 4;
  constexpr int64_t WIDE = VECTORS * LANES, LINE = 64 / int64_t(sizeof(Weight));
  int64_t j = begin;
  for (; j + WIDE <= end; j += WIDE) {
    for (int64_t r = 0; ahead && r < rows; ++r)
      for (int64_t k = 0; k < WIDE; k += LINE) __builtin_prefetch(ahead[r] + j + k, 0, PREFETCH_LEVEL);
    down_step<TOKENS, VECTORS>(w, h, rows, y, j);
  }
  for (; j + LANES <= end; j += LANES) down_step<TOKENS, 1>(w, h, rows, y, j);
  if (j == end) return;
  Weight weights[DOWN_ROWS][LANES] = {};
  float sums[TOKENS][LANES] = {};
  const Weight* padded_w[DOWN_ROWS];
  float* padded_y[TOKENS];
  for (int64_t r = 0; r < rows; ++r) {
    memcpy(weights[r], w[r] + j, (end - j) * sizeof(Weight));
    padded_w[r] = weights[r];
  }
  for (int t = 0; t < TOKENS; ++t) {
    memcpy(sums[t], y[t] + j, (end - j) * sizeof(float));
    padded_y[t] = sums[t];
  }
  down_step<TOKENS, 1>(padded_w, h, rows, padded_y, 0);
  for (int t = 0; t < TOKENS; ++t) memcpy(y[t] + j, sums[t], (end - j) * sizeof(float));
}

template <int TOKENS, typename Weight>
TARGET static void down_tile_of(const Weight* const* w, const Weight* const* ahead, const float* const* h, int64_t rows,
                                float* const* y, int64_t begin, int64_t end, int64_t count) {
  if (count == TOKENS) return down_tile<TOKENS>(w, ahead, h, rows, y, begin, end);
  if constexpr (TOKENS > 1) down_tile_of<TOKENS - 1>(w, ahead, h, rows, y, begin, end, count);
}

// The columns [begin, end) of `count` rows, for all tokens of their segment. `left`: rows from here on.
template <typename Weight>
TARGET static void down_rows(const ExpertFfn& job, const Row* rows, int64_t count, int64_t left, const int32_t* tokens,
                             int64_t num_tokens, int64_t begin, int64_t end) {
  const Weight *w[DOWN_ROWS], *next[DOWN_ROWS], *matrix = static_cast<const Weight*>(job.down);
  for (int64_t r = 0; r < count; ++r) {
    w[r] = matrix + rows[r].neuron * job.hidden;
    next[r] = matrix + rows[r + count < left ? r + count : r].neuron * job.hidden;
  }
  const int64_t tiles = (num_tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = num_tokens * i / tiles, size = num_tokens * (i + 1) / tiles - first;
    const float* h[DOWN_ROWS];
    float* y[TOKEN_BLOCK];
    for (int64_t r = 0; r < count; ++r) h[r] = rows[r].h + first;
    for (int64_t t = 0; t < size; ++t) y[t] = job.y + tokens[first + t] * job.hidden;
    down_tile_of<TOKEN_BLOCK>(w, i == 0 ? next : nullptr, h, count, y, begin, end, size);
  }
}
