// SPDX-License-Identifier: MIT
// Eigenvalues of a row of tensors; included by the kernels of one instruction set (core/for_each_isa.h).

namespace cryoet {
namespace CRYOET_ISA {

// Component c of the tensors at t[c * stride], eigenvalue k at e[k * stride]; width: a multiple of 16.
static void eigen_row(const float* t, long stride, long width, float* e) {
  constexpr long kRun = 64;
  float q[kRun], scale[kRun], p2[kRun], det[kRun], discriminant[kRun];
  for (long x = 0; x < width; x += kRun, t += kRun, e += kRun) {
    const long n = width - x < kRun ? width - x : kRun;
    const float *zz = t, *zy = zz + stride, *zx = zy + stride, *yy = zx + stride, *yx = yy + stride, *xx = yx + stride;
    float *e0 = e, *e1 = e0 + stride, *e2 = e1 + stride;
#pragma omp simd
    for (long i = 0; i < n; ++i)
      sym_eigen3_invariants(zz[i], zy[i], zx[i], yy[i], yx[i], xx[i], q[i], scale[i], p2[i], det[i], discriminant[i]);
#pragma omp simd
    for (long i = 0; i < n; ++i) sym_eigen3_roots(q[i], scale[i], p2[i], det[i], discriminant[i], e0[i], e1[i], e2[i]);
  }
}

}  // namespace CRYOET_ISA
}  // namespace cryoet
