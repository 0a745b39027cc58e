// Included by digit_linear.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// All sums are of integers, so that a row of the result depends on nothing but its own input.

// q = round(x / step), half to even, as words, `stride` from those of one quad to the next.
TARGET static void take_whole(const float* x, int64_t inputs, int32_t* words, int64_t stride, Row& row) {
  float step;
  row.half_step = find_step(x, inputs, step) ? step * 0.5f : __builtin_nanf("");
  row.sum = 0;
  for (int64_t first = 0; first < inputs; first += RUN, words += RUN / 4 * stride) {
    const int64_t count = inputs - first < RUN ? inputs - first : RUN;
    int32_t q[RUN];
    uint32_t total = 0;  // which may wrap in a row that is not finite
    for (int64_t k = 0; k < count; ++k) q[k] = in_steps(x[first + k], step);
    for (int64_t k = 0; k < count; ++k) total += uint32_t(q[k]);
    for (int64_t k = count; k % 4; ++k) q[k] = 0;
    put_words(q, (count + 3) / 4, words, stride);
    row.sum += int32_t(total);
  }
}

// q = round(x / step) in one digit, step = max|x| / 127, as kernels/int8_dynamic_linear.py rounds. Where sums are of
// digits, a row is one of two that share the words.
TARGET static void take_digit(const float* x, int64_t inputs, int32_t* words, int64_t stride, Row& row) {
  float largest;
  const bool sound = find_largest(x, inputs, largest);
  const float step = largest / 127.0f, divisor = step > 0 ? step : 1.0f;
  row.half_step = sound ? step * 0.5f : __builtin_nanf("");
  row.sum = 0;
  for (int64_t first = 0; first < inputs; first += RUN, words += RUN / 4 * stride) {
    const int64_t count = inputs - first < RUN ? inputs - first : RUN, quads = (count + 3) / 4;
    int32_t q[RUN], total = 0;
    for (int64_t k = 0; k < count; ++k) q[k] = int8_t(in_steps(x[first + k], divisor));
    for (int64_t k = 0; k < count; ++k) total += q[k];
    for (int64_t k = count; k % 4; ++k) q[k] = 0;
    row.sum += total;
    if constexpr (DigitSums<1>::TOTALS == 1) {
      put_words(q, quads, words, stride);
    } else {
      int8_t digits[RUN];
      for (int64_t k = 0; k < 4 * quads; ++k) digits[k] = int8_t(q[k]);
      for (int64_t i = 0; i < quads; ++i) memcpy(words + i * stride, digits + 4 * i, 4);
    }
  }
}

// The one way from sums to the result: outputs [first, first + WIDTH) for one row.
template <int WIDTH>
TARGET static void scaled(const DigitJob& job, int64_t row, const double* doubled, int64_t first) {
  const DigitLayer& layer = job.layer;
  const float half_step = job.rows[row].half_step;
  const double constant = -256.0 * double(job.rows[row].sum);
  float found[WIDTH];
  for (int i = 0; i < WIDTH; ++i) found[i] = float(doubled[i] + constant);
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

// Twice the sums of a unit, [TOTALS, WIDTH]: of one row, or of two that have a digit each.
template <int TOTALS, int WIDTH>
TARGET static void finish(const DigitJob& job, int64_t unit, const double* sums, int64_t first) {
  if constexpr (TOTALS == 1) return scaled<WIDTH>(job, unit, sums, first);
  if (job.layer.digits == 2) {
    double doubled[WIDTH];
    for (int i = 0; i < WIDTH; ++i) doubled[i] = 256.0 * sums[i] + sums[WIDTH + i];
    return scaled<WIDTH>(job, unit, doubled, first);
  }
  for (int64_t row = 2 * unit; row < 2 * unit + 2 && row < job.tokens; ++row, sums += WIDTH)
    scaled<WIDTH>(job, row, sums, first);
}

// One tile for the ROWS rows of a group.
template <int ROWS>
TARGET static void tile(const DigitJob& job, const Group& group, int64_t block, int part) {
  using Sums = DigitSums<ROWS>;
  const int64_t first = block * BLOCK + part * Sums::WIDTH;
  const uint8_t* weights = job.layer.tiles + (block * job.quads * BLOCK + part * Sums::WIDTH) * 4;
  constexpr int EACH = Sums::TOTALS * Sums::WIDTH;
  double found[ROWS * EACH], more[ROWS * EACH];  // the first part is the sum itself: clearing 3 kB cost a tenth
  for (int64_t q = 0; q < job.quads; q += MOST_QUADS) {
    const int64_t quads = job.quads - q < MOST_QUADS ? job.quads - q : MOST_QUADS;
    multiply_quads<ROWS, false, (ROWS < 3)>(weights + q * LINE_BYTES, group.words + 2 * q * ROWS, nullptr, quads,
                                            q ? more : found);
    for (int i = 0; q && i < ROWS * EACH; ++i) found[i] += more[i];
  }
  for (int r = 0; r < ROWS; ++r) finish<Sums::TOTALS, Sums::WIDTH>(job, group.first + r, found + r * EACH, first);
}

template <int ROWS>
TARGET static void tiles(const DigitJob& job, const Group& group, int64_t block) {
  for (int part = 0; part < BLOCK / DigitSums<ROWS>::WIDTH; ++part) tile<ROWS>(job, group, block, part);
}

TARGET static void rows_of(const DigitJob& job, const Group& group, int64_t block) {
  if constexpr (MOST_ROWS > 2) switch (group.count) {
      case 6: return tiles<6>(job, group, block);
      case 5: return tiles<5>(job, group, block);
      case 4: return tiles<4>(job, group, block);
      case 3: return tiles<3>(job, group, block);
    }
  if constexpr (MOST_ROWS > 1)
    if (group.count == 2) return tiles<2>(job, group, block);
  tiles<1>(job, group, block);
}

// Blocks [begin, end) for groups [first, last).
TARGET static void blocks(const DigitJob& job, int64_t begin, int64_t end, int64_t first, int64_t last) {
  for (int64_t block = begin; block < end; ++block)
    for (int64_t g = first; g < last; ++g) rows_of(job, job.groups[g], block);
}
