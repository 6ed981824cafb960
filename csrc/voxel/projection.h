// SPDX-License-Identifier: MIT
// Where voxels and rays meet in a parallel beam along z, the specimen tilted about y.
//
// At tilt t a voxel (z, x), counted from the volume's centre, falls on the detector at u = x cos t + z sin t, counted
// from the detector's middle. A ray is followed as Joseph does (IEEE Trans. Med. Imaging 1:192, 1982): from plane to
// plane of the axis that it is steeper to, with linear interpolation along the other one.
//
// Positions are whole numbers of 2^-40 of a pixel: sums of multiples of the tilt's sine and cosine, exact in whatever
// order they are added. A box then equals the same part of the whole bit for bit, and a card meets the CPU's positions
// without float64. The rounding of sine and cosine moves nothing by more than 1e-9 of a pixel 1000 voxels away.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/platform.h"
#include "voxel/float_bits.h"

namespace cryoet {

constexpr int kPositionBits = 40;  // of a pixel's fraction
constexpr std::int64_t kPixel = std::int64_t(1) << kPositionBits;
constexpr int kWeightBits = 23;         // of them reach a weight, which is exact in float32 then
constexpr long kLongestAxis = 1 << 20;  // pixels: positions stay under 2^22 of them, 63 bits

// A position on one axis as a function of indices on two others.
struct GridLine {
  std::int64_t per_i, per_j, origin;

  CRYOET_HD std::int64_t at(std::int64_t i, std::int64_t j) const { return i * per_i + j * per_j + origin; }
};

// The two samples beside a position are `index` and index + 1.
CRYOET_HD int tap_index(std::int64_t position) {
  // By way of the upper half: vectors of 64 bits have no arithmetic shift before AVX-512.
  return static_cast<int>(static_cast<std::uint64_t>(position) >> 32) >> (kPositionBits - 32);
}

// The weight of the second; that of the first is what is left of 1, exact as well.
CRYOET_HD float tap_weight(std::int64_t position) {
  const auto fraction =
      static_cast<std::uint32_t>(static_cast<std::uint64_t>(position) >> (kPositionBits - kWeightBits));
  return float_of_bits(0x3f800000u | (fraction & ((1u << kWeightBits) - 1))) - 1.0f;
}

// The rays of one view: as a function of the plane (i) and the detector's pixel (j), where in the plane they pass.
struct TiltedRays {
  GridLine line;
  float step;  // length of a ray from plane to plane, in voxels
  int steep;   // 0: the planes are those of z and the position is x; 1: planes of x, position z
};

#ifndef __CUDACC_RTC__  // made on the host

// Indices and positions count from the middles of their axes, of lengths n_i, n_j and n; half a unit of the weight is
// added, so that its bits are rounded and not cut off.
inline GridLine grid_line(double per_i, long n_i, double per_j, long n_j, long n) {
  const auto half_i = static_cast<std::int64_t>(std::llround(std::ldexp(per_i, kPositionBits - 1)));
  const auto half_j = static_cast<std::int64_t>(std::llround(std::ldexp(per_j, kPositionBits - 1)));
  const std::int64_t middle = (n - 1) * (kPixel / 2) - (n_i - 1) * half_i - (n_j - 1) * half_j;
  return {2 * half_i, 2 * half_j, middle + (std::int64_t(1) << (kPositionBits - kWeightBits - 1))};
}

inline double radians(double degrees) { return degrees * (3.14159265358979323846 / 180); }

// The detector's pixel as a function of z (i) and x (j).
inline GridLine detector_line(double tilt_deg, long nz, long nx, long width) {
  const double t = radians(tilt_deg);
  return grid_line(std::sin(t), nz, std::cos(t), nx, width);
}

inline TiltedRays tilted_rays(double tilt_deg, long nz, long nx, long width) {
  const double t = radians(tilt_deg), c = std::cos(t), s = std::sin(t);
  if (std::abs(tilt_deg) <= 45) return {grid_line(-s / c, nz, 1 / c, width, nx), static_cast<float>(1 / c), 0};
  return {grid_line(-c / s, nx, 1 / s, width, nz), static_cast<float>(1 / std::abs(s)), 1};
}

#endif

}  // namespace cryoet
