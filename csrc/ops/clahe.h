// SPDX-License-Identifier: MIT
// Contrast-limited adaptive histogram equalisation in three dimensions (K. Zuiderveld, Graphics Gems IV, 1994,
// pp. 474-485), after the shape that scikit-image's equalize_adapthist gives it, on floats in a given grey range.
//
//  1. Tiles of a fixed number of voxels from voxel 0 on; a tile longer than its axis is the axis. The last tile of an
//     axis is made whole by mirroring the volume (edge sample not repeated), so all tiles hold the same number n.
//  2. Each tile's histogram in n_bins equal bins of the range (values beyond it count at its ends) is clipped at
//     clip_limit * n, and what was cut off is given back to all bins alike (voxel/tile_equalisation.h).
//  3. A tile's map is the cumulated histogram / n at the bins' edges, linear within a bin: 0 at the range's low end, 1
//     at its high end, never falling.
//  4. A voxel takes the maps of the (up to) eight tiles between whose middles it lies, weighted by trilinear
//     interpolation.
//
// A tile one voxel deep is slice-wise equalisation: its middle is its slice, no other slice has weight.
// Other than scikit-image: the range is an argument (it takes the image's extremes and stretches the result again, two
// statistics of the whole); a map is linear within a bin (there a step, of up to clip_limit); tiles' middles are where
// they are (there half a voxel later, a whole one where the tile is odd); n_bins are as many as asked for (there 253 of
// 256); what is given back is what was cut off (there the last round may give more, 4 % of a tile of 32^2 voxels on
// average, measured, which brightens the image by about as much).
//
// Counting and mapping are apart, so that a volume streams through memory: counts are sums over blocks, the maps are
// the constants that any block is then mapped with. Neither depends on blocks or threads, bit for bit.
// Memory: 8 (n_bins + 1) bytes a tile while maps are made, half of it afterwards. Cost: one pass to count; to map, two
// look-ups a voxel, and to interpolate the maps of a row (n_bins + 1) / tile[2] multiply-adds a voxel.
#pragma once

#include "core/view3.h"
#include "voxel/grey_bins.h"

namespace cryoet {

struct TileGrid {
  long shape[3];  // the whole volume
  long tile[3];   // voxels of a tile, at most the shape

  long tiles(int axis) const { return (shape[axis] + tile[axis] - 1) / tile[axis]; }
  long voxels() const { return tile[0] * tile[1] * tile[2]; }
};

// Adds what the planes [first_z, first_z + planes.shape[0]) (whole in y and x) bring to counts[tile z][y][x][n_bins].
void count_tiles(const View3<const float>& planes, long first_z, const TileGrid& grid, const GreyBins& bins,
                 int threads, int* counts);

// Counts of whole tiles to maps[tile z][y][x][n_bins + 1]; the counts are clipped in place.
void equalise_tiles(const TileGrid& grid, long n_bins, double clip_limit, int threads, int* counts, float* maps);

// A block whose first voxel is `start` of the volume, mapped to 0..1; out: C order, the block's shape.
void apply_tile_maps(const View3<const float>& block, const long start[3], const TileGrid& grid, const GreyBins& bins,
                     const float* maps, int threads, float* out);

}  // namespace cryoet
