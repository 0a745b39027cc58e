// Included by graded_linear.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// All sums are of integers, so that a row of the result depends on nothing but its own input and threshold.

// Whether the token is a number; its largest magnitude.
TARGET static bool sound(const float* x, int64_t inputs, float threshold, float& largest) {
  int32_t most = 0;  // magnitudes of floats are ordered as their bits
  for (int64_t k = 0; k < inputs; ++k) {
    int32_t bits;
    memcpy(&bits, x + k, sizeof bits);
    bits &= 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  memcpy(&largest, &most, sizeof largest);
  return most < 0x7F800000 && threshold == threshold;
}

// q = round(x / step), half to even, and for each input its number, and both digits of q, in one word.
TARGET static void quantize(const float* x, int64_t inputs, float step, int32_t* q, uint32_t* word) {
  for (int64_t k = 0; k < inputs; ++k) {
    const float shifted = x[k] / step + 12582912.0f;  // 1.5 * 2^23 leaves the rounded number in the low bits
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    const int32_t value = bits - 0x4B400000, high = (value + 128) >> 8, low = value - 256 * high;
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
    const float* worth = layer.worth + l * inputs;
    for (int64_t k = 0; k < inputs; ++k) level[k] += __builtin_fabsf(x[k]) * worth[k] > threshold;
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

// bits and constant of a token. A weight is w + 128 in memory and stands for twice itself and a middle in the sum.
TARGET static void count_levels(const GradedLayer& layer, const int32_t* level, const int32_t* q, Token& token) {
  int64_t middle = 256, before = 0;  // of twice the weight, what its unread bits are, and 256 too much
  for (int64_t l = 0, under = 8; l < layer.levels; ++l) {
    int32_t count, sum;
    count_level(level, q, layer.inputs, int32_t(l) + 1, count, sum);
    under -= layer.widths[l];
    token.bits += layer.widths[l] * count;
    middle = ((int64_t(1) << under) - 1) - 256;
    token.constant += sum * (middle - before);
    before = middle;
  }
}

// Rows and digits of four inputs each, pass after pass; what does not fill four repeats a row with digits of zero.
TARGET static void list_quads(const GradedJob& job, const int32_t* level, const uint32_t* word, uint32_t* entry,
                              Token& token) {
  int64_t count = 0;
  for (int64_t p = 0; p < job.num_passes; ++p) {
    token.begin[p] = count / 4;
    count += listed(level, word, job.layer.inputs, job.pass[p].least, job.pass[p].most, entry + count);
    for (; count % 4; ++count) entry[count] = entry[count - 1] & 0xFFFF;
  }
  token.begin[job.num_passes] = count / 4;
  int8_t* high = reinterpret_cast<int8_t*>(token.high);
  int8_t* low = reinterpret_cast<int8_t*>(token.low);
  const uint64_t row_bytes = job.layer.row_bytes;
  for (int64_t i = 0; i < count; ++i) high[i] = int8_t(entry[i] >> 16);
  for (int64_t i = 0; i < count; ++i) low[i] = int8_t(entry[i] >> 24);
  for (int64_t i = 0; i < count; ++i) token.row[i] = job.layer.rows + (entry[i] & 0xFFFF) * row_bytes;
  for (int64_t i = count; i < count + AHEAD; ++i) token.row[i] = count ? token.row[i - count] : nullptr;
}

TARGET static void prepare(const GradedJob& job, const float* x, float threshold, const Work& work, Token& token) {
  const GradedLayer& layer = job.layer;
  float largest;
  token.bits = token.constant = 0;
  if (!sound(x, layer.inputs, threshold, largest)) {
    token.half_step = __builtin_nanf("");
    for (int64_t& begin : token.begin) begin = 0;
    return;
  }
  const float step = largest / 32639.0f > LEAST_STEP ? largest / 32639.0f : LEAST_STEP;
  token.half_step = step * 0.5f;
  quantize(x, layer.inputs, step, work.q, work.word);
  choose_levels(layer, x, threshold, work.level);
  count_levels(layer, work.level, work.q, token);
  list_quads(job, work.level, work.word, work.entry, token);
}

// Bytes of four rows side by side: four vectors, each of four bytes of a lane of the rows.
template <class V, int N>
TARGET GRADED_INLINE void interleave(const uint8_t* const* row, int64_t at, typename V::Bytes* out) {
  for (int i = 0; i < 4; ++i) __builtin_prefetch(row[i + AHEAD] + at, 0, 2);
  const auto a = V::template lanes<N>(row[0] + at), b = V::template lanes<N>(row[1] + at);
  const auto c = V::template lanes<N>(row[2] + at), d = V::template lanes<N>(row[3] + at);
  const auto low_ab = V::low8(a, b), low_cd = V::low8(c, d), high_ab = V::high8(a, b), high_cd = V::high8(c, d);
  out[0] = V::low16(low_ab, low_cd), out[1] = V::high16(low_ab, low_cd);
  out[2] = V::low16(high_ab, high_cd), out[3] = V::high16(high_ab, high_cd);
}

// Adds quads [begin, end) of a token to the sums of one vector's part of a block of 32 G outputs.
template <class V, int G, int... W>
TARGET static void add_block(const GradedJob& job, const Pass& pass, const Token& token, int64_t begin, int64_t end,
                             int64_t block, int part) {
  using Bytes = typename V::Bytes;
  constexpr int COUNT = sizeof...(W), WIDTHS[] = {W...};
  int64_t at[COUNT];
  const int32_t* turn[COUNT][2];
  for (int p = 0; p < COUNT; ++p) {
    at[p] = job.plane_start[pass.first + p] + block * 16 * WIDTHS[p] +
            V::LANES * part % lanes_of(G, WIDTHS[p]) * 16;
    for (int s = 0; s < 2; ++s) turn[p][s] = pass.turn[G == 2][p][s] + 4 * V::LANES * part;
  }
  int32_t* to = job.sums + block * BLOCK + 4 * V::LANES * part;
  Bytes high[8], low[8];
  for (int a = 0; a < 8; ++a) high[a] = V::load(to + 4 * G * a), low[a] = V::load(to + 4 * G * a + job.sums_stride);
  const Bytes scale = V::scale_of(pass.scale);
  for (int64_t q = begin; q < end; ++q) {
    const uint8_t* const* row = token.row + 4 * q;
    const Bytes x_high = V::four_alike(token.high[q]), x_low = V::four_alike(token.low[q]);
    Bytes bytes[COUNT][4];
    int plane = 0;
    ((interleave<V, least(V::LANES, lanes_of(G, W))>(row, at[plane], bytes[plane]), ++plane), ...);
#pragma GCC unroll 8
    for (int a = 0; a < 8; ++a) {
      Bytes weights = V::field(bytes[0][a % 4], turn[0][a / 4], pass.mask[0]);
#pragma GCC unroll 4
      for (int p = 1; p < COUNT; ++p)
        weights = V::with_field(weights, bytes[p][a % 4], turn[p][a / 4], pass.mask[p]);
      high[a] = V::dot(high[a], weights, x_high, scale);
      low[a] = V::dot(low[a], weights, x_low, scale);
    }
  }
  for (int a = 0; a < 8; ++a) V::store(to + 4 * G * a, high[a]), V::store(to + 4 * G * a + job.sums_stride, low[a]);
}

// All quads of a token in a pass, over blocks [first, last).
template <int... W>
TARGET static void add_pass(const GradedJob& job, const Pass& pass, const Token& token, int64_t first, int64_t last) {
  const int64_t index = &pass - job.pass;
  for (int64_t q = token.begin[index]; q < token.begin[index + 1]; q += CHUNK) {
    const int64_t end = least(q + CHUNK, token.begin[index + 1]);
    for (int64_t b = first; b < last; ++b)
      if (b < job.whole_blocks)
        for (int part = 0; part < 4 / Whole::LANES; ++part) add_block<Whole, 4, W...>(job, pass, token, q, end, b, part);
      else
        for (int part = 0; part < 2 / Part::LANES; ++part) add_block<Part, 2, W...>(job, pass, token, q, end, b, part);
  }
}

// The one way from sums to the result, of outputs [begin, end).
TARGET static void finish(const GradedJob& job, const Token& token, int64_t begin, int64_t end, float* y) {
  const int32_t* high = job.sums;
  const int32_t* low = job.sums + job.sums_stride;
  const double constant = double(token.constant);
  for (int64_t n = begin; n < end; ++n) {  // in fp64 every one of these whole numbers is exact
    const float doubled = float(512.0 * high[n] + 2.0 * low[n] + constant);
    y[n] = doubled * (token.half_step * job.layer.scale[n]);
  }
  if (job.layer.bias)
    for (int64_t n = begin; n < end; ++n) y[n] += job.layer.bias[n];
}

static AddPass pass_for(int64_t first_width, int64_t second_width, int64_t third_width) {
  switch (100 * first_width + 10 * second_width + third_width) {
    case 100: return add_pass<1>;
    case 200: return add_pass<2>;
    case 400: return add_pass<4>;
    case 420: return add_pass<4, 2>;
    case 422: return add_pass<4, 2, 2>;
    case 440: return add_pass<4, 4>;
    default: return nullptr;
  }
}

constexpr GradedKernel KERNEL{WIDEST, prepare, pass_for, finish};
