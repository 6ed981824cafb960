// SPDX-License-Identifier: MIT
// One node of a packed decision tree: 8 bytes.
#pragma once

#include <cstdint>

#include "core/platform.h"

namespace cryoet {

// An inner node sends x left when feature <= threshold, to `child`, else right, to `child + 1`; both lie behind the
// node. The threshold is the trained float64 one rounded down to float32, which answers the same for every float32
// feature. A leaf has feature kLeaf, and `child` is its row in the table of leaves.
struct TreeNode {
  static constexpr std::uint32_t kLeaf = 255;

  float threshold;
  std::uint32_t link;  // feature in the low 8 bits, child in the high 24

  CRYOET_HD std::uint32_t feature() const { return link & 255u; }
  CRYOET_HD std::uint32_t child() const { return link >> 8; }
};

}  // namespace cryoet
