// SPDX-License-Identifier: MIT
// The taps of stage two of the two-stage features, for the CPU's sweep and the CUDA kernel alike.
#pragma once

#include "core/platform.h"
#include "voxel/gaussian_taps.h"

namespace cryoet {

constexpr double kFilterWindow = 2.0;
constexpr double kInner = 0.66;      // DifferenceOfGaussians: sigma of the narrower one
constexpr double kDerivative = 0.5;  // StructureTensorEigenvalues: sigma of the derivatives, integration at 1

// Stage two at s' <= 1 and window 2 has radii of at most 2 (derivatives of the structure tensor and inner Gaussian: 1).
struct StageTaps {
  float g0, g1, g2;  // Gaussian
  float d1, d2;      // first derivative, antisymmetric
  float h1, h2;      // second derivative
  float inner;       // side tap of the inner Gaussian of the difference
  float narrow;      // side tap of the structure tensor's Gaussian
  float slope;       // side tap of the structure tensor's derivative
};

// One side of a kernel of radius 2 at most: its taps 0, 1, 2.
struct SideTaps {
  float tap[3];
};

CRYOET_HD SideTaps side_taps(double sigma, int order) {
  double exact[5];
  const int radius = gaussian_radius(sigma, kFilterWindow);
  gaussian_taps(sigma, radius, order, exact);
  SideTaps side{};
  for (int i = 0; i <= radius; ++i) side.tap[i] = static_cast<float>(exact[radius + i]);
  return side;
}

// Of scale s; 0.5 <= s, or smoothing alone.
CRYOET_HD StageTaps stage_taps(double s) {
  const double own = s > 1.0 ? 1.0 : s;
  const SideTaps g = side_taps(own, 0), d = side_taps(own, 1), h = side_taps(own, 2);
  return {g.tap[0],
          g.tap[1],
          g.tap[2],
          d.tap[1],
          d.tap[2],
          h.tap[1],
          h.tap[2],
          side_taps(kInner * own, 0).tap[1],
          side_taps(kDerivative * own, 0).tap[1],
          side_taps(kDerivative * own, 1).tap[1]};
}

}  // namespace cryoet
