// Ranges of work on the threads that the process already has. torch brings an OpenMP runtime and exports its
// symbols; these weak ones bind to it when the library is loaded, so that both share one pool. Without it the
// caller's thread does everything.
#pragma once

#include <cstdint>

#if defined(__linux__)
extern "C" {
__attribute__((weak)) void GOMP_parallel(void (*function)(void*), void* data, unsigned threads, unsigned flags);
__attribute__((weak)) int omp_get_num_threads(void);
__attribute__((weak)) int omp_get_thread_num(void);
}

static inline bool has_threads() { return GOMP_parallel && omp_get_num_threads && omp_get_thread_num; }
#else
static inline bool has_threads() { return false; }
#endif

// body(begin, end) over [0, count), split at multiples of `unit`.
template <typename Body>
static void parallel_ranges(int64_t count, int64_t unit, int64_t threads, const Body& body) {
  const int64_t units = (count + unit - 1) / unit;
  if (threads > units) threads = units;
  if (threads <= 1 || !has_threads()) return body(0, count);
#if defined(__linux__)
  struct Shared {
    const Body& body;
    int64_t count, unit, units;
  } shared{body, count, unit, units};
  const auto worker = [](void* data) {
    const Shared& s = *static_cast<const Shared*>(data);
    const int64_t team = omp_get_num_threads(), member = omp_get_thread_num();
    const int64_t begin = s.units * member / team * s.unit, end = s.units * (member + 1) / team * s.unit;
    s.body(begin, end < s.count ? end : s.count);
  };
  GOMP_parallel(worker, &shared, static_cast<unsigned>(threads), 0);
#endif
}
