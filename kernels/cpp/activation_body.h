// Included inside the namespace of each instruction set, with TARGET set to its attribute, after activation.h.

// values[i] = act(values[i]), or act(gates[i]) * values[i]
TARGET static void activate(int activation, const float* gates, float* values, int count) {
#define APPLY(function)                                                         \
  if (gates)                                                                    \
    for (int i = 0; i < count; ++i) values[i] = function(gates[i]) * values[i]; \
  else                                                                          \
    for (int i = 0; i < count; ++i) values[i] = function(values[i]);            \
  break;
  switch (activation) {
    case SILU: APPLY(silu)
    case RELU: APPLY(relu)
    case GELU: APPLY(gelu)
    case SQUAREPLUS: APPLY(squareplus)
    default: APPLY(gelu_tanh)
  }
#undef APPLY
}
