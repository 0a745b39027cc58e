// One pass of a model over the rows of a step, as a list of instructions: kernels/native_program.py writes it.
#pragma once

#include <cstdint>

enum InstructionKind { NORM, DIGIT, GRADED, DENSE, ROTATE, ATTEND, ACTIVATE, ADD, GATHER, AMONG, PLANES, EXPERTS, CHOOSE, TAKE, GIVE, LOOK_UP, KEEP, SCALE, SHIFT };
enum Among { ALL_ROWS, FULL_ROWS, SPARSE_ROWS };  // of a step; those at the full tier come first
enum ProgramFailure { PROGRAM_DONE, PROGRAM_NO_MEMORY, PROGRAM_UNSOUND };

struct View {  // rows of fp32 in one of the places of a run
  int64_t place, stride, offset;
};

struct Instruction {
  int64_t kind;
  View from, second, third, to;
  int64_t sizes[7];
  double numbers[2];
  const void* operands[4];
};

struct Places {  // of rows, in blocks
  const int32_t *tables, *row, *positions;
  int64_t table_stride, sequences, width;
};

struct Run {
  int64_t rows, scored, full;     // rows of the step; those that are kept by GATHER; those at the full tier
  float* const* places;           // [places] of [rows, width]
  const float* thresholds;        // [rows]
  const float *cosine, *sine;     // [positions, turn_stride], the values of one table beside those of another
  int64_t turn_stride;
  Places own, source;             // in its own sequence, and in what it goes on from, or is of
  const int32_t* seen;            // [rows], the last position of its own sequence that each sees; null: where it stands
  const float* distances;         // [heads, distance_stride], or null
  int64_t distance_stride, distance_origin;
  const int64_t* kept;            // [scored], rows
  float* kept_thresholds;         // [scored]
  int64_t *counts, *bits, *neurons;  // [2, rows] to work in; [prices, rows] and [rows], to be added to
  const int64_t* tiers;           // [rows], null where all are full
  const float* parts;             // [rows], of the way to the next tier, or null
  const float* factors;           // of those that are not full, where they choose together, or null
  float* asked;                   // [rows, 2] to work in
  int64_t* units;                 // [prices, 2, rows], to be added to
  int64_t* taken;                 // [rows], those of an expert
};
