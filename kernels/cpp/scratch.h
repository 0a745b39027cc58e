// Memory to work in, kept from call to call by each thread that calls.
#pragma once

#include <cstdint>
#include <cstdlib>

struct Scratch {
  char* memory = nullptr;
  int64_t size = 0;
  ~Scratch() { free(memory); }

  // wanted: a multiple of 64.
  bool holds(int64_t wanted) {
    if (wanted > size) {
      free(memory);
      memory = static_cast<char*>(aligned_alloc(64, wanted));
      size = memory ? wanted : 0;
    }
    return memory;
  }
};

static inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bytes of whole lines.
static inline int64_t lines(int64_t bytes) { return ceil_divide(bytes, 64) * 64; }
