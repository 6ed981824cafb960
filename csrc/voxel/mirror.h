// SPDX-License-Identifier: MIT
// The border of every filter: mirrored without repeating the edge sample, as often as needed (scipy's mode="mirror").
#pragma once

#include "core/platform.h"

namespace cryoet {

// The voxel that stands at position i of an axis of length n.
template <class Integer>
CRYOET_HD Integer mirror(Integer i, Integer n) {
  if (n == 1) return 0;
  const Integer period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

// -1 where position i is seen in the mirror an odd number of times, else 1: the sign a first derivative takes there.
template <class Integer>
CRYOET_HD float mirror_sign(Integer i, Integer n) {
  if (n == 1) return 1.0f;
  const Integer period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? 1.0f : -1.0f;
}

}  // namespace cryoet
