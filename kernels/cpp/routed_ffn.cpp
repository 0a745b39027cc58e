// An FFN in experts with its router: scores of kernels/route.py, who is above the threshold, and the FFN of those.
#include "abi.h"
#include "activation.h"
#include "expert_ffn.h"
#include "scratch.h"

struct RoutedLayer {
  ExpertLayer ffn;
  const void *first, *second;  // [router_width, hidden], [experts, router_width]
  int64_t router_width;
  int64_t router_weight;       // 0 for fp32, 1 for bf16
};

namespace {
struct Routing {  // memory to work in, for rows that are not full
  float *by_unit, *by_token;  // [router_width, tokens] and [tokens, router_width]
  float* scores;              // [experts, tokens]
  uint8_t* active;            // [tokens of the step, experts]
};

bool place(Routing& routing, const RoutedLayer& layer, int64_t tokens, Scratch& scratch) {
  const int64_t units = lines(tokens * layer.router_width * sizeof(float));
  const int64_t scores = lines(tokens * layer.ffn.experts() * sizeof(float));
  if (!scratch.holds(2 * units + scores + lines(tokens * layer.ffn.experts()))) return false;
  routing.by_unit = reinterpret_cast<float*>(scratch.memory);
  routing.by_token = reinterpret_cast<float*>(scratch.memory + units);
  routing.scores = reinterpret_cast<float*>(scratch.memory + 2 * units);
  routing.active = reinterpret_cast<uint8_t*>(scratch.memory + 2 * units + scores);
  return true;
}

void score(const RoutedLayer& layer, const float* x, const Routing& routing, int64_t tokens, int64_t threads, int isa) {
  const int64_t units = layer.router_width, experts = layer.ffn.experts();
  const int kind = int(layer.router_weight);
  moesaic_rows(x, layer.first, routing.by_unit, tokens, layer.ffn.hidden, units, threads, isa, kind, SQUAREPLUS);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t u = 0; u < units; ++u) routing.by_token[t * units + u] = routing.by_unit[u * tokens + t];
  moesaic_rows(routing.by_token, layer.second, routing.scores, tokens, units, experts, threads, isa, kind, SQUAREPLUS);
}

// What is no number must not be hidden by computing nothing. Returns how many neurons a token computes.
int64_t choose(const RoutedLayer& layer, const float* scores, int64_t stride, float threshold, uint8_t* active) {
  const int64_t size = layer.ffn.expert_size, experts = layer.ffn.experts();
  int64_t chosen = 0;
  for (int64_t e = 0; e < experts; ++e) chosen += active[e] = !(scores[e * stride] <= threshold);
  return chosen * size - (active[experts - 1] ? experts * size - layer.ffn.width : 0);
}
}  // namespace

extern "C" {
// x, y: [tokens, hidden], of which the first `full` use every expert; thresholds: [tokens, 2], of which the first counts;
// neurons: [tokens]. isa: one of `enum Isa`. 1 for success, 0 when there is no memory to work in.
int moesaic_routed_ffn(const RoutedLayer* layer, const float* x, const float* thresholds, float* y, int64_t* neurons,
                       int64_t tokens, int64_t full, int64_t threads, int isa) {
  static thread_local Scratch scratch;
  const int64_t experts = layer->ffn.experts(), others = tokens - full;
  Routing routing;
  if (!place(routing, *layer, tokens, scratch)) return 0;
  if (others) score(*layer, x + full * layer->ffn.hidden, routing, others, threads, isa);
  for (int64_t t = 0; t < tokens; ++t) {
    uint8_t* active = routing.active + t * experts;
    if (t < full) memset(active, 1, experts), neurons[t] = 0;
    else neurons[t] = choose(*layer, routing.scores + t - full, others, thresholds[2 * t], active);
  }
  moesaic_expert_ffn(&layer->ffn, x, routing.active, y, tokens, threads, isa);
  return 1;
}
}
