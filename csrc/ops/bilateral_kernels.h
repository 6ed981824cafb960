// SPDX-License-Identifier: MIT
// The inner loop of bilateral.cpp, compiled once for each instruction set (core/for_each_isa.h).

namespace cryoet {
namespace CRYOET_ISA {

// One row of outputs. rows: the (2r + 1)^2 rows (z, y) of the cube, each from r voxels before the first output on;
// spatial: the cube's spatial weights. Whole vectors are computed.
static void bilateral_row(const float* const* rows, const float* spatial, long radius, float factor, float* out,
                          long width) {
  constexpr int kRun = CRYOET_LANES;  // one vector: its sums stay in registers (longer runs were 1.25 times slower)
  const long across = 2 * radius + 1, n_rows = across * across;
  for (long x = 0; x < width; x += kRun) {
    float centre[kRun], sum[kRun], weights[kRun];
    std::memcpy(centre, rows[n_rows / 2] + x + radius, sizeof centre);
    for (int i = 0; i < kRun; ++i) sum[i] = weights[i] = 0.0f;
    const float* tap = spatial;
    for (long row = 0; row < n_rows; ++row) {
      for (long dx = 0; dx < across; ++dx, ++tap) {
        const float* neighbour = rows[row] + x + dx;
        const float c = *tap;
#pragma omp simd
        for (int i = 0; i < kRun; ++i) {
          const float difference = neighbour[i] - centre[i];
          const float w = bilateral_weight(difference, c, factor);
          sum[i] += w * difference;
          weights[i] += w;
        }
      }
    }
    for (int i = 0; i < kRun; ++i) out[x + i] = centre[i] + sum[i] / weights[i];
  }
}

static const BilateralKernels bilateral_kernels{bilateral_row};

}  // namespace CRYOET_ISA
}  // namespace cryoet
