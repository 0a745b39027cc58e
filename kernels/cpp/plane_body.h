// Included by plane_ffn.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// Sums of products of integers are exact, and the rows of down that a token uses are added in ascending order within
// a part of the neurons: a row of the result depends on nothing but its own inputs.

#include "activation_body.h"
#include "foresee_body.h"

// One group of neurons for all tokens.
struct Group {
  int64_t index, part;                      // the part whose sums it adds to
  uint32_t any_active, any_fine;            // a bit for each neuron
  uint32_t active[TOKEN_BLOCK], fine[TOKEN_BLOCK];
  float h[TOKEN_BLOCK][16];                 // coarse, then exact where fine
  int32_t dot[TOKEN_BLOCK][MAX_ROWS][16];   // of the high bits, then all, in units of the lowest, as 0 .. 255
};

// Rows of down that wait to be added, of one token.
struct Waiting {
  int count = 0;
  const int8_t* row[DOWN_ROWS + 16];
  float factor[DOWN_ROWS + 16];
};

// What will be needed from memory, in order. A processor keeps few requests in flight and stalls on more, so each line
// that is worked on asks for one further down the list.
struct Ahead {
  int64_t count = 0, next = 0, num_fine = 0, due = 0, low_bytes, columns;
  const char *at = nullptr, *end = nullptr;
  const void* begin[2 * 16 * GROUPS_TOGETHER];  // low planes of the fine neurons, then rows of down

  // At most `lines`, and no more than were `due`.
  TARGET INLINE_MEMBER void ask(int64_t lines) {
    lines = lines < due ? lines : due;
    due -= lines;
    for (; lines; --lines) {
      if (at == end) {
        if (next == count) return;
        at = static_cast<const char*>(begin[next]);
        end = at + (next++ < num_fine ? low_bytes : columns);
      }
      __builtin_prefetch(at);
      at += 64;
    }
  }
};

template <int WIDTH, int ROWS>
struct Slots {
  static constexpr int COUNT = 8 / WIDTH, STEPS = COUNT / ROWS, CHAINS = SHIFTED ? ROWS : COUNT;
  static constexpr int sum_of(int slot) { return SHIFTED ? slot % ROWS : slot; }
  static constexpr int shift_of(int sum) { return SHIFTED ? 0 : sum * WIDTH; }
};

// round(x / scale), half to even, with scale = max|x| / 127; a token that is not finite gets a scale that is no number.
TARGET static void quantize(const PlaneJob& job, const float* x, int64_t token) {
  const int64_t hidden = job.layer.hidden;
  int8_t* out = job.x + token * job.stride;
  int32_t largest = 0, sum = 0;  // magnitudes of floats are ordered as their bits
  for (int64_t k = 0; k < hidden; ++k) {
    int32_t bits;
    memcpy(&bits, x + k, sizeof bits);
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  const bool finite = largest < 0x7F800000;
  float most;
  memcpy(&most, &largest, sizeof most);
  const float scale = most / 127.0f, divisor = scale > 0.0f ? scale : 1.0f;
  for (int64_t k = 0; k < hidden; ++k) {
    const float shifted = x[k] / divisor + 12582912.0f;  // 1.5 * 2^23 leaves the rounded number in the low bits
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    out[k] = int8_t(bits);
    sum += int8_t(bits);
  }
  memset(out + hidden, 0, job.stride - hidden);
  job.scale[token] = finite ? scale : __builtin_nanf("");
  job.sum[token] = sum;
}

// y = scale * (sums of the parts, in order) + bias; the first part takes up the others.
TARGET static void gather(const PlaneJob& job, int64_t token, float* y) {
  const int64_t hidden = job.layer.hidden, next = job.tokens * job.layer.columns;
  const float *scale = job.layer.down_scale, *bias = job.layer.down_bias;
  float* sums = job.sums + token * job.layer.columns;
  const Columns one = filled(1.0f);
  for (int64_t c = 0; c < hidden; c += 16) {
    Columns all = columns(sums + c);
    for (int64_t p = 1; p < job.parts; ++p) all = add_product(all, columns(sums + p * next + c), one);
    put(sums + c, all);
  }
  const float lost = job.scale[token] * 0.0f;  // 0, or no number
  for (int64_t c = 0; c < hidden; ++c) y[c] = sums[c] * scale[c] + lost;
  if (bias)
    for (int64_t c = 0; c < hidden; ++c) y[c] += bias[c];
}

template <int WIDTH, int ROWS, int TOKENS, int SLOT = 0>
TARGET INLINE void add_quads(Line line, const int8_t* x, int64_t stride, Integers (*sum)[TOKENS]) {
  using S = Slots<WIDTH, ROWS>;
  const Line weights = field<SLOT * WIDTH, WIDTH>(line);
  for (int t = 0; t < TOKENS; ++t) {
    Integers& into = sum[S::sum_of(SLOT)][t];
    into = dot_quad(weights, x + t * stride + SLOT / ROWS * 4, into);
  }
  if constexpr (SLOT + 1 < S::COUNT) add_quads<WIDTH, ROWS, TOKENS, SLOT + 1>(line, x, stride, sum);
}

// dot[t][row][neuron] += 2^shift * dot product of one plane of a group; a lane of a sum is a neuron.
template <int WIDTH, int ROWS, int TOKENS>
TARGET static void group_dots(const uint8_t* line, int64_t lines, const int8_t* x, int64_t stride, int shift,
                              int32_t (*dot)[MAX_ROWS][16]) {
  using S = Slots<WIDTH, ROWS>;
  constexpr int FIT = SUMS / 2 / (S::CHAINS * TOKENS), TOGETHER = FIT > 1 ? FIT : 1;
  Integers sum[TOGETHER][S::CHAINS][TOKENS];  // so many in flight hide the latency of an addition
  for (auto& lines_sum : sum)
    for (auto& chain : lines_sum)
      for (Integers& each : chain) each = none();
  int64_t i = 0;
  for (; i + TOGETHER <= lines; i += TOGETHER)
    for (int s = 0; s < TOGETHER; ++s) {
      __builtin_prefetch(line + (i + s) * 64 + PREFETCH_BYTES);
      add_quads<WIDTH, ROWS, TOKENS>(bytes(line + (i + s) * 64), x + (i + s) * S::STEPS * 4, stride, sum[s]);
    }
  for (; i < lines; ++i)
    add_quads<WIDTH, ROWS, TOKENS>(bytes(line + i * 64), x + i * S::STEPS * 4, stride, sum[0]);
  for (int s = 0; s < TOGETHER; ++s)
    for (int c = 0; c < S::CHAINS; ++c)
      for (int t = 0; t < TOKENS; ++t) {
        int32_t lane[16];
        put(lane, sum[s][c][t]);
        for (int n = 0; n < 16; ++n) dot[t][c % ROWS][n] += (lane[n] >> S::shift_of(c)) * (1 << shift);
      }
}

// The same for any number of tokens, as many at a time as registers hold. Returns where the plane ends.
template <int WIDTH, int ROWS, int TOKENS = SUMS / Slots<WIDTH, ROWS>::CHAINS>
TARGET static const uint8_t* group_plane(const PlaneJob& job, const uint8_t* line, const int8_t* x, int64_t tokens,
                                         int shift, int32_t (*dot)[MAX_ROWS][16]) {
  const int64_t lines = group_lines(job.layer.hidden, WIDTH, ROWS);
  for (; tokens >= TOKENS; tokens -= TOKENS, x += TOKENS * job.stride, dot += TOKENS)
    group_dots<WIDTH, ROWS, TOKENS>(line, lines, x, job.stride, shift, dot);
  if constexpr (TOKENS > 1)
    if (tokens) group_plane<WIDTH, ROWS, TOKENS / 2>(job, line, x, tokens, shift, dot);
  return line + lines * 64;
}

template <int ROWS>
TARGET static void high_dots(const PlaneJob& job, Group& group) {
  const uint8_t* line = job.layer.groups + group.index * job.layer.group_bytes;
  const int bits = int(job.layer.bits), low = 8 - bits;
  memset(group.dot, 0, sizeof *group.dot * job.tokens);
  if (bits & 4) line = group_plane<4, ROWS>(job, line, job.x, job.tokens, low + (bits & 3), group.dot);
  if (bits & 2) line = group_plane<2, ROWS>(job, line, job.x, job.tokens, low + (bits & 1), group.dot);
  if (bits & 1) line = group_plane<1, ROWS>(job, line, job.x, job.tokens, low, group.dot);
}

TARGET static const float* vectors_of(const PlaneJob& job, const Group& group) {
  return reinterpret_cast<const float*>(job.layer.groups + group.index * job.layer.group_bytes + job.vectors_offset);
}

// h = act(gate) * up or act(up), where gate and up are scale * (dot + offset / 2) + bias.
template <int ROWS>
TARGET static void neuron_values(const PlaneJob& job, const Group& group, const int32_t* offset, float (*h)[16]) {
  const float *vectors = vectors_of(job, group), *bias = vectors + ROWS * 16;
  float gate[TOKEN_BLOCK][16];
  for (int64_t t = 0; t < job.tokens; ++t)
    for (int r = 0; r < ROWS; ++r) {
      const Columns unit = times(filled(0.5f * job.scale[t]), columns(vectors + r * 16));
      const Columns value = times(doubled(group.dot[t][r], offset[t]), unit);
      put(r + 1 < ROWS ? gate[t] : h[t], job.layer.biased ? plus(value, columns(bias + r * 16)) : value);
    }
  activate(job.activation, ROWS > 1 ? gate[0] : nullptr, h[0], int(job.tokens * 16));
}

// What the high bits are worth: scales, biases and errors of gate and up, and the importance of the neurons.
template <int ROWS>
struct Fit {
  float scale[ROWS][16], bias[ROWS][16], error[ROWS][16], importance[16];
};

template <int ROWS>
TARGET static Fit<ROWS> fit_of(const PlaneJob& job, const Group& group) {
  const uint8_t* halves = reinterpret_cast<const uint8_t*>(vectors_of(job, group) + ROWS * (job.layer.biased ? 32 : 16));
  Fit<ROWS> fit;
  float* to = fit.scale[0];
  for (int i = 0; i < int(sizeof fit / sizeof(float)); ++i) {
    uint16_t half;
    memcpy(&half, halves + 2 * i, sizeof half);
    const uint32_t whole = uint32_t(half) << 16;  // bf16
    memcpy(to + i, &whole, sizeof whole);
  }
  return fit;
}

// Values of a group as foreseen, how far off they may be, and from both which of its neurons are active and fine.
template <int ROWS>
TARGET static void score(const PlaneJob& job, Group& group) {
  high_dots<ROWS>(job, group);
  const Fit<ROWS> fit = fit_of<ROWS>(job, group);
  float z[ROWS][TOKEN_BLOCK][16], deviation[TOKEN_BLOCK][16];
  for (int64_t t = 0; t < job.tokens; ++t) {
    const int32_t offset = ((1 << (8 - job.layer.bits)) - 257) * job.sum[t];
    for (int r = 0; r < ROWS; ++r) {
      const Columns unit = times(filled(0.5f * job.scale[t]), columns(fit.scale[r]));
      put(z[r][t], plus(times(doubled(group.dot[t][r], offset), unit), columns(fit.bias[r])));
    }
  }
  foresee(job.activation, z[0][0], fit.error[0], group.h[0], deviation[0], int(job.tokens * 16));
  if (ROWS > 1)
    for (int64_t t = 0; t < job.tokens; ++t)
      for (int n = 0; n < 16; ++n) {
        const float up = z[ROWS - 1][t][n];
        const float a = deviation[t][n] * up, b = group.h[t][n] * fit.error[ROWS - 1][n];
        group.h[t][n] *= up;
        deviation[t][n] = __builtin_sqrtf(a * a + b * b);
      }
  const Columns importance = columns(fit.importance);
  const int64_t neurons = job.layer.width - group.index * 16;
  const uint32_t there = neurons < 16 ? (1u << neurons) - 1 : 0xFFFF;
  group.any_active = group.any_fine = 0;
  for (int64_t t = 0; t < job.tokens; ++t) {
    const float* limit = job.thresholds + 2 * t;
    group.active[t] = above(times(magnitude(columns(group.h[t])), importance), limit[0]) & there;
    group.fine[t] = above(times(columns(deviation[t]), importance), limit[1]) & group.active[t];
    group.any_active |= group.active[t], group.any_fine |= group.fine[t];
  }
}

TARGET static const uint8_t* low_of(const PlaneJob& job, const Group& group, int neuron) {
  return job.layer.low + (group.index * 16 + neuron) * job.layer.low_bytes;
}

TARGET static const int8_t* down_of(const PlaneJob& job, const Group& group, int neuron) {
  return job.layer.down + (group.index * 16 + neuron) * job.layer.columns;
}

TARGET static void look_ahead(const PlaneJob& job, const Group* group, int64_t groups, Ahead& ahead) {
  ahead.count = ahead.next = 0;
  ahead.at = ahead.end = nullptr;
  for (int64_t g = 0; g < groups; ++g)
    for (uint32_t left = group[g].any_fine; left; left &= left - 1)
      ahead.begin[ahead.count++] = low_of(job, group[g], __builtin_ctz(left));
  ahead.num_fine = ahead.count;
  for (int64_t g = 0; g < groups; ++g)
    for (uint32_t left = group[g].any_active; left; left &= left - 1)
      ahead.begin[ahead.count++] = down_of(job, group[g], __builtin_ctz(left));
  ahead.due = LEAD_LINES;
  ahead.ask(LEAD_LINES);
}

template <int WIDTH, int ROWS, int SLOT = 0>
TARGET INLINE void add_lines(Line line, const int8_t* x, int64_t part_bytes, Integers* sum) {
  using S = Slots<WIDTH, ROWS>;
  Integers& into = sum[S::sum_of(SLOT)];
  into = dot_line(field<SLOT * WIDTH, WIDTH>(line), x + SLOT / ROWS * part_bytes, into);
  if constexpr (SLOT + 1 < S::COUNT) add_lines<WIDTH, ROWS, SLOT + 1>(line, x, part_bytes, sum);
}

// dot[row][neuron] += 2^shift * dot product of one plane of a neuron's low bits. Returns where the plane ends.
template <int WIDTH, int ROWS>
TARGET static const uint8_t* low_plane(const PlaneJob& job, const uint8_t* plane, const int8_t* x, int shift,
                                       int neuron, int32_t (*dot)[16], Ahead& ahead) {
  using S = Slots<WIDTH, ROWS>;
  const int64_t part_bytes = low_part_bytes(job.layer.hidden, WIDTH, ROWS);
  Integers sum[S::CHAINS];
  for (Integers& each : sum) each = none();
  for (int64_t top = 0; top < part_bytes; top += 1024) {
    const int64_t bottom = top + 1024 < part_bytes ? top + 1024 : part_bytes;
    ahead.ask((bottom - top) / 64);
    for (int64_t i = top; i < bottom; i += 64) add_lines<WIDTH, ROWS>(bytes(plane + i), x + i, part_bytes, sum);
  }
  for (int c = 0; c < S::CHAINS; ++c) dot[c % ROWS][neuron] += (total(sum[c]) >> S::shift_of(c)) * (1 << shift);
  return plane + part_bytes;
}

// Exact values of the fine neurons of a group.
template <int ROWS>
TARGET static void refine(const PlaneJob& job, Group& group, Ahead& ahead) {
  const int low = 8 - int(job.layer.bits);
  for (uint32_t left = group.any_fine; left; left &= left - 1) {
    const int n = __builtin_ctz(left);
    ahead.due += ahead.low_bytes / 64;
    for (int64_t t = 0; t < job.tokens; ++t) {
      if (!(group.fine[t] >> n & 1)) continue;
      const uint8_t* plane = low_of(job, group, n);
      const int8_t* x = job.x + t * job.stride;
      if (low & 4) plane = low_plane<4, ROWS>(job, plane, x, low & 3, n, group.dot[t], ahead);
      if (low & 2) plane = low_plane<2, ROWS>(job, plane, x, low & 1, n, group.dot[t], ahead);
      if (low & 1) plane = low_plane<1, ROWS>(job, plane, x, 0, n, group.dot[t], ahead);
    }
  }
  int32_t offset[TOKEN_BLOCK];
  for (int64_t t = 0; t < job.tokens; ++t) offset[t] = -256 * job.sum[t];
  float exact[TOKEN_BLOCK][16];
  neuron_values<ROWS>(job, group, offset, exact);
  for (int64_t t = 0; t < job.tokens; ++t)
    for (uint32_t left = group.fine[t]; left; left &= left - 1) {
      const int n = __builtin_ctz(left);
      group.h[t][n] = exact[t][n];
    }
}

// sum[c] += factor[r] * row[r][c], row after row; `columns` is a multiple of 64.
template <int ROWS>
TARGET static void add_rows(const int8_t* const* rows, const float* factors, int64_t end, float* sum, Ahead& ahead) {
  const int8_t* row[ROWS];
  Columns factor[ROWS];
  for (int r = 0; r < ROWS; ++r) row[r] = rows[r], factor[r] = filled(factors[r]);
  for (int64_t c = 0; c < end; c += 64) {
    ahead.ask(ROWS);
    for (int64_t i = c; i < c + 64; i += 16) {
      Columns all = columns(sum + i);
      for (int r = 0; r < ROWS; ++r) all = add_product(all, widened(row[r] + i), factor[r]);
      put(sum + i, all);
    }
  }
}

template <int ROWS = DOWN_ROWS>
TARGET static void add_waiting(Waiting& waiting, int first, int64_t end, float* sum, bool all, Ahead& ahead) {
  for (; waiting.count - first >= ROWS; first += ROWS)
    add_rows<ROWS>(waiting.row + first, waiting.factor + first, end, sum, ahead);
  if constexpr (ROWS > 1)
    if (all) return add_waiting<ROWS / 2>(waiting, first, end, sum, all, ahead);
  for (int i = first; i < waiting.count; ++i)
    waiting.row[i - first] = waiting.row[i], waiting.factor[i - first] = waiting.factor[i];
  waiting.count -= first;
}

// What a group gives to y; rows of down that do not fill a step wait for the next group, unless this is the `last`.
TARGET static void add_down(const PlaneJob& job, const Group& group, Waiting* waiting, bool last, Ahead& ahead) {
  ahead.due += __builtin_popcount(group.any_active) * (ahead.columns / 64);
  for (int64_t t = 0; t < job.tokens; ++t) {
    Waiting& queue = waiting[t];
    for (uint32_t left = group.active[t]; left; left &= left - 1) {
      const int n = __builtin_ctz(left);
      queue.row[queue.count] = down_of(job, group, n);
      queue.factor[queue.count++] = group.h[t][n];
    }
    const int64_t place = group.part * job.tokens + t;
    add_waiting(queue, 0, job.layer.columns, job.sums + place * job.layer.columns, last, ahead);
    job.counts[2 * place] += __builtin_popcount(group.active[t]);
    job.counts[2 * place + 1] += __builtin_popcount(group.fine[t]);
  }
}

// Groups [begin, end) for all tokens: scores are read from end to end, then what they ask for.
template <int ROWS>
TARGET static void groups_of(const PlaneJob& job, int64_t begin, int64_t end) {
  alignas(64) Group group[GROUPS_TOGETHER];
  Waiting waiting[TOKEN_BLOCK];
  Ahead ahead;
  ahead.low_bytes = job.layer.low_bytes, ahead.columns = job.layer.columns;
  int64_t part = begin * job.parts / job.num_groups;
  for (int64_t top = begin; top < end; top += GROUPS_TOGETHER) {
    const int64_t count = top + GROUPS_TOGETHER < end ? GROUPS_TOGETHER : end - top;
    for (int64_t g = 0; g < count; ++g) {
      while (part_begin(job, part + 1) <= top + g) ++part;
      group[g].index = top + g, group[g].part = part;
      score<ROWS>(job, group[g]);
    }
    look_ahead(job, group, count, ahead);
    for (int64_t g = 0; g < count; ++g)
      if (group[g].any_fine) refine<ROWS>(job, group[g], ahead);
    for (int64_t g = 0; g < count; ++g) {
      const bool last = g + 1 == count || group[g + 1].part != group[g].part;
      add_down(job, group[g], waiting, last, ahead);
    }
  }
}

TARGET static void groups(const PlaneJob& job, int64_t begin, int64_t end) {
  job.layer.gated ? groups_of<2>(job, begin, end) : groups_of<1>(job, begin, end);
}

static const Kernel KERNEL = {quantize, groups, gather};
