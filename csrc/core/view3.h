// SPDX-License-Identifier: MIT
#pragma once

#include "voxel/mirror.h"

namespace cryoet {

// A volume somebody else owns: (z, y, x), strides in elements, x contiguous.
template <class T>
struct View3 {
  T* data;
  long shape[3];
  long stride_z, stride_y;

  T* row(long z, long y) const { return data + z * stride_z + y * stride_y; }
};

// A box of voxels: first voxel and extent, (z, y, x).
struct Box {
  long start[3];
  long shape[3];
};

inline long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace cryoet
