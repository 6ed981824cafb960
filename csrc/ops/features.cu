// SPDX-License-Identifier: MIT
// Stage two of ops/features.h on CUDA: every channel of one scale from its smoothed volume, in one sweep along z.
//
// A block of 32 x 16 threads stands over 26 x 10 voxels and a margin of three, and walks along z. Each thread keeps six
// planes of its own column in registers, does the passes along z from them, and meets its neighbours in shared memory
// for the passes along y and x. The gradients of five planes wait in registers for the structure tensor's integration.
// Beyond the volume's border the smoothed volume is mirrored when it is read; a gradient changes its sign there, which
// is taken back, so that the *products* are what is mirrored.
// Cost of a voxel and scale, all filters: about 730 operations of float32 and 150 accesses to shared memory, two
// reciprocals, two quotients and five roots; 6 of 32 columns and, before the last passes, up to 6 of 16 rows are
// margins that neighbours make again. Memory traffic: 4 bytes read (8 from the cache), 40 written. benchmarks/cuda.md
// has it by instruction.
#include "core/field.h"
#include "voxel/mirror.h"
#include "voxel/stage_taps.h"
#include "voxel/sym_eigen3.h"

namespace cryoet {

struct StageTwo {
  DeviceField smoothed;  // the core and three voxels around it, as far as the volume goes
  int length[3];         // of the volume: where the mirrors stand
  int start[3];          // the core
  int shape[3];
  int planes;  // that a block walks over
  StageTaps taps;
  float offset;       // added to smoothed channels
  long long channel;  // from one channel of an eigenvalue filter to the next
  // First voxel of each filter's first channel, null where it is not wanted.
  float *gaussian, *laplacian, *magnitude, *difference, *structure, *hessian;
};

namespace {

constexpr int kColumns = 32, kRows = 16, kMargin = 3;
constexpr int kWidth = kColumns - 2 * kMargin, kHeight = kRows - 2 * kMargin;

using Plane = float[kRows][kColumns];

// (minus + plus) - 2 centre: order 0 is the centre plus a tap times this, order 2 a sum of these; so constants pass
// exactly.
__device__ __forceinline__ float bracket(float minus, float centre, float plus) {
  return (minus + plus) - (centre + centre);
}
__device__ __forceinline__ float smooth(const float (&v)[5], const StageTaps& k) {
  return v[2] + k.g1 * bracket(v[1], v[2], v[3]) + k.g2 * bracket(v[0], v[2], v[4]);
}
__device__ __forceinline__ float slope(const float (&v)[5], const StageTaps& k) {
  return k.d1 * (v[3] - v[1]) + k.d2 * (v[4] - v[0]);
}
__device__ __forceinline__ float curve(const float (&v)[5], const StageTaps& k) {
  return k.h1 * bracket(v[1], v[2], v[3]) + k.h2 * bracket(v[0], v[2], v[4]);
}
__device__ __forceinline__ void along_y(const Plane& plane, int y, int x, float (&v)[5]) {
#pragma unroll
  for (int j = 0; j < 5; ++j) v[j] = plane[y - 2 + j][x];
}
__device__ __forceinline__ void along_x(const Plane& plane, int y, int x, float (&v)[5]) {
#pragma unroll
  for (int j = 0; j < 5; ++j) v[j] = plane[y][x - 2 + j];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kColumns* kRows, 2) stage_two(StageTwo job) {
  // `first` holds what a pass along z leaves (later: the integrated products), `second` what one along y leaves.
  __shared__ Plane first[6], second[10];
  const StageTaps& k = job.taps;
  const int tx = threadIdx.x, ty = threadIdx.y;
  const bool linear = job.gaussian || job.laplacian || job.magnitude || job.difference || job.hessian;
  const bool structure = job.structure != nullptr;

  // This thread's column; beyond the core's far margin there is nothing to read: it repeats the last one.
  const int x_local = blockIdx.x * kWidth + tx - kMargin, y_local = blockIdx.y * kHeight + ty - kMargin;
  const int x = job.start[2] + (x_local < job.shape[2] + kMargin ? x_local : job.shape[2] + kMargin - 1);
  const int y = job.start[1] + (y_local < job.shape[1] + kMargin ? y_local : job.shape[1] + kMargin - 1);
  const int z_begin = blockIdx.z * job.planes;
  const int z_end = z_begin + job.planes < job.shape[0] ? z_begin + job.planes : job.shape[0];
  const bool row = ty >= kMargin && ty < kRows - kMargin;
  const bool writes =
      row && tx >= kMargin && tx < kColumns - kMargin && x_local < job.shape[2] && y_local < job.shape[1];
  const float slope_y = k.slope * mirror_sign(y, job.length[1]), slope_x = k.slope * mirror_sign(x, job.length[2]);
  const float* column =
      job.smoothed.data + job.smoothed.at(job.smoothed.start[0], mirror(y, job.length[1]), mirror(x, job.length[2]));
  const long long plane_step = job.smoothed.step(0);
  // z counts from the core. Most planes lie inside the volume, and need no division to find out where the mirrors show
  // them.
  const auto inside = [&](int z) { return job.start[0] + z >= 0 && job.start[0] + z < job.length[0]; };
  const auto read = [&](int z) {
    const int from = inside(z) ? job.start[0] + z : mirror(job.start[0] + z, job.length[0]);
    return column[(from - job.smoothed.start[0]) * plane_step];
  };
  const auto voxel = [&](int z) {
    return (static_cast<long long>(z) * job.shape[1] + y_local) * job.shape[2] + x_local;
  };

  // Planes z - 2 .. z + 3 of the column, and gradients of planes z - 2 .. z + 2. The sweep begins four planes early, to
  // fill them.
  float p[6] = {0.0f, 0.0f, 0.0f, read(z_begin - 3), read(z_begin - 2), 0.0f};
  float gz[5] = {}, gy[5] = {}, gx[5] = {};
  for (int z = z_begin - 4; z < z_end; ++z) {
    const bool fills = z < z_begin;
    p[5] = read(z + 3);
    // 1: along z.
    if (linear && !fills) {
      const float v[5] = {p[0], p[1], p[2], p[3], p[4]};
      first[0][ty][tx] = smooth(v, k);
      first[1][ty][tx] = slope(v, k);
      first[2][ty][tx] = curve(v, k);
      first[3][ty][tx] = p[2] + k.inner * bracket(p[1], p[2], p[3]);
    }
    if (structure) {
      first[4][ty][tx] = p[4] + k.narrow * bracket(p[3], p[4], p[5]);
      const float sign_z = inside(z + 2) ? 1.0f : mirror_sign(job.start[0] + z + 2, job.length[0]);
      first[5][ty][tx] = k.slope * sign_z * (p[5] - p[3]);
    }
    __syncthreads();
    // 2: along y.
    if (linear && !fills && row) {
      float v[5];
      along_y(first[0], ty, tx, v);
      second[0][ty][tx] = smooth(v, k);
      second[1][ty][tx] = slope(v, k);
      second[2][ty][tx] = curve(v, k);
      along_y(first[1], ty, tx, v);
      second[3][ty][tx] = smooth(v, k);
      second[4][ty][tx] = slope(v, k);
      along_y(first[2], ty, tx, v);
      second[5][ty][tx] = smooth(v, k);
      const float centre = first[3][ty][tx];
      second[6][ty][tx] = centre + k.inner * bracket(first[3][ty - 1][tx], centre, first[3][ty + 1][tx]);
    }
    if (structure && ty >= 1 && ty < kRows - 1) {
      const float a = first[4][ty - 1][tx], b = first[4][ty][tx], c = first[4][ty + 1][tx], d = first[5][ty][tx];
      second[7][ty][tx] = b + k.narrow * bracket(a, b, c);
      second[8][ty][tx] = slope_y * (c - a);
      second[9][ty][tx] = d + k.narrow * bracket(first[5][ty - 1][tx], d, first[5][ty + 1][tx]);
    }
    __syncthreads();
    // 3: along x. The linear channels are done; the gradient of plane z + 2 is, too.
    if (linear && !fills && writes) {
      float v[5];
      const long long at = voxel(z);
      along_x(second[0], ty, tx, v);
      const float gauss = smooth(v, k), dx = slope(v, k), xx = curve(v, k);
      if (job.gaussian) job.gaussian[at] = gauss + job.offset;
      if (job.difference) {
        const float centre = second[6][ty][tx];
        job.difference[at] = gauss - (centre + k.inner * bracket(second[6][ty][tx - 1], centre, second[6][ty][tx + 1]));
      }
      along_x(second[1], ty, tx, v);
      const float dy = smooth(v, k), yx = slope(v, k);
      along_x(second[3], ty, tx, v);
      const float dz = smooth(v, k), zx = slope(v, k);
      if (job.magnitude) job.magnitude[at] = sqrtf(dz * dz + dy * dy + dx * dx);
      along_x(second[2], ty, tx, v);
      const float yy = smooth(v, k);
      along_x(second[4], ty, tx, v);
      const float zy = smooth(v, k);
      along_x(second[5], ty, tx, v);
      const float zz = smooth(v, k);
      if (job.laplacian) job.laplacian[at] = zz + yy + xx;
      if (job.hessian) {
        float e0, e1, e2;
        sym_eigen3(zz, zy, zx, yy, yx, xx, e0, e1, e2);
        float* out = job.hessian + at;
        out[0] = e0, out[job.channel] = e1, out[2 * job.channel] = e2;
      }
    }
    if (structure) {
#pragma unroll
      for (int j = 0; j < 4; ++j) gz[j] = gz[j + 1], gy[j] = gy[j + 1], gx[j] = gx[j + 1];
      if (ty >= 1 && ty < kRows - 1 && tx >= 1 && tx < kColumns - 1) {
        const float a = second[8][ty][tx], b = second[9][ty][tx];
        gz[4] = b + k.narrow * bracket(second[9][ty][tx - 1], b, second[9][ty][tx + 1]);
        gy[4] = a + k.narrow * bracket(second[8][ty][tx - 1], a, second[8][ty][tx + 1]);
        gx[4] = slope_x * (second[7][ty][tx + 1] - second[7][ty][tx - 1]);
      }
      if (!fills) {
        const float weight[5] = {k.g2, k.g1, k.g0, k.g1, k.g2};
        float zz = 0.0f, zy = 0.0f, zx = 0.0f, yy = 0.0f, yx = 0.0f, xx = 0.0f;
#pragma unroll
        for (int j = 0; j < 5; ++j) {
          const float wz = weight[j] * gz[j], wy = weight[j] * gy[j], wx = weight[j] * gx[j];
          zz += wz * gz[j], zy += wz * gy[j], zx += wz * gx[j];
          yy += wy * gy[j], yx += wy * gx[j], xx += wx * gx[j];
        }
        first[0][ty][tx] = zz, first[1][ty][tx] = zy, first[2][ty][tx] = zx;
        first[3][ty][tx] = yy, first[4][ty][tx] = yx, first[5][ty][tx] = xx;
      }
    }
    if (structure && !fills) {
      // 4 and 5: the products along y, then x, and their eigenvalues.
      __syncthreads();
      if (row) {
        float v[5];
#pragma unroll
        for (int c = 0; c < 6; ++c) {
          along_y(first[c], ty, tx, v);
          second[c][ty][tx] = smooth(v, k);
        }
      }
      __syncthreads();
      if (writes) {
        float t[6], v[5];
#pragma unroll
        for (int c = 0; c < 6; ++c) {
          along_x(second[c], ty, tx, v);
          t[c] = smooth(v, k);
        }
        float e0, e1, e2;
        sym_eigen3(t[0], t[1], t[2], t[3], t[4], t[5], e0, e1, e2);
        float* out = job.structure + voxel(z);
        out[0] = e0, out[job.channel] = e1, out[2 * job.channel] = e2;
      }
    }
#pragma unroll
    for (int j = 0; j < 5; ++j) p[j] = p[j + 1];
  }
}

}  // namespace cryoet
