// SPDX-License-Identifier: MIT
// Stage two of the two-stage features: one sweep over a tile of a smoothed volume, compiled once for each instruction
// set (core/for_each_isa.h). Its input has three voxels of margin on each side, mirrored at the volume's border.
//
// Rows of temporaries start three voxels left of the tile, so element i stands at x = i - 3; all loops run over whole
// vectors, and every voxel goes through the same instructions wherever it stands in the tile. The last columns of a row
// hold nothing that is used: they let loads one or two elements further stay harmless.

#include "core/vector.h"
#include "ops/eigen_row.h"

namespace cryoet {
namespace CRYOET_ISA {

// Order 0 is written p + sum g_j ((p_-j + p_j) - 2p), order 2 likewise without the leading p: their taps sum to one and
// to zero exactly, constants pass unchanged, and both share the bracket.
static inline __attribute__((always_inline)) vf bracket(vf minus, vf centre2, vf plus) {
  return (minus + plus) - centre2;
}

// The three orders of a radius-2 kernel along z or y for `n` floats; null outputs are skipped.
static inline __attribute__((always_inline)) void derivatives(const float* m2, const float* m1, const float* c,
                                                              const float* p1, const float* p2, const StageTaps& k,
                                                              long n, float* g, float* d, float* h, float* inner) {
  for (long i = 0; i < n; i += kLanes) {
    const vf v = load(c + i), a1 = load(m1 + i), b1 = load(p1 + i), a2 = load(m2 + i), b2 = load(p2 + i);
    const vf s1 = bracket(a1, v + v, b1), s2 = bracket(a2, v + v, b2);
    store(g + i, v + k.g1 * s1 + k.g2 * s2);
    if (d) store(d + i, k.d1 * (b1 - a1) + k.d2 * (b2 - a2));
    if (h) store(h + i, k.h1 * s1 + k.h2 * s2);
    if (inner) store(inner + i, v + k.inner * s1);
  }
}

// Smoothing by the radius-1 kernel with side tap w.
static inline __attribute__((always_inline)) void smooth3(const float* m, const float* c, const float* p, float w,
                                                          long n, float* out) {
  for (long i = 0; i < n; i += kLanes) {
    const vf v = load(c + i);
    store(out + i, v + w * bracket(load(m + i), v + v, load(p + i)));
  }
}

static inline __attribute__((always_inline)) void difference3(const float* m, const float* p, float w, long n,
                                                              float* out) {
  for (long i = 0; i < n; i += kLanes) store(out + i, w * (load(p + i) - load(m + i)));
}

static inline __attribute__((always_inline)) vf gauss_x(const float* r, const StageTaps& k) {
  const vf v = load(r);
  return v + k.g1 * bracket(load(r - 1), v + v, load(r + 1)) + k.g2 * bracket(load(r - 2), v + v, load(r + 2));
}
static inline __attribute__((always_inline)) vf first_x(const float* r, const StageTaps& k) {
  return k.d1 * (load(r + 1) - load(r - 1)) + k.d2 * (load(r + 2) - load(r - 2));
}
static inline __attribute__((always_inline)) vf second_x(const float* r, const StageTaps& k) {
  const vf v = load(r);
  return k.h1 * bracket(load(r - 1), v + v, load(r + 1)) + k.h2 * bracket(load(r - 2), v + v, load(r + 2));
}

static inline __attribute__((always_inline)) vf root(vf v) {
  vf r;
  for (long i = 0; i < kLanes; ++i) r[i] = __builtin_sqrtf(v[i]);
  return r;
}

static inline void put(const StageJob& job, Filter filter, int k, long z, long y, const float* row) {
  std::memcpy(
      job.sink.data + (job.channel[filter] + k) * job.sink.stride_c + z * job.sink.stride_z + y * job.sink.stride_y,
      row, job.nx * sizeof(float));
}

// Everything but the structure tensor, for plane z of the tile.
static void linear_plane(const StageJob& job, long z, float* scratch) {
  const StageTaps& k = job.taps;
  const long wide = job.wide, width = job.width, rows = job.ny + 4;
  float* along_z = scratch;              // [4][rows][wide]: Gauss, first, second, inner Gauss along z
  float* b = scratch + 4 * rows * wide;  // [7][wide]: the same along y
  float* out = b + 7 * wide;             // [4][width] Gauss, Laplacian, gradient, difference; [6][width] Hessian
  float* hessian = out + 4 * width;
  float* e = hessian + 6 * width;
  for (long y = -2; y < job.ny + 2; ++y) {
    const float* p = job.p + z * job.stride_z + y * job.stride_y - 3;
    float* a = along_z + (y + 2) * wide;
    derivatives(p - 2 * job.stride_z, p - job.stride_z, p, p + job.stride_z, p + 2 * job.stride_z, k, wide, a,
                a + rows * wide, a + 2 * rows * wide, a + 3 * rows * wide);
  }
  for (long y = 0; y < job.ny; ++y) {
    const float* a0 = along_z + (y + 2) * wide;
    const float *a1 = a0 + rows * wide, *a2 = a1 + rows * wide, *ai = a2 + rows * wide;
    float *b00 = b, *b01 = b + wide, *b02 = b01 + wide, *b10 = b02 + wide, *b11 = b10 + wide, *b20 = b11 + wide,
          *inner = b20 + wide;
    derivatives(a0 - 2 * wide, a0 - wide, a0, a0 + wide, a0 + 2 * wide, k, wide, b00, b01, b02, nullptr);
    derivatives(a1 - 2 * wide, a1 - wide, a1, a1 + wide, a1 + 2 * wide, k, wide, b10, b11, nullptr, nullptr);
    derivatives(a2 - 2 * wide, a2 - wide, a2, a2 + wide, a2 + 2 * wide, k, wide, b20, nullptr, nullptr, nullptr);
    smooth3(ai - wide, ai, ai + wide, k.inner, wide, inner);
    for (long x = 0; x < width; x += kLanes) {
      const long i = x + 3;
      const vf gauss = gauss_x(b00 + i, k), dx = first_x(b00 + i, k), xx = second_x(b00 + i, k);
      const vf dy = gauss_x(b01 + i, k), yx = first_x(b01 + i, k), yy = gauss_x(b02 + i, k);
      const vf dz = gauss_x(b10 + i, k), zx = first_x(b10 + i, k), zy = gauss_x(b11 + i, k), zz = gauss_x(b20 + i, k);
      const vf v = load(inner + i);
      const vf narrow = v + k.inner * bracket(load(inner + i - 1), v + v, load(inner + i + 1));
      store(out + x, gauss + job.offset);
      store(out + width + x, zz + yy + xx);
      store(out + 2 * width + x, root(dz * dz + dy * dy + dx * dx));
      store(out + 3 * width + x, gauss - narrow);
      store(hessian + x, zz), store(hessian + width + x, zy), store(hessian + 2 * width + x, zx);
      store(hessian + 3 * width + x, yy), store(hessian + 4 * width + x, yx), store(hessian + 5 * width + x, xx);
    }
    static constexpr Filter order[4] = {kGaussian, kLaplacian, kGradient, kDifference};
    for (int f = 0; f < 4; ++f)
      if (job.channel[order[f]] >= 0) put(job, order[f], 0, z, y, out + f * width);
    if (job.channel[kHessian] >= 0) {
      eigen_row(hessian, width, width, e);
      for (int c = 0; c < 3; ++c) put(job, kHessian, c, z, y, e + c * width);
    }
  }
}

// Gradients of plane z for the structure tensor, rows -2 .. ny+1, columns -2 .. width+1, into one slot of the ring.
// In the mirror a gradient changes its sign along the mirrored axis; the specification mirrors the *products*, so the
// sign is taken back here, and the products come out even.
static void gradient_plane(const StageJob& job, long z, float* slot, float* scratch) {
  const StageTaps& k = job.taps;
  const long wide = job.wide, rows = job.ny + 4;
  float* c0 = scratch;                        // [ny + 6][wide] smoothed along z
  float* c1 = scratch + (job.ny + 6) * wide;  // [ny + 6][wide] derived along z
  float *e0 = c1 + (job.ny + 6) * wide, *e1 = e0 + wide, *e2 = e1 + wide;
  for (long y = -3; y < job.ny + 3; ++y) {
    const float* p = job.p + z * job.stride_z + y * job.stride_y - 3;
    smooth3(p - job.stride_z, p, p + job.stride_z, k.narrow, wide, c0 + (y + 3) * wide);
    difference3(p - job.stride_z, p + job.stride_z, k.slope * job.sign_z[z], wide, c1 + (y + 3) * wide);
  }
  for (long y = -2; y < job.ny + 2; ++y) {
    const float *r0 = c0 + (y + 3) * wide, *r1 = c1 + (y + 3) * wide;
    smooth3(r0 - wide, r0, r0 + wide, k.narrow, wide, e0);
    difference3(r0 - wide, r0 + wide, k.slope * job.sign_y[y], wide, e1);
    smooth3(r1 - wide, r1, r1 + wide, k.narrow, wide, e2);
    float *gz = slot + (y + 2) * wide, *gy = gz + rows * wide, *gx = gy + rows * wide;
    for (long i = 0; i < wide; i += kLanes) {
      const vf a = load(e1 + i), b = load(e2 + i);
      store(gz + i, b + k.narrow * bracket(load(e2 + i - 1), b + b, load(e2 + i + 1)));
      store(gy + i, a + k.narrow * bracket(load(e1 + i - 1), a + a, load(e1 + i + 1)));
      store(gx + i, load(job.sign_x + i - 3) * (k.slope * (load(e0 + i + 1) - load(e0 + i - 1))));
    }
  }
}

// The products of five planes of gradients, smoothed along z, y and x, and their eigenvalues.
static void structure_plane(const StageJob& job, long z, const float* const ring[5], float* scratch) {
  const StageTaps& k = job.taps;
  const long wide = job.wide, width = job.width, rows = job.ny + 4;
  const float weight[5] = {k.g2, k.g1, k.g0, k.g1, k.g2};
  float* along_z = scratch;              // [6][rows][wide]
  float* b = scratch + 6 * rows * wide;  // [wide]
  float* t = b + wide;                   // [6][width]
  float* e = t + 6 * width;
  for (long i = 0; i < rows * wide; i += kLanes) {
    vf zz{}, zy{}, zx{}, yy{}, yx{}, xx{};
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) {
      const vf gz = load(ring[j] + i), gy = load(ring[j] + rows * wide + i), gx = load(ring[j] + 2 * rows * wide + i);
      const vf wz = weight[j] * gz, wy = weight[j] * gy, wx = weight[j] * gx;
      zz += wz * gz, zy += wz * gy, zx += wz * gx, yy += wy * gy, yx += wy * gx, xx += wx * gx;
    }
    float* a = along_z + i;
    store(a, zz), store(a + rows * wide, zy), store(a + 2 * rows * wide, zx);
    store(a + 3 * rows * wide, yy), store(a + 4 * rows * wide, yx), store(a + 5 * rows * wide, xx);
  }
  for (long y = 0; y < job.ny; ++y) {
    for (int c = 0; c < 6; ++c) {
      const float* a = along_z + (c * rows + y + 2) * wide;
      derivatives(a - 2 * wide, a - wide, a, a + wide, a + 2 * wide, k, wide, b, nullptr, nullptr, nullptr);
      for (long x = 0; x < width; x += kLanes) store(t + c * width + x, gauss_x(b + x + 3, k));
    }
    eigen_row(t, width, width, e);
    for (int c = 0; c < 3; ++c) put(job, kStructure, c, z, y, e + c * width);
  }
}

static void stage_two(const StageJob& job, float* scratch) {
  const bool linear = job.channel[kGaussian] >= 0 || job.channel[kLaplacian] >= 0 || job.channel[kGradient] >= 0 ||
                      job.channel[kDifference] >= 0 || job.channel[kHessian] >= 0;
  const bool structure = job.channel[kStructure] >= 0;
  const long slot = 3 * (job.ny + 4) * job.wide;
  float* ring = scratch + kSweepRows * job.wide;
  const auto plane = [&](long z) { return ring + (z + 5) % 5 * slot; };
  if (structure)
    for (long z = -2; z < 2; ++z) gradient_plane(job, z, plane(z), scratch);
  for (long z = 0; z < job.nz; ++z) {
    if (linear) linear_plane(job, z, scratch);
    if (structure) {
      gradient_plane(job, z + 2, plane(z + 2), scratch);
      const float* planes[5] = {plane(z - 2), plane(z - 1), plane(z), plane(z + 1), plane(z + 2)};
      structure_plane(job, z, planes, scratch);
    }
  }
}

static const FeatureKernels feature_kernels{stage_two, eigen_row};

}  // namespace CRYOET_ISA
}  // namespace cryoet
