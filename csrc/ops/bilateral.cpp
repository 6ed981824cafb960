// SPDX-License-Identifier: MIT
#include "ops/bilateral.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "voxel/bilateral_weight.h"
#include "voxel/gaussian_taps.h"

namespace cryoet {
namespace {

constexpr long kLongestVector = 16;

struct BilateralKernels {
  void (*row)(const float* const* rows, const float* spatial, long radius, float factor, float* out, long width);
};

}  // namespace
}  // namespace cryoet

#define CRYOET_KERNELS "ops/bilateral_kernels.h"
#include "core/for_each_isa.h"

namespace cryoet {
namespace {

std::vector<float> spatial_weights(double sigma, long radius) {
  std::vector<float> weights;
  for (long z = -radius; z <= radius; ++z)
    for (long y = -radius; y <= radius; ++y)
      for (long x = -radius; x <= radius; ++x)
        weights.push_back(
            static_cast<float>(std::exp(-0.5 * static_cast<double>(z * z + y * y + x * x) / sigma / sigma)));
  return weights;
}

}  // namespace

void bilateral_filter(const View3<const float>& block, const BilateralSettings& settings, const Box& core, int threads,
                      float* out) {
  const long r = gaussian_radius(settings.sigma_vox, settings.window), across = 2 * r + 1;
  const std::vector<float> spatial = spatial_weights(settings.sigma_vox, r);
  const float factor = range_factor(settings.sigma_range);
  const long nz = block.shape[0], ny = block.shape[1], nx = core.shape[2];
  const long width = round_up(nx, kLongestVector), pitch = width + 2 * r;

  // The block with its rows mirrored in x: what the taps of the core's rows reach.
  Buffer copy;
  float* extended = copy.reserve(nz * ny * pitch);
  parallel_for(
      nz, threads,
      [&](long z) {
        for (long y = 0; y < ny; ++y) {
          const float* from = block.row(z, y);
          float* to = extended + (z * ny + y) * pitch;
          for (long x = 0; x < nx + 2 * r; ++x) to[x] = from[mirror(core.start[2] - r + x, block.shape[2])];
        }
      },
      nz * ny * pitch);

  const auto row_kernel = CRYOET_DISPATCH(bilateral_kernels).row;
  parallel_for(
      core.shape[0] * core.shape[1], threads,
      [&](long line) {
        const long z = core.start[0] + line / core.shape[1], y = core.start[1] + line % core.shape[1];
        std::vector<const float*> rows;
        for (long dz = -r; dz <= r; ++dz)
          for (long dy = -r; dy <= r; ++dy)
            rows.push_back(extended + (mirror(z + dz, nz) * ny + mirror(y + dy, ny)) * pitch);
        std::vector<float> result(width);
        row_kernel(rows.data(), spatial.data(), r, factor, result.data(), width);
        std::memcpy(out + line * nx, result.data(), nx * sizeof(float));
      },
      core.shape[0] * core.shape[1] * nx * across * across * across);
}

}  // namespace cryoet
