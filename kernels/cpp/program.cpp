#include "abi.h"
#include "activation.h"
#include "isa.h"
#include "machine.h"

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
RowKernels kernels_for(int isa) {
#if defined(__x86_64__)
  if (isa >= AVX512) return avx512::ROW_KERNELS;
  if (isa >= AVX2) return avx2::ROW_KERNELS;
#endif
  return portable::ROW_KERNELS;
}
}  // namespace

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

// from, second, third: query, key, value. sizes: heads, heads of keys, size of a head, size as stored, window, blocks,
// whether distances are added. numbers: scale and cap of scores. operands: keys, values and their scales. Without a
// query it stores and no more, without a key it looks up.
int Machine::attend(const Instruction& each, const Places& places, const void* query, const void* key) {
  const int64_t heads = each.sizes[0], kv_heads = each.sizes[1], size = each.sizes[2], padded = each.sizes[3];
  void* kept[4];
  for (int i = 0; i < 4; ++i) kept[i] = const_cast<void*>(each.operands[i]);
  const int32_t* seen = &places == &run.own ? run.seen : nullptr;
  const float* distances = each.sizes[6] ? run.distances : nullptr;
  return moesaic_paged_attention(query, key, at(each.third), at(each.to), kept[0], kept[1],
                                 static_cast<float*>(kept[2]), static_cast<float*>(kept[3]), places.tables, places.row,
                                 places.positions, each.from.stride, size, each.second.stride, size, each.third.stride,
                                 size, places.table_stride, rows, heads, kv_heads, size, padded, places.sequences,
                                 places.width, each.sizes[5], each.numbers[0], each.sizes[4], each.numbers[1], threads,
                                 isa, 0, seen, distances, run.distance_stride, run.distance_origin)
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
    const int64_t turn = run.own.positions[row] * run.turn_stride + each.sizes[3];
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

// to = from times a number. sizes: width.
void Machine::scale(const Instruction& each) {
  const float factor = float(each.numbers[0]);
  each_row(each.sizes[0], [&](int64_t row) {
    const float* from = at(each.from, row);
    float* to = at(each.to, row);
    for (int64_t k = 0; k < each.sizes[0]; ++k) to[k] = from[k] * factor;
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
    case SHIFT:
      each_row(each.sizes[0], [&](int64_t row) { kernels.add(floats(each.operands[0]), each.sizes[0], at(each.to, row)); });
      return PROGRAM_DONE;
    case GRADED: return graded(each);
    case AMONG: return among(each.sizes[0]), PROGRAM_DONE;
    case PLANES: return planes(each);
    case EXPERTS: return experts(each);
    case CHOOSE: return choose(each), PROGRAM_DONE;
    case TAKE: return take(each), PROGRAM_DONE;
    case GIVE: return give(each), PROGRAM_DONE;
    case ATTEND: return attend(each, run.own, at(each.from), at(each.second));
    case LOOK_UP: return attend(each, run.source, at(each.from), nullptr);
    case KEEP: return attend(each, run.source, nullptr, at(each.second));
    case SCALE: return scale(each), PROGRAM_DONE;
    case DENSE: return dense(each), PROGRAM_DONE;
    case ACTIVATE: return activate(each), PROGRAM_DONE;
    default: return gather(each), PROGRAM_DONE;
  }
}

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
