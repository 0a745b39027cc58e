// Included by graded_body.h: digits, levels and lists of rows of each token.

TARGET static void choose_levels(const GradedLayer& layer, const float* x, float threshold, int32_t* level) {
  const int64_t inputs = layer.inputs;
  const int32_t levels = int32_t(layer.levels);
  if (threshold <= 0.0f) {
    for (int64_t k = 0; k < inputs; ++k) level[k] = x[k] != 0.0f ? levels : 0;
    return;
  }
  for (int64_t k = 0; k < inputs; ++k) level[k] = 0;
  for (int64_t l = 0; l < levels; ++l) {
    const float worth = layer.worth[l];
    for (int64_t k = 0; k < inputs; ++k) level[k] += __builtin_fabsf(x[k]) * worth > threshold;
  }
}

// Of the inputs that read a level or more: how many, and the sum of q.
TARGET static void count_level(const int32_t* level, const int32_t* q, int64_t inputs, int32_t least, int32_t& count,
                               int32_t& sum) {
  int32_t found = 0, total = 0;
  for (int64_t k = 0; k < inputs; ++k) {
    const int32_t reads = level[k] >= least ? -1 : 0;
    found -= reads;
    total += q[k] & reads;
  }
  count = found, sum = total;
}

// reach, read, bits and constant of a token. A weight is w + 128 in memory and stands for twice itself and a middle in
// the sum.
TARGET static void count_levels(const GradedLayer& layer, Token& token) {
  int64_t before = 0;
  for (int64_t l = 0, under = 8; l < layer.levels; ++l) {
    int32_t count, sum;
    count_level(token.level, token.q, layer.inputs, int32_t(l) + 1, count, sum);
    token.reach[l + 1] = count;
    under -= layer.widths[l];
    token.bits += layer.widths[l] * count;
    const int64_t middle = ((int64_t(1) << under) - 1) - 256;
    token.constant += sum * (middle - before);
    before = middle;
  }
  token.read = token.reach[1];
}

// Digits and levels of a token, and what its sums become. One that is no number reads nothing.
TARGET static void measure(const GradedJob& job, const float* x, float threshold, Token& token) {
  const GradedLayer& layer = job.layer;
  float step;
  token.read = token.bits = token.constant = 0;
  if (!find_step(x, layer.inputs, step) || threshold != threshold) {
    token.half_step = __builtin_nanf("");
    memset(token.q, 0, layer.inputs * sizeof *token.q), memset(token.level, 0, layer.inputs * sizeof *token.level);
    memset(token.reach, 0, sizeof token.reach);
    return;
  }
  token.half_step = step * 0.5f;
  for (int64_t k = 0; k < layer.inputs; ++k) token.q[k] = in_steps(x[k], step);
  choose_levels(layer, x, threshold, token.level);
  count_levels(layer, token);
}

// Rows of the inputs whose level lies between two, four at a time; what does not fill four repeats a row, with nothing
// above the 16 bits of its number. `count` entries are there before them; returns how many are there then.
TARGET static int64_t list_part(const GradedJob& job, const int32_t* level, const uint32_t* word, int first, int last,
                                int64_t count, List& list) {
  int64_t end = count + listed(level, word, job.layer.inputs, first, last, list.entry + count);
  for (; end % 4; ++end) list.entry[end] = list.entry[end - 1] & 0xFFFF;
  for (int64_t i = count; i < end; ++i)
    list.row[i] = job.layer.rows + (list.entry[i] & 0xFFFF) * uint64_t(job.layer.row_bytes);
  return end;
}

// The list of a token by itself, and the digits of each input of it. word: to work in, [inputs].
TARGET static void list_quads(const GradedJob& job, uint32_t* word, Token& token) {
  for (int64_t k = 0; k < job.layer.inputs; ++k) {
    const int32_t high = (token.q[k] + 128) >> 8, low = token.q[k] - 256 * high;
    word[k] = uint32_t(k) | (uint32_t(high) & 255) << 16 | uint32_t(low) << 24;
  }
  int64_t count = 0;
  for (int64_t p = 0; p < job.num_passes; ++p) {
    token.own.begin[p] = count / 4;
    count = list_part(job, token.level, word, job.pass[p].least, job.pass[p].most, count, token.own);
  }
  token.own.begin[job.num_passes] = count / 4;
  for (int64_t i = count; i < count + AHEAD_ROWS; ++i) token.own.row[i] = count ? token.own.row[i - count] : nullptr;
  int8_t* high = reinterpret_cast<int8_t*>(token.high);
  int8_t* low = reinterpret_cast<int8_t*>(token.low);
  for (int64_t i = 0; i < count; ++i) high[i] = int8_t(token.own.entry[i] >> 16);
  for (int64_t i = 0; i < count; ++i) low[i] = int8_t(token.own.entry[i] >> 24);
}
