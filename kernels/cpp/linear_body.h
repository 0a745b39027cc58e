// Included by linear.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// Every (token, row) pair has one vector of sums that walks k in the same order and ends in the same tree,
// whatever ROWS, TOKENS and the weight's type are: a row of the result depends on nothing but its own inputs.

template <typename Weight>
constexpr bool IS_WIDENED = std::is_same_v<Weight, Element>;

// Weight is int8_t, Bf16, or Element for rows that were widened before; `stride` is from one weight row to the next.
template <int ROWS, int TOKENS, typename Weight>
TARGET static void tile(const Linear& job, const Weight* weight, int64_t stride, int64_t row, int64_t token) {
  const int64_t inputs = job.inputs;
  const Element* x = static_cast<const Element*>(job.x) + token * inputs;
  const char* ahead = reinterpret_cast<const char*>(weight) + PREFETCH_BYTES;
  Vector sum[ROWS][TOKENS];
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) sum[r][t] = zero();
  int64_t k = 0;
  for (; k + LANES <= inputs; k += LANES) {
    // ROWS rows lie one after the other: reading them side by side consumes ROWS * LANES weights per step
    if (!IS_WIDENED<Weight>)
      for (int64_t line = 0; line < ROWS * LANES * int64_t(sizeof(Weight)); line += 64)
        __builtin_prefetch(ahead + k * ROWS * int64_t(sizeof(Weight)) + line);
    Operand w[ROWS];
    for (int r = 0; r < ROWS; ++r) w[r] = load(weight + r * stride + k);
    for (int t = 0; t < TOKENS; ++t) {
      const Operand value = load(x + t * inputs + k);
      for (int r = 0; r < ROWS; ++r) sum[r][t] = multiply_add(w[r], value, sum[r][t]);
    }
  }
  if (k < inputs) {  // what is left of a row, filled up with zeros
    const int64_t rest = inputs - k;
    Operand w[ROWS];
    for (int r = 0; r < ROWS; ++r) {
      Weight padded[LANES] = {};
      memcpy(padded, weight + r * stride + k, rest * sizeof(Weight));
      w[r] = load(padded);
    }
    for (int t = 0; t < TOKENS; ++t) {
      Element padded[LANES] = {};
      memcpy(padded, x + t * inputs + k, rest * sizeof(Element));
      const Operand value = load(padded);
      for (int r = 0; r < ROWS; ++r) sum[r][t] = multiply_add(w[r], value, sum[r][t]);
    }
  }
  constexpr int PADDED = (ROWS + 3) / 4 * 4;
  float scale[PADDED] = {}, bias[PADDED] = {};
  for (int r = 0; r < ROWS; ++r) {
    scale[r] = job.scale ? job.scale[row + r] : 1.0f;
    bias[r] = job.bias ? job.bias[row + r] : 0.0f;
  }
  for (int t = 0; t < TOKENS; ++t) {
    float dot[PADDED];
    Element y[PADDED];
    for (int r = 0; r < ROWS; r += 4) {
      const Vector none = zero();
      add_lanes(sum[r][t], r + 1 < ROWS ? sum[r + 1][t] : none, r + 2 < ROWS ? sum[r + 2][t] : none,
                r + 3 < ROWS ? sum[r + 3][t] : none, dot + r);
    }
    for (int r = 0; r < PADDED; ++r) dot[r] = dot[r] * scale[r] + bias[r];
    for (int r = 0; r < PADDED; r += 4) narrow4(dot + r, y + r);
    memcpy(static_cast<Element*>(job.y) + (token + t) * job.outputs + row, y, ROWS * sizeof *y);
  }
}

template <int ROWS, int TOKENS, typename Weight>
TARGET static void tile_of(const Linear& job, const Weight* weight, int64_t stride, int64_t row, int64_t token,
                           int64_t tokens) {
  if (tokens == TOKENS) return tile<ROWS, TOKENS>(job, weight, stride, row, token);
  if constexpr (TOKENS > 1) tile_of<ROWS, TOKENS - 1>(job, weight, stride, row, token, tokens);
}

// Rows [begin, end) for the tokens [token, token + tokens), tokens <= TOKEN_BLOCK.
template <typename Weight>
TARGET static void row_block(const Linear& job, const Weight* weight, int64_t stride, int64_t begin, int64_t end,
                             int64_t token, int64_t tokens) {
  int64_t row = begin;
  const Weight* w = weight;
  if (tokens == 1)  // eight sums in flight hide the latency of an addition
    for (; row + 8 <= end; row += 8, w += 8 * stride) tile<8, 1>(job, w, stride, row, token);
  for (; row + 4 <= end; row += 4, w += 4 * stride) tile_of<4, TOKEN_BLOCK>(job, w, stride, row, token, tokens);
  for (; row < end; ++row, w += stride)
    for (int64_t t = 0; t < tokens; ++t) tile<1, 1>(job, w, stride, row, token + t);
}

// Tokens in blocks of nearly equal size, all against one block of rows.
template <typename Weight>
TARGET static void token_blocks(const Linear& job, const Weight* weight, int64_t stride, int64_t begin,
                                int64_t end) {
  const int64_t blocks = (job.tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t token = job.tokens * b / blocks, next = job.tokens * (b + 1) / blocks;
    row_block(job, weight, stride, begin, end, token, next - token);
  }
}

#ifdef WIDEN_ROWS
// For many tokens: a block of rows is widened once and stays in the second cache.
TARGET static void rows_widened(const Linear& job, int64_t begin, int64_t end) {
  alignas(64) Element wide[WIDE_BYTES / sizeof(Element)];
  const int64_t inputs = job.inputs, height = WIDE_BYTES / (inputs * sizeof(Element)) / 4 * 4;
  for (int64_t top = begin; top < end; top += height) {
    const int64_t bottom = top + height < end ? top + height : end;
    for (int64_t row = top; row < bottom; ++row) {
      const int8_t* weight = static_cast<const int8_t*>(job.weight) + row * inputs;
      for (int64_t k = 0; k < inputs; k += LANES) {
        __builtin_prefetch(weight + k + PREFETCH_BYTES);
        store(wide + (row - top) * inputs + k, load(weight + k));
      }
    }
    token_blocks(job, static_cast<const Element*>(wide), inputs, top, bottom);
  }
}
#endif

template <typename Weight>
TARGET static void rows(const Linear& job, int64_t begin, int64_t end) {
#ifdef WIDEN_ROWS
  if (sizeof(Weight) == 1 && job.tokens >= WIDEN_TOKENS && job.inputs <= WIDEN_INPUTS && job.inputs % LANES == 0)
    return rows_widened(job, begin, end);
#endif
  const Weight* weight = static_cast<const Weight*>(job.weight);
  const int64_t fit = NARROW_BYTES / int64_t(job.inputs * sizeof(Weight)) / 8 * 8, height = fit < 8 ? 8 : fit;
  for (int64_t top = begin; top < end; top += height) {
    const int64_t bottom = top + height < end ? top + height : end;
    token_blocks(job, weight + top * job.inputs, job.inputs, top, bottom);
  }
}
