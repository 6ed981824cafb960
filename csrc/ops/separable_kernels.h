// SPDX-License-Identifier: MIT
// The inner loops of separable.cpp, compiled once for each instruction set (core/for_each_isa.h).

#include "core/vector.h"

namespace cryoet {
namespace CRYOET_ISA {

// Both kernels sum the taps left of the centre and those right of it apart, each from the outside in: small terms meet
// small sums, and the rounding of a wide Gaussian stays near that of its last addition. (In one sweep every small term
// behind the centre is rounded to the full sum, and the Laplacian at scale 10 loses half a digit.)

// out[q][x] = sum_i taps[i - q] rows[i][x] for four neighbouring output rows q: a row that is read once serves four
// outputs, which halves the loads. left and right are the taps up to the centre (radius r) and behind it, the others
// zero, with three zeros before and behind, so that all four outputs add the same terms in the same order.
static void fir_rows(const float* const* rows, const float* left, const float* right, long r, float* const* out,
                     long width) {
  for (long x = 0; x < width; x += 2 * kLanes) {
    vf sum[8];
    for (int side = 0; side < 2; ++side) {
      vf a0{}, a1{}, a2{}, a3{}, b0{}, b1{}, b2{}, b3{};
      const float* taps = side ? right : left;
      const long first = side ? 2 * r + 3 : 0, end = side ? r : r + 4, step = side ? -1 : 1;
      for (long i = first; i != end; i += step) {
        const vf a = load(rows[i] + x), b = load(rows[i] + x + kLanes);
        a0 += taps[i] * a, b0 += taps[i] * b;
        a1 += taps[i - 1] * a, b1 += taps[i - 1] * b;
        a2 += taps[i - 2] * a, b2 += taps[i - 2] * b;
        a3 += taps[i - 3] * a, b3 += taps[i - 3] * b;
      }
      if (side == 0) {
        sum[0] = a0, sum[1] = a1, sum[2] = a2, sum[3] = a3, sum[4] = b0, sum[5] = b1, sum[6] = b2, sum[7] = b3;
      } else {
        sum[0] += a0, sum[1] += a1, sum[2] += a2, sum[3] += a3, sum[4] += b0, sum[5] += b1, sum[6] += b2, sum[7] += b3;
      }
    }
    for (long q = 0; q < 4; ++q) store(out[q] + x, sum[q]), store(out[q] + x + kLanes, sum[4 + q]);
  }
}

// out[x] = sum_i taps[i] row[x + i]
static void fir_x(const float* row, const float* taps, long r, float* out, long width) {
  constexpr long kStep = Field::kRow, n = kStep / kLanes;
  for (long x = 0; x < width; x += kStep) {
    vf left[n] = {}, right[n] = {};
    for (long i = 0; i <= r; ++i) {
#pragma GCC unroll 8
      for (long v = 0; v < n; ++v) left[v] += taps[i] * load(row + x + i + v * kLanes);
    }
    for (long i = 2 * r; i > r; --i) {
#pragma GCC unroll 8
      for (long v = 0; v < n; ++v) right[v] += taps[i] * load(row + x + i + v * kLanes);
    }
#pragma GCC unroll 8
    for (long v = 0; v < n; ++v) store(out + x + v * kLanes, left[v] + right[v]);
  }
}

// Sixteen tensors at a time, component-major: t[c * 16 + i] -> e[k * 16 + i].
static void eigen16(const float* t, float* e) {
#pragma omp simd
  for (int i = 0; i < 16; ++i)
    sym_eigen3(t[i], t[16 + i], t[32 + i], t[48 + i], t[64 + i], t[80 + i], e[i], e[16 + i], e[32 + i]);
}

static const SeparableKernels separable_kernels{fir_rows, fir_x, eigen16};

}  // namespace CRYOET_ISA
}  // namespace cryoet
