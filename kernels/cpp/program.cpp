#include "program.h"

#include <cstring>

#include "abi.h"
#include "activation.h"
#include "isa.h"
#include "parallel.h"

constexpr int64_t MINIMUM_VALUES = 1 << 14;  // that pay for another thread

namespace portable {
#define TARGET TARGET_PORTABLE
#include "activation_body.h"
#include "program_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "activation_body.h"
#include "program_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512 {
#define TARGET TARGET_AVX512
#include "activation_body.h"
#include "program_body.h"
#undef TARGET
}  // namespace avx512
#endif

namespace {
struct RowKernels {
  decltype(&portable::norm_row) norm;
  decltype(&portable::rotate_row) rotate;
  decltype(&portable::add_row) add;
  decltype(&portable::activate) activate;
  decltype(&portable::add_between) add_between;
  decltype(&portable::parts) parts;
  decltype(&portable::add_part) add_part;
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
  int attend(const Instruction& each);
  void norm(const Instruction& each);
  void rotate(const Instruction& each);
  void dense(const Instruction& each);
  void activate(const Instruction& each);
  void gather(const Instruction& each);
};

const float* floats(const void* from) { return static_cast<const float*>(from); }

RowKernels kernels_for(int isa) {
#if defined(__x86_64__)
  if (isa >= AVX512) return {avx512::norm_row, avx512::rotate_row, avx512::add_row, avx512::activate,
          avx512::add_between, avx512::parts, avx512::add_part};
  if (isa >= AVX2) return {avx2::norm_row, avx2::rotate_row, avx2::add_row, avx2::activate,
          avx2::add_between, avx2::parts, avx2::add_part};
#endif
  return {portable::norm_row, portable::rotate_row, portable::add_row, portable::activate,
          portable::add_between, portable::parts, portable::add_part};
}

// sizes: price, whether inputs are neurons. operands: a GradedLayer.
int Machine::graded(const Instruction& each) {
  const auto* layer = static_cast<const GradedLayer*>(each.operands[0]);
  if (!moesaic_graded_linear(layer, at(each.from), thresholds, at(each.to), run.counts, rows, threads, plane_isa))
    return PROGRAM_NO_MEMORY;
  int64_t* bits = run.bits + each.sizes[0] * run.rows;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t where = origin ? origin[row] : first + row;
    bits[where] += run.counts[rows + row];
    if (each.sizes[1]) run.neurons[where] += run.counts[row];
  }
  return PROGRAM_DONE;
}

// from, second, third: query, key, value. sizes: heads, heads of keys, size of a head, size as stored. operands: keys,
// values and their scales. The fifth size is the window; numbers: scale and cap of scores.
int Machine::attend(const Instruction& each) {
  const int64_t heads = each.sizes[0], kv_heads = each.sizes[1], size = each.sizes[2], padded = each.sizes[3];
  void* kept[4];
  for (int i = 0; i < 4; ++i) kept[i] = const_cast<void*>(each.operands[i]);
  return moesaic_paged_attention(at(each.from), at(each.second), at(each.third), at(each.to), kept[0], kept[1],
                                 static_cast<float*>(kept[2]), static_cast<float*>(kept[3]), run.tables, run.row,
                                 run.positions, each.from.stride, size, each.second.stride, size, each.third.stride,
                                 size, run.table_stride, rows, heads, kv_heads, size, padded, run.sequences, run.width,
                                 run.blocks, each.numbers[0], each.sizes[4], each.numbers[1], threads, isa, 0)
             ? PROGRAM_DONE
             : PROGRAM_UNSOUND;
}

// sizes: width, whether the mean goes, vectors of this width beside each other. operands: weight, bias.
void Machine::norm(const Instruction& each) {
  const int64_t width = each.sizes[0];
  each_row(width * each.sizes[2], [&](int64_t row) {
    for (int64_t at_column = 0; at_column < width * each.sizes[2]; at_column += width)
      kernels.norm(at(each.from, row) + at_column, floats(each.operands[0]), floats(each.operands[1]), width,
                   each.sizes[1] != 0, float(each.numbers[0]), at(each.to, row) + at_column);
  });
}

// sizes: heads, size of a head, values of it that turn, where their table begins.
void Machine::rotate(const Instruction& each) {
  each_row(each.sizes[0] * each.sizes[1], [&](int64_t row) {
    const int64_t turn = run.positions[row] * run.turn_stride + each.sizes[3];
    kernels.rotate(at(each.to, row), run.cosine + turn, run.sine + turn, each.sizes[0], each.sizes[1], each.sizes[2]);
  });
}

// sizes: inputs, outputs, what weights are. operands: weight, bias.
void Machine::dense(const Instruction& each) {
  moesaic_linear(at(each.from), each.operands[0], nullptr, floats(each.operands[1]), at(each.to), rows, each.sizes[0],
                 each.sizes[1], threads, isa, 0, int(each.sizes[2]));
}

// to = act(from), or act(second) * from where sizes say so. sizes: width, activation, whether there are gates.
void Machine::activate(const Instruction& each) {
  const int64_t width = each.sizes[0];
  each_row(4 * width, [&](int64_t row) {
    memcpy(at(each.to, row), at(each.from, row), width * sizeof(float));
    kernels.activate(int(each.sizes[1]), each.sizes[2] ? at(each.second, row) : nullptr, at(each.to, row), int(width));
  });
}

// From here on only the rows that are kept. sizes: width.
void Machine::gather(const Instruction& each) {
  for (int64_t i = 0; i < run.scored; ++i) {
    memcpy(at(each.to, i), at(each.from, run.kept[i]), each.sizes[0] * sizeof(float));
    run.kept_thresholds[i] = run.thresholds[run.kept[i]];
  }
  rows = run.scored, origin = run.kept, thresholds = run.kept_thresholds;
}

void Machine::among(int64_t which) {
  first = which == SPARSE_ROWS ? run.full : 0;
  rows = which == FULL_ROWS ? run.full : run.rows - first;
  thresholds = run.thresholds + first;
}

// Adds what a row of the step asks of a table [tiers, width].
void Machine::add_asked(const float* table, int64_t width, int64_t row, float* to) const {
  const float* from = table + run.tiers[row] * width;
  const float part = run.parts ? run.parts[row] : 0.0f;
  part > 0.0f ? kernels.add_between(from, from + width, part, width, to) : kernels.add(from, width, to);
}

// Thresholds [rows, 2], of those that are not full.
const float* Machine::asked(const float* table) const {
  for (int64_t row = run.full; row < run.rows; ++row) {
    float* found = run.asked + 2 * row;
    found[0] = found[1] = 0.0f;
    add_asked(table, 2, row, found);
    for (int i = 0; run.factors && i < 2; ++i) found[i] *= run.factors[row - run.full];
  }
  return run.asked + 2 * first;
}

// Counts `parts` of what was chosen, and adds the constant, for all rows but `full` of these.
int Machine::finish_chosen(const Instruction& each, int done, int64_t full, int64_t parts) {
  if (!done) return PROGRAM_NO_MEMORY;
  for (int64_t row = full; row < rows; ++row) {
    for (int64_t part = 0; part < parts; ++part)
      run.units[(2 * each.sizes[0] + part) * run.rows + first + row] += run.counts[part * rows + row];
    add_asked(floats(each.operands[2]), each.to.stride, first + row, at(each.to, row));
  }
  return PROGRAM_DONE;
}

// sizes: what it is counted as, activation. operands: a PlaneLayer, thresholds and constants of the tiers.
int Machine::planes(const Instruction& each) {
  const int done = moesaic_plane_ffn(static_cast<const PlaneLayer*>(each.operands[0]), at(each.from),
                                     asked(floats(each.operands[1])), at(each.to), run.counts, run.counts + rows, rows,
                                     threads, int(each.sizes[1]), plane_isa, run.factors != nullptr);
  return finish_chosen(each, done, 0, 2);
}

// sizes: what it is counted as. operands: a RoutedLayer, thresholds and constants of the tiers.
int Machine::experts(const Instruction& each) {
  const int done = moesaic_routed_ffn(static_cast<const RoutedLayer*>(each.operands[0]), at(each.from),
                                      asked(floats(each.operands[1])), at(each.to), run.counts, rows, run.full,
                                      threads, isa);
  return finish_chosen(each, done, run.full, 1);
}

// Experts that a row takes.
int64_t Machine::wanted(const Instruction& each, int64_t row) const {
  if (row < run.full || !each.operands[0]) return each.sizes[1];
  float count = 0.0f;
  add_asked(floats(each.operands[0]), 1, row, &count);
  const int64_t above = int64_t(__builtin_ceilf(count - float(each.numbers[0])));
  return above < 1 ? 1 : above < each.sizes[1] ? above : each.sizes[1];
}

// second: the sum. sizes: experts, the most that a row takes, whether parts are normalised, neurons of an expert, what
// they are counted as. operands: how many a row takes at each tier, or null.
void Machine::choose(const Instruction& each) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t count = wanted(each, row);
    kernels.parts(at(each.from, row), each.sizes[0], count, each.sizes[2] != 0, at(each.to, row));
    memset(at(each.second, row), 0, each.second.stride * sizeof(float));
    if (row >= run.full) run.units[2 * each.sizes[4] * run.rows + row] += count * each.sizes[3];
  }
}

// second: parts. sizes: width, expert.
void Machine::take(const Instruction& each) {
  int64_t count = 0;
  for (int64_t row = 0; row < run.rows; ++row)
    if (at(each.second, row)[each.sizes[1]] != 0.0f) {
      memcpy(at(each.to, count), at(each.from, row), each.sizes[0] * sizeof(float));
      run.taken[count++] = row;
    }
  rows = count;
}

// The same.
void Machine::give(const Instruction& each) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = run.taken[i];
    kernels.add_part(at(each.from, i), at(each.second, row)[each.sizes[1]], each.sizes[0], at(each.to, row));
  }
  rows = run.rows;
}

int Machine::does(const Instruction& each) {
  if (!rows && each.kind != AMONG && each.kind != GIVE) return PROGRAM_DONE;
  switch (each.kind) {
    case NORM: return norm(each), PROGRAM_DONE;
    case DIGIT:
      return moesaic_digit_linear(static_cast<const DigitLayer*>(each.operands[0]), at(each.from), at(each.to), rows,
                                  threads, plane_isa)
                 ? PROGRAM_DONE
                 : PROGRAM_NO_MEMORY;
    case ROTATE: return rotate(each), PROGRAM_DONE;
    case ADD:
      each_row(each.sizes[0], [&](int64_t row) { kernels.add(at(each.from, row), each.sizes[0], at(each.to, row)); });
      return PROGRAM_DONE;
    case GRADED: return graded(each);
    case AMONG: return among(each.sizes[0]), PROGRAM_DONE;
    case PLANES: return planes(each);
    case EXPERTS: return experts(each);
    case CHOOSE: return choose(each), PROGRAM_DONE;
    case TAKE: return take(each), PROGRAM_DONE;
    case GIVE: return give(each), PROGRAM_DONE;
    case ATTEND: return attend(each);
    case DENSE: return dense(each), PROGRAM_DONE;
    case ACTIVATE: return activate(each), PROGRAM_DONE;
    default: return gather(each), PROGRAM_DONE;
  }
}
}  // namespace

extern "C" {
// Bytes of an instruction (0) and of a run (1).
int moesaic_sizeof(int which) { return which ? sizeof(Run) : sizeof(Instruction); }

// isa: of `enum Isa`; plane_isa: of `enum PlaneIsa`. Returns one of `enum ProgramFailure`.
int moesaic_program(const Instruction* instructions, int64_t count, const Run* run, int64_t threads, int isa,
                    int plane_isa) {
  const InTeam team;
  Machine machine{*run, 0, run->rows, run->thresholds, nullptr, threads, isa, plane_isa, kernels_for(isa)};
  for (int64_t i = 0; i < count; ++i)
    if (const int failure = machine.does(instructions[i])) return failure;
  return PROGRAM_DONE;
}
}
