// What a program calls of the other sources, and Python too. The definitions include it, so that none can differ.
#pragma once

#include <cstdint>

struct DigitLayer;
struct ExpertLayer;
struct GradedLayer;
struct PlaneLayer;
struct RoutedLayer;

extern "C" {
int moesaic_digit_linear(const DigitLayer* layer, const float* x, float* y, int64_t tokens, int64_t threads, int isa);
int moesaic_graded_linear(const GradedLayer* layer, const float* x, const float* thresholds, float* y, int64_t* counts,
                          int64_t tokens, int64_t threads, int isa);
int moesaic_plane_ffn(const PlaneLayer* layer, const float* x, const float* thresholds, float* y, int64_t* active,
                      int64_t* fine, int64_t tokens, int64_t threads, int activation, int isa, int together);
int moesaic_routed_ffn(const RoutedLayer* layer, const float* x, const float* thresholds, float* y, int64_t* neurons,
                       int64_t tokens, int64_t full, int64_t threads, int isa);
void moesaic_expert_ffn(const ExpertLayer* layer, const float* x, const uint8_t* active, float* y, int64_t tokens,
                        int64_t threads, int isa);
void moesaic_rows(const float* x, const void* matrix, float* out, int64_t tokens, int64_t hidden, int64_t rows,
                  int64_t threads, int isa, int weight, int activation);
void moesaic_linear(const void* x, const void* weight, const float* scale, const float* bias, void* y, int64_t tokens,
                    int64_t inputs, int64_t outputs, int64_t threads, int isa, int x_is_bf16, int weight_kind);
int moesaic_paged_attention(const void* query, const void* key, const void* value, void* out, void* keys, void* values,
                            float* key_scale, float* value_scale, const int32_t* tables, const int32_t* row,
                            const int32_t* positions, int64_t query_token, int64_t query_head, int64_t key_token,
                            int64_t key_head, int64_t value_token, int64_t value_head, int64_t table_stride,
                            int64_t tokens, int64_t heads, int64_t kv_heads, int64_t size, int64_t padded,
                            int64_t sequences, int64_t width, int64_t blocks, double scale, int64_t window, double cap,
                            int64_t threads, int isa, int activation, const int32_t* seen, const float* distances,
                            int64_t distance_stride, int64_t distance_origin);
}
