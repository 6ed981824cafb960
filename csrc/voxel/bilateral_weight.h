// SPDX-License-Identifier: MIT
// The weight of one neighbour in a bilateral filter.
#pragma once

#include <cmath>

#include "core/platform.h"
#include "voxel/exp2.h"

namespace cryoet {

// The factor that turns a difference of grey values into the e of exp(-d^2 / (2 sigma^2)) = 2^-(e^2), e = d * factor.
CRYOET_HD float range_factor(double sigma_range) {
  return static_cast<float>(std::sqrt(0.5 * 1.4426950408889634) / sigma_range);
}

// c(xi, x) s(f(xi), f(x)) of Tomasi and Manduchi (ICCV 1998), section 2.1: `spatial` is c, s is a Gaussian.
CRYOET_HD float bilateral_weight(float difference, float spatial, float factor) {
  const float e = difference * factor;
  return spatial * exp2_nonpositive(-(e * e));
}

}  // namespace cryoet
