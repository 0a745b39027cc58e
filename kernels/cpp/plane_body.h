// Included by plane_ffn.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// Sums of products of integers are exact, and the rows of down that a token uses are added in ascending order within
// a part of the neurons: a row of the result depends on nothing but its own inputs, unless tokens choose together.

#include "plane_score_body.h"

// Rows of down that wait to be added, of one token.
struct Waiting {
  int count = 0;
  const int8_t* row[DOWN_ROWS + 16];
  float factor[DOWN_ROWS + 16];
};

// What will be needed from memory, in order. A processor keeps few requests in flight and stalls on more, so each line
// that is worked on asks for one further down the list.
struct Ahead {
  int64_t count, next, due, row_bytes;
  const char *at, *end;
  const void* begin[16 * GROUPS_TOGETHER];

  // At most `lines`, and no more than were `due`.
  TARGET INLINE_MEMBER void ask(int64_t lines) {
    lines = lines < due ? lines : due;
    due -= lines;
    for (; lines; --lines) {
      if (at == end) {
        if (next == count) return;
        at = static_cast<const char*>(begin[next]);
        ++next, end = at + row_bytes;
      }
      __builtin_prefetch(at);
      at += 64;
    }
  }
};

TARGET static const uint8_t* low_of(const PlaneJob& job, const Group& group, int neuron) {
  return job.layer.low + (group.index * 16 + neuron) * job.layer.low_bytes;
}

TARGET static int vectors_of(const PlaneJob& job) { return (job.layer.gated ? 2 : 1) * (job.layer.biased ? 2 : 1); }

TARGET static const float* exact_of(const PlaneJob& job, const Group& group, int neuron) {
  return job.layer.exact + (group.index * 16 + neuron) * vectors_of(job);
}

TARGET static const int8_t* down_of(const PlaneJob& job, const Group& group, int neuron) {
  return job.layer.down + (group.index * 16 + neuron) * job.layer.columns;
}

// Lists the rows, of so many bytes, of the neurons that a mask of each group names, and asks for the first lines.
TARGET static void ask_for(const Group* group, int64_t groups, uint32_t Group::*wanted, const void* rows, int64_t bytes,
                           Ahead& ahead) {
  ahead.count = ahead.next = 0;
  ahead.at = ahead.end = nullptr;
  ahead.row_bytes = bytes;
  for (int64_t g = 0; g < groups; ++g)
    for (uint32_t left = group[g].*wanted; left; left &= left - 1)
      ahead.begin[ahead.count++] =
          static_cast<const char*>(rows) + (group[g].index * 16 + __builtin_ctz(left)) * bytes;
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

// Values of the fine neurons: act(gate) * up or act(up), where both are scale * (dot + offset / 2) + bias.
template <int ROWS>
TARGET static void refined_values(const PlaneJob& job, const Group& group, float (*h)[16]) {
  float vectors[2 * ROWS][16] = {}, gate[TOKEN_BLOCK][16];  // scales, then biases
  for (uint32_t left = group.any_fine; left; left &= left - 1) {
    const int n = __builtin_ctz(left);
    const float* from = exact_of(job, group, n);
    for (int i = 0; i < vectors_of(job); ++i) vectors[i][n] = from[i];
  }
  for (int64_t t = 0; t < job.tokens; ++t)
    for (int r = 0; r < ROWS; ++r) {
      const Columns unit = times(filled(0.5f * job.scale[t]), columns(vectors[r]));
      const Columns value = times(doubled(group.dot[t][r], offset_of(job, t, job.layer.refined_bits)), unit);
      put(r + 1 < ROWS ? gate[t] : h[t], job.layer.biased ? plus(value, columns(vectors[ROWS + r])) : value);
    }
  activate(job.activation, ROWS > 1 ? gate[0] : nullptr, h[0], int(job.tokens * 16));
}

// Reads the low planes of the fine neurons of a group; those whose value is worth it then become active.
template <int ROWS>
TARGET static void refine(const PlaneJob& job, Group& group, Ahead& ahead) {
  const int low = int(job.layer.refined_bits - job.layer.bits), under = 8 - int(job.layer.refined_bits);
  for (uint32_t left = group.any_fine; left; left &= left - 1) {
    const int n = __builtin_ctz(left);
    ahead.due += ahead.row_bytes / 64;
    for (int64_t t = 0; t < job.tokens; ++t) {
      if (!(group.fine[t] >> n & 1)) continue;
      const uint8_t* plane = low_of(job, group, n);
      const int8_t* x = job.x + t * job.stride;
      if (low & 4) plane = low_plane<4, ROWS>(job, plane, x, under + (low & 3), n, group.dot[t], ahead);
      if (low & 2) plane = low_plane<2, ROWS>(job, plane, x, under + (low & 1), n, group.dot[t], ahead);
      if (low & 1) plane = low_plane<1, ROWS>(job, plane, x, under, n, group.dot[t], ahead);
    }
  }
  float refined[TOKEN_BLOCK][16];
  refined_values<ROWS>(job, group, refined);
  Columns sum = filled(0.0f);  // of squares
  for (int64_t t = 0; t < job.tokens; ++t) {
    const Columns score = times(magnitude(columns(refined[t])), columns(group.importance));
    if (!job.together) group.active[t] |= above(score, job.thresholds[2 * t]) & group.fine[t];
    if (job.scale[t] == job.scale[t]) sum = plus(sum, times(times(score, score), filled(1.0f / squared(least(job.thresholds[2 * t])))));
    for (uint32_t left = group.fine[t]; left; left &= left - 1) {
      const int n = __builtin_ctz(left);
      group.h[t][n] = refined[t][n];
    }
  }
  if (job.together)
    for (int64_t t = 0; t < job.tokens; ++t) group.active[t] |= above(sum, 1.0f) & group.fine[t];
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
  ahead.due += __builtin_popcount(group.any_active) * (ahead.row_bytes / 64);
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

// Groups [begin, end) for all tokens: what scores need is read from end to end, then what they ask for.
template <int ROWS>
TARGET static void groups_of(const PlaneJob& job, int64_t begin, int64_t end) {
  alignas(64) Group group[GROUPS_TOGETHER];
  Waiting waiting[TOKEN_BLOCK];
  Ahead ahead;
  int64_t part = begin * job.parts / job.num_groups;
  for (int64_t top = begin; top < end; top += GROUPS_TOGETHER) {
    const int64_t count = top + GROUPS_TOGETHER < end ? GROUPS_TOGETHER : end - top;
    for (int64_t g = 0; g < count; ++g) {
      while (part_begin(job, part + 1) <= top + g) ++part;
      group[g].index = top + g, group[g].part = part;
      score<ROWS>(job, group[g]);
    }
    ask_for(group, count, &Group::any_fine, job.layer.low, job.layer.low_bytes, ahead);
    for (int64_t g = 0; g < count; ++g)
      for (uint32_t left = group[g].any_fine; left; left &= left - 1)
        __builtin_prefetch(exact_of(job, group[g], __builtin_ctz(left)));
    for (int64_t g = 0; g < count; ++g) {
      if (group[g].any_fine) refine<ROWS>(job, group[g], ahead);
      group[g].any_active = 0;
      for (int64_t t = 0; t < job.tokens; ++t) group[g].any_active |= group[g].active[t];
    }
    ask_for(group, count, &Group::any_active, job.layer.down, job.layer.columns, ahead);
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
