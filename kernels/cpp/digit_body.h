// Included by digit_linear.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// All sums are of integers, so that a row of the result depends on nothing but its own input.

// Two words of a quad: four numbers as they are, or their high digits and their low ones.
TARGET static inline void put_quad(const int32_t* q, int32_t* words) {
  if constexpr (WHOLE) {
    const int16_t narrow[4] = {int16_t(q[0]), int16_t(q[1]), int16_t(q[2]), int16_t(q[3])};
    memcpy(words, narrow, sizeof narrow);
  } else {
    int8_t digits[8];
    for (int i = 0; i < 4; ++i) digits[i] = int8_t((q[i] + 128) >> 8), digits[4 + i] = int8_t(q[i]);
    memcpy(words, digits, sizeof digits);
  }
}

// q = round(x / step), half to even, in two digits or whole; `words` are two of the first quad, `stride` from those of
// one quad to the next.
TARGET static void take_digits(const float* x, int64_t inputs, int32_t* words, int64_t stride, Row& row) {
  float step;
  row.half_step = find_step(x, inputs, step) ? step * 0.5f : __builtin_nanf("");
  row.sum = 0;
  for (int64_t first = 0; first < inputs; first += RUN) {
    const int64_t count = inputs - first < RUN ? inputs - first : RUN;
    int32_t q[RUN];
    uint32_t total = 0;  // which may wrap in a row that is not finite
    for (int64_t k = 0; k < count; ++k) q[k] = in_steps(x[first + k], step);
    for (int64_t k = 0; k < count; ++k) total += uint32_t(q[k]);
    for (int64_t k = count; k % 4; ++k) q[k] = 0;
    for (int64_t k = 0; k < count; k += 4, words += stride) put_quad(q + k, words);
    row.sum += int32_t(total);
  }
}

// q = round(x / step) in one digit, step = max|x| / 127, as kernels/int8_dynamic_linear.py rounds; one word of a quad, or
// two where numbers are whole.
TARGET static void take_digit(const float* x, int64_t inputs, int32_t* words, int64_t stride, Row& row) {
  float largest;
  const bool sound = find_largest(x, inputs, largest);
  const float step = largest / 127.0f, divisor = step > 0 ? step : 1.0f;
  row.half_step = sound ? step * 0.5f : __builtin_nanf("");
  row.sum = 0;
  for (int64_t k = 0; k < inputs; k += 4, words += stride) {
    int8_t q[4] = {};
    for (int64_t i = 0; i < 4 && k + i < inputs; ++i) q[i] = int8_t(in_steps(x[k + i], divisor));
    row.sum += q[0] + q[1] + q[2] + q[3];
    if constexpr (WHOLE) {
      const int32_t wide[4] = {q[0], q[1], q[2], q[3]};
      put_quad(wide, words);
    } else {
      memcpy(words, q, sizeof q);
    }
  }
}

// The one way from sums to the result: outputs [first, first + WIDTH) for one row.
TARGET static void scaled(const DigitJob& job, int64_t row, const double* doubled, int64_t first) {
  const DigitLayer& layer = job.layer;
  const float half_step = job.rows[row].half_step;
  float found[WIDTH];
  for (int i = 0; i < WIDTH; ++i) found[i] = float(doubled[i]);
  for (int i = 0; i < WIDTH; ++i) found[i] *= half_step * layer.scale[first + i];
  if (layer.bias)
    for (int i = 0; i < WIDTH; ++i) found[i] += layer.bias[first + i];
  float* y = job.y + row * layer.outputs + first;
  const int64_t left = layer.outputs - first;
  if (left >= WIDTH)
    memcpy(y, found, sizeof found);
  else if (left > 0)
    memcpy(y, found, left * sizeof *found);
}

// The sums of two digits are of one row, or of two; doubled, they are exact in fp64.
TARGET static void finish(const DigitJob& job, int64_t unit, const int32_t* sums, int64_t first) {
  double doubled[WIDTH];
  if (WHOLE || job.layer.digits == 2) {
    const double constant = -256.0 * double(job.rows[unit].sum);
    for (int i = 0; i < WIDTH; ++i) doubled[i] = 512.0 * sums[i] + 2.0 * sums[WIDTH + i] + constant;
    return scaled(job, unit, doubled, first);
  }
  for (int64_t row = 2 * unit; row < 2 * unit + 2 && row < job.tokens; ++row, sums += WIDTH) {
    const double constant = -256.0 * double(job.rows[row].sum);
    for (int i = 0; i < WIDTH; ++i) doubled[i] = 2.0 * sums[i] + constant;
    scaled(job, row, doubled, first);
  }
}

// One tile for the ROWS rows of a group.
template <int ROWS>
TARGET static void tile(const DigitJob& job, const Group& group, int64_t block, int part) {
  const uint8_t* weights = job.layer.tiles + (block * job.quads * BLOCK + part * WIDTH) * 4;
  const int32_t* words = group.words;
  Sums<ROWS> sums, others;
  alignas(64) int32_t found[ROWS][2 * WIDTH];
  if constexpr (WHOLE) memset(found, 0, sizeof found);
  for (int64_t q = 0; q < job.quads; sums.put(found[0])) {
    sums.clear();
    const int64_t end = job.quads - q < RUN_QUADS ? job.quads : q + RUN_QUADS;
    if constexpr (ROWS <= AHEAD_ROWS) {
      others.clear();
      for (; q + 2 <= end; q += 2, weights += 8 * BLOCK, words += 4 * ROWS) {
        for (int64_t line = 0; line < 8 * BLOCK; line += 64) __builtin_prefetch(weights + PREFETCH_BYTES + line);
        sums.add(weights, words), others.add(weights + 4 * BLOCK, words + 2 * ROWS);
      }
      sums.join(others);
    }
    for (; q < end; ++q, weights += 4 * BLOCK, words += 2 * ROWS) sums.add(weights, words);
  }
  for (int r = 0; r < ROWS; ++r) finish(job, group.first + r, found[r], block * BLOCK + part * WIDTH);
}

template <int ROWS>
TARGET static void rows_of(const DigitJob& job, const Group& group, int64_t block, int part) {
  if (group.count == ROWS) return tile<ROWS>(job, group, block, part);
  if constexpr (ROWS > 1) rows_of<ROWS - 1>(job, group, block, part);
}

// Blocks [begin, end) for groups [first, last).
TARGET static void blocks(const DigitJob& job, int64_t begin, int64_t end, int64_t first, int64_t last) {
  for (int64_t block = begin; block < end; ++block)
    for (int64_t g = first; g < last; ++g)
      for (int part = 0; part < BLOCK / WIDTH; ++part) rows_of<MOST_TOKENS>(job, job.groups[g], block, part);
}
