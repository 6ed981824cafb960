// SPDX-License-Identifier: MIT
// Histogram of grey values in equal bins (voxel/grey_bins.h): exact, in 64-bit counts, whatever the threads. Values
// beyond the range and NaN are not counted. Cost: one pass over the block.
#pragma once

#include "core/view3.h"
#include "voxel/grey_bins.h"

namespace cryoet {

// Adds the block's voxels to counts[n_bins].
void add_to_histogram(const View3<const float>& block, const GreyBins& bins, int threads, long* counts);

// Percentiles exactly, in two passes (voxel/order_key.h). The first adds voxels to counts[65536] by the upper half of
// their keys; the second adds those whose upper half has a row (row_of[65536], else -1) to counts[row][65536] by the
// lower half.
void count_upper_keys(const View3<const float>& block, int threads, long* counts);
void count_lower_keys(const View3<const float>& block, const int* row_of, int threads, long* counts);

}  // namespace cryoet
