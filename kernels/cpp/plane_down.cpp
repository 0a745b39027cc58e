// The second half of a bit-plane FFN, y = down h, in integers: h becomes numbers of 16 bits (fixed_point.h), and sums are
// exact in any order. So whoever reads rows of a few neurons and whoever reads all of down give the same bits.
#include "abi.h"
#include "fixed_point.h"
#include "pair_isa.h"
#include "parallel.h"
#include "plane_layer.h"
#include "scratch.h"

namespace {
struct Listed {  // neurons whose number is not 0
  int64_t count;       // even: the last is followed by 0 where it must be
  const int8_t** row;  // of down, and beyond the end what may be asked for
  int16_t* number;
  float half_step;
};

struct DownKernel {
  void (*add)(const PlaneLayer&, const Listed&, int64_t begin, int64_t end, int32_t* sum);
  void (*finish)(const PlaneLayer&, const int32_t* sum, int64_t parts, float half_step, float* y);
};
}  // namespace

constexpr int ROWS_AT_ONCE = 8;
constexpr int64_t MOST_SUMMED = 512;       // neurons: 512 * 32639 * 128 is below 2^31
constexpr int64_t PART_ROWS = 64;          // that pay for sums of their own
constexpr int64_t MINIMUM_WORK = 1 << 16;  // multiplications that pay for waking another thread

namespace portable {
#define TARGET TARGET_PORTABLE
#include "plane_down_body.h"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "plane_down_body.h"
#undef TARGET
}  // namespace avx2

namespace avx512_vnni {
#define TARGET TARGET_AVX512_VNNI
#include "plane_down_body.h"
#undef TARGET
}  // namespace avx512_vnni
#endif

static DownKernel kernel_for(int isa) {
#if defined(__x86_64__)
  if (isa == PLANE_AVX512_VNNI) return {avx512_vnni::add_listed, avx512_vnni::finish};
  if (isa == PLANE_AVX2) return {avx2::add_listed, avx2::finish};
#endif
  return {portable::add_listed, portable::finish};
}

// Whether to read all of down, once for all tokens. A listed row costs a token 8 where reading all of them costs 4 and 1
// for each token: measured from 576 x 1536 to 2048 x 8192, at 1 to 16 tokens.
static bool reads_whole(const PlaneLayer& layer, const float* h, int64_t tokens) {
  if (!layer.whole) return false;
  int64_t pairs = 0;
  for (int64_t i = 0; i < tokens * layer.width; ++i) pairs += h[i] != 0.0f;
  return 8 * pairs > (4 + tokens) * layer.width;
}

// Lists a token's neurons; false for one that is no number.
static bool list(const PlaneLayer& layer, const float* h, Listed& list) {
  float step;
  list.count = 0;
  const bool sound = find_step(h, layer.width, step);
  list.half_step = sound ? step * 0.5f : __builtin_nanf("");
  for (int64_t n = 0; sound && n < layer.width; ++n) {
    const int32_t number = in_steps(h[n], step);
    list.row[list.count] = layer.down + n * layer.columns;
    list.number[list.count] = int16_t(number);
    list.count += number != 0;
  }
  if (list.count % 2) list.row[list.count] = list.row[list.count - 1], list.number[list.count++] = 0;
  for (int i = 0; i < ROWS_AT_ONCE; ++i) list.row[list.count + i] = layer.down;
  return sound;
}

static void lone_token(const PlaneLayer& layer, const DownKernel& kernel, const Listed& list, int32_t* sums,
                       int64_t parts, int64_t threads, float* y) {
  const int64_t pairs = list.count / 2;
  const auto begin = [&](int64_t part) { return 2 * (pairs * part / parts); };
  parallel_ranges(parts, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) kernel.add(layer, list, begin(p), begin(p + 1), sums + p * layer.columns);
  });
  kernel.finish(layer, sums, parts, list.half_step, y);
}

int plane_down(const PlaneLayer& layer, const float* h, float* y, int64_t tokens, int64_t threads, int isa) {
  static thread_local Scratch scratch;
  if (reads_whole(layer, h, tokens)) return moesaic_digit_linear(layer.whole, h, y, tokens, threads, isa);
  const int64_t most = layer.width + 2 + ROWS_AT_ONCE, rows = lines(most * 8), numbers = lines(most * 2);
  const int64_t parts_most = ceil_divide(layer.width, PART_ROWS) + 1;
  if (!scratch.holds(rows + numbers + parts_most * layer.columns * 4)) return 0;
  Listed listed{0, reinterpret_cast<const int8_t**>(scratch.memory),
                reinterpret_cast<int16_t*>(scratch.memory + rows), 0.0f};
  int32_t* sums = reinterpret_cast<int32_t*>(scratch.memory + rows + numbers);
  for (int64_t t = 0; t < tokens; ++t) {
    list(layer, h + t * layer.width, listed);
    const int64_t useful = listed.count * layer.hidden / MINIMUM_WORK + 1, least = ceil_divide(listed.count, MOST_SUMMED);
    const int64_t shared = threads < useful ? threads : useful, pieces = shared > 1 ? ceil_divide(listed.count, PART_ROWS) : 1;
    const int64_t wanted = pieces < 4 * shared ? pieces : 4 * shared, parts = wanted > least ? wanted : least;
    lone_token(layer, kernel_for(isa), listed, sums, parts < 1 ? 1 : parts, shared, y + t * layer.hidden);
  }
  return 1;
}
