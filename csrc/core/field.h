// SPDX-License-Identifier: MIT
// A box of voxels in the card's memory, as CUDA kernels take it.
#pragma once

#include "core/platform.h"

namespace cryoet {

// C order, no padding. `start` is where its first voxel lies in the volume, whose borders are the mirrors.
struct DeviceField {
  float* data;
  int start[3];
  int shape[3];

  // The voxel at volume coordinates (z, y, x), which must lie in the box.
  CRYOET_HD long long at(int z, int y, int x) const {
    return (static_cast<long long>(z - start[0]) * shape[1] + (y - start[1])) * shape[2] + (x - start[2]);
  }
  CRYOET_HD long long step(int axis) const {
    return axis == 2 ? 1 : axis == 1 ? shape[2] : static_cast<long long>(shape[1]) * shape[2];
  }
};

}  // namespace cryoet
