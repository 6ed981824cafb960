// SPDX-License-Identifier: MIT
// The histograms of ops/histogram.h on CUDA: exact, as whole numbers add up in any order.
//
// A block counts in shared memory where the counters fit there, and adds what it counted to the whole at its end; else
// it adds at once, out of the L2 cache. Cost: one read of the voxels; where neighbours are alike their additions wait
// for each other.
#include "core/platform.h"
#include "voxel/grey_bins.h"
#include "voxel/order_key.h"

namespace cryoet {

struct Histogram {
  const float* voxels;
  long long n_voxels;
  GreyBins bins;
  unsigned long long* counts;  // bins.n_bins
};

struct KeyCount {
  const float* voxels;
  long long n_voxels;
  const int* row_of;           // 65536, for lower halves; else nothing
  unsigned long long* counts;  // 65536 a row
};

namespace {

constexpr int kThreads = 256;

// visit(v) for every voxel, shared out over the grid.
template <class Visit>
__device__ __forceinline__ void for_each_voxel(const float* voxels, long long n, const Visit& visit) {
  const long long step = static_cast<long long>(gridDim.x) * kThreads;
  for (long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) visit(voxels[i]);
}

}  // namespace

// Shared memory: 4 bytes a bin. A block may visit less than 2^32 voxels.
extern "C" __global__ void __launch_bounds__(kThreads) histogram(Histogram job) {
  CRYOET_DYNAMIC_SHARED(unsigned, own);
  for (long b = threadIdx.x; b < job.bins.n_bins; b += kThreads) own[b] = 0;
  __syncthreads();
  for_each_voxel(job.voxels, job.n_voxels, [&](float v) {
    const long bin = grey_bin(job.bins, v);
    if (bin >= 0) atomicAdd(own + bin, 1u);
  });
  __syncthreads();
  for (long b = threadIdx.x; b < job.bins.n_bins; b += kThreads)
    if (own[b]) atomicAdd(job.counts + b, static_cast<unsigned long long>(own[b]));
}

// For more bins than shared memory holds.
extern "C" __global__ void __launch_bounds__(kThreads) histogram_far(Histogram job) {
  for_each_voxel(job.voxels, job.n_voxels, [&](float v) {
    const long bin = grey_bin(job.bins, v);
    if (bin >= 0) atomicAdd(job.counts + bin, 1ull);
  });
}

extern "C" __global__ void __launch_bounds__(kThreads) count_upper_keys(KeyCount job) {
  for_each_voxel(job.voxels, job.n_voxels, [&](float v) { atomicAdd(job.counts + (order_key(v) >> 16), 1ull); });
}

extern "C" __global__ void __launch_bounds__(kThreads) count_lower_keys(KeyCount job) {
  for_each_voxel(job.voxels, job.n_voxels, [&](float v) {
    const unsigned key = order_key(v);
    const int row = job.row_of[key >> 16];
    if (row >= 0) atomicAdd(job.counts + (static_cast<long long>(row) << 16 | (key & 0xffff)), 1ull);
  });
}

}  // namespace cryoet
