// SPDX-License-Identifier: MIT
// The inner loops of separable.cpp, compiled once for each instruction set (core/for_each_isa.h).

#include "core/transpose.h"
#include "core/vector.h"
#include "ops/eigen_row.h"

namespace cryoet {
namespace CRYOET_ISA {

static constexpr long kStrip = 2 * kLanes;

// Strips: samples along the filtered axis, kStrip voxels beside each other at each. Taps left of the centre and those
// right of it are summed apart, each from the outside in: small terms meet small sums, and the rounding of a wide
// Gaussian stays near that of its last addition. (In one sweep every small term behind the centre is rounded to the
// full sum, and the Laplacian at scale 10 loses half a digit.)

// Six neighbouring outputs: a sample that is read once serves all six, 12 sums stay in registers, and the loads no
// longer bound the multiply-adds. Each output meets exactly its own taps, in the order of the plain sum. Needs r >= 5.
static void fir_six(const float* in, long stride, const float* taps, long r, float* out, long out_stride) {
  vf a[6] = {}, b[6] = {};
  const auto add = [&](long i, int first, int last) __attribute__((always_inline)) {
    const vf u = load(in + i * stride), v = load(in + i * stride + kLanes);
#pragma GCC unroll 6
    for (int q = 0; q < 6; ++q)
      if (q >= first && q <= last) {
        const float tap = taps[i - q];
        a[q] += tap * u, b[q] += tap * v;
      }
  };
#pragma GCC unroll 5
  for (int k = 0; k < 5; ++k) add(k, 0, k);
  for (long i = 5; i <= r; ++i) add(i, 0, 5);
#pragma GCC unroll 5
  for (int k = 1; k < 6; ++k) add(r + k, k, 5);
  for (int q = 0; q < 6; ++q) {
    store(out + q * out_stride, a[q]), store(out + q * out_stride + kLanes, b[q]);
    a[q] = b[q] = vf{};
  }
#pragma GCC unroll 5
  for (int k = 5; k > 0; --k) add(2 * r + k, k, 5);
  for (long i = 2 * r; i > r + 5; --i) add(i, 0, 5);
#pragma GCC unroll 5
  for (int k = 4; k >= 0; --k) add(r + 1 + k, 0, k);
  for (int q = 0; q < 6; ++q) {
    float* to = out + q * out_stride;
    store(to, load(to) + a[q]), store(to + kLanes, load(to + kLanes) + b[q]);
  }
}

// One output, few taps.
template <int R>
static inline __attribute__((always_inline)) void fir_few(const float* in, long stride, const float* taps, float* out,
                                                          long out_stride, long n) {
  for (long k = 0; k < n; ++k, in += stride, out += out_stride) {
    vf left[2] = {}, right[2] = {};
#pragma GCC unroll 16
    for (int i = 0; i <= R; ++i)
      left[0] += taps[i] * load(in + i * stride), left[1] += taps[i] * load(in + i * stride + kLanes);
#pragma GCC unroll 16
    for (int i = 2 * R; i > R; --i)
      right[0] += taps[i] * load(in + i * stride), right[1] += taps[i] * load(in + i * stride + kLanes);
    store(out, left[0] + right[0]), store(out + kLanes, left[1] + right[1]);
  }
}

// out[k] = sum_i taps[i] in[k + i] for n samples of a strip; `in` has 2r + kSpare more that can be read.
static void fir_strip(const float* in, long stride, const float* taps, long r, float* out, long out_stride, long n) {
  switch (r) {
    case 0:
      return fir_few<0>(in, stride, taps, out, out_stride, n);
    case 1:
      return fir_few<1>(in, stride, taps, out, out_stride, n);
    case 2:
      return fir_few<2>(in, stride, taps, out, out_stride, n);
    case 3:
      return fir_few<3>(in, stride, taps, out, out_stride, n);
    case 4:
      return fir_few<4>(in, stride, taps, out, out_stride, n);
    default:
      break;
  }
  long k = 0;
  for (; k + 6 <= n; k += 6) fir_six(in + k * stride, stride, taps, r, out + k * out_stride, out_stride);
  if (k == n) return;
  float rest[6 * kStrip];
  fir_six(in + k * stride, stride, taps, r, rest, kStrip);
  for (long q = 0; k < n; ++k, ++q) std::memcpy(out + k * out_stride, rest + q * kStrip, kStrip * sizeof(float));
}

static const SeparableKernels separable_kernels{kStrip, fir_strip, transpose<4>, eigen_row};

}  // namespace CRYOET_ISA
}  // namespace cryoet
