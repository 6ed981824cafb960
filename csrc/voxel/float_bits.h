// SPDX-License-Identifier: MIT
#pragma once

#include <cstring>

#include "core/platform.h"

namespace cryoet {

// The 32 bits of a float as a whole number, and back.
CRYOET_HD unsigned bits_of_float(float v) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(v);
#else
  unsigned bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
#endif
}

CRYOET_HD float float_of_bits(unsigned bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
#endif
}

}  // namespace cryoet
