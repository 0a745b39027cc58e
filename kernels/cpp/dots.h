// Included inside the namespace of each instruction set, with TARGET set to its attribute.
//
// Products of weight rows, wherever they lie, with tokens. Every (row, token) pair has one vector of sums that walks
// k in the same order and ends in the same tree: a result depends on nothing but its own row and token.

template <int ROWS, int TOKENS, int64_t LENGTH, typename Weight>
TARGET INLINE void dot_step(const Weight* const* w, const float* const* x, int64_t k, Vector (*sum)[TOKENS]) {
  if constexpr (LENGTH > LANES) {  // for one token
    for (int r = 0; r < ROWS; ++r)
      for (int64_t i = k; i < k + LENGTH; i += LANES)
        sum[r][0] = multiply_add(load(w[r] + i), load(x[0] + i), sum[r][0]);
    return;
  }
  Operand weight[ROWS];
  for (int r = 0; r < ROWS; ++r) weight[r] = load(w[r] + k);
  for (int t = 0; t < TOKENS; ++t) {
    const Operand value = load(x[t] + k);
    for (int r = 0; r < ROWS; ++r) sum[r][t] = multiply_add(weight[r], value, sum[r][t]);
  }
}

// out[t * ROWS + r] = sum_k w[r][k] x[t][k], ROWS a multiple of four. `ahead` are the rows that are read next, or
// null: one line of each is fetched for every line that is used.
template <int ROWS, int TOKENS, typename Weight>
TARGET static void dots(const Weight* const* w, const Weight* const* ahead, const float* const* x, int64_t length,
                        float* out) {
  constexpr int64_t LINE = 64 / int64_t(sizeof(Weight));
  constexpr int64_t RUN = TOKENS == 1 && sizeof(Weight) == 4 ? 4 * LANES : LANES;  // measured: 15 % for fp32, else none
  Vector sum[ROWS][TOKENS];
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) sum[r][t] = zero();
  int64_t k = 0;
  for (; k + RUN <= length; k += RUN) {
    if (ahead && k % LINE == 0)
      for (int r = 0; r < ROWS; ++r)
        for (int64_t i = k; i < k + RUN; i += LINE) __builtin_prefetch(ahead[r] + i, 0, PREFETCH_LEVEL);
    dot_step<ROWS, TOKENS, RUN>(w, x, k, sum);
  }
  for (; k + LANES <= length; k += LANES) dot_step<ROWS, TOKENS, LANES>(w, x, k, sum);
  if (k < length) {  // what is left of a row, filled up with zeros
    Weight weights[ROWS][LANES] = {};
    float values[TOKENS][LANES] = {};
    const Weight* padded_w[ROWS];
    const float* padded_x[TOKENS];
    for (int r = 0; r < ROWS; ++r) {
      memcpy(weights[r], w[r] + k, (length - k) * sizeof(Weight));
      padded_w[r] = weights[r];
    }
    for (int t = 0; t < TOKENS; ++t) {
      memcpy(values[t], x[t] + k, (length - k) * sizeof(float));
      padded_x[t] = values[t];
    }
    dot_step<ROWS, TOKENS, LANES>(padded_w, padded_x, 0, sum);
  }
  for (int t = 0; t < TOKENS; ++t)
    for (int r = 0; r < ROWS; r += 4)
      add_lanes(sum[r][t], sum[r + 1][t], sum[r + 2][t], sum[r + 3][t], out + t * ROWS + r);
}
