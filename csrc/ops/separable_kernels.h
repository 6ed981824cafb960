// SPDX-License-Identifier: MIT
// The inner loops of separable.cpp, compiled once for each instruction set (core/for_each_isa.h).

#include "core/vector.h"

namespace cryoet {
namespace CRYOET_ISA {

// out[q][x] = sum_i taps[i - q] rows[i][x] for four neighbouring output rows q: a row that is read once serves four
// outputs, which halves the loads. taps has three zeros before and behind, so that all four run through the same loop.
static void fir_rows(const float* const* rows, const float* taps, long n_taps, float* const* out, long width) {
  for (long x = 0; x < width; x += 2 * kLanes) {
    vf a0{}, a1{}, a2{}, a3{}, b0{}, b1{}, b2{}, b3{};
    for (long i = 0; i < n_taps + 3; ++i) {
      const vf a = load(rows[i] + x), b = load(rows[i] + x + kLanes);
      a0 += taps[i] * a, b0 += taps[i] * b;
      a1 += taps[i - 1] * a, b1 += taps[i - 1] * b;
      a2 += taps[i - 2] * a, b2 += taps[i - 2] * b;
      a3 += taps[i - 3] * a, b3 += taps[i - 3] * b;
    }
    store(out[0] + x, a0), store(out[0] + x + kLanes, b0);
    store(out[1] + x, a1), store(out[1] + x + kLanes, b1);
    store(out[2] + x, a2), store(out[2] + x + kLanes, b2);
    store(out[3] + x, a3), store(out[3] + x + kLanes, b3);
  }
}

// out[x] = sum_i taps[i] row[x + i]
static void fir_x(const float* row, const float* taps, long n_taps, float* out, long width) {
  constexpr long kStep = Field::kRow, n = kStep / kLanes;
  for (long x = 0; x < width; x += kStep) {
    vf sum[n] = {};
    for (long i = 0; i < n_taps; ++i) {
#pragma GCC unroll 8
      for (long v = 0; v < n; ++v) sum[v] += taps[i] * load(row + x + i + v * kLanes);
    }
#pragma GCC unroll 8
    for (long v = 0; v < n; ++v) store(out + x + v * kLanes, sum[v]);
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
