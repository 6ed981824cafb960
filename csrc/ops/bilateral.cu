// SPDX-License-Identifier: MIT
// The bilateral filter of ops/bilateral.h on CUDA.
//
// A block makes kRows x kColumns outputs of one plane. For each plane of the cube it stages in shared memory what their
// taps reach, mirrored, so a tap costs one load from there. Every output adds its taps in the order of the CPU (z, y,
// x). Cost: bound by arithmetic, about twenty instructions a tap; memory is read (2r + 1)(kRows + 2r)(kColumns + 2r) /
// (kRows kColumns) times an output, out of the caches.
#include "core/field.h"
#include "voxel/bilateral_weight.h"
#include "voxel/mirror.h"

namespace cryoet {

struct BilateralFilter {
  DeviceField source;    // must hold every voxel that the taps reach after mirroring
  DeviceField out;       // inside the volume; not the source
  const float* spatial;  // (2 * radius + 1)^3 weights
  int length[3];         // of the volume (or of the part that was read): where the mirrors stand
  int radius;
  float factor;  // range_factor(sigma_range)
};

namespace {

constexpr int kColumns = 32;  // of a block, along x
constexpr int kRows = 8;

}  // namespace

// Shared memory: (kRows + 2 radius)(kColumns + 2 radius) floats. Grid: x, y, z of the outputs.
extern "C" __global__ void __launch_bounds__(kColumns* kRows) bilateral(BilateralFilter job) {
  CRYOET_DYNAMIC_SHARED(float, plane);
  const int r = job.radius, across = 2 * r + 1, pitch = kColumns + 2 * r;
  const int first_x = blockIdx.x * kColumns, first_y = blockIdx.y * kRows;
  const int x = first_x + threadIdx.x, y = first_y + threadIdx.y, z = blockIdx.z;
  const bool inside = x < job.out.shape[2] && y < job.out.shape[1];
  const int begin_x = job.out.start[2] + first_x - r, begin_y = job.out.start[1] + first_y - r;
  // What lies beyond the block's last output would be read for nobody, and may not be there.
  const int rows = (job.out.shape[1] - first_y < kRows ? job.out.shape[1] - first_y : kRows) + 2 * r;
  const int columns = (job.out.shape[2] - first_x < kColumns ? job.out.shape[2] - first_x : kColumns) + 2 * r;
  float centre = 0.0f, sum = 0.0f, weights = 0.0f;
  if (inside) centre = job.source.data[job.source.at(job.out.start[0] + z, job.out.start[1] + y, job.out.start[2] + x)];
  for (int dz = 0; dz < across; ++dz) {
    const int from_z = mirror(job.out.start[0] + z + dz - r, job.length[0]);
    for (int j = threadIdx.y; j < rows; j += kRows) {
      const float* from =
          job.source.data + job.source.at(from_z, mirror(begin_y + j, job.length[1]), job.source.start[2]);
      for (int i = threadIdx.x; i < columns; i += kColumns)
        plane[j * pitch + i] = from[mirror(begin_x + i, job.length[2]) - job.source.start[2]];
    }
    __syncthreads();
    if (inside) {
      const float* spatial = job.spatial + dz * across * across;
      for (int dy = 0; dy < across; ++dy)
        for (int dx = 0; dx < across; ++dx) {
          const float difference = plane[(threadIdx.y + dy) * pitch + threadIdx.x + dx] - centre;
          const float w = bilateral_weight(difference, spatial[dy * across + dx], job.factor);
          sum += w * difference;
          weights += w;
        }
    }
    __syncthreads();
  }
  if (inside)
    job.out.data[job.out.at(job.out.start[0] + z, job.out.start[1] + y, job.out.start[2] + x)] = centre + sum / weights;
}

}  // namespace cryoet
