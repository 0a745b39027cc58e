// Between plain int8 weights and the planes of kernels/graded/layout.py, which says where each bit lies.
//
// Outputs are taken 64 at a time, half a block of 128, as sixteen words of four outputs. With four groups side by side,
// word 4 g + r of a plane belongs to output 16 r + 4 g of the half: one permutation of words, the same for every width.
#include <cstdint>
#include <cstring>

#include "parallel.h"

#if defined(__x86_64__)
#define WIDE __attribute__((target_clones("default", "avx2", "arch=skylake-avx512")))
#else
#define WIDE
#endif

namespace {

constexpr int HALF = 64, BLOCK = 128, LANE = 16, MOST_LEVELS = 8;
constexpr uint8_t SIGN = 0x80;

struct Layout {
  int64_t inputs, outputs, row_bytes, levels;
  int64_t widths[MOST_LEVELS];
  int64_t blocks;     // of 128
  int64_t has_half;   // whether one of 64 comes after them
};

Layout layout_of(int64_t inputs, int64_t outputs, int64_t row_bytes, int64_t levels, const int64_t* widths) {
  Layout found{inputs, outputs, row_bytes, levels, {}, outputs / BLOCK, 0};
  std::memcpy(found.widths, widths, static_cast<size_t>(levels) * sizeof(int64_t));
  const int64_t left = outputs % BLOCK;
  if (left > HALF) ++found.blocks;
  else if (left) found.has_half = 1;
  return found;
}

// The field of output n of a block of `groups` groups: its byte in the block's part of the plane, and its bit.
struct Place {
  int byte, bit;
};

inline Place place_of(int n, int groups, int width) {
  const int lanes = groups * width / 4 > 1 ? groups * width / 4 : 1, g = n / 4 % groups;
  return {LANE * (g % lanes) + n % 4 + 4 * (n / (4 * groups) % 4), width * (4 / width * (n / (16 * groups)) + g / lanes)};
}

inline int64_t block_bytes(int groups, int64_t width) {
  const int64_t lanes = groups * width / 4;
  return LANE * (lanes > 1 ? lanes : 1);
}

// The byte of a row at which each plane begins.
inline void starts_of(const Layout& layout, int64_t* start) {
  int64_t at = 0;
  for (int64_t p = 0; p < layout.levels; ++p) {
    start[p] = at;
    at += layout.blocks * block_bytes(4, layout.widths[p]) + layout.has_half * block_bytes(2, layout.widths[p]);
  }
}

// Sixteen words of a whole block's half, in the order 4 g + r, of one plane.
inline void words_of(const uint8_t* plane, int width, int half, uint32_t* words) {
  const int lanes = width, turns = 4 / width;  // of four groups
  const uint32_t mask = 0x01010101u * ((1u << width) - 1);
  uint32_t there[16];
  std::memcpy(there, plane, static_cast<size_t>(LANE) * lanes);
  for (int turn = 0; turn < turns; ++turn) {
    const int bit = width * (turns * half + turn);
    for (int i = 0; i < 4 * lanes; ++i) words[4 * lanes * turn + i] = there[i] >> bit & mask;
  }
}

// As far as the first `read` planes go; the bits of the others are 0.
WIDE void unpack_row(const Layout& layout, const uint8_t* row, int64_t read, uint8_t* out) {
  int64_t start[MOST_LEVELS];
  starts_of(layout, start);
  for (int64_t b = 0; b < layout.blocks; ++b) {
    for (int half = 0; half < 2; ++half) {
      uint32_t whole[16] = {};
      int under = 8;
      for (int64_t p = 0; p < read; ++p) {
        const int width = static_cast<int>(layout.widths[p]);
        uint32_t words[16];
        words_of(row + start[p] + b * block_bytes(4, width), width, half, words);
        under -= width;
        for (int i = 0; i < 16; ++i) whole[i] |= words[i] << under;
      }
      uint32_t ordered[16];
      for (int r = 0; r < 4; ++r)
        for (int g = 0; g < 4; ++g) ordered[4 * r + g] = whole[4 * g + r] ^ 0x80808080u;
      const int64_t first = b * BLOCK + half * HALF, left = layout.outputs - first;
      if (left > 0) std::memcpy(out + first, ordered, static_cast<size_t>(left < HALF ? left : HALF));
    }
  }
  if (!layout.has_half) return;
  for (int64_t n = layout.blocks * BLOCK; n < layout.outputs; ++n) {
    unsigned whole = 0;
    int under = 8;
    for (int64_t p = 0; p < read; ++p) {
      const int width = static_cast<int>(layout.widths[p]);
      const Place place = place_of(static_cast<int>(n - layout.blocks * BLOCK), 2, width);
      const uint8_t byte = row[start[p] + layout.blocks * block_bytes(4, width) + place.byte];
      under -= width;
      whole |= (byte >> place.bit & ((1u << width) - 1)) << under;
    }
    out[n] = static_cast<uint8_t>(whole) ^ SIGN;
  }
}

// The part of a plane that a whole block has: the inverse of `words_of`, of both halves.
inline void plane_of(const uint32_t (*words)[16], int width, int under, uint8_t* plane) {
  const int lanes = width, turns = 4 / width;  // of four groups
  const uint32_t mask = 0x01010101u * ((1u << width) - 1);
  uint32_t there[16] = {};
  for (int half = 0; half < 2; ++half)
    for (int turn = 0; turn < turns; ++turn) {
      const int bit = width * (turns * half + turn);
      for (int i = 0; i < 4 * lanes; ++i) there[i] |= (words[half][4 * lanes * turn + i] >> under & mask) << bit;
    }
  std::memcpy(plane, there, static_cast<size_t>(LANE) * lanes);
}

// Both halves of a block, whose words are in the order 4 g + r; outputs that are not there have no bits.
inline void halves_of(const uint8_t* weights, int64_t there, uint32_t (*words)[16]) {
  uint32_t ordered[2][16];
  std::memset(ordered, SIGN, sizeof ordered);
  std::memcpy(ordered, weights, static_cast<size_t>(there < BLOCK ? there : BLOCK));
  for (int half = 0; half < 2; ++half)
    for (int r = 0; r < 4; ++r)
      for (int g = 0; g < 4; ++g) words[half][4 * g + r] = ordered[half][4 * r + g] ^ 0x80808080u;
}

// The block of 64 at the end, output by output.
void pack_half(const Layout& layout, const uint8_t* weights, int64_t there, const int64_t* start, uint8_t* row) {
  int under = 8;
  for (int64_t p = 0; p < layout.levels; ++p) {
    const int width = static_cast<int>(layout.widths[p]);
    under -= width;
    for (int n = 0; n < there; ++n) {
      const Place place = place_of(n, 2, width);
      const unsigned field = static_cast<unsigned>(weights[n] ^ SIGN) >> under & ((1u << width) - 1);
      row[start[p] + layout.blocks * block_bytes(4, width) + place.byte] |= static_cast<uint8_t>(field << place.bit);
    }
  }
}

WIDE void pack_row(const Layout& layout, const uint8_t* weights, uint8_t* row) {
  int64_t start[MOST_LEVELS];
  starts_of(layout, start);
  for (int64_t b = 0; b < layout.blocks; ++b) {
    uint32_t words[2][16];
    halves_of(weights + b * BLOCK, layout.outputs - b * BLOCK, words);
    int under = 8;
    for (int64_t p = 0; p < layout.levels; ++p) {
      const int width = static_cast<int>(layout.widths[p]);
      under -= width;
      plane_of(words, width, under, row + start[p] + b * block_bytes(4, width));
    }
  }
  const int64_t first = layout.blocks * BLOCK;
  if (layout.has_half) pack_half(layout, weights + first, layout.outputs - first, start, row);
}

}  // namespace

extern "C" {

// rows: [inputs, row_bytes]; read: so many planes; out: int8 [inputs, outputs].
void moesaic_graded_unpack(const uint8_t* rows, uint8_t* out, int64_t inputs, int64_t outputs, int64_t row_bytes,
                           int64_t levels, const int64_t* widths, int64_t read, int64_t threads) {
  const Layout layout = layout_of(inputs, outputs, row_bytes, levels, widths);
  parallel_ranges(inputs, 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) unpack_row(layout, rows + k * row_bytes, read, out + k * outputs);
  });
}

// weights: int8 [inputs, outputs]; rows: zeros.
void moesaic_graded_pack(const uint8_t* weights, uint8_t* rows, int64_t inputs, int64_t outputs, int64_t row_bytes,
                         int64_t levels, const int64_t* widths, int64_t threads) {
  const Layout layout = layout_of(inputs, outputs, row_bytes, levels, widths);
  parallel_ranges(inputs, 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) pack_row(layout, weights + k * outputs, rows + k * row_bytes);
  });
}
}
