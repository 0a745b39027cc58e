// Included inside the namespace of each instruction set, with TARGET set to its attribute, after activation.h.
//
// What is to be expected of act(z) where z is normal about its coarse value with a deviation `error`: the formulas of
// kernels/planes/coarse.py. A loop over them becomes vectors.

struct Foreseen {
  float value, deviation;
};

TARGET INLINE Foreseen foreseen_silu(float z, float error) {
  const float s = 1.0f / (1.0f + exponential(-static_cast<double>(z)));
  return {z * s, absolute(s * (1.0f + z * (1.0f - s))) * error};
}

// Phi(t), where bell(t) is known.
TARGET INLINE float normal_below(float t, float bell) {
  const float tail = tail_over_bell(absolute(t)) * bell;
  return t < 0.0f ? tail : 1.0f - tail;
}

constexpr float DENSITY = 0.3989422804014327f;  // of a normal number at 0

TARGET INLINE Foreseen foreseen_gelu(float z, float error) {
  const float height = bell(z), below = normal_below(z, height);
  return {z * below, absolute(below + z * DENSITY * height) * error};
}

TARGET INLINE Foreseen foreseen_gelu_tanh(float z, float error) {
  return {gelu_tanh(z), foreseen_gelu(z, error).deviation};
}

TARGET INLINE Foreseen foreseen_relu(float z, float error) {
  const bool known = error <= 1e-20f;
  const float t = z / (known ? 1.0f : error), height = bell(t), below = normal_below(t, height);
  const float density = DENSITY * height;
  const float mean = error * (t * below + density), value = mean < 0.0f ? 0.0f : mean;
  const float variance = error * error * ((t * t + 1.0f) * below + t * density) - value * value;
  return {known ? relu(z) : value, known || variance < 0.0f ? 0.0f : __builtin_sqrtf(variance)};
}

// values[i], deviations[i] = foreseen(z[i], errors[i % 16])
TARGET static void foresee(int activation, const float* z, const float* errors, float* values, float* deviations,
                           int count) {
#define APPLY(function)                                         \
  for (int i = 0; i < count; i += 16)                           \
    for (int n = 0; n < 16; ++n) {                              \
      const Foreseen found = function(z[i + n], errors[n]);     \
      values[i + n] = found.value;                              \
      deviations[i + n] = found.deviation;                      \
    }                                                           \
  break;
  switch (activation) {
    case SILU: APPLY(foreseen_silu)
    case RELU: APPLY(foreseen_relu)
    case GELU: APPLY(foreseen_gelu)
    default: APPLY(foreseen_gelu_tanh)
  }
#undef APPLY
}
