// Included by attention.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// A row is a token's head. A tile is rows of one sequence that share a kv head, and walks the spans of positions in
// order: scores of a span, running maximum, rescaling, values. Every score is one chain over the head, every output
// one chain over positions: a row's result depends on nothing but its own query and what its sequence holds.

constexpr int PARTS = BLOCK_TOKENS / LANES;  // vectors of the positions of a block

// out[r][16 b + i] = sum_d query[r][d] key[b][d][i]
template <int ROWS, int BLOCKS>
TARGET static void scores(const float* query, const float* keys, int64_t size, float* out) {
  Vector sum[ROWS][BLOCKS * PARTS];
  for (int r = 0; r < ROWS; ++r)
    for (int v = 0; v < BLOCKS * PARTS; ++v) sum[r][v] = zero();
  for (int64_t d = 0; d < size; ++d) {
    Operand key[BLOCKS * PARTS];
    for (int v = 0; v < BLOCKS * PARTS; ++v)
      key[v] = load(keys + (v / PARTS * size + d) * BLOCK_TOKENS + v % PARTS * LANES);
    for (int r = 0; r < ROWS; ++r) {
      const Operand value = broadcast(query[r * size + d]);
      for (int v = 0; v < BLOCKS * PARTS; ++v) sum[r][v] = multiply_add(key[v], value, sum[r][v]);
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int v = 0; v < BLOCKS * PARTS; ++v) store(out + r * SPAN + v * LANES, sum[r][v]);
}

template <int ROWS>
TARGET static void span_scores(const float* query, const float* keys, int64_t size, int64_t blocks, float* out) {
  int64_t b = 0;
  for (; b + BLOCKS_AT_ONCE <= blocks; b += BLOCKS_AT_ONCE)
    scores<ROWS, BLOCKS_AT_ONCE>(query, keys + b * size * BLOCK_TOKENS, size, out + b * BLOCK_TOKENS);
  for (; b < blocks; ++b) scores<ROWS, 1>(query, keys + b * size * BLOCK_TOKENS, size, out + b * BLOCK_TOKENS);
}

// sum[r][column ...] += sum over positions of weight[r][position] value[position][column ...]
template <int ROWS, int VECTORS, typename Value>
TARGET static void add_columns(const float* weight, const Value* const* values, int64_t size, int64_t begin,
                               int64_t end, int64_t column, float* out) {
  Vector sum[ROWS][VECTORS];
  for (int r = 0; r < ROWS; ++r)
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = load(out + r * size + column + v * LANES);
  for (int64_t block = begin / BLOCK_TOKENS; block * BLOCK_TOKENS < end; ++block) {
    const int64_t first = block * BLOCK_TOKENS, last = first + BLOCK_TOKENS < end ? first + BLOCK_TOKENS : end;
    for (int64_t i = first < begin ? begin : first; i < last; ++i) {
      const Value* row = values[block] + (i - first) * size + column;
      Operand value[VECTORS];
      for (int v = 0; v < VECTORS; ++v) value[v] = load(row + v * LANES);
      for (int r = 0; r < ROWS; ++r) {
        const Operand share = broadcast(weight[r * SPAN + i]);
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = multiply_add(share, value[v], sum[r][v]);
      }
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int v = 0; v < VECTORS; ++v) store(out + r * size + column + v * LANES, sum[r][v]);
}

template <int ROWS, typename Value>
TARGET static void add_values(const float* weight, const Value* const* values, int64_t size, int64_t begin, int64_t end,
                              float* out) {
  int64_t column = 0;
  for (; column + VECTORS_AT_ONCE * LANES <= size; column += VECTORS_AT_ONCE * LANES)
    add_columns<ROWS, VECTORS_AT_ONCE>(weight, values, size, begin, end, column, out);
  for (; column < size; column += LANES) add_columns<ROWS, 1>(weight, values, size, begin, end, column, out);
}

// Scores of positions `from` to `seen` of a span become weights, those before them 0, and what the row has summed
// before is rescaled.
TARGET static void weigh(float* score, int64_t from, int64_t seen, const float* key_scale, const float* value_scale,
                         float cap, const float* distances, int64_t size, Running& running, float* out) {
  const int64_t end = (seen + BLOCK_TOKENS - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
  if (key_scale)
    for (int64_t i = 0; i < end; ++i) score[i] *= key_scale[i];
  if (cap != 0.0f)
    for (int64_t i = 0; i < end; ++i) score[i] = capped(score[i], cap);
  if (distances)
    for (int64_t i = from; i < seen; ++i) score[i] += distances[i] * 1.44269504f;  // scores are to the base of two
  for (int64_t i = 0; i < from; ++i) score[i] = -__builtin_inff();
  for (int64_t i = seen; i < end; ++i) score[i] = -__builtin_inff();
  Vector high = load(score);
  for (int64_t i = LANES; i < end; i += LANES) high = larger(high, load(score + i));
  const float found = most(high), before = running.most;
  running.most = found > before ? found : before;
  for (int64_t i = 0; i < end; i += BLOCK_TOKENS)
    for (int64_t k = i; k < i + BLOCK_TOKENS; ++k) score[k] = power_of_two(score[k] - running.most);
  for (int64_t i = 0; i < from; ++i) score[i] = 0.0f;
  for (int64_t i = seen; i < end; ++i) score[i] = 0.0f;
  Vector sum = zero();
  for (int64_t i = 0; i < end; i += LANES) sum = multiply_add(load(score + i), broadcast(1.0f), sum);
  float sums[4];
  add_lanes(sum, zero(), zero(), zero(), sums);
  const float rescale = power_of_two(before - running.most);
  running.total = running.total * rescale + sums[0];
  if (rescale != 1.0f)
    for (int64_t k = 0; k < size; ++k) out[k] *= rescale;
  if (value_scale)
    for (int64_t i = from; i < seen; ++i) score[i] *= value_scale[i];
}

// Rows, rising in position, against a span: together where all see, then each one alone. A row whose window begins
// behind the span takes nothing from it.
template <int ROWS, typename Value>
TARGET static void attend_rows(const Span<Value>& span, const float* query, const Asking* own, int64_t size,
                               Running* running, float* out) {
  alignas(64) float weight[ROWS * SPAN];
  int64_t seen[ROWS], from[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    const int64_t last = own[r].seen - span.begin;
    seen[r] = last < SPAN ? last + 1 : SPAN;
    from[r] = last < span.window ? 0 : last - span.window + 1;
  }
  span_scores<ROWS>(query, span.keys, size, (seen[ROWS - 1] + BLOCK_TOKENS - 1) / BLOCK_TOKENS, weight);
  for (int r = 0; r < ROWS; ++r)
    if (from[r] < seen[r])
      weigh(weight + r * SPAN, from[r], seen[r], span.key_scale, span.value_scale, span.cap,
            own[r].distances ? own[r].distances + span.begin : nullptr, size, running[r], out + r * size);
    else
      memset(weight + r * SPAN, 0, SPAN * sizeof(float));
  add_values<ROWS>(weight, span.values, size, from[0], seen[0], out);
  for (int r = 1; r < ROWS; ++r)
    if (seen[r] > seen[0]) add_values<1>(weight + r * SPAN, span.values, size, seen[0], seen[r], out + r * size);
}

template <int ROWS, typename Value>
TARGET static void attend_some(const Span<Value>& span, int64_t rows, const float* query, const Asking* own,
                               int64_t size, Running* running, float* out) {
  if (rows == ROWS) return attend_rows<ROWS>(span, query, own, size, running, out);
  if constexpr (ROWS > 1) attend_some<ROWS - 1>(span, rows, query, own, size, running, out);
}

template <typename Value>
TARGET static void attend_span(const Span<Value>& span, int64_t rows, const float* query, const Asking* own,
                               int64_t size, Running* running, float* out) {
  int64_t r = 0;
  while (own[r].seen < span.begin) ++r;  // these have seen all that they may; the last row has not
  for (; r < rows; r += ROWS_AT_ONCE)
    attend_some<ROWS_AT_ONCE>(span, rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE, query + r * size, own + r, size,
                              running + r, out + r * size);
}

template <typename Activation>
TARGET static void read_queries(const Attention& job, const Tile& tile, float* query, Asking* own) {
  const int64_t group = job.heads / job.kv_heads;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.row + r, token = tile.token + row / group, head = tile.kv_head * group + row % group;
    const Activation* from = static_cast<const Activation*>(job.query.data) + job.query.at(token, head);
    float* to = query + r * job.padded;
    for (int64_t d = 0; d < job.size; ++d) to[d] = widened(from[d]) * job.scale;
    for (int64_t d = job.size; d < job.padded; ++d) to[d] = 0.0f;
    const float* of_head = job.distances ? job.distances + head * job.distance_stride + job.distance_origin : nullptr;
    own[r] = {job.seen[token], of_head ? of_head - job.positions[token] : nullptr};
  }
}

template <typename Activation>
TARGET static void write_results(const Attention& job, const Tile& tile, const Running* running, const float* mixed) {
  const int64_t group = job.heads / job.kv_heads;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.row + r, token = tile.token + row / group, head = tile.kv_head * group + row % group;
    Activation* to = static_cast<Activation*>(job.out) + (token * job.heads + head) * job.size;
    for (int64_t d = 0; d < job.size; ++d) narrow(mixed[r * job.padded + d] / running[r].total, to[d]);
  }
}

// What the tile needs of a span: keys transposed, scales side by side, and what comes next on its way.
template <typename Page>
TARGET static void read_span(const Attention& job, const int32_t* table, int64_t kv_head, int64_t blocks, int64_t rest,
                             float* keys, float (*scales)[SPAN], const Page** values) {
  const int64_t area = BLOCK_TOKENS * job.padded;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t place = table[b] * job.kv_heads + kv_head;
    const Page* from = static_cast<const Page*>(job.keys) + place * area;
    values[b] = static_cast<const Page*>(job.values) + place * area;
    if (b + SPAN_BLOCKS < rest) {
      const int64_t next = (table[b + SPAN_BLOCKS] * job.kv_heads + kv_head) * area;
      for (int64_t i = 0; i < area; i += 64 / int64_t(sizeof(Page))) {
        __builtin_prefetch(static_cast<const Page*>(job.keys) + next + i, 0, 2);
        __builtin_prefetch(static_cast<const Page*>(job.values) + next + i, 0, 2);
      }
    }
    for (int64_t d = 0; d < job.padded; d += 16) transpose(from + d, job.padded, keys + b * area + d * BLOCK_TOKENS);
    if (!job.key_scale) continue;
    memcpy(scales[0] + b * BLOCK_TOKENS, job.key_scale + place * BLOCK_TOKENS, BLOCK_TOKENS * sizeof(float));
    memcpy(scales[1] + b * BLOCK_TOKENS, job.value_scale + place * BLOCK_TOKENS, BLOCK_TOKENS * sizeof(float));
  }
}

template <typename Activation, typename Page>
TARGET static void attend(const Attention& job, const Tile& tile) {
  alignas(64) float query[TILE_VALUES], mixed[TILE_VALUES], keys[SPAN * MOST_SIZE], scales[2][SPAN];
  Asking own[TILE_ROWS];
  Running running[TILE_ROWS];
  read_queries<Activation>(job, tile, query, own);
  memset(mixed, 0, tile.rows * job.padded * sizeof(float));
  for (int64_t r = 0; r < tile.rows; ++r) running[r] = {-__builtin_inff(), 0.0f};
  const int64_t blocks = own[tile.rows - 1].seen / BLOCK_TOKENS + 1;
  const int32_t* table = job.table_of(tile.token);
  const int64_t begin = own[0].seen < job.window ? 0 : (own[0].seen - job.window + 1) / SPAN * SPAN_BLOCKS;
  for (int64_t first = begin; first < blocks; first += SPAN_BLOCKS) {
    const int64_t count = blocks - first < SPAN_BLOCKS ? blocks - first : SPAN_BLOCKS;
    const Page* values[SPAN_BLOCKS];
    read_span(job, table + first, tile.kv_head, count, blocks - first, keys, scales, values);
    const Span<Page> span{first * BLOCK_TOKENS, job.window, job.cap, keys, job.key_scale ? scales[0] : nullptr,
                          job.key_scale ? scales[1] : nullptr, values};
    if constexpr (!std::is_same_v<Page, float>)
      if (tile.rows > ROWS_AT_ONCE) {  // widened once for all of them
        alignas(64) float wide[SPAN * MOST_SIZE];
        const float* widened[SPAN_BLOCKS];
        for (int64_t b = 0; b < count; ++b) {
          float* to = wide + b * BLOCK_TOKENS * job.padded;
          for (int64_t i = 0; i < BLOCK_TOKENS * job.padded; i += LANES) store(to + i, load(values[b] + i));
          widened[b] = to;
        }
        const Span<float> same{span.begin, span.window, span.cap, keys, span.key_scale, span.value_scale, widened};
        attend_span(same, tile.rows, query, own, job.padded, running, mixed);
        continue;
      }
    attend_span(span, tile.rows, query, own, job.padded, running, mixed);
  }
  write_results<Activation>(job, tile, running, mixed);
}

// Rounds to the nearest step of the largest magnitude / 127, of two the even one; returns the step.
template <typename Activation>
TARGET static float quantize(const Activation* from, int64_t size, int8_t* to) {
  uint32_t high = 0;  // magnitudes are ordered as their bits are, and NaN is above all
  for (int64_t d = 0; d < size; ++d) {
    const uint32_t bits = as_bits(widened(from[d])) & 0x7fffffffu;
    high = bits > high ? bits : high;
  }
  const float found = as_float(high) / 127.0f, step = found < 1e-30f ? 1e-30f : found;
  for (int64_t d = 0; d < size; ++d) {
    const float quotient = widened(from[d]) / step, finite = quotient == quotient ? quotient : 0.0f;
    const float shifted = finite + 12582912.0f;  // 1.5 * 2^23: rounded to an integer, in the last bits
    to[d] = static_cast<int8_t>(static_cast<int32_t>(as_bits(shifted) - as_bits(12582912.0f)));
  }
  return step;
}

template <typename Activation, typename Page>
TARGET static void keep(const Attention& job, const Rows& from, void* pages, float* scale, int64_t token) {
  const int64_t position = job.positions[token], block = job.table_of(token)[position / BLOCK_TOKENS];
  for (int64_t head = 0; head < job.kv_heads; ++head) {
    const int64_t place = (block * job.kv_heads + head) * BLOCK_TOKENS + position % BLOCK_TOKENS;
    const Activation* values = static_cast<const Activation*>(from.data) + from.at(token, head);
    Page* to = static_cast<Page*>(pages) + place * job.padded;
    if constexpr (std::is_same_v<Page, int8_t>)
      scale[place] = quantize(values, job.size, to);
    else
      memcpy(to, values, job.size * sizeof *values);
  }
}

template <typename Activation, typename Page>
TARGET static void keep_tokens(const Attention& job, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    keep<Activation, Page>(job, job.key, job.keys, job.key_scale, token);
    keep<Activation, Page>(job, job.value, job.values, job.value_scale, token);
  }
}
