// SPDX-License-Identifier: MIT
// What lets csrc/voxel compile both as plain C++ and as CUDA.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define CRYOET_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define CRYOET_HD inline __attribute__((always_inline))
#else
#define CRYOET_HD inline
#endif
