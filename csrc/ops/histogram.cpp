// SPDX-License-Identifier: MIT
#include "ops/histogram.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "core/parallel.h"

namespace cryoet {

void add_to_histogram(const View3<const float>& block, const GreyBins& bins, int threads, long* counts) {
  // Neighbouring voxels are alike, and adding to one counter again has to wait for the last time: four histograms.
  constexpr long kWays = 4;
  std::mutex mutex;
  // A run of rows a time, so that adding up the counters costs little beside the counting.
  const long rows = block.shape[0] * block.shape[1], nx = block.shape[2];
  const long run = std::max(1L, std::max(4 * kWays * bins.n_bins, 1L << 18) / nx);
  parallel_for((rows + run - 1) / run, threads,
               [&](long part) {
                 std::vector<long> own(kWays * (bins.n_bins + 1));  // the last counter of each: not in the range
                 for (long row = part * run; row < std::min(rows, (part + 1) * run); ++row) {
                   const float* values = block.row(row / block.shape[1], row % block.shape[1]);
                   for (long x = 0; x < nx; ++x) {
                     const long bin = grey_bin(bins, values[x]);
                     ++own[x % kWays * (bins.n_bins + 1) + (bin < 0 ? bins.n_bins : bin)];
                   }
                 }
                 const std::lock_guard<std::mutex> lock(mutex);
                 for (long way = 0; way < kWays; ++way)
                   for (long b = 0; b < bins.n_bins; ++b) counts[b] += own[way * (bins.n_bins + 1) + b];
               },
               rows * nx);
}

}  // namespace cryoet
