// SPDX-License-Identifier: MIT
// Eigenvalues of a symmetric 3x3 matrix in closed form, descending.
#pragma once

#include "core/platform.h"
#include "voxel/float_bits.h"

namespace cryoet {

// What the compiler turns into one instruction, unlike fmaxf.
CRYOET_HD float larger(float a, float b) { return a > b ? a : b; }

// The power of two 1/2^e for a positive normal float 2^e <= m < 2^(e+1): scaling by it is exact.
CRYOET_HD float inverse_power_of_two(float m) { return float_of_bits(0x7f000000u - (bits_of_float(m) & 0x7f800000u)); }

// The trigonometric solution of the deviatoric part B = A - q I (O. K. Smith, Comm. ACM 4, 168, 1961): with
// p^2 = tr(B^2)/6 and t = det(B)/(2 p^3) = cos(3 phi), the roots are q + 2p cos(phi + 2 pi k/3).
//
// At large scales the structure tensor is nearly of rank one, and its two small eigenvalues hang on the square root of
// 1 - t^2, in which float32 keeps no digit. But 4 p^6 (1 - t^2) is the discriminant over 27, the Gram determinant of
// (I, B, B^2), and so a sum of squares of their minors (Cauchy-Binet): every minor keeps an error of 1e-7 of the
// matrix, and so does the root. B^2 may be replaced by the adjugate, which differs from it by multiples of I and B.
// Measured against float64: 4e-7 of the largest eigenvalue at worst.
//
// Two halves, since a loop over each keeps more voxels in flight than one over the whole chain of square roots and
// quotients. Scalars in, references out, since gcc 12 does not vectorise loops over small structs.

// The mean eigenvalue q, and of B times `scale`, a power of two: p^2, det and the discriminant.
CRYOET_HD void sym_eigen3_invariants(float zz, float zy, float zx, float yy, float yx, float xx, float& q, float& scale,
                                     float& p2, float& det, float& discriminant) {
  q = (zz + yy + xx) * (1.0f / 3.0f);
  float a = zz - q, b = yy - q, c = xx - q, d = zy, e = zx, f = yx;
  // Entries of 1 at most two: nothing below leaves the range of float32.
  const float ab = larger(fabsf(a), fabsf(b)), cd = larger(fabsf(c), fabsf(d)), ef = larger(fabsf(e), fabsf(f));
  const float largest = larger(larger(ab, cd), larger(ef, 1e-37f));
  scale = inverse_power_of_two(largest);
  a *= scale, b *= scale, c *= scale, d *= scale, e *= scale, f *= scale;
  const float sa = b * c - f * f, sb = a * c - e * e, sc = a * b - d * d;
  const float sd = e * f - c * d, se = d * f - b * e, sf = d * e - a * f;
  p2 = (sa + sb + sc) * (-1.0f / 3.0f);
  det = a * sa + (d * sd + e * se);
  // Minors with two diagonal columns and one other, three diagonal ones, one diagonal and two others.
  const float x = a - b, y = b - c, sx = sa - sb, sy = sb - sc;
  const float d1 = x * sd - sx * d, d2 = y * sd - sy * d, d3 = d1 + d2;
  const float e1_ = x * se - sx * e, e2_ = y * se - sy * e, e3_ = e1_ + e2_;
  const float f1 = x * sf - sx * f, f2 = y * sf - sy * f, f3 = f1 + f2;
  const float n = x * sy - y * sx;
  const float de = d * se - e * sd, df = d * sf - f * sd, fe = e * sf - f * se;
  const float twos =
      (d1 * d1 + d2 * d2 + d3 * d3) + (e1_ * e1_ + e2_ * e2_ + e3_ * e3_) + (f1 * f1 + f2 * f2 + f3 * f3);
  discriminant = n * n + 2.0f * (twos + 6.0f * (de * de + df * df + fe * fe));
}

// The eigenvalues from the invariants. For u = 1 - |t| both 1 - cos(phi) = u C(u) and sin(phi) = sqrt(u) S(u) have
// polynomials C and S that are good to 5e-9 (Chebyshev interpolation on [0, 1]; phi lies in [0, pi/6]): no arc cosine.
// They are summed by Estrin's scheme, in four steps that wait for each other instead of eight.
CRYOET_HD void sym_eigen3_roots(float q, float scale, float p2, float det, float discriminant, float& e0, float& e1,
                                float& e2) {
  const float p = sqrtf(larger(p2, 0.0f));
  const float inverse = 1.0f / larger(2.0f * p2 * p, 1e-30f);  // p = 0 means A = q I: any t will do
  const float t = det * inverse;
  const float w = discriminant * (inverse * inverse) * (1.0f / 27.0f);  // 1 - t^2
  const float v = w / (1.0f + fabsf(t)), u = v < 1.0f ? v : 1.0f, u2 = u * u, u4 = u2 * u2;
  const float c01 = 0.01646135002374649f * u + 0.1111111044883728f;
  const float c23 = 0.0014227208448573947f * u + 0.004258676897734404f;
  const float c45 = 0.0006557040032930672f * u + 0.00023053270706441253f;
  const float c67 = 0.00023691462411079556f * u - 0.0004024159861728549f;
  const float s01 = 0.0218246728181839f * u + 0.4714045226573944f;
  const float s23 = 0.0014239395968616009f * u + 0.0046601383946835995f;
  const float s45 = 0.0005843992112204432f * u + 0.00024340405070688576f;
  const float s67 = 0.00020864470570813864f * u - 0.0003497202415019274f;
  const float cc = (c67 * u2 + c45) * u4 + (c23 * u2 + c01), ss = (s67 * u2 + s45) * u4 + (s23 * u2 + s01);
  const float own = p * inverse_power_of_two(scale), sp = det < 0.0f ? -own : own;
  const float bend = sp * (u * cc);
  const float split = 1.7320508075688772f * own * (sqrtf(u) * ss);  // sqrt(3) p sin(phi)
  const float one = q + 2.0f * (sp - bend), centre = q - (sp - bend);
  const float high = centre + split, low = centre - split;
  e0 = det < 0.0f ? high : one;
  e1 = det < 0.0f ? low : high;
  e2 = det < 0.0f ? one : low;
}

// Both halves: what one CUDA thread does for its voxel.
CRYOET_HD void sym_eigen3(float zz, float zy, float zx, float yy, float yx, float xx, float& e0, float& e1, float& e2) {
  float q, scale, p2, det, discriminant;
  sym_eigen3_invariants(zz, zy, zx, yy, yx, xx, q, scale, p2, det, discriminant);
  sym_eigen3_roots(q, scale, p2, det, discriminant, e0, e1, e2);
}

}  // namespace cryoet
