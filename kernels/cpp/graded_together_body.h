// Included by graded_linear.cpp after graded_body.h, where there are registers enough: several tokens over one list.
//
// Rows that any of the tokens reads are interleaved once, as far as the one that reads most of them asks. Each token
// then masks off the bits that it does not read: the same sums as by itself.

// The level that any token reads, and each token's digits and mask of every input in one word.
TARGET static void join_levels(const GradedLayer& layer, const int32_t* level, const int32_t* q, int32_t* most,
                               uint32_t* word) {
  uint32_t masks[MAX_LEVELS + 1] = {};
  for (int64_t l = 0, bits = 0; l < layer.levels; ++l) {
    bits += layer.widths[l];
    masks[l + 1] = (0xFFu << (8 - bits) & 0xFF) << 16;
  }
  for (int64_t k = 0; k < layer.inputs; ++k) {
    const int32_t high = (q[k] + 128) >> 8, low = q[k] - 256 * high;
    most[k] = level[k] > most[k] ? level[k] : most[k];
    word[k] = (uint32_t(high) & 255) | (uint32_t(low) & 255) << 8 | masks[level[k]];
  }
}

// Digits and masks of one token for the inputs that are listed; what fills up four has none.
TARGET static void fill_crowd(const uint32_t* entry, const uint32_t* word, int64_t quads, int64_t token, Crowd& crowd) {
  const int64_t step = 4 * MAX_TOKENS;
  uint8_t* high = reinterpret_cast<uint8_t*>(crowd.high) + 4 * token;
  uint8_t* low = reinterpret_cast<uint8_t*>(crowd.low) + 4 * token;
  uint8_t* mask = reinterpret_cast<uint8_t*>(crowd.mask) + 4 * token;
  for (int64_t q = 0; q < quads; ++q)
    for (int64_t i = 0; i < 4; ++i) {
      const uint32_t each = entry[4 * q + i], found = each >> 16 ? word[each & 0xFFFF] : 0;
      high[q * step + i] = uint8_t(found), low[q * step + i] = uint8_t(found >> 8);
      mask[q * step + i] = uint8_t(found >> 16);
    }
}

TARGET static void prepare_crowd(const GradedJob& job, const float* x, const float* thresholds, const Work& work,
                                 int64_t tokens, Crowd& crowd) {
  const int64_t inputs = job.layer.inputs;
  memset(crowd.most, 0, inputs * sizeof *crowd.most);
  for (int64_t t = 0; t < tokens; ++t) {
    Token& token = crowd.token[t];
    if (measure_token(job, x + t * inputs, thresholds[t], work, token))
      join_levels(job.layer, work.level, work.q, crowd.most, crowd.word + t * inputs);
    else
      memset(crowd.word + t * inputs, 0, inputs * sizeof *crowd.word);
  }
  for (int64_t k = 0; k < inputs; ++k) work.word[k] = uint32_t(k) | 1u << 16;
  list_rows(job, crowd.most, work.word, work.entry, crowd.all);
  for (int64_t t = 0; t < tokens; ++t)
    fill_crowd(work.entry, crowd.word + t * inputs, crowd.all.begin[job.num_passes], t, crowd);
}

template <class V, bool BELOW, int HALF, int SUM>
TARGET GRADED_INLINE void put_half(typename V::Bytes above, typename V::Bytes below, int32_t* tile) {
  if constexpr (BELOW)
    V::store(tile + SUM * 4 * V::LANES, V::template joined<HALF>(above, below));
  else
    V::store(tile + SUM * 4 * V::LANES, V::template upper<HALF>(above));
}

template <class V, int G, int ABOVE, int BELOW, int UPPER>
TARGET GRADED_INLINE void put_quad(const uint8_t* const* row, const Planes& planes, int32_t* tile) {
  typename V::Bytes above[2], below[2];
  if constexpr (BELOW != 0) half_bytes<V, G, BELOW, UPPER>(row, planes, ABOVE == 22 ? 2 : 1, below);
  half_bytes<V, G, ABOVE, UPPER>(row, planes, 0, above);
  put_half<V, BELOW != 0, 0, 2 * UPPER>(above[0], below[0], tile);
  put_half<V, BELOW != 0, 1, 2 * UPPER + 4>(above[0], below[0], tile);
  put_half<V, BELOW != 0, 0, 2 * UPPER + 1>(above[1], below[1], tile);
  put_half<V, BELOW != 0, 1, 2 * UPPER + 5>(above[1], below[1], tile);
}

// Bytes of four inputs, interleaved, of quads [begin, end) over a block: what all tokens multiply.
template <class V, int G, int ABOVE, int BELOW>
TARGET static void fill_tile(const GradedJob& job, const Pass& pass, const Token& all, int64_t begin, int64_t end,
                             int64_t block, int32_t* tile) {
  const Planes planes = planes_at<V, G>(job, pass, block, 0);
  for (int64_t q = begin; q < end; ++q, tile += 32 * V::LANES) {
    const uint8_t* const* row = all.row + 4 * q;
    for (int p = 0; p < planes_of(ABOVE) + planes_of(BELOW); ++p)  // of the next block
      for (int i = 0; i < 4; ++i)
        __builtin_prefetch(row[i] + planes.at[p] + 16 * job.layer.widths[pass.first + p]);
    put_quad<V, G, ABOVE, BELOW, 0>(row, planes, tile);
    put_quad<V, G, ABOVE, BELOW, 1>(row, planes, tile);
  }
}

template <class V, int... T>
TARGET GRADED_INLINE void add_tile_sums(const int32_t* tile, const int32_t* high, const int32_t* low,
                                        const int32_t* mask, int64_t quads, int32_t* to, int64_t stride,
                                        Indices<T...>) {
  typename V::Bytes sums[2][sizeof...(T)];
  ((sums[0][T] = V::load(to + 2 * T * stride), sums[1][T] = V::load(to + (2 * T + 1) * stride)), ...);
  for (int64_t q = 0; q < quads; ++q) {
    const auto whole = V::load(tile);
    typename V::Bytes weights[sizeof...(T)];
    ((weights[T] = V::masked(whole, mask[T])), ...);
    ((sums[0][T] = V::dot(sums[0][T], weights[T], V::four_alike(high[T]), whole)), ...);
    ((sums[1][T] = V::dot(sums[1][T], weights[T], V::four_alike(low[T]), whole)), ...);
    tile += 32 * V::LANES, high += MAX_TOKENS, low += MAX_TOKENS, mask += MAX_TOKENS;
  }
  ((V::store(to + 2 * T * stride, sums[0][T]), V::store(to + (2 * T + 1) * stride, sums[1][T])), ...);
}

// Adds a tile to the sums of all tokens, four of them at a time.
template <class V, int G>
TARGET static void add_tile(const GradedJob& job, const Crowd& crowd, int64_t tokens, int64_t begin, int64_t quads,
                            int64_t block, const int32_t* tile) {
  for (int64_t t = 0; t < tokens; t += 4) {
    const int64_t at = begin * MAX_TOKENS + t, stride = job.sums_stride;
    for (int a = 0; a < 8; ++a) {
      int32_t* to = job.sums + 2 * t * stride + block * BLOCK + 4 * G * a;
      const int32_t* from = tile + a * 4 * V::LANES;
      const int32_t *high = crowd.high + at, *low = crowd.low + at, *mask = crowd.mask + at;
      switch (least<int64_t>(tokens - t, 4)) {
        case 1: add_tile_sums<V>(from, high, low, mask, quads, to, stride, Indices<0>{}); break;
        case 2: add_tile_sums<V>(from, high, low, mask, quads, to, stride, Indices<0, 1>{}); break;
        case 3: add_tile_sums<V>(from, high, low, mask, quads, to, stride, Indices<0, 1, 2>{}); break;
        default: add_tile_sums<V>(from, high, low, mask, quads, to, stride, Indices<0, 1, 2, 3>{});
      }
    }
  }
}

template <int ABOVE, int BELOW>
TARGET static void add_crowd(const GradedJob& job, const Pass& pass, const Crowd& crowd, int64_t tokens, int64_t first,
                             int64_t last) {
  alignas(64) int32_t tile[TILE_QUADS * 128];
  const int64_t index = &pass - job.pass;
  for (int64_t q = crowd.all.begin[index]; q < crowd.all.begin[index + 1]; q += TILE_QUADS) {
    const int64_t end = least(q + TILE_QUADS, crowd.all.begin[index + 1]);
    for (int64_t b = first; b < last; ++b)
      if (b < job.whole_blocks) {
        fill_tile<Whole, 4, ABOVE, BELOW>(job, pass, crowd.all, q, end, b, tile);
        add_tile<Whole, 4>(job, crowd, tokens, q, end - q, b, tile);
      } else {
        fill_tile<Part, 2, ABOVE, BELOW>(job, pass, crowd.all, q, end, b, tile);
        add_tile<Part, 2>(job, crowd, tokens, q, end - q, b, tile);
      }
  }
}

static AddCrowd crowd_for(int above, int below) {
  switch (100 * above + below) {
    case 200: return add_crowd<2, 0>;
    case 2200: return add_crowd<22, 0>;
    case 2202: return add_crowd<22, 2>;
    case 2204: return add_crowd<22, 4>;
    case 2222: return add_crowd<22, 22>;
    case 400: return add_crowd<4, 0>;
    case 402: return add_crowd<4, 2>;
    case 404: return add_crowd<4, 4>;
    case 422: return add_crowd<4, 22>;
    default: return nullptr;
  }
}
