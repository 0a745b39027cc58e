// Included inside the namespace of each instruction set, with TARGET set to its attribute: what int8 linears and graded
// ones share, the product of lines of weights and a group of rows.

constexpr int64_t PREFETCH_BYTES = 8192;  // measured: less gains nothing, and this a sixth of the largest matrices

// Twice the sums over quads of a tile, to [ROWS, TOTALS, WIDTH] in fp64: at most MOST_QUADS of them, one every
// LINE_BYTES. words: [quads, ROWS, 2]; masks: [quads, ROWS, MASK_WORDS], of MASKED lines. FETCHED: from memory.
template <int ROWS, bool MASKED, bool FETCHED>
TARGET DIGIT_INLINE static void multiply_quads(const uint8_t* weights, const int32_t* words, const int32_t* masks,
                                               int64_t quads, double* to) {
  constexpr int AHEAD = DigitSums<ROWS>::AHEAD;
  DigitSums<ROWS> sums, others;
  sums.clear();
  if constexpr (AHEAD == 2) others.clear();
  for (; quads >= AHEAD; quads -= AHEAD) {
    for (int64_t line = 0; FETCHED && line < AHEAD * LINE_BYTES; line += 64)
      __builtin_prefetch(weights + PREFETCH_BYTES + line);
    sums.template add<MASKED>(weights, words, masks);
    if constexpr (AHEAD == 2)
      others.template add<MASKED>(weights + LINE_BYTES, words + 2 * ROWS, masks + MASK_WORDS * ROWS);
    weights += AHEAD * LINE_BYTES, words += AHEAD * 2 * ROWS;
    if constexpr (MASKED) masks += AHEAD * MASK_WORDS * ROWS;
  }
  if constexpr (AHEAD == 2) {
    sums.join(others);
    if (quads) sums.template add<MASKED>(weights, words, masks);
  }
  sums.put(to);
}
