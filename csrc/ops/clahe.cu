// SPDX-License-Identifier: MIT
// Contrast-limited adaptive histogram equalisation of ops/clahe.h on CUDA: the same counts and maps as on the CPU, to
// the last one.
#include "core/field.h"
#include "voxel/grey_bins.h"
#include "voxel/mirror.h"
#include "voxel/tile_equalisation.h"

namespace cryoet {

struct TileCount {
  DeviceField planes;  // whole planes of the volume
  int length[3];       // of the volume
  int tile[3];         // voxels of a tile
  int tiles[3];        // along each axis
  GreyBins bins;
  int* counts;  // (tile z, tile y, tile x, bins)
};

struct TileMapping {
  int* counts;                   // clipped in place
  float* maps;                   // (tile, bins + 1)
  long n_tiles, n_bins, voxels;  // voxels of a tile
  long clip;                     // clip_height()
};

struct TileApplication {
  DeviceField block;  // may be the output too
  float* out;         // the block's shape
  int tile[3];
  int tiles[3];
  GreyBins bins;
  const float* maps;
};

namespace {

constexpr int kThreads = 256;

// Visit the voxels of one tile that lie in the planes that are here.
template <class Visit>
__device__ __forceinline__ void for_each_voxel(const TileCount& job, int tile_z, int tile_y, int tile_x,
                                               const Visit& visit) {
  const int plane = job.tile[1] * job.tile[2], end_z = job.planes.start[0] + job.planes.shape[0];
  for (int k = 0; k < job.tile[0]; ++k) {
    const int z = mirror(tile_z * job.tile[0] + k, job.length[0]);
    if (z < job.planes.start[0] || z >= end_z) continue;
    for (int i = threadIdx.x; i < plane; i += kThreads) {
      const int y = mirror(tile_y * job.tile[1] + i / job.tile[2], job.length[1]);
      const int x = mirror(tile_x * job.tile[2] + i % job.tile[2], job.length[2]);
      float within;
      visit(grey_position(job.bins, job.planes.data[job.planes.at(z, y, x)], within));
    }
  }
}

}  // namespace

// A block a tile: blockIdx (tile x, tile y, tile z). Shared memory: 4 bytes a bin.
extern "C" __global__ void __launch_bounds__(kThreads) count_tiles(TileCount job) {
  CRYOET_DYNAMIC_SHARED(int, own);
  const long n_bins = job.bins.n_bins;
  for (long b = threadIdx.x; b < n_bins; b += kThreads) own[b] = 0;
  __syncthreads();
  for_each_voxel(job, blockIdx.z, blockIdx.y, blockIdx.x, [&](long bin) { atomicAdd(own + bin, 1); });
  __syncthreads();
  // No other block of this launch adds to this tile.
  int* counts = job.counts +
                ((static_cast<long long>(blockIdx.z) * job.tiles[1] + blockIdx.y) * job.tiles[2] + blockIdx.x) * n_bins;
  for (long b = threadIdx.x; b < n_bins; b += kThreads) counts[b] += own[b];
}

// For more bins than shared memory holds.
extern "C" __global__ void __launch_bounds__(kThreads) count_tiles_far(TileCount job) {
  int* counts =
      job.counts +
      ((static_cast<long long>(blockIdx.z) * job.tiles[1] + blockIdx.y) * job.tiles[2] + blockIdx.x) * job.bins.n_bins;
  for_each_voxel(job, blockIdx.z, blockIdx.y, blockIdx.x, [&](long bin) { atomicAdd(counts + bin, 1); });
}

// A thread a tile: tiles are thousands of times fewer than voxels.
extern "C" __global__ void __launch_bounds__(kThreads) equalise_tiles(TileMapping job) {
  const long t = static_cast<long>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= job.n_tiles) return;
  clip_histogram(job.counts + t * job.n_bins, job.n_bins, job.voxels, job.clip);
  tile_map(job.counts + t * job.n_bins, job.n_bins, job.voxels, job.maps + t * (job.n_bins + 1));
}

// A thread a voxel: blockIdx (x, y, z). Interpolated along z, y, within the bin and along x, as on the CPU.
extern "C" __global__ void __launch_bounds__(kThreads) apply_tile_maps(TileApplication job) {
  const int x = blockIdx.x * kThreads + threadIdx.x, y = blockIdx.y, z = blockIdx.z;
  if (x >= job.block.shape[2]) return;
  const int at[3] = {job.block.start[0] + z, job.block.start[1] + y, job.block.start[2] + x};
  const long long voxel = job.block.at(at[0], at[1], at[2]);
  long first[3], second[3];
  float weight[3], within;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis)
    tile_position(at[axis], job.tile[axis], job.tiles[axis], first[axis], second[axis], weight[axis]);
  const long bin = grey_position(job.bins, job.block.data[voxel], within), edges = job.bins.n_bins + 1;
  const auto edge = [&](long tile_z, long tile_y, long tile_x, int of_bin) {
    return job.maps[((tile_z * job.tiles[1] + tile_y) * job.tiles[2] + tile_x) * edges + bin + of_bin];
  };
  float grey[2];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const long tile_x = side ? second[2] : first[2];
    float ends[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float a = edge(first[0], first[1], tile_x, e), b = edge(second[0], first[1], tile_x, e);
      const float c = edge(first[0], second[1], tile_x, e), d = edge(second[0], second[1], tile_x, e);
      const float low = a + weight[0] * (b - a), high = c + weight[0] * (d - c);
      ends[e] = low + weight[1] * (high - low);
    }
    grey[side] = mapped_grey(ends, 0, within);
  }
  job.out[voxel] = grey[0] + weight[2] * (grey[1] - grey[0]);
}

}  // namespace cryoet
