// Ranges of work on several threads: in a step those of the team, elsewhere those that the process already has. torch
// brings an OpenMP runtime and exports its symbols; these weak ones bind to it when the library is loaded, so that both
// share one pool. Without it the caller's thread does everything.
#pragma once

#include <cstdint>

#include "team.h"

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

constexpr int64_t UNITS = 16, MOST_PIECES = 4;  // units that make a piece, and pieces for each thread

// The same on the team, in more pieces than threads where there is much to do: one that comes late finds some left.
template <typename Body>
static void team_ranges(int64_t count, int64_t unit, int64_t units, int64_t threads, const Body& body) {
  struct Shared {
    const Body& body;
    int64_t count, unit, units, pieces;
  };
  const int64_t each = units / (threads * UNITS), times = each < 1 ? 1 : each < MOST_PIECES ? each : MOST_PIECES;
  const Shared shared{body, count, unit, units, threads * times};
  const auto piece = [](const void* data, int64_t index) {
    const Shared& s = *static_cast<const Shared*>(data);
    const int64_t begin = s.units * index / s.pieces * s.unit, end = s.units * (index + 1) / s.pieces * s.unit;
    s.body(begin, end < s.count ? end : s.count);
  };
  team_run(threads, shared.pieces, piece, &shared);
}

// body(begin, end) over [0, count), split at multiples of `unit`.
template <typename Body>
static void parallel_ranges(int64_t count, int64_t unit, int64_t threads, const Body& body) {
  const int64_t units = (count + unit - 1) / unit;
  if (threads > units) threads = units;
  if (threads <= 1) return body(0, count);
  if (in_team()) return team_ranges(count, unit, units, threads, body);
  if (!has_threads()) return body(0, count);
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
