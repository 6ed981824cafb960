// SPDX-License-Identifier: MIT
// Sampled Gaussian derivative kernels as ilastik's filters use them.
#pragma once

#include <cmath>

#include "core/platform.h"

namespace cryoet {

// r = floor(window * sigma + 0.5)
CRYOET_HD int gaussian_radius(double sigma, double window) {
  return static_cast<int>(std::floor(window * sigma + 0.5));
}

// taps[0..2r], to be correlated with the samples. Order 0 sums to 1; order 1 is scaled so that sum k(x) x = 1; order 2
// has its mean removed and is scaled so that 1/2 sum k(x) x^2 = 1. Orders 1 and 2 need r >= 1.
CRYOET_HD void gaussian_taps(double sigma, int radius, int order, double* taps) {
  const int n = 2 * radius + 1;
  double sum = 0.0;
  for (int i = 0; i < n; ++i) {
    const double x = i - radius, e = std::exp(-0.5 * x * x / (sigma * sigma));
    taps[i] = order == 0 ? e : order == 1 ? x * e : (x * x / (sigma * sigma) - 1.0) * e;
    sum += taps[i];
  }
  const double mean = order == 2 ? sum / n : 0.0;
  double scale = 0.0;
  for (int i = 0; i < n; ++i) {
    const double x = i - radius;
    taps[i] -= mean;
    scale += order == 0 ? taps[i] : order == 1 ? taps[i] * x : 0.5 * taps[i] * x * x;
  }
  for (int i = 0; i < n; ++i) taps[i] /= scale;
}

}  // namespace cryoet
