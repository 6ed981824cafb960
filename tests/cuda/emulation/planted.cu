// SPDX-License-Identifier: MIT
// Kernels, right and wrong on purpose: what the emulation has to run, and what it has to notice.
#include "core/platform.h"

namespace cryoet {

constexpr int kThreads = 128;

// Each thread meets what another one has left: wrong without the barrier.
extern "C" __global__ void reverse(int* data, int with_barrier) {
  __shared__ int staged[kThreads];
  const int i = blockIdx.x * kThreads + threadIdx.x;
  staged[threadIdx.x] = data[i];
  if (with_barrier) __syncthreads();
  data[i] = staged[kThreads - 1 - threadIdx.x];
}

extern "C" __global__ void barrier_for_some(int* data) {
  if (threadIdx.x < 10) __syncthreads();
  data[threadIdx.x] = 1;
}

extern "C" __global__ void two_barriers(int* data) {
  if (threadIdx.x < 10)
    __syncthreads();
  else
    __syncthreads();
  data[threadIdx.x] = 1;
}

extern "C" __global__ void shuffle_with_lanes_missing(int* data) {
  if (threadIdx.x < 10) data[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}

// Rows of 128 integers: three shuffles, a vote, a sum over the warp.
extern "C" __global__ void warp_operations(int* data) {
  const int i = threadIdx.x;
  data[i] = __shfl_sync(0xffffffffu, i, 5);
  data[kThreads + i] = __shfl_down_sync(0xffffffffu, i, 3);
  data[2 * kThreads + i] = __shfl_up_sync(0xffffffffu, i, 2);
  data[3 * kThreads + i] = __ballot_sync(0xffffffffu, i % 3 == 0);
  int sum = i;
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
  data[4 * kThreads + i] = sum;
}

extern "C" __global__ void atomics(int* data) {
  atomicAdd(data, 1);
  atomicMax(data + 1, static_cast<int>(blockIdx.x * kThreads + threadIdx.x));
  atomicMin(data + 2, -static_cast<int>(threadIdx.x));
}

// What shared memory holds when a block begins; each block leaves sevens behind.
extern "C" __global__ void untouched(int* data) {
  __shared__ int fixed[kThreads];
  CRYOET_DYNAMIC_SHARED(int, dynamic);
  const int i = blockIdx.x * kThreads + threadIdx.x;
  data[2 * i] = fixed[threadIdx.x];
  data[2 * i + 1] = dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 7;
}

// Where every thread stands.
extern "C" __global__ void indices(int* data) {
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int i = block * blockDim.x * blockDim.y * blockDim.z + thread;
  data[i] = i;
}

extern "C" __global__ void beyond_global(int* data, int n) {
  if (threadIdx.x == 0) data[0] = data[n];  // planted: global
}

extern "C" __global__ void beyond_shared(int* data, int n) {
  __shared__ int staged[kThreads];
  staged[threadIdx.x] = 1;
  if (threadIdx.x == 0) data[0] = *(staged + n);  // planted: shared
}

extern "C" __global__ void beyond_row(int* data, int n) {
  __shared__ int staged[4][kThreads];
  staged[0][threadIdx.x] = staged[1][threadIdx.x] = 1;
  if (threadIdx.x == 0) data[0] = staged[0][n];  // planted: row
}

extern "C" __global__ void beyond_dynamic(int* data, int n) {
  CRYOET_DYNAMIC_SHARED(int, staged);
  staged[threadIdx.x] = 1;
  if (threadIdx.x == 0) data[0] = staged[n];  // planted: dynamic
}

}  // namespace cryoet
