// Included by rivals.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// Weights are unsigned bytes, of four inputs for each of neighbouring outputs, vector after vector; digits are
// [quads, ROWS, 2]: the four bytes of high digits, then those of low ones.

using V = Whole;
using Bytes = V::Bytes;
constexpr int LANE_OUTPUTS = 4 * V::LANES;  // of a vector

// Bytes as `dot` takes them: whole, or the upper and the lower half.
template <int N>
struct Weights {
  Bytes part[N][2];
};

template <int N>
TARGET GRADED_INLINE void split(const Bytes* whole, Weights<N>& to) {
  for (int v = 0; v < N; ++v) {
    to.part[v][0] = WHOLE ? whole[v] : V::upper<1>(whole[v]);
    if (!WHOLE) to.part[v][1] = V::upper<0>(whole[v]);
  }
}

TARGET GRADED_INLINE void add_dot(Bytes& sum, const Bytes* part, Bytes x) {
  sum = V::dot(sum, part[0], x, V::scale_of(16));
  if (!WHOLE) sum = V::dot(sum, part[1], x, V::scale_of(1));
}

// A step over four inputs of all rows: sum s is of digits s / N and of vector s % N. Sums are named one by one, so that
// they stay in registers.
template <int N, int... S>
TARGET GRADED_INLINE void add_dots(const Weights<N>& weights, const int32_t* digits, Bytes* sum, Indices<S...>) {
  (add_dot(sum[S], weights.part[S % N], V::four_alike(digits[S / N])), ...);
}

template <int... S>
TARGET GRADED_INLINE void load_all(const int32_t* y, Bytes* sum, Indices<S...>) {
  ((sum[S] = V::load(y + S * LANE_OUTPUTS)), ...);
}

template <int... S>
TARGET GRADED_INLINE void store_all(int32_t* y, const Bytes* sum, Indices<S...>) {
  (V::store(y + S * LANE_OUTPUTS, sum[S]), ...);
}

// A loop of no use but to be timed: every weight of N vectors of outputs, for one row.
template <int N>
TARGET COUNTED void timed(const uint8_t* w, const int32_t* digits, int64_t quads, int32_t* y) {
  const std::make_integer_sequence<int, 2 * N> all{};
  Bytes sum[2 * N];
  load_all(y, sum, all);
  for (int64_t q = 0; q < quads; ++q, w += N * 16 * V::LANES, digits += 2) {
    Bytes whole[N];
    for (int v = 0; v < N; ++v) whole[v] = V::lanes<V::LANES>(w + v * 16 * V::LANES);
    Weights<N> weights;
    split<N>(whole, weights);
    add_dots<N>(weights, digits, sum, all);
  }
  store_all(y, sum, all);
}

// Four rows of inputs side by side: bytes of four inputs of 16 V::LANES outputs.
TARGET GRADED_INLINE void interleaved(const uint8_t* const* row, int64_t at, Bytes* out) {
  const Bytes a = V::lanes<V::LANES>(row[0] + at), b = V::lanes<V::LANES>(row[1] + at);
  const Bytes c = V::lanes<V::LANES>(row[2] + at), d = V::lanes<V::LANES>(row[3] + at);
  const Bytes ab = V::low8(a, b), cd = V::low8(c, d), AB = V::high8(a, b), CD = V::high8(c, d);
  out[0] = V::low16(ab, cd), out[1] = V::high16(ab, cd), out[2] = V::low16(AB, CD), out[3] = V::high16(AB, CD);
}

// Inputs that are read whole, for one row of activations.
TARGET COUNTED void inputs(const uint8_t* const* row, int64_t at, const int32_t* digits, int64_t quads, int32_t* y) {
  const std::make_integer_sequence<int, 8> all{};
  Bytes sum[8];
  load_all(y, sum, all);
  for (int64_t q = 0; q < quads; ++q, row += 4, digits += 2) {
    for (int i = 0; i < 4; ++i) __builtin_prefetch(row[i + 16] + at);
    Bytes whole[4];
    interleaved(row, at, whole);
    Weights<4> weights;
    split<4>(whole, weights);
    add_dots<4>(weights, digits, sum, all);
  }
  store_all(y, sum, all);
}

// The same for several rows: laid out once as the linear of two digits reads weights.
TARGET COUNTED void fill_inputs(const uint8_t* const* row, int64_t at, int64_t quads, int32_t* tile) {
  for (int64_t q = 0; q < quads; ++q, row += 4, tile += 4 * LANE_OUTPUTS) {
    for (int i = 0; i < 4; ++i) __builtin_prefetch(row[i + 16] + at);
    Bytes whole[4];
    interleaved(row, at, whole);
    for (int v = 0; v < 4; ++v) V::store(tile + v * LANE_OUTPUTS, whole[v]);
  }
}

// One half of a group's bytes, or both, for all rows: sum s is of digits s / H and of half s % H.
template <int ROWS, int H, int... S>
TARGET GRADED_INLINE void add_group(const uint8_t* w, const uint16_t* scale, const int32_t* digits, int first, float* y,
                                    Indices<S...> all) {
  Bytes sum[sizeof...(S)];
  ((sum[S] = V::scale_of(0)), ...);
  for (int q = 0; q < 8; ++q, digits += 2 * ROWS) {
    const Bytes both = V::lanes<V::LANES>(w + q * 16 * V::LANES);
    const Bytes nibbles[2] = {H == 1 && first ? V::upper<1>(both) : V::upper<0>(both), V::upper<1>(both)};
    ((sum[S] = V::dot(sum[S], nibbles[S % H], V::four_alike(digits[S / H]), V::scale_of(1))), ...);
  }
  for (int h = 0; h < H; ++h) {
    const auto size = widened_scale(scale + (first + h) * LANE_OUTPUTS);
    for (int r = 0; r < ROWS; ++r)
      add_scaled(y + (2 * r + first + h) * LANE_OUTPUTS, sum[2 * r * H + h], sum[(2 * r + 1) * H + h], size);
  }
}

// Groups of 32 inputs of nibbles with a bf16 scale: bytes hold an output and its neighbour LANE_OUTPUTS further.
template <int ROWS>
TARGET COUNTED void int4(const uint8_t* w, const uint16_t* scale, const int32_t* digits, int64_t groups, float* y) {
  constexpr int H = 4 * ROWS > REGISTERS / 2 ? 1 : 2;  // halves whose sums fit in registers
  const std::make_integer_sequence<int, 2 * ROWS * H> all{};
  for (int64_t g = 0; g < groups; ++g, w += 8 * 16 * V::LANES, digits += 16 * ROWS, scale += 2 * LANE_OUTPUTS)
    for (int first = 0; first < 2; first += H) add_group<ROWS, H>(w, scale, digits, first, y, all);
}

template void timed<WHOLE ? 4 : 2>(const uint8_t*, const int32_t*, int64_t, int32_t*);
template void int4<1>(const uint8_t*, const uint16_t*, const int32_t*, int64_t, float*);
template void int4<4>(const uint8_t*, const uint16_t*, const int32_t*, int64_t, float*);
