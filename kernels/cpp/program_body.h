// Included by program.cpp inside the namespace of each instruction set, with TARGET set to its attribute.
//
// Sums are of sixteen chains in fp64 that end in one tree: the same bits in vectors of any width.

constexpr int CHAINS = 16;

TARGET static double tree(double* sum) {
  for (int half = CHAINS / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0];
}

// The sum of (x - mean)^2, or of x where `power` is 1.
template <int POWER>
TARGET static double total(const float* x, int64_t width, double mean) {
  double sum[CHAINS] = {};
  int64_t k = 0;
  for (; k + CHAINS <= width; k += CHAINS)
    for (int i = 0; i < CHAINS; ++i) {
      const double value = double(x[k + i]) - mean;
      sum[i] += POWER == 1 ? value : value * value;
    }
  for (int i = 0; k + i < width; ++i) {
    const double value = double(x[k + i]) - mean;
    sum[i] += POWER == 1 ? value : value * value;
  }
  return tree(sum);
}

TARGET static void norm_row(const float* x, const float* weight, const float* bias, int64_t width, bool layer,
                            float eps, float* to) {
  const double mean = layer ? total<1>(x, width, 0.0) / double(width) : 0.0;
  const float square = float(total<2>(x, width, mean) / double(width));
  const float scale = 1.0f / __builtin_sqrtf(square + eps), middle = float(mean);
  for (int64_t k = 0; k < width; ++k) to[k] = (x[k] - middle) * scale * weight[k];
  if (bias)
    for (int64_t k = 0; k < width; ++k) to[k] += bias[k];
}

// Turns each pair (x[i], x[i + turned / 2]) of the first values of each head by its angle.
TARGET static void rotate_row(float* x, const float* cosine, const float* sine, int64_t heads, int64_t size,
                              int64_t turned) {
  const int64_t half = turned / 2;
  for (int64_t head = 0; head < heads; ++head, x += size)
    for (int64_t i = 0; i < half; ++i) {
      const float first = x[i], second = x[i + half];
      x[i] = first * cosine[i] + second * sine[i];
      x[i + half] = second * cosine[i + half] + first * sine[i + half];
    }
}

TARGET static void add_row(const float* from, int64_t width, float* to) {
  for (int64_t k = 0; k < width; ++k) to[k] += from[k];
}

// to += what lies `part` of the way from one row to the next.
TARGET static void add_between(const float* from, const float* next, float part, int64_t width, float* to) {
  for (int64_t k = 0; k < width; ++k) to[k] += from[k] + part * (next[k] - from[k]);
}

// to += part * from.
TARGET static void add_part(const float* from, float part, int64_t width, float* to) {
  for (int64_t k = 0; k < width; ++k) to[k] += from[k] * part;
}

// to = the `count` highest of softmax(x), the first of equal ones, over their sum where it is to be 1; else 0. Of a row
// that is no number as many are none.
TARGET static void parts(const float* x, int64_t experts, int64_t count, bool normalised, float* to) {
  float most = x[0];
  for (int64_t e = 1; e < experts; ++e) most = x[e] > most ? x[e] : most;
  double all = 0.0, taken = 0.0;
  for (int64_t e = 0; e < experts; ++e) all += exponential(double(x[e]) - double(most));
  for (int64_t e = 0; e < experts; ++e) to[e] = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; ++e)
      if (to[e] == 0.0f && (best < 0 || x[e] > x[best])) best = e;
    if (best < 0) break;
    to[best] = float(exponential(double(x[best]) - double(most)) / all);
    taken += to[best];
  }
  for (int64_t e = 0; normalised && e < experts; ++e) to[e] = float(to[e] / taken);
}

static const RowKernels ROW_KERNELS{norm_row, rotate_row, add_row, activate, add_between, parts, add_part};
