// Who runs a program: which rows an instruction is for, and what does it. Its parts are program.cpp and program_ffn.cpp.
#pragma once

#include <cstring>

#include "parallel.h"
#include "program.h"

constexpr int64_t MINIMUM_VALUES = 1 << 14;  // that pay for another thread

struct RowKernels {  // of program_body.h
  void (*norm)(const float* x, const float* weight, const float* bias, int64_t width, bool layer, float eps, float* to);
  void (*rotate)(float* x, const float* cosine, const float* sine, int64_t heads, int64_t size, int64_t turned);
  void (*add)(const float* from, int64_t width, float* to);
  void (*activate)(int activation, const float* gates, float* values, int count);
  void (*add_between)(const float* from, const float* next, float part, int64_t width, float* to);
  void (*parts)(const float* x, int64_t experts, int64_t count, bool normalised, float* to);
  void (*add_part)(const float* from, float part, int64_t width, float* to);
};

struct Machine {
  const Run& run;
  int64_t first, rows;         // of the instructions from here on
  const float* thresholds;     // of these rows
  const int64_t* origin;       // the row of the step that each of them is; null: itself
  int64_t threads;
  int isa, plane_isa;
  RowKernels kernels;

  float* at(const View& view, int64_t row = 0) const {
    return run.places[view.place] + (first + row) * view.stride + view.offset;
  }
  // body(row) for every row
  template <typename Body>
  void each_row(int64_t values, const Body& body) const {
    const int64_t useful = rows * values / MINIMUM_VALUES + 1;
    parallel_ranges(rows, 1, threads < useful ? threads : useful, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) body(row);
    });
  }
  int does(const Instruction& each);
  int graded(const Instruction& each);
  int planes(const Instruction& each);
  int experts(const Instruction& each);
  int finish_chosen(const Instruction& each, int done, int64_t full, int64_t parts);
  void add_asked(const float* table, int64_t width, int64_t row, float* to) const;
  const float* asked(const float* table) const;
  void among(int64_t which);
  int64_t wanted(const Instruction& each, int64_t row) const;
  void choose(const Instruction& each);
  void take(const Instruction& each);
  void give(const Instruction& each);
  int attend(const Instruction& each, const Places& places, const void* query, const void* key);
  void norm(const Instruction& each);
  void rotate(const Instruction& each);
  void dense(const Instruction& each);
  void activate(const Instruction& each);
  void gather(const Instruction& each);
  void scale(const Instruction& each);
};

static inline const float* floats(const void* from) { return static_cast<const float*>(from); }
