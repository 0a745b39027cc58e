// Included by graded_linear.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// All sums are of integers, so that a row of the result depends on nothing but its own input and threshold.

#include "graded_prepare_body.h"

// Bytes of four rows side by side, of the lower or the upper eight of each lane: two vectors of four inputs each.
template <class V, int N, int UPPER>
TARGET GRADED_INLINE void interleave(const uint8_t* const* row, int64_t at, typename V::Bytes* out) {
  const auto a = V::template lanes<N>(row[0] + at), b = V::template lanes<N>(row[1] + at);
  const auto c = V::template lanes<N>(row[2] + at), d = V::template lanes<N>(row[3] + at);
  const auto ab = UPPER ? V::high8(a, b) : V::low8(a, b), cd = UPPER ? V::high8(c, d) : V::low8(c, d);
  out[0] = V::low16(ab, cd), out[1] = V::high16(ab, cd);
}

template <class V, int KIND>
TARGET GRADED_INLINE typename V::Bytes two_planes(typename V::Bytes first, typename V::Bytes second,
                                                  const Planes& planes) {
  constexpr int32_t MASK = int32_t(0xCCCCCCCC);
  if constexpr (KIND == 2) return V::field(first, planes.turn[0], MASK);
  return V::halves(first, planes.turn[0], second, planes.turn[1], MASK);
}

// Four bits of each weight, both halves of a byte: of one plane of 4 bits (KIND 4), of one of 2 with nothing below it
// (2), or of two of 2 (22).
template <class V, int G, int KIND, int UPPER>
TARGET GRADED_INLINE void half_bytes(const uint8_t* const* row, const Planes& planes, int first,
                                     typename V::Bytes* out) {
  constexpr int N = least(V::LANES, lanes_of(G, KIND == 4 ? 4 : 2));
  interleave<V, N, UPPER>(row, planes.at[first], out);
  if constexpr (KIND != 4) {
    typename V::Bytes other[2];
    if constexpr (KIND == 22) interleave<V, N, UPPER>(row, planes.at[first + 1], other);
    out[0] = two_planes<V, KIND>(out[0], other[0], planes), out[1] = two_planes<V, KIND>(out[1], other[1], planes);
  }
}

// The sums of a vector's part of a block, of outputs [sum][lane, 4]. They are named one by one, so that they stay in
// registers.
template <class V>
struct Sums {
  typename V::Bytes high[8], low[8];
};

template <class V, int... A>
TARGET GRADED_INLINE void load_sums(const int32_t* from, int64_t stride, int step, Sums<V>& sums, Indices<A...>) {
  ((sums.high[A] = V::load(from + step * A), sums.low[A] = V::load(from + step * A + stride)), ...);
}

template <class V, int... A>
TARGET GRADED_INLINE void store_sums(int32_t* to, int64_t stride, int step, const Sums<V>& sums, Indices<A...>) {
  ((V::store(to + step * A, sums.high[A]), V::store(to + step * A + stride, sums.low[A])), ...);
}

template <class V, bool BELOW, int HALF>
TARGET GRADED_INLINE void add_half(typename V::Bytes above, typename V::Bytes below, typename V::Bytes x_high,
                                   typename V::Bytes x_low, typename V::Bytes& high, typename V::Bytes& low) {
  const auto sixteen = V::scale_of(16), one = V::scale_of(1);
  if constexpr (BELOW && WHOLE) {
    const auto weights = V::template joined<HALF>(above, below);
    high = V::dot(high, weights, x_high, one), low = V::dot(low, weights, x_low, one);
  } else {
    const auto weights = V::template upper<HALF>(above);
    high = V::dot(high, weights, x_high, sixteen), low = V::dot(low, weights, x_low, sixteen);
    if constexpr (BELOW) {
      const auto more = V::template upper<HALF>(below);
      high = V::dot(high, more, x_high, one), low = V::dot(low, more, x_low, one);
    }
  }
}

template <class V, int G, int ABOVE, int BELOW, int UPPER>
TARGET GRADED_INLINE void add_quad(const uint8_t* const* row, const Planes& planes, typename V::Bytes x_high,
                                   typename V::Bytes x_low, Sums<V>& sums) {
  typename V::Bytes above[2], below[2];
  if constexpr (BELOW != 0) half_bytes<V, G, BELOW, UPPER>(row, planes, ABOVE == 22 ? 2 : 1, below);
  half_bytes<V, G, ABOVE, UPPER>(row, planes, 0, above);
  add_half<V, BELOW != 0, 0>(above[0], below[0], x_high, x_low, sums.high[2 * UPPER], sums.low[2 * UPPER]);
  add_half<V, BELOW != 0, 1>(above[0], below[0], x_high, x_low, sums.high[2 * UPPER + 4], sums.low[2 * UPPER + 4]);
  add_half<V, BELOW != 0, 0>(above[1], below[1], x_high, x_low, sums.high[2 * UPPER + 1], sums.low[2 * UPPER + 1]);
  add_half<V, BELOW != 0, 1>(above[1], below[1], x_high, x_low, sums.high[2 * UPPER + 5], sums.low[2 * UPPER + 5]);
}

template <class V, int SUM>
TARGET GRADED_INLINE void add_field(typename V::Bytes found, const Planes& planes, int half, typename V::Bytes x_high,
                                    typename V::Bytes x_low, Sums<V>& sums) {
  const auto weights = V::field(found, planes.turn[half], planes.mask), scale = V::scale_of(planes.scale);
  sums.high[SUM] = V::dot(sums.high[SUM], weights, x_high, scale);
  sums.low[SUM] = V::dot(sums.low[SUM], weights, x_low, scale);
}

// One plane by itself, wherever its bits belong.
template <class V, int G, int WIDTH, int UPPER>
TARGET GRADED_INLINE void add_plane(const uint8_t* const* row, const Planes& planes, typename V::Bytes x_high,
                                    typename V::Bytes x_low, Sums<V>& sums) {
  typename V::Bytes found[2];
  interleave<V, least(V::LANES, lanes_of(G, WIDTH)), UPPER>(row, planes.at[0], found);
  add_field<V, 2 * UPPER>(found[0], planes, 0, x_high, x_low, sums);
  add_field<V, 2 * UPPER + 1>(found[1], planes, 0, x_high, x_low, sums);
  add_field<V, 2 * UPPER + 4>(found[0], planes, 1, x_high, x_low, sums);
  add_field<V, 2 * UPPER + 5>(found[1], planes, 1, x_high, x_low, sums);
}

// The sums of quads [begin, end) in the lower eight bytes of each lane, in the upper, or in both.
template <class V, int G, int ABOVE, int BELOW, bool LOWER, bool UPPER, class Which>
TARGET GRADED_INLINE void add_quads(const Token& token, const Planes& planes, int64_t begin, int64_t end, int32_t* to,
                                    int64_t stride, Which which) {
  Sums<V> sums;
  load_sums<V>(to, stride, 4 * G, sums, which);
  for (int64_t q = begin; q < end; ++q) {
    const uint8_t* const* row = token.own.row + 4 * q;
    const auto x_high = V::four_alike(token.high[q]), x_low = V::four_alike(token.low[q]);
    if constexpr (LOWER)
      for (int p = 0; p < planes_of(ABOVE) + planes_of(BELOW); ++p)
        for (int i = 0; i < 4; ++i) __builtin_prefetch(row[i + AHEAD_ROWS] + planes.at[p]);
    if constexpr (LOWER && BELOW < 0) add_plane<V, G, ABOVE, 0>(row, planes, x_high, x_low, sums);
    if constexpr (UPPER && BELOW < 0) add_plane<V, G, ABOVE, 1>(row, planes, x_high, x_low, sums);
    if constexpr (LOWER && BELOW >= 0) add_quad<V, G, ABOVE, BELOW, 0>(row, planes, x_high, x_low, sums);
    if constexpr (UPPER && BELOW >= 0) add_quad<V, G, ABOVE, BELOW, 1>(row, planes, x_high, x_low, sums);
  }
  store_sums<V>(to, stride, 4 * G, sums, which);
}

template <class V, int G>
TARGET static Planes planes_at(const GradedJob& job, const Pass& pass, int64_t block, int part) {
  Planes planes;
  for (int p = 0; p < pass.count; ++p) {
    const int64_t width = job.layer.widths[pass.first + p];
    planes.at[p] = job.plane_start[pass.first + p] + (block * width + V::LANES * part % lanes_of(G, width)) * 16;
  }
  for (int i = 0; i < 2; ++i) planes.turn[i] = pass.turn[G == 2][i] + 4 * V::LANES * part;
  planes.scale = pass.scale, planes.mask = pass.mask;
  return planes;
}

// Adds quads [begin, end) of a token to the sums of one vector's part of a block of 32 G outputs. ABOVE is a kind of
// `half_bytes`, as is BELOW unless 0, or the width of a plane by itself where BELOW is -1.
template <class V, int G, int ABOVE, int BELOW>
TARGET static void add_block(const GradedJob& job, const Pass& pass, const Token& token, int64_t begin, int64_t end,
                             int64_t block, int part) {
  const Planes planes = planes_at<V, G>(job, pass, block, part);
  int32_t* to = job.sums + block * BLOCK + 4 * V::LANES * part;
  const int64_t stride = job.stride;
  if constexpr (REGISTERS == 32) {
    const Indices<0, 1, 2, 3, 4, 5, 6, 7> all;
    add_quads<V, G, ABOVE, BELOW, true, true>(token, planes, begin, end, to, stride, all);
  } else {
    const Indices<0, 1, 4, 5> lower;
    const Indices<2, 3, 6, 7> upper;
    add_quads<V, G, ABOVE, BELOW, true, false>(token, planes, begin, end, to, stride, lower);
    add_quads<V, G, ABOVE, BELOW, false, true>(token, planes, begin, end, to, stride, upper);
  }
}

// All quads of a token in a pass, over blocks [first, last).
template <int ABOVE, int BELOW>
TARGET static void add_pass(const GradedJob& job, const Pass& pass, const Token& token, int64_t first, int64_t last) {
  const int64_t index = &pass - job.pass;
  for (int64_t q = token.own.begin[index]; q < token.own.begin[index + 1]; q += CHUNK) {
    const int64_t end = least(q + CHUNK, token.own.begin[index + 1]);
    for (int64_t b = first; b < last; ++b)
      if (b < job.whole_blocks)
        for (int part = 0; part < 4 / Whole::LANES; ++part)
          add_block<Whole, 4, ABOVE, BELOW>(job, pass, token, q, end, b, part);
      else
        for (int part = 0; part < 2 / Part::LANES; ++part)
          add_block<Part, 2, ABOVE, BELOW>(job, pass, token, q, end, b, part);
  }
}

// The one way from sums to the result, of outputs [begin, end).
TARGET static void finish(const GradedJob& job, const Token& token, const int32_t* high, int64_t begin, int64_t end,
                          float* y) {
  const int32_t* low = high + job.stride;
  const double constant = double(token.constant);
  for (int64_t n = begin; n < end; ++n) {  // in fp64 every one of these whole numbers is exact
    const float doubled = float(512.0 * high[n] + 2.0 * low[n] + constant);
    y[n] = doubled * (token.half_step * job.layer.scale[n]);
  }
  if (job.layer.bias)
    for (int64_t n = begin; n < end; ++n) y[n] += job.layer.bias[n];
}

static AddPass pass_for(int above, int below) {
  switch (100 * above + below) {
    case 99: return add_pass<1, -1>;
    case 199: return add_pass<2, -1>;
    case 399: return add_pass<4, -1>;
    case 200: return add_pass<2, 0>;
    case 2200: return add_pass<22, 0>;
    case 2202: return add_pass<22, 2>;
    case 2204: return add_pass<22, 4>;
    case 2222: return add_pass<22, 22>;
    case 400: return add_pass<4, 0>;
    case 402: return add_pass<4, 2>;
    case 404: return add_pass<4, 4>;
    case 422: return add_pass<4, 22>;
    default: return nullptr;
  }
}
