// Instructions of FFNs that compute a part: at some tiers some neurons, or of a mixture some experts.
#include "abi.h"
#include "machine.h"

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
