// SPDX-License-Identifier: MIT
// Eigenvalues of a symmetric 3x3 matrix in closed form, descending.
#pragma once

#include <cmath>

#include "core/platform.h"

namespace cryoet {

// The trigonometric solution of the deviatoric part B = A - q I (O. K. Smith, Comm. ACM 4, 168, 1961): with
// p^2 = tr(B^2)/6 and t = det(B)/(2 p^3) = cos(3 phi), the roots are q + 2p cos(phi + 2 pi k/3).
// Float64 inside: at large scales the structure tensor is nearly of rank one, and the float32 form loses its third
// eigenvalue. For u = 1 - |t| both 1 - cos(phi) = u C(u) and sin(phi) = sqrt(u) S(u) have polynomials C and S that are
// good to 2e-10 (Chebyshev interpolation on [0, 1]; phi lies in [0, pi/6]): no arc cosine, and two nearly equal roots
// keep their difference, which is proportional to sin(phi). Scalars in, references out, since gcc 12 does not vectorise
// loops over small structs.
CRYOET_HD void sym_eigen3(float zz, float zy, float zx, float yy, float yx, float xx, float& e0, float& e1, float& e2) {
  const double a = zz, b = yy, c = xx, d = zy, e = zx, f = yx;
  const double q = (a + b + c) * (1.0 / 3.0);
  const double ba = a - q, bb = b - q, bc = c - q;
  const double off = d * d + e * e + f * f;
  const double p2 = (ba * ba + bb * bb + bc * bc + 2.0 * off) * (1.0 / 6.0);
  const double det = ba * (bb * bc - f * f) - d * (d * bc - f * e) + e * (d * f - bb * e);
  const double p = std::sqrt(p2);
  const double p3 = 2.0 * p2 * p;
  const double t = det / (p3 > 0.0 ? p3 : 1.0);  // p = 0 means A = q I: any t will do
  const double size = t < 0.0 ? -t : t;
  const double u = size < 1.0 ? 1.0 - size : 0.0;
  double cc = 7.677235263603106e-05;
  cc = cc * u - 0.0002105440898413822;
  cc = cc * u + 0.00034495283767193896;
  cc = cc * u - 0.00018031668762745245;
  cc = cc * u + 0.00029952993965929226;
  cc = cc * u + 0.0004448090248843616;
  cc = cc * u + 0.001360147474056416;
  cc = cc * u + 0.004267215780261139;
  cc = cc * u + 0.016460918418446102;
  cc = cc * u + 0.11111111104562035;
  double ss = 6.651090910686296e-05;
  ss = ss * u - 0.00018157252505606144;
  ss = ss * u + 0.00029892207397479547;
  ss = ss * u - 0.00015191133902492436;
  ss = ss * u + 0.00027126625551620985;
  ss = ss * u + 0.0004311800387337092;
  ss = ss * u + 0.0013691850522856853;
  ss = ss * u + 0.004667604037008521;
  ss = ss * u + 0.021824294639896928;
  ss = ss * u + 0.47140452073455574;
  // A relative error of 6e-8 in sin(phi) only touches the difference of the two closer roots: float32 is enough here.
  const double root = std::sqrt(static_cast<float>(u));
  const double cosine = p - p * u * cc, sine = 1.7320508075688772 * p * root * ss;  // p cos(phi), sqrt(3) p sin(phi)
  const double single = t < 0.0 ? -2.0 * cosine : 2.0 * cosine;                     // the root that stands apart
  const double pair = t < 0.0 ? cosine : -cosine;
  const double high = q + (pair + sine), low = q + (pair - sine), apart = q + single;
  e0 = static_cast<float>(t < 0.0 ? high : apart);
  e1 = static_cast<float>(t < 0.0 ? low : high);
  e2 = static_cast<float>(t < 0.0 ? apart : low);
}

}  // namespace cryoet
