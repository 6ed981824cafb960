// SPDX-License-Identifier: MIT
// A power of two by a polynomial, of additions and multiplications only: it vectorises, and a Gaussian of a grey value
// costs a dozen instructions.
#pragma once

#include "core/platform.h"
#include "voxel/float_bits.h"

namespace cryoet {

// 2^t for t <= 0, and 0 from -127 on (between -126 and -127 something below 1.2e-38). t = n + f with |f| <= 1/2: 2^n
// goes into the exponent's bits, 2^f is 1 + f q(f) with q of degree 4, minimax in relative error (9.1e-8 by the
// coefficients; measured in float32, t from -126 to 0 in steps of 1e-6: 1.9e-7). 2^0 is 1 exactly.
CRYOET_HD float exp2_nonpositive(float t) {
  const float clamped = t > -127.0f ? t : -127.0f;
  const float shifted = clamped + 12582912.0f;  // 1.5 * 2^23: n now stands in the lowest bits
  const float f = clamped - (shifted - 12582912.0f);
  float p = 0.001326471434998696f;
  p = p * f + 0.009671512638434635f;
  p = p * f + 0.055507337737872336f;
  p = p * f + 0.24022242085843615f;
  p = p * f + 0.6931469775872221f;
  p = p * f + 1.0f;
  return float_of_bits(bits_of_float(p) + (bits_of_float(shifted) << 23));
}

}  // namespace cryoet
