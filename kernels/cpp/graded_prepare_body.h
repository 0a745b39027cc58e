// Included by graded_body.h: digits, levels and lists of rows of each token.

// q, and for each input its number, and both digits of q, in one word.
TARGET static void quantize(const float* x, int64_t inputs, float step, int32_t* q, uint32_t* word) {
  for (int64_t k = 0; k < inputs; ++k) {
    const int32_t value = in_steps(x[k], step), high = (value + 128) >> 8, low = value - 256 * high;
    q[k] = value;
    word[k] = uint32_t(k) | (uint32_t(high) & 255) << 16 | uint32_t(low) << 24;
  }
}

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

// read, bits and constant of a token. A weight is w + 128 in memory and stands for twice itself and a middle in the sum.
TARGET static void count_levels(const GradedLayer& layer, const int32_t* level, const int32_t* q, Token& token) {
  int64_t before = 0;
  for (int64_t l = 0, under = 8; l < layer.levels; ++l) {
    int32_t count, sum;
    count_level(level, q, layer.inputs, int32_t(l) + 1, count, sum);
    if (l == 0) token.read = count;
    under -= layer.widths[l];
    token.bits += layer.widths[l] * count;
    const int64_t middle = ((int64_t(1) << under) - 1) - 256;
    token.constant += sum * (middle - before);
    before = middle;
  }
}

// Rows of four inputs each, pass after pass; what does not fill four repeats a row, with nothing above the 16 bits of
// its number. Returns how many there are.
TARGET static int64_t list_rows(const GradedJob& job, const int32_t* level, const uint32_t* word, uint32_t* entry,
                                Token& token) {
  int64_t count = 0;
  for (int64_t p = 0; p < job.num_passes; ++p) {
    token.begin[p] = count / 4;
    count += listed(level, word, job.layer.inputs, job.pass[p].least, job.pass[p].most, entry + count);
    for (; count % 4; ++count) entry[count] = entry[count - 1] & 0xFFFF;
  }
  token.begin[job.num_passes] = count / 4;
  const uint64_t row_bytes = job.layer.row_bytes;
  for (int64_t i = 0; i < count; ++i) token.row[i] = job.layer.rows + (entry[i] & 0xFFFF) * row_bytes;
  for (int64_t i = count; i < count + AHEAD; ++i) token.row[i] = count ? token.row[i - count] : nullptr;
  return count;
}

// The same with the digits of each input.
TARGET static void list_quads(const GradedJob& job, const Work& work, Token& token) {
  const int64_t count = list_rows(job, work.level, work.word, work.entry, token);
  int8_t* high = reinterpret_cast<int8_t*>(token.high);
  int8_t* low = reinterpret_cast<int8_t*>(token.low);
  for (int64_t i = 0; i < count; ++i) high[i] = int8_t(work.entry[i] >> 16);
  for (int64_t i = 0; i < count; ++i) low[i] = int8_t(work.entry[i] >> 24);
}

// Digits and levels of a token in `work`, and what its sums become; false for one that is no number and reads nothing.
TARGET static bool measure_token(const GradedJob& job, const float* x, float threshold, const Work& work,
                                 Token& token) {
  const GradedLayer& layer = job.layer;
  float step;
  token.read = token.bits = token.constant = 0;
  token.half_step = __builtin_nanf("");
  if (!find_step(x, layer.inputs, step) || threshold != threshold) return false;
  token.half_step = step * 0.5f;
  quantize(x, layer.inputs, step, work.q, work.word);
  choose_levels(layer, x, threshold, work.level);
  count_levels(layer, work.level, work.q, token);
  return true;
}

TARGET static void prepare(const GradedJob& job, const float* x, float threshold, const Work& work, Token& token) {
  if (measure_token(job, x, threshold, work, token)) return list_quads(job, work, token);
  for (int64_t& begin : token.begin) begin = 0;
}
