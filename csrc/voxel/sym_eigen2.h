// SPDX-License-Identifier: MIT
// Eigenvalues of a symmetric 2x2 matrix, descending.
#pragma once

#include "core/platform.h"

namespace cryoet {

CRYOET_HD void sym_eigen2(float yy, float yx, float xx, float& e0, float& e1) {
  const float mean = 0.5f * (yy + xx), half = 0.5f * (yy - xx), radius = sqrtf(half * half + yx * yx);
  e0 = mean + radius;
  e1 = mean - radius;
}

}  // namespace cryoet
