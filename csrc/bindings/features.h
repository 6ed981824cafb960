// SPDX-License-Identifier: MIT
#pragma once

#include <array>

#include "core/view3.h"

namespace cryoet {

// The box of a block that results are asked for, checked to lie inside it.
Box core_box(const View3<const float>& block, std::array<long, 3> start, std::array<long, 3> shape);

}  // namespace cryoet
