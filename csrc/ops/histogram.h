// SPDX-License-Identifier: MIT
// Histogram of grey values in equal bins (voxel/grey_bins.h): exact, in 64-bit counts, whatever the threads. Values
// beyond the range and NaN are not counted. Cost: one pass over the block.
#pragma once

#include "core/view3.h"
#include "voxel/grey_bins.h"

namespace cryoet {

// Adds the block's voxels to counts[n_bins].
void add_to_histogram(const View3<const float>& block, const GreyBins& bins, int threads, long* counts);

}  // namespace cryoet
