// SPDX-License-Identifier: MIT
// One voxel of overlapping tiles: how a tile's value is added up, and what is made of the sums.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/platform.h"
#include "voxel/exp2.h"
#include "voxel/float_bits.h"

namespace cryoet {

// Weights are products over the axes; `row` is that of z and y. This order everywhere, so that CPU and card agree.
CRYOET_HD float blended(float sum, float value, float row, float weight_x) { return sum + value * (row * weight_x); }

CRYOET_HD float value_of(float v) { return v; }

// IEEE 754 binary16 by its bits. Exponents are moved by a multiplication, which is exact and right for subnormals, too.
struct Float16 {
  std::uint16_t bits;
};
CRYOET_HD float value_of(Float16 v) {
  const unsigned magnitude = (v.bits & 0x7fffu) << 13;
  const float finite = float_of_bits(magnitude) * 5.192296858534828e33f;  // 2^112
  const unsigned wide = (v.bits & 0x7c00u) == 0x7c00u ? magnitude | 0x7f800000u : bits_of_float(finite);
  return float_of_bits(wide | (v.bits & 0x8000u) << 16);
}

// bfloat16: the upper half of a float.
struct BFloat16 {
  std::uint16_t bits;
};
CRYOET_HD float value_of(BFloat16 v) { return float_of_bits(static_cast<unsigned>(v.bits) << 16); }

// A term of softmax: exp(v - largest). Measured against float64: 2e-7 of the term that is one.
CRYOET_HD float softmax_term(float v, float largest) { return exp2_nonpositive((v - largest) * 1.4426950408889634f); }

// Into 0..1; NaN stays.
CRYOET_HD float probability_of(float v) { return v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v; }

// As volume.quantise: times the unit (255 or 65535), rounded to nearest even. (Adding 1.5 * 2^23 would round as well,
// but compilers fuse it with the product, and ties come out another way.) NaN is 0.
CRYOET_HD int stored_level(float probability, float unit) {
  return static_cast<int>(rintf((probability > 0.0f ? probability : 0.0f) * unit));
}

}  // namespace cryoet
