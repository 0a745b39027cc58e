// What the parts of the graded linear share: a layer, the passes over its planes, tokens, and who computes.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

constexpr int MAX_LEVELS = 8;
constexpr int64_t BLOCK = 128, PANEL = 32;       // outputs; of a panel lines stand one after the other
constexpr int64_t LINE_BYTES = 4 * PANEL;        // four inputs of a panel
constexpr int64_t CHUNK = 4, NEAR_BLOCKS = 16;   // quads that are read over so many blocks before the next, measured
constexpr int64_t TILE_QUADS = 128;              // that are interleaved before tokens multiply them
constexpr int64_t PANEL_BYTES = TILE_QUADS * LINE_BYTES, TILE_BYTES = BLOCK / PANEL * PANEL_BYTES;
constexpr int64_t AHEAD_ROWS = 16;               // all bytes that are read have been asked for
constexpr int64_t RUN = 512;                     // inputs whose words are made at a time

struct GradedLayer {
  const uint8_t* rows;  // [inputs, row_bytes]: the planes of w + 128, the first over all outputs, then the next
  const float* scale;   // [outputs]
  const float* worth;   // [levels]
  const float* bias;    // [outputs] or null
  int64_t inputs, outputs, row_bytes, levels;
  int64_t widths[MAX_LEVELS];  // of the planes, in bits
};

struct Pass {         // over some planes, for the inputs whose level lies between two
  int32_t least, most;
  int first, count;   // planes
  int32_t scale, mask;    // of a plane by itself: what a unit of its field is worth, and its field in each byte
  int32_t turn[2][2][16];  // [blocks of 128 and of 64][halves or planes]: bits by which lanes are turned left
};

struct Planes {  // of a pass, for one vector's part of a block
  int64_t at[4];
  const int32_t* turn[2];
  int32_t scale, mask;
};

struct List {  // of rows, four at a time
  int64_t begin[2 * MAX_LEVELS + 1];  // the first quad of each part
  const uint8_t** row;                // of each input of each quad
  uint32_t* entry;                    // its number, with 1 << 16 or more above it unless it fills up four
};

struct Token {
  float half_step;
  int64_t read, bits, constant;    // inputs; bits over all of them; what is added to twice the sum
  int64_t reach[MAX_LEVELS + 1];   // inputs that read a level or more
  int32_t *q, *level;              // [inputs]
  uint32_t* word;                  // [inputs + 1]: q << 8 and a mask of the bits that are read; 0 of what is not
  List own;
  int32_t *high, *low;             // digits of each quad of its own list
};

struct Group {  // of tokens that are multiplied at a time
  int64_t first, count;
  int32_t *words, *masks;  // [quads, count] of both
};

struct Crowd {  // several tokens that read rows together
  Token* token;
  Group* group;
  int64_t tokens, groups;
  bool whole;     // all of them read everything
  List all;       // for each level what is read alike, by those who read it, then what is not
  int32_t* most;  // [inputs]: twice the level that any of them reads, and 1 if others read less
};

struct GradedJob;
using AddPass = void (*)(const GradedJob&, const Pass&, const Token&, int64_t, int64_t);
using FillTile = void (*)(const GradedJob&, const Pass&, const List&, int64_t begin, int64_t end, int64_t block,
                          uint8_t* tile);

struct GradedJob {
  const GradedLayer& layer;
  int64_t whole_blocks, num_blocks;        // of 128; with the last, of 64
  int64_t stride;                          // of sums, from one token or digit to the next
  int32_t* sums;                           // [2, stride] of a token by itself
  double* totals;                          // [tokens, stride] of several: twice the sums
  int64_t num_passes;
  Pass pass[MAX_LEVELS];
  AddPass add[MAX_LEVELS];
  FillTile fill[MAX_LEVELS];               // null where tokens are computed one by one
  int64_t plane_start[MAX_LEVELS];         // bytes from the beginning of a row
};

// Instructions for a quad of a block of 128, as bench/cost/processor.py counts them, by bits: up to 4, to 6, more.
struct Counts {
  int alone[3], fill[3];
  int row, masked;  // for each token
};

struct GradedKernel {
  bool whole;  // whether all bits of a byte may be multiplied at once
  int64_t most_rows, mask_words;
  Counts counts;
  void (*measure)(const GradedJob&, const float* x, float threshold, Token&);
  void (*list)(const GradedJob&, uint32_t* word, Token&);
  AddPass (*pass_for)(int above, int below);
  void (*finish)(const GradedJob&, const Token&, const int32_t* sums, int64_t begin, int64_t end, float* y);
  FillTile (*fill_for)(int above, int below);
  void (*join)(const GradedJob&, const Crowd&);
  void (*list_all)(const GradedJob&, uint32_t* word, Crowd&);
  void (*take)(const GradedJob&, const Crowd&, const Group&, int64_t which);
  void (*multiply)(const GradedJob&, const Crowd&, const uint8_t* tile, int64_t begin, int64_t end, int64_t block,
                   bool masked);
  void (*finish_total)(const GradedJob&, const Token&, const double* totals, int64_t begin, int64_t end, float* y);
};

// Pieces of 16 bytes of a block of 32 * groups outputs in a plane.
constexpr int lanes_of(int groups, int64_t width) { return groups * width < 4 ? 1 : int(groups * width / 4); }

// Planes of a kind of `half_bytes`.
constexpr int planes_of(int kind) { return kind > 4 ? 2 : kind > 0; }

template <int... A>
using Indices = std::integer_sequence<int, A...>;

template <class T>
constexpr T least(T a, T b) {
  return a < b ? a : b;
}

// The bits of the planes above one.
static inline int64_t bits_above(const GradedLayer& layer, int64_t plane) {
  int64_t bits = 0;
  for (int64_t p = 0; p < plane; ++p) bits += layer.widths[p];
  return bits;
}
