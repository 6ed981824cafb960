// SPDX-License-Identifier: MIT
// What contrast-limited adaptive histogram equalisation does with one tile and along one axis. Source: K. Zuiderveld,
// Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994, pp. 474-485. All counting is in whole
// numbers, so every back end finds the same maps.
#pragma once

#include "core/platform.h"

namespace cryoet {

// The height at which the bins of a tile of n voxels are clipped: clip_limit * n, but never so low that the bins could
// not hold all voxels.
CRYOET_HD long clip_height(double clip_limit, long n, long n_bins) {
  const long height = static_cast<long>(clip_limit * static_cast<double>(n)), least = (n + n_bins - 1) / n_bins;
  return height > least ? height : least;
}

// Clip a histogram of n voxels and give what was cut off back to all bins alike, as far as each has room below `clip`:
// every bin becomes min(count + level, clip) with the highest level that needs no more than n voxels, and the rest
// (less than one for each bin with room) is spread evenly over these. Zuiderveld hands out the rest step by step; where
// a tile is not clipped nothing changes.
CRYOET_HD void clip_histogram(int* counts, long n_bins, long n, long clip) {
  long low = 0, high = clip;  // the level, by bisection: filling up to `clip` needs n voxels or more
  while (low < high) {
    const long level = (low + high + 1) / 2;
    long filled = 0;
    for (long b = 0; b < n_bins; ++b) filled += counts[b] + level < clip ? counts[b] + level : clip;
    if (filled <= n)
      low = level;
    else
      high = level - 1;
  }
  long filled = 0, with_room = 0;
  for (long b = 0; b < n_bins; ++b) {
    counts[b] = static_cast<int>(counts[b] + low < clip ? counts[b] + low : clip);
    filled += counts[b];
    with_room += counts[b] < clip;
  }
  const long rest = n - filled;
  long seen = 0;
  for (long b = 0; b < n_bins; ++b) {
    if (counts[b] >= clip) continue;
    counts[b] += static_cast<int>((seen + 1) * rest / with_room - seen * rest / with_room);
    ++seen;
  }
}

// The map of a tile: the distribution of its grey values at the n_bins + 1 edges of the bins, 0 at the first and 1 at
// the last.
CRYOET_HD void tile_map(const int* counts, long n_bins, long n, float* map) {
  long below = 0;
  map[0] = 0.0f;
  for (long b = 0; b < n_bins; ++b) {
    below += counts[b];
    map[b + 1] = static_cast<float>(static_cast<double>(below) / static_cast<double>(n));
  }
}

// The two tiles between whose middles voxel i lies along an axis of tiles of `length` voxels, and the weight of the
// second. Tile t covers [t length, (t + 1) length), its middle is t length + (length - 1) / 2; before the first middle
// and behind the last one that tile counts alone.
CRYOET_HD void tile_position(long i, long length, long n_tiles, long& first, long& second, float& weight) {
  const long doubled = 2 * i - (length - 1), period = 2 * length;
  long at = doubled >= 0 ? doubled / period : -1;
  weight = static_cast<float>(doubled - at * period) / static_cast<float>(period);
  first = at < 0 ? 0 : at;
  second = at + 1 < n_tiles ? at + 1 : n_tiles - 1;
  if (first == second) weight = 0.0f;
}

// Linear between the edges of a bin.
CRYOET_HD float mapped_grey(const float* map, long bin, float within) {
  return map[bin] + within * (map[bin + 1] - map[bin]);
}

}  // namespace cryoet
