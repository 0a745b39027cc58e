// Included by plane_body.h: what every token reads of every neuron, and what that says of it.

#include "activation_body.h"
#include "foresee_body.h"

// One group of neurons for all tokens.
struct Group {
  int64_t index;
  uint32_t any_fine;                        // a bit for each neuron that is refined for a token
  uint32_t active[TOKEN_BLOCK], fine[TOKEN_BLOCK];
  float importance[16];
  float h[TOKEN_BLOCK][16];                 // coarse, then refined where fine
  int32_t dot[TOKEN_BLOCK][MAX_ROWS][16];   // of the bits read, in units of the lowest of 8, as 0 .. 255
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

// What to add to the double of dot products of so many bits: rows are unsigned there, and end in the middle of a step.
TARGET INLINE int32_t offset_of(const PlaneJob& job, int64_t token, int64_t bits) {
  return ((1 << (8 - bits)) - 257) * job.sum[token];
}

// What the high bits are worth: scales, biases and errors of gate and up, and the importance of the neurons.
template <int ROWS>
struct Fit {
  float scale[ROWS][16], bias[ROWS][16], error[ROWS][16], importance[16];
};

template <int ROWS>
TARGET static Fit<ROWS> fit_of(const PlaneJob& job, const Group& group) {
  const uint8_t* halves = job.layer.groups + group.index * job.layer.group_bytes + job.fit_offset;
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

// Which neurons each token refines and which it takes as they are: kernels/planes/choice.py.
TARGET static void choose(const PlaneJob& job, Group& group, const float (*deviation)[16], uint32_t there) {
  const Columns importance = columns(group.importance);
  for (int64_t t = 0; t < job.tokens; ++t) {
    const float a = job.thresholds[2 * t], d = job.thresholds[2 * t + 1];
    const Columns value = times(magnitude(columns(group.h[t])), importance);
    const Columns doubt = times(columns(deviation[t]), importance);
    const uint32_t worth = above(plus(times(value, value), times(doubt, doubt)), a * absolute(a) + d * absolute(d));
    group.fine[t] = above(doubt, d) & worth & there;
    group.active[t] = above(value, a) & ~group.fine[t] & there;
  }
}

TARGET INLINE float squared(float x) { return x * x; }
TARGET INLINE float least(float threshold) { return threshold > LEAST_THRESHOLD ? threshold : LEAST_THRESHOLD; }

// The same for all tokens at once.
TARGET static void choose_together(const PlaneJob& job, Group& group, const float (*deviation)[16], uint32_t there) {
  const Columns importance = columns(group.importance), worth = times(importance, importance);
  Columns values = filled(0.0f), doubts = values, both = values;
  for (int64_t t = 0; t < job.tokens; ++t) {
    if (job.scale[t] != job.scale[t]) continue;  // no number has no say
    const float a = squared(least(job.thresholds[2 * t])), d = squared(least(job.thresholds[2 * t + 1]));
    const Columns h = columns(group.h[t]), s = columns(deviation[t]);
    const Columns value = times(times(h, h), worth), doubt = times(times(s, s), worth);
    values = plus(values, times(value, filled(1.0f / a)));
    doubts = plus(doubts, times(doubt, filled(1.0f / d)));
    both = plus(both, times(plus(value, doubt), filled(1.0f / (a + d))));
  }
  const uint32_t fine = above(doubts, 1.0f) & above(both, 1.0f) & there;
  for (int64_t t = 0; t < job.tokens; ++t)
    group.fine[t] = fine, group.active[t] = above(values, 1.0f) & ~fine & there;
}

// Values of a group as foreseen, how far off they may be, and what is chosen for that.
template <int ROWS>
TARGET static void score(const PlaneJob& job, Group& group) {
  high_dots<ROWS>(job, group);
  const Fit<ROWS> fit = fit_of<ROWS>(job, group);
  float z[ROWS][TOKEN_BLOCK][16], deviation[TOKEN_BLOCK][16];
  for (int64_t t = 0; t < job.tokens; ++t) {
    const int32_t offset = offset_of(job, t, job.layer.bits);
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
  memcpy(group.importance, fit.importance, sizeof fit.importance);
  const int64_t neurons = job.layer.width - group.index * 16;
  const uint32_t there = neurons < 16 ? (1u << neurons) - 1 : 0xFFFF;
  job.together ? choose_together(job, group, deviation, there) : choose(job, group, deviation, there);
  group.any_fine = 0;
  for (int64_t t = 0; t < job.tokens; ++t) group.any_fine |= group.fine[t];
}
