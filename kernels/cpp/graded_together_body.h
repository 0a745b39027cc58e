// Included by graded_linear.cpp after graded_body.h and digit_tile_body.h: several tokens over one list.
//
// Rows that any of the tokens reads are interleaved once, as far as the one that reads most of them asks. There they
// stand as int8 weights do for the linear of two digits, and each token multiplies them by its sums. Where tokens read
// an input differently, bits that a token does not read are masked off: the same sums as by itself.

// Levels that any token reads, and whether those who read an input read it alike.
TARGET static void join(const GradedJob& job, const Crowd& crowd) {
  constexpr int64_t STEP = 64;
  for (int64_t first = 0; first < job.layer.inputs; first += STEP) {
    const int64_t count = least(STEP, job.layer.inputs - first);
    uint32_t most[STEP] = {}, fewest[STEP];
    for (int64_t k = 0; k < STEP; ++k) fewest[k] = ~0u;
    for (int64_t t = 0; t < crowd.tokens; ++t) {
      const int32_t* level = crowd.token[t].level + first;
      for (int64_t k = 0; k < count; ++k) {
        const uint32_t each = uint32_t(level[k]), below = each - 1;  // of nobody: the largest
        most[k] = each > most[k] ? each : most[k];
        fewest[k] = below < fewest[k] ? below : fewest[k];
      }
    }
    for (int64_t k = 0; k < count; ++k) crowd.most[first + k] = int32_t(2 * most[k] + (fewest[k] + 1 != most[k]));
  }
}

// The rows that any token reads. word: to work in, [inputs].
TARGET static void list_all(const GradedJob& job, uint32_t* word, Crowd& crowd) {
  const int64_t inputs = job.layer.inputs;
  for (int64_t k = 0; k < inputs; ++k) word[k] = uint32_t(k) | 1u << 16;
  if (crowd.whole)
    for (int64_t k = 0; k < inputs; ++k) crowd.most[k] = int32_t(2 * job.layer.levels);
  int64_t count = 0;
  for (int part = 0; part < 2 * job.num_passes; ++part) {
    crowd.all.begin[part] = count / 4;
    count = list_part(job, crowd.most, word, part + 2, part + 2, count, crowd.all);
  }
  crowd.all.begin[2 * job.num_passes] = count / 4;
}

// What a token multiplies with an input and the bits of it that it reads, in one word; 0 of what it does not read.
TARGET static void join_words(const GradedLayer& layer, const Token& token) {
  uint32_t mask[MAX_LEVELS + 1] = {};
  for (int64_t l = 1; l <= layer.levels; ++l) mask[l] = 0xFF & 0xFF00u >> bits_above(layer, l);
  for (int64_t k = 0; k < layer.inputs; ++k)
    token.word[k] = token.level[k] ? uint32_t(token.q[k]) << 8 | mask[token.level[k]] : 0;
  token.word[layer.inputs] = 0;
}

// Numbers of a token and masks of what it reads, of the inputs that are listed; what fills up four has none.
TARGET static void take_listed(const GradedJob& job, const Crowd& crowd, const Group& group, int64_t which) {
  const Token& token = crowd.token[group.first + which];
  const int64_t quads = crowd.all.begin[2 * job.num_passes], stride = 2 * group.count;
  join_words(job.layer, token);
  for (int64_t first = 0; first < quads; first += RUN / 4) {
    const int64_t count = least(RUN / 4, quads - first);
    const uint32_t* entry = crowd.all.entry + 4 * first;
    int32_t q[RUN];
    uint8_t bits[RUN];
    for (int64_t i = 0; i < 4 * count; ++i) {
      const uint32_t found = token.word[entry[i] >> 16 ? entry[i] & 0xFFFF : job.layer.inputs];
      q[i] = int32_t(found) >> 8, bits[i] = uint8_t(found);
    }
    put_words(q, count, group.words + first * stride + 2 * which, stride);
    for (int64_t i = 0; i < count; ++i)
      put_mask(bits + 4 * i, group.masks + MASK_WORDS * ((first + i) * group.count + which));
  }
}

// The same of tokens that read everything: inputs are listed in their order.
TARGET static void take_whole(const GradedJob& job, const Crowd& crowd, const Group& group, int64_t which) {
  const int64_t inputs = job.layer.inputs, stride = 2 * group.count;
  for (int64_t first = 0; first < inputs; first += RUN) {
    const int64_t count = least(RUN, inputs - first);
    int32_t q[RUN];
    for (int64_t k = count; k < RUN && k < count + 3; ++k) q[k] = 0;
    memcpy(q, crowd.token[group.first + which].q + first, count * sizeof *q);
    put_words(q, (count + 3) / 4, group.words + first / 4 * stride + 2 * which, stride);
  }
}

TARGET static void take(const GradedJob& job, const Crowd& crowd, const Group& group, int64_t which) {
  (crowd.whole ? take_whole : take_listed)(job, crowd, group, which);
}

template <class V, bool BELOW, int HALF, int SUM>
TARGET GRADED_INLINE void put_half(typename V::Bytes above, typename V::Bytes below, int group, int part,
                                   uint8_t* tile) {
  const int output = 4 * (group * SUM + V::LANES * part);
  int32_t* to = reinterpret_cast<int32_t*>(tile + output / PANEL * PANEL_BYTES + output % PANEL * 4);
  if constexpr (BELOW)
    V::store(to, V::template joined<HALF>(above, below));
  else
    V::store(to, V::template topmost<HALF>(above));
}

template <class V, int G, int ABOVE, int BELOW, int UPPER>
TARGET GRADED_INLINE void put_quad(const uint8_t* const* row, const Planes& planes, int part, uint8_t* tile) {
  typename V::Bytes above[2], below[2];
  if constexpr (BELOW != 0) half_bytes<V, G, BELOW, UPPER>(row, planes, ABOVE == 22 ? 2 : 1, below);
  half_bytes<V, G, ABOVE, UPPER>(row, planes, 0, above);
  put_half<V, BELOW != 0, 0, 2 * UPPER>(above[0], below[0], G, part, tile);
  put_half<V, BELOW != 0, 1, 2 * UPPER + 4>(above[0], below[0], G, part, tile);
  put_half<V, BELOW != 0, 0, 2 * UPPER + 1>(above[1], below[1], G, part, tile);
  put_half<V, BELOW != 0, 1, 2 * UPPER + 5>(above[1], below[1], G, part, tile);
}

template <class V, int G, int ABOVE, int BELOW, int PART>
TARGET static void fill_part(const GradedJob& job, const Pass& pass, const List& all, int64_t begin, int64_t end,
                             int64_t block, uint8_t* tile) {
  constexpr int COUNT = planes_of(ABOVE) + planes_of(BELOW);
  const Planes planes = planes_at<V, G>(job, pass, block, PART);
  int64_t next[COUNT];  // of the block after this one
  for (int p = 0; p < COUNT; ++p) next[p] = planes.at[p] + 16 * job.layer.widths[pass.first + p];
  for (int64_t q = begin; q < end; ++q, tile += LINE_BYTES) {
    const uint8_t* const* row = all.row + 4 * q;
    for (int p = 0; PART == 0 && p < COUNT; ++p)
      for (int i = 0; i < 4; ++i) __builtin_prefetch(row[i] + next[p]);
    put_quad<V, G, ABOVE, BELOW, 0>(row, planes, PART, tile);
    put_quad<V, G, ABOVE, BELOW, 1>(row, planes, PART, tile);
  }
}

// Bytes of four inputs, interleaved, of quads [begin, end) over a block: what all tokens multiply.
template <int ABOVE, int BELOW>
TARGET static void fill_tile(const GradedJob& job, const Pass& pass, const List& all, int64_t begin, int64_t end,
                             int64_t block, uint8_t* tile) {
  if (block < job.whole_blocks) {
    fill_part<Whole, 4, ABOVE, BELOW, 0>(job, pass, all, begin, end, block, tile);
    if constexpr (Whole::LANES < 4) fill_part<Whole, 4, ABOVE, BELOW, 1>(job, pass, all, begin, end, block, tile);
  } else {
    fill_part<Part, 2, ABOVE, BELOW, 0>(job, pass, all, begin, end, block, tile);
  }
}

template <int ROWS, bool MASKED>
TARGET static void multiply_group(const uint8_t* tile, const int32_t* words, const int32_t* masks, int64_t quads,
                                  int64_t panels, double* totals, int64_t stride) {
  using Sums = DigitSums<ROWS>;
  constexpr int WIDTH = Sums::WIDTH, EACH = Sums::TOTALS * WIDTH;
  for (int64_t output = 0; output < panels * PANEL; output += WIDTH) {
    double found[ROWS * EACH];
    multiply_quads<ROWS, MASKED, false>(tile + output / PANEL * PANEL_BYTES + output % PANEL * 4, words, masks, quads,
                                        found);
    for (int r = 0; r < ROWS; ++r) {
      double* to = totals + r * stride + output;
      const double* from = found + r * EACH;
      for (int i = 0; i < WIDTH; ++i) to[i] += EACH > WIDTH ? 256.0 * from[i] + from[EACH - WIDTH + i] : from[i];
    }
  }
}

template <bool MASKED>
TARGET static void multiply_rows(const GradedJob& job, const Group& group, const uint8_t* tile, int64_t begin,
                                 int64_t quads, int64_t block) {
  const int32_t* words = group.words + 2 * begin * group.count;
  const int32_t* masks = MASKED ? group.masks + MASK_WORDS * begin * group.count : nullptr;
  const int64_t panels = block < job.whole_blocks ? 4 : 2;
  double* totals = job.totals + group.first * job.stride + block * BLOCK;
  const auto by = [&](auto rows) {
    multiply_group<least(rows(), MOST_ROWS), MASKED>(tile, words, masks, quads, panels, totals, job.stride);
  };
  switch (group.count) {
    case 1: return by(std::integral_constant<int, 1>());
    case 2: return by(std::integral_constant<int, 2>());
    case 3: return by(std::integral_constant<int, 3>());
    case 4: return by(std::integral_constant<int, 4>());
    case 5: return by(std::integral_constant<int, 5>());
    default: return by(std::integral_constant<int, 6>());
  }
}

// Adds a tile of quads [begin, end) to the totals of all tokens.
TARGET static void multiply(const GradedJob& job, const Crowd& crowd, const uint8_t* tile, int64_t begin, int64_t end,
                            int64_t block, bool masked) {
  for (int64_t g = 0; g < crowd.groups; ++g)
    masked ? multiply_rows<true>(job, crowd.group[g], tile, begin, end - begin, block)
           : multiply_rows<false>(job, crowd.group[g], tile, begin, end - begin, block);
}

// As `finish`, of twice the sums.
TARGET static void finish_total(const GradedJob& job, const Token& token, const double* totals, int64_t begin,
                                int64_t end, float* y) {
  const double constant = double(token.constant);
  for (int64_t n = begin; n < end; ++n) y[n] = float(totals[n] + constant) * (token.half_step * job.layer.scale[n]);
  if (job.layer.bias)
    for (int64_t n = begin; n < end; ++n) y[n] += job.layer.bias[n];
}

static FillTile fill_for(int above, int below) {
  switch (100 * above + below) {
    case 200: return fill_tile<2, 0>;
    case 2200: return fill_tile<22, 0>;
    case 2202: return fill_tile<22, 2>;
    case 2204: return fill_tile<22, 4>;
    case 2222: return fill_tile<22, 22>;
    case 400: return fill_tile<4, 0>;
    case 402: return fill_tile<4, 2>;
    case 404: return fill_tile<4, 4>;
    case 422: return fill_tile<4, 22>;
    default: return nullptr;
  }
}
