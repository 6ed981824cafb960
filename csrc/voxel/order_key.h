// SPDX-License-Identifier: MIT
#pragma once

#include "core/platform.h"
#include "voxel/float_bits.h"

namespace cryoet {

// Whole numbers in the order of the float32 values they encode: a positive value's bits above all negative ones', a
// negative value's bits turned round. Infinities and NaN lie outside the keys of finite values.
CRYOET_HD unsigned order_key(float v) {
  const unsigned bits = bits_of_float(v);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace cryoet
