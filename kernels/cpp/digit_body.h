// Included by digit_linear.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// All sums are of integers, so that a row of the result depends on nothing but its own input.

// Both digits of q = round(x / step), half to even, in words of four; their sum; half of the step, no number for a row
// that is none.
TARGET static void take_digits(const float* x, int64_t inputs, Digits& row) {
  int32_t most = 0;  // magnitudes of floats are ordered as their bits
  for (int64_t k = 0; k < inputs; ++k) {
    int32_t bits;
    memcpy(&bits, x + k, sizeof bits);
    bits &= 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  float largest;
  memcpy(&largest, &most, sizeof largest);
  const bool sound = most < 0x7F800000;
  const float step = largest / 32639.0f > LEAST_STEP ? largest / 32639.0f : LEAST_STEP;
  int8_t* high = reinterpret_cast<int8_t*>(row.high);
  int8_t* low = reinterpret_cast<int8_t*>(row.low);
  int64_t sum = 0;
  for (int64_t first = 0; first < inputs; first += RUN) {
    const int64_t count = inputs - first < RUN ? inputs - first : RUN;
    int32_t q[RUN], total = 0;
    for (int64_t k = 0; k < count; ++k) {
      const float shifted = x[first + k] / step + 12582912.0f;  // 1.5 * 2^23 leaves the rounded number in the low bits
      int32_t bits;
      memcpy(&bits, &shifted, sizeof bits);
      q[k] = bits - 0x4B400000;
    }
    for (int64_t k = 0; k < count; ++k) total += q[k];
    for (int64_t k = 0; k < count; ++k) high[first + k] = int8_t((q[k] + 128) >> 8);
    for (int64_t k = 0; k < count; ++k) low[first + k] = int8_t(q[k]);  // what the high digit leaves, modulo 256
    sum += total;
  }
  for (int64_t k = inputs; k % 4; ++k) high[k] = low[k] = 0;
  row.sum = sum;
  row.half_step = sound ? step * 0.5f : __builtin_nanf("");
}

// The one way from sums to the result, of one block for one row.
TARGET static void finish(const DigitLayer& layer, const Digits& row, const int32_t* sums, int64_t block, float* y) {
  const int64_t first = block * 16, count = layer.outputs - first < 16 ? layer.outputs - first : 16;
  const double constant = -256.0 * double(row.sum);
  float found[16];
  for (int i = 0; i < 16; ++i) found[i] = float(512.0 * sums[i] + 2.0 * sums[16 + i] + constant);  // exact in fp64
  for (int64_t i = 0; i < count; ++i) y[first + i] = found[i] * (row.half_step * layer.scale[first + i]);
  if (layer.bias)
    for (int64_t i = 0; i < count; ++i) y[first + i] += layer.bias[first + i];
}

// BLOCKS blocks by TOKENS rows, AHEAD quads with sums of their own, so that no sum waits for the one before.
template <int BLOCKS, int TOKENS, int AHEAD>
TARGET static void tile(const DigitJob& job, int64_t block, int64_t token) {
  const int64_t quads = job.quads, stride = 64 * quads;
  const uint8_t* weights = job.layer.tiles + block * stride;
  Pair sums[AHEAD][BLOCKS][TOKENS];
  for (auto& some : sums)
    for (auto& row : some)
      for (auto& sum : row) sum = no_sums();
  int64_t q = 0;
  for (; q + AHEAD <= quads; q += AHEAD)
    for (int a = 0; a < AHEAD; ++a)
      for (int b = 0; b < BLOCKS; ++b)
        for (int t = 0; t < TOKENS; ++t) {
          const Digits& row = job.rows[token + t];
          add_quad(sums[a][b][t], weights + b * stride + 64 * (q + a), row.high[q + a], row.low[q + a]);
        }
  for (; q < quads; ++q)
    for (int b = 0; b < BLOCKS; ++b)
      for (int t = 0; t < TOKENS; ++t)
        add_quad(sums[0][b][t], weights + b * stride + 64 * q, job.rows[token + t].high[q], job.rows[token + t].low[q]);
  for (int b = 0; b < BLOCKS; ++b)
    for (int t = 0; t < TOKENS; ++t) {
      Pair sum = sums[0][b][t];
      for (int a = 1; a < AHEAD; ++a) sum = together(sum, sums[a][b][t]);
      alignas(64) int32_t found[32];
      put_pair(found, sum);
      finish(job.layer, job.rows[token + t], found, block + b, job.y + (token + t) * job.layer.outputs);
    }
}

template <int BLOCKS>
TARGET static void some_rows(const DigitJob& job, int64_t block, int64_t token, int64_t count) {
  if constexpr (MOST_TOKENS > 1)
    switch (count) {
      case 6: return tile<BLOCKS, 6, 1>(job, block, token);
      case 5: return tile<BLOCKS, 5, 1>(job, block, token);
      case 4: return tile<BLOCKS, 4, 1>(job, block, token);
      case 3: return tile<BLOCKS, 3, 2>(job, block, token);
      case 2: return tile<BLOCKS, 2, 2>(job, block, token);
      default: return tile<BLOCKS, 1, 4>(job, block, token);
    }
  tile<BLOCKS, 1, 1>(job, block, token);
}

// Blocks [begin, end) for rows [first, last).
TARGET static void blocks(const DigitJob& job, int64_t begin, int64_t end, int64_t first, int64_t last) {
  for (int64_t block = begin; block < end;) {
    const bool two = MOST_BLOCKS > 1 && last - first > 1 && block + 2 <= end;
    for (int64_t token = first; token < last; token += MOST_TOKENS) {
      const int64_t count = last - token < MOST_TOKENS ? last - token : MOST_TOKENS;
      two ? some_rows<MOST_BLOCKS>(job, block, token, count) : some_rows<1>(job, block, token, count);
    }
    block += two ? 2 : 1;
  }
}
