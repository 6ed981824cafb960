// SPDX-License-Identifier: MIT
#include "ops/histogram.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "core/parallel.h"
#include "voxel/order_key.h"

namespace cryoet {
namespace {

// counter(v): which of n_counters a voxel adds to, -1 for none. kWays: neighbouring voxels are alike, and adding to one
// counter again has to wait for the last time, so a few sets of counters take turns.
template <long kWays, class Counter>
void count(const View3<const float>& block, long n_counters, int threads, const Counter& counter, long* counts) {
  const long rows = block.shape[0] * block.shape[1], nx = block.shape[2];
  const auto count_rows = [&](long first, long end, long* own) {
    for (long row = first; row < end; ++row) {
      const float* values = block.row(row / block.shape[1], row % block.shape[1]);
      for (long x = 0; x < nx; ++x) {
        const long at = counter(values[x]);
        if (at >= 0) ++own[x % kWays * n_counters + at];
      }
    }
  };
  // Parts are counted apart and then added up; they are long, so that adding up costs little beside the counting.
  const long run = std::max(1L, std::max(16 * kWays * n_counters, 1L << 18) / nx), parts = (rows + run - 1) / run;
  if (kWays == 1 && (parts == 1 || thread_count(threads) == 1)) {
    count_rows(0, rows, counts);
    return;
  }
  std::mutex mutex;
  parallel_for(
      parts, threads,
      [&](long part) {
        std::vector<long> own(kWays * n_counters);
        count_rows(part * run, std::min(rows, (part + 1) * run), own.data());
        const std::lock_guard<std::mutex> lock(mutex);
        for (long i = 0; i < kWays * n_counters; ++i) counts[i % n_counters] += own[i];
      },
      rows * nx);
}

}  // namespace

void add_to_histogram(const View3<const float>& block, const GreyBins& bins, int threads, long* counts) {
  const auto counter = [&](float v) { return grey_bin(bins, v); };
  if (bins.n_bins <= 1 << 12)
    count<4>(block, bins.n_bins, threads, counter, counts);
  else
    count<1>(block, bins.n_bins, threads, counter, counts);
}

void count_upper_keys(const View3<const float>& block, int threads, long* counts) {
  count<1>(block, 1L << 16, threads, [](float v) { return static_cast<long>(order_key(v) >> 16); }, counts);
}

void count_lower_keys(const View3<const float>& block, const int* row_of, int threads, long* counts) {
  const long rows = 1 + *std::max_element(row_of, row_of + (1 << 16));
  const auto counter = [&](float v) {
    const unsigned key = order_key(v);
    const long row = row_of[key >> 16];
    return row < 0 ? -1 : row << 16 | static_cast<long>(key & 0xffff);
  };
  count<1>(block, rows << 16, threads, counter, counts);
}

}  // namespace cryoet
