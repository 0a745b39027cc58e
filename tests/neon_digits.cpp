// Compares dot products of NEON with the portable ones, bit for bit: tests/test_neon.py runs it on an emulator.
#include <cstdio>
#include <random>
#include <vector>

#include "../kernels/cpp/digit_linear.cpp"

static std::vector<float> results(const DigitKernel& kernel, const DigitLayer& layer, const std::vector<float>& x,
                                  int64_t tokens) {
  std::vector<float> y(tokens * layer.outputs, -1.0f);
  return multiply(kernel, layer, x.data(), y.data(), tokens, 1) ? y : std::vector<float>();
}

static bool agrees(int64_t outputs, int64_t inputs, int64_t tokens, int64_t digits) {
  std::mt19937 random(static_cast<unsigned>(outputs * 7 + inputs));
  std::vector<uint8_t> tiles(ceil_divide(outputs, BLOCK) * BLOCK * ceil_divide(inputs, 4) * 4);
  std::vector<float> scale(ceil_divide(outputs, BLOCK) * BLOCK), x(tokens * inputs);
  for (auto& each : tiles) each = static_cast<uint8_t>(random());
  for (auto& each : scale) each = 1e-3f * static_cast<float>(random() % 1000);
  for (auto& each : x) each = static_cast<float>(random() % 20011) - 10005.0f;
  const DigitLayer layer{tiles.data(), scale.data(), nullptr, inputs, outputs, digits};
  const std::vector<float> plain = results(DIGIT_KERNEL(portable), layer, x, tokens);
  return !plain.empty() && plain == results(DIGIT_KERNEL(neon), layer, x, tokens);
}

int main() {
  if (!neon::is_here()) return puts("this processor has no dot products"), 2;
  int wrong = 0;
  for (int64_t digits : {1, 2})
    for (int64_t tokens : {1, 2, 5})
      for (int64_t inputs : {1, 17, 576, 1027})
        for (int64_t outputs : {1, 40, 64}) wrong += !agrees(outputs, inputs, tokens, digits);
  return printf("%d differ\n", wrong), wrong != 0;
}
