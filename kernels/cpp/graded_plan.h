// Included by graded_linear.cpp: which code runs over which planes.
#pragma once

// Lanes of a plane of this width are turned so that slot 4 / width * half of the first lies at bit `place`.
static void set_turn(int64_t width, int64_t half, int64_t place, int which, Pass& pass) {
  for (int small = 0; small < 2; ++small)
    for (int lane = 0; lane < 16; ++lane) {
      const int64_t slot = 4 / width * half + lane / 4 / lanes_of(small ? 2 : 4, width);
      pass.turn[small][which][lane] = int32_t((place - width * slot) & 31);
    }
}

// The kind of `half_bytes` that planes [first, last) are, 0 for none, -1 for one that has no code.
static int kind_of(const GradedLayer& layer, int64_t first, int64_t last) {
  int kind = 0;
  for (int64_t p = first; p < last; ++p) kind = 10 * kind + int(layer.widths[p]);
  return kind == 0 || kind == 2 || kind == 22 || kind == 4 ? kind : -1;
}

// Code for the first planes of a weight together, or null.
static AddPass together(const GradedLayer& layer, const GradedKernel& kernel, int64_t count, Pass& pass,
                        FillTile& fill) {
  int64_t split = 0;
  while (split < count && bits_above(layer, split) < 4) ++split;
  const int above = kind_of(layer, 0, split), below = kind_of(layer, split, count);
  if (above <= 0 || below < 0) return nullptr;
  set_turn(2, 0, 2, 0, pass), set_turn(2, 0, 0, 1, pass);
  fill = kernel.fill_for(above, below);
  return kernel.pass_for(above, below);
}

// Code for one plane by itself.
static AddPass alone(const GradedLayer& layer, const GradedKernel& kernel, int64_t plane, Pass& pass) {
  const int64_t width = layer.widths[plane], under = 8 - bits_above(layer, plane + 1), place = kernel.whole ? under : 0;
  pass.scale = 1 << under;
  pass.mask = int32_t(0x01010101u * uint32_t(((1 << width) - 1) << place));
  for (int half = 0; half < 2; ++half) set_turn(width, half, place, half, pass);
  return kernel.pass_for(int(width), -1);
}

// A pass for each level where there is code for its planes together, else for each plane.
static void plan(GradedJob& job, const GradedKernel& kernel) {
  const int32_t levels = int32_t(job.layer.levels);
  bool fits = true;
  for (int32_t l = 1; l <= levels; ++l) {
    job.pass[l - 1].least = job.pass[l - 1].most = l;
    job.pass[l - 1].first = 0, job.pass[l - 1].count = l;
    job.add[l - 1] = together(job.layer, kernel, l, job.pass[l - 1], job.fill[l - 1]);
    fits = fits && job.add[l - 1];
  }
  job.num_passes = levels;
  if (fits) return;
  for (int32_t l = 1; l <= levels; ++l) {
    job.pass[l - 1].most = levels;
    job.pass[l - 1].first = l - 1, job.pass[l - 1].count = 1;
    job.fill[l - 1] = nullptr;
    job.add[l - 1] = alone(job.layer, kernel, l - 1, job.pass[l - 1]);
  }
}
