// SPDX-License-Identifier: MIT
// Projection and back-projection of ops/projection.h on CUDA: the CPU's positions, weights and orders of additions.
//
// A thread makes kRun outputs that differ in y: they share positions and weights. Threads of a warp lie along u or x,
// whose samples are read out of whole lines; what neighbours share comes out of L1. Cost: two reads and two
// multiply-adds an output and term, and some 20 instructions a term.
#include "core/field.h"
#include "voxel/projection.h"

namespace cryoet {

struct Projection {
  const float* volume;  // (z, y, x)
  int shape[3];
  const TiltedRays* rays;  // one a view
  float* views;            // (view, y, width)
  int width;
};

struct BackProjection {
  const float* views;     // (view, y, width)
  const GridLine* lines;  // one a view: a voxel's pixel
  int n_views;
  int height;  // along y
  int width;
  DeviceField out;  // a box of the volume
};

namespace {

constexpr int kRun = 4;       // outputs of a thread, neighbours along y
constexpr int kColumns = 32;  // of a block, along u or x
constexpr int kLines = 8;     // along y (project) or z (back_project)

// The sums of kRun rows: what is interpolated at each of them, `row` floats apart, between two samples that count if
// they are there.
CRYOET_HD void add_term(float* sums, const float* first, const float* second, bool has_first, bool has_second,
                        long long row, int rows, float weight) {
#pragma unroll
  for (int r = 0; r < kRun; ++r) {
    const bool here = r < rows;
    const float a = here && has_first ? first[r * row] : 0.0f;
    const float b = here && has_second ? second[r * row] : 0.0f;
    sums[r] += (1.0f - weight) * a;
    sums[r] += weight * b;
  }
}

}  // namespace

// Grid: u, y, view.
extern "C" __global__ void __launch_bounds__(kColumns* kLines) project(Projection job) {
  const int nz = job.shape[0], ny = job.shape[1], nx = job.shape[2];
  const int u = blockIdx.x * kColumns + threadIdx.x, y = (blockIdx.y * kLines + threadIdx.y) * kRun;
  if (u >= job.width || y >= ny) return;
  const int rows = ny - y < kRun ? ny - y : kRun;
  const long long plane = static_cast<long long>(ny) * nx;
  const float* volume = job.volume + static_cast<long long>(y) * nx;
  const TiltedRays rays = job.rays[blockIdx.z];
  float sums[kRun] = {};
  std::int64_t at = rays.line.at(0, u);
  if (!rays.steep) {
    for (int z = 0; z < nz; ++z, at += rays.line.per_i, volume += plane) {
      const int x = tap_index(at);
      if (x < -1 || x >= nx) continue;
      add_term(sums, volume + x, volume + x + 1, x >= 0, x + 1 < nx, nx, rows, tap_weight(at));
    }
  } else {
    // Towards larger z. A ray starts where it comes into the volume from below, be that beside the volume: neighbours
    // then pass the same planes of z at the same time and read the same lines. (Nearly level rays would start far out.)
    const int way = rays.line.per_i < 0 ? -1 : 1;
    const std::int64_t step = way * rays.line.per_i;
    if (way < 0) at = rays.line.at(nx - 1, u);
    const std::int64_t below = -kPixel - at;
    const float steps = step ? static_cast<float>(below) / static_cast<float>(step) : 0.0f, reach = 4.0f * nz;
    // One or two steps early, for the sake of rounding: they find nothing.
    int k = static_cast<int>(steps < -reach ? -reach : steps > nx ? static_cast<float>(nx) : steps) - 2;
    at += k * step;
    for (; k < nx; ++k, at += step) {
      const int z = tap_index(at);
      if (z >= nz) break;
      if (k < 0 || z < -1) continue;
      const float* first = volume + z * plane + (way < 0 ? nx - 1 - k : k);
      add_term(sums, first, first + plane, z >= 0, z + 1 < nz, nx, rows, tap_weight(at));
    }
  }
  float* out = job.views + (static_cast<long long>(blockIdx.z) * ny + y) * job.width + u;
  for (int r = 0; r < rows; ++r) out[static_cast<long long>(r) * job.width] = sums[r] * rays.step;
}

// Grid: x, y, z of the box.
extern "C" __global__ void __launch_bounds__(kColumns* kLines) back_project(BackProjection job) {
  const int x = blockIdx.x * kColumns + threadIdx.x, y = blockIdx.y * kRun, z = blockIdx.z * kLines + threadIdx.y;
  if (x >= job.out.shape[2] || z >= job.out.shape[0]) return;
  const int rows = job.out.shape[1] - y < kRun ? job.out.shape[1] - y : kRun;
  const int in_z = job.out.start[0] + z, in_x = job.out.start[2] + x;
  const float* view = job.views + static_cast<long long>(job.out.start[1] + y) * job.width;
  float sums[kRun] = {};
  for (int v = 0; v < job.n_views; ++v, view += static_cast<long long>(job.height) * job.width) {
    const std::int64_t at = job.lines[v].at(in_z, in_x);
    const int u = tap_index(at);
    if (u < -1 || u >= job.width) continue;
    add_term(sums, view + u, view + u + 1, u >= 0, u + 1 < job.width, job.width, rows, tap_weight(at));
  }
  float* out = job.out.data + (static_cast<long long>(z) * job.out.shape[1] + y) * job.out.shape[2] + x;
  for (int r = 0; r < rows; ++r) out[static_cast<long long>(r) * job.out.shape[2]] = sums[r];
}

}  // namespace cryoet
