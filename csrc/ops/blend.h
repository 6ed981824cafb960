// SPDX-License-Identifier: MIT
// Blending of overlapping tiles (class, z, y, x), a network's outputs, into whole slices, a slab at a time.
//
//   sum(c, z, y, x) = sum over tiles of w_z w_y w_x tile(c, z, y, x)
//
// with weights that are products over the axes, so that tables of three short rows describe a tile. tiling.tile_shares
// makes them: linear ramps (Nguyen et al., section 4.4), trimmed ones or Gaussians, divided along each axis by their
// sum over all tiles. The products then sum to one in every voxel: there is no map of weights and no division here.
// Where a weight is zero along z or y, or at the ends of a row, nothing is read: what a tile holds there, NaN as well,
// does not count.
//
// The slab is a ring of slices: slice z of the volume is plane z % depth, so slices that the next tiles reach stay
// where they are. A slice is finished when no further tile reaches it: an optional softmax over the classes, clamping
// to 0..1, conversion to float32, uint8 or uint16 (volume.quantise) and the most probable class, in one pass that
// leaves zeros for the slice that comes there next.
//
// Determinism: a voxel adds its tiles in the order of the calls; threads share out planes, and change nothing.
// Cost: memory. A tile's voxel and class is one read, and a read and a write of the sum: 12 bytes (10 for 16-bit
// tiles); finishing is a read, a write of zero and the result: 9 to 12 bytes.
#pragma once

#include <cstdint>

namespace cryoet {

enum class TileType { float32, float16, bfloat16 };

// Network outputs with any strides, counted in elements: a channels-last tensor is taken as it is.
struct BlendTile {
  const void* data;
  TileType type;
  long shape[4];  // (class, z, y, x)
  long stride[4];
};

// Sums, (class, depth, height, width), C order.
struct BlendSlab {
  float* sums;
  long n_classes, depth, height, width;
};

// What a finished voxel is stored as.
enum class StoredType { float32, uint8, uint16 };

// Add a tile whose first voxel is `at` of the volume; it fits the slab: at most `depth` slices, within height and
// width. weights: along z, y and x, as long as the tile.
void blend_tile(const BlendTile& tile, const float* const weights[3], const BlendSlab& slab, const long at[3],
                int threads);

// Slices [first, first + n) of the volume, n <= depth. out: (class, n, height, width) of `type`, classes `out_class`
// elements apart, so that slices of a larger volume may be written to; labels: (n, height, width), the first class of
// the largest sum, or null.
void finish_blend(const BlendSlab& slab, long first, long n, bool softmax, StoredType type, void* out, long out_class,
                  std::uint8_t* labels, int threads);

}  // namespace cryoet
