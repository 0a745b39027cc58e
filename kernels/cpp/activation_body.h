// Included inside the namespace of each instruction set, with TARGET set to its attribute. Plain arithmetic without
// branches, which the compiler turns into vectors; as nothing is contracted, all sets give the same bits.

// e^x within 1 ulp, for x clamped to what has a normal result (Cephes, expf). Not a number stays one.
TARGET static inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number in the low bits
  const float whole = shifted - 12582912.0f;
  const float r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3F800000u;  // 2^whole
  float power;
  memcpy(&power, &bits, sizeof power);
  return (p * (r * r) + r + 1.0f) * power;
}

// Within 4 ulp (the rational function of Eigen and XLA, clamped where it is 1).
TARGET static inline float error_function(float x) {
  x = x < -4.0f ? -4.0f : x;
  x = x > 4.0f ? 4.0f : x;
  const float s = x * x;
  float p = -2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return x * p / q;
}

TARGET static void silu(float* v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) v[i] = v[i] / (1.0f + exponential(-v[i]));
}

TARGET static void relu(float* v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) v[i] = v[i] < 0.0f ? 0.0f : v[i];
}

TARGET static void gelu(float* v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) v[i] = 0.5f * v[i] * (1.0f + error_function(v[i] * 0.707106781f));
}

// 0.5 x (1 + tanh(u)) = x / (1 + e^-2u)
TARGET static void gelu_tanh(float* v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float u = 0.797884561f * (v[i] + 0.044715f * v[i] * v[i] * v[i]);
    v[i] = v[i] / (1.0f + exponential(-2.0f * u));
  }
}

using Activate = void (*)(float*, int64_t);  // so many values in place
static const Activate ACTIVATE[] = {silu, relu, gelu, gelu_tanh};  // in the order of kernels/plane_native.py
