// SPDX-License-Identifier: MIT
#pragma once

#include <cstring>

#include "core/platform.h"

namespace cryoet {

// Whole numbers in the order of the float32 values they encode: a positive value's bits above all negative ones', a
// negative value's bits turned round. Infinities and NaN lie outside the keys of finite values.
CRYOET_HD unsigned order_key(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace cryoet
