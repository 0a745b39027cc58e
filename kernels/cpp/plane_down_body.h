// Included by plane_down.cpp inside the namespace of each instruction set, with TARGET set to its attribute.

// sum[c] += numbers[r] * rows[r][c] for ROWS rows; those at `ahead` are read next.
template <int ROWS>
TARGET static void add_rows(const int8_t* const* rows, const int8_t* const* ahead, const int16_t* numbers, int64_t end,
                            int32_t* sum) {
  for (int64_t top = 0; top < end; top += 64) {
    for (int r = 0; r < ROWS; ++r) __builtin_prefetch(ahead[r] + top);
    for (int64_t c = top; c < top + 64; c += PAIRED) {
      Sums all = sums(sum + c);
      for (int r = 0; r < ROWS; r += 2) add_pair(all, rows[r] + c, rows[r + 1] + c, numbers + r);
      put(sum + c, all);
    }
  }
}

// The listed neurons [begin, end), an even number of them, into `sum`.
TARGET static void add_listed(const PlaneLayer& layer, const Listed& list, int64_t begin, int64_t end, int32_t* sum) {
  memset(sum, 0, layer.columns * sizeof *sum);
  int64_t i = begin;
  for (; i + ROWS_AT_ONCE <= end; i += ROWS_AT_ONCE)
    add_rows<ROWS_AT_ONCE>(list.row + i, list.row + i + ROWS_AT_ONCE, list.number + i, layer.columns, sum);
  for (; i < end; i += 2) add_rows<2>(list.row + i, list.row + i + 2, list.number + i, layer.columns, sum);
}

// y = 2 (sum of the parts) step / 2 scale + bias, as graded linears have it.
TARGET static void finish(const PlaneLayer& layer, const int32_t* sum, int64_t parts, float half_step, float* y) {
  for (int64_t c = 0; c < layer.hidden; ++c) {
    int64_t all = 0;
    for (int64_t p = 0; p < parts; ++p) all += sum[p * layer.columns + place_of(c)];
    y[c] = float(2 * all) * (half_step * layer.down_scale[c]);
  }
  if (layer.down_bias)
    for (int64_t c = 0; c < layer.hidden; ++c) y[c] += layer.down_bias[c];
}
