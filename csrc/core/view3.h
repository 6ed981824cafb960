// SPDX-License-Identifier: MIT
#pragma once

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

// The voxel that stands at position i of an axis of length n: mirrored without repeating the edge sample, as often
// as needed (scipy's mode="mirror").
inline long mirror(long i, long n) {
  if (n == 1) return 0;
  const long period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

// -1 where position i is seen in the mirror an odd number of times, else 1: the sign a first derivative takes there.
inline float mirror_sign(long i, long n) {
  if (n == 1) return 1.0f;
  const long period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? 1.0f : -1.0f;
}

}  // namespace cryoet
