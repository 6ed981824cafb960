// SPDX-License-Identifier: MIT
// The blending of ops/blend.h on CUDA: the CPU's weights and order of additions.
//
// One launch a tile, on one stream: tiles that share a voxel are added one after the other, in the order of the calls.
// A thread has one voxel and all its classes, so that channels-last tiles are read out of whole lines as well. Cost:
// bound by memory, the 12 bytes of ops/blend.h; two or three instructions a byte.
#include "voxel/blend_weight.h"

namespace cryoet {

struct TileBlend {
  const void* tile;     // (class, z, y, x)
  long long stride[4];  // elements
  int shape[3];         // (z, y, x)
  int n_classes;
  const float* weights[3];  // along z, y, x
  float* sums;              // (class, depth, height, width)
  int at[3];                // where the tile begins: plane of the ring, y, x
  int depth, height, width;
};

struct BlendFinish {
  float* sums;  // (class, depth, height, width)
  int n_classes;
  int depth, height, width;
  int first;  // plane of the ring
  int n;      // planes
  int softmax;
  int out_unit;          // 0: float32; 255, 65535: uint8, uint16 that mean one
  void* out;             // (class, n, height, width), or null
  std::uint8_t* labels;  // (n, height, width), or null
};

namespace {

constexpr int kColumns = 32;  // of a block, along x
constexpr int kRows = 8;

// blockDim is 32 x 8; grid: x, y, z of the tile.
template <class T>
CRYOET_HD void add_tile(const TileBlend& job, int x, int y, int z) {
  if (x >= job.shape[2] || y >= job.shape[1]) return;
  const float row = job.weights[0][z] * job.weights[1][y], weight = job.weights[2][x];
  if (row == 0.0f || weight == 0.0f) return;
  const T* value = static_cast<const T*>(job.tile) + z * job.stride[1] + y * job.stride[2] + x * job.stride[3];
  const int plane = (job.at[0] + z) % job.depth;
  float* sum = job.sums + (static_cast<long long>(plane) * job.height + job.at[1] + y) * job.width + job.at[2] + x;
  const long long per_class = static_cast<long long>(job.depth) * job.height * job.width;
  for (int c = 0; c < job.n_classes; ++c, value += job.stride[0], sum += per_class)
    *sum = blended(*sum, value_of(*value), row, weight);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kColumns* kRows) blend_float32(TileBlend job) {
  add_tile<float>(job, blockIdx.x * kColumns + threadIdx.x, blockIdx.y * kRows + threadIdx.y, blockIdx.z);
}

extern "C" __global__ void __launch_bounds__(kColumns* kRows) blend_float16(TileBlend job) {
  add_tile<Float16>(job, blockIdx.x * kColumns + threadIdx.x, blockIdx.y * kRows + threadIdx.y, blockIdx.z);
}

extern "C" __global__ void __launch_bounds__(kColumns* kRows) blend_bfloat16(TileBlend job) {
  add_tile<BFloat16>(job, blockIdx.x * kColumns + threadIdx.x, blockIdx.y * kRows + threadIdx.y, blockIdx.z);
}

// Grid: x, y, plane. With neither `out` nor `labels` it clears.
extern "C" __global__ void __launch_bounds__(kColumns* kRows) finish_blend(BlendFinish job) {
  const int x = blockIdx.x * kColumns + threadIdx.x, y = blockIdx.y * kRows + threadIdx.y, z = blockIdx.z;
  if (x >= job.width || y >= job.height) return;
  const int plane = (job.first + z) % job.depth;
  const long long per_class = static_cast<long long>(job.depth) * job.height * job.width;
  const long long at = (static_cast<long long>(z) * job.height + y) * job.width + x;
  float* sums = job.sums + (static_cast<long long>(plane) * job.height + y) * job.width + x;
  float total = 1.0f, largest = 0.0f;
  if (job.labels || job.softmax) {
    int label = 0;
    largest = sums[0];
    for (int c = 1; c < job.n_classes; ++c) {
      const float sum = sums[c * per_class];
      if (!(sum > largest)) continue;
      largest = sum;
      label = c;
    }
    if (job.labels) job.labels[at] = static_cast<std::uint8_t>(label);
  }
  if (job.softmax) {
    total = 0.0f;
    for (int c = 0; c < job.n_classes; ++c) total += softmax_term(sums[c * per_class], largest);
  }
  const long long out_class = static_cast<long long>(job.n) * job.height * job.width;
  for (int c = 0; c < job.n_classes; ++c) {
    const float sum = sums[c * per_class];
    sums[c * per_class] = 0.0f;
    if (!job.out) continue;
    const float probability = probability_of(job.softmax ? softmax_term(sum, largest) / total : sum);
    const long long to = c * out_class + at;
    if (job.out_unit == 0)
      static_cast<float*>(job.out)[to] = probability;
    else if (job.out_unit == 255)
      static_cast<std::uint8_t*>(job.out)[to] = static_cast<std::uint8_t>(stored_level(probability, 255.0f));
    else
      static_cast<std::uint16_t*>(job.out)[to] = static_cast<std::uint16_t>(stored_level(probability, 65535.0f));
  }
}

}  // namespace cryoet
