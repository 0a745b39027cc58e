// Included by plane_ffn.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// Sums of products of integers are exact: what a row's neurons give depends on nothing but its own inputs, unless tokens
// choose together.

#include "plane_score_body.h"

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

// Lists the low planes of the neurons that are refined, and asks for the first lines.
TARGET static void ask_for(const PlaneJob& job, const Group* group, int64_t groups, Ahead& ahead) {
  ahead.count = ahead.next = 0;
  ahead.at = ahead.end = nullptr;
  ahead.row_bytes = job.layer.low_bytes;
  for (int64_t g = 0; g < groups; ++g)
    for (uint32_t left = group[g].any_fine; left; left &= left - 1)
      ahead.begin[ahead.count++] = low_of(job, group[g], __builtin_ctz(left));
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

// What a group gives.
TARGET static void put_values(const PlaneJob& job, const Group& group) {
  const int64_t first = group.index * 16, left = job.layer.width - first, count = left < 16 ? left : 16;
  for (int64_t t = 0; t < job.tokens; ++t) {
    float* h = job.h + t * job.layer.width + first;
    for (int64_t n = 0; n < count; ++n) h[n] = group.active[t] >> n & 1 ? group.h[t][n] : 0.0f;
    int32_t* counts = job.counts + 2 * (group.index * job.tokens + t);
    counts[0] = __builtin_popcount(group.active[t]), counts[1] = __builtin_popcount(group.fine[t]);
  }
}

// Groups [begin, end) for all tokens: what scores need is read from end to end, then what they ask for.
template <int ROWS>
TARGET static void groups_of(const PlaneJob& job, int64_t begin, int64_t end) {
  alignas(64) Group group[GROUPS_TOGETHER];
  Ahead ahead;
  for (int64_t top = begin; top < end; top += GROUPS_TOGETHER) {
    const int64_t count = top + GROUPS_TOGETHER < end ? GROUPS_TOGETHER : end - top;
    for (int64_t g = 0; g < count; ++g) {
      group[g].index = top + g;
      score<ROWS>(job, group[g]);
    }
    ask_for(job, group, count, ahead);
    for (int64_t g = 0; g < count; ++g)
      for (uint32_t left = group[g].any_fine; left; left &= left - 1)
        __builtin_prefetch(exact_of(job, group[g], __builtin_ctz(left)));
    for (int64_t g = 0; g < count; ++g) {
      if (group[g].any_fine) refine<ROWS>(job, group[g], ahead);
      put_values(job, group[g]);
    }
  }
}

TARGET static void groups(const PlaneJob& job, int64_t begin, int64_t end) {
  job.layer.gated ? groups_of<2>(job, begin, end) : groups_of<1>(job, begin, end);
}

static const Kernel KERNEL = {quantize, groups};
