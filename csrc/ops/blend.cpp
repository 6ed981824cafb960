// SPDX-License-Identifier: MIT
#include "ops/blend.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "core/simd.h"
#include "voxel/blend_weight.h"

namespace cryoet {
namespace {

constexpr long kChunk = 256;  // voxels of a row that are finished together, all classes, in L1

struct BlendKernels {
  // By TileType: n sums of a row += values, `stride` apart, times row * weights.
  void (*add_values[3])(const void* values, long stride, float row, const float* weights, long n, float* sums);
  // Sums of class c lie c * plane behind those of the first.
  void (*rank)(const float* sums, long plane, long n_classes, long n, float* largest, std::uint8_t* label);
  void (*normalise)(float* sums, long plane, long n_classes, long n, const float* largest);  // softmax, in place
  void (*store)(const float* sums, long n, StoredType type, void* out, long at);
};

}  // namespace
}  // namespace cryoet

#define CRYOET_KERNELS "ops/blend_kernels.h"
#include "core/for_each_isa.h"

namespace cryoet {

void blend_tile(const BlendTile& tile, const float* const weights[3], const BlendSlab& slab, const long at[3],
                int threads) {
  const auto& kernels = CRYOET_DISPATCH(blend_kernels);
  const auto add = kernels.add_values[static_cast<int>(tile.type)];
  const long size = tile.type == TileType::float32 ? sizeof(float) : sizeof(std::uint16_t);
  long from = 0, to = tile.shape[3];
  while (from < to && weights[2][from] == 0.0f) ++from;
  while (to > from && weights[2][to - 1] == 0.0f) --to;
  const long plane = slab.height * slab.width;
  parallel_for(
      tile.shape[1], threads,
      [&](long z) {
        if (weights[0][z] == 0.0f) return;
        float* sums = slab.sums + (at[0] + z) % slab.depth * plane + at[2] + from;
        const char* values = static_cast<const char*>(tile.data) + (z * tile.stride[1] + from * tile.stride[3]) * size;
        for (long y = 0; y < tile.shape[2]; ++y) {
          const float row = weights[0][z] * weights[1][y];
          if (row == 0.0f) continue;
          // Classes innermost: of channels-last tiles they share lines of memory.
          for (long c = 0; c < tile.shape[0]; ++c)
            add(values + (c * tile.stride[0] + y * tile.stride[2]) * size, tile.stride[3], row, weights[2] + from,
                to - from, sums + c * slab.depth * plane + (at[1] + y) * slab.width);
        }
      },
      tile.shape[0] * tile.shape[1] * tile.shape[2] * tile.shape[3]);
}

void finish_blend(const BlendSlab& slab, long first, long n, bool softmax, StoredType type, void* out, long out_class,
                  std::uint8_t* labels, int threads) {
  const auto& kernels = CRYOET_DISPATCH(blend_kernels);
  const long plane = slab.height * slab.width, per_class = slab.depth * plane;
  parallel_for(
      n * slab.height, threads,
      [&](long row) {
        float largest[kChunk];
        std::uint8_t unasked[kChunk];
        float* sums =
            slab.sums + ((first + row / slab.height) % slab.depth * slab.height + row % slab.height) * slab.width;
        for (long x = 0; x < slab.width; x += kChunk) {
          const long count = std::min(kChunk, slab.width - x), at = row * slab.width + x;
          if (labels || softmax)
            kernels.rank(sums + x, per_class, slab.n_classes, count, largest, labels ? labels + at : unasked);
          if (softmax) kernels.normalise(sums + x, per_class, slab.n_classes, count, largest);
          for (long c = 0; c < slab.n_classes; ++c) {
            float* some = sums + x + c * per_class;
            kernels.store(some, count, type, out, c * out_class + at);
            std::memset(some, 0, count * sizeof(float));
          }
        }
      },
      n * plane * slab.n_classes);
}

}  // namespace cryoet
