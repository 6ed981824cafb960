// SPDX-License-Identifier: MIT
// What lets csrc/voxel and csrc/ops/*.cu compile as plain C++, by nvcc and by NVRTC.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define CRYOET_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define CRYOET_HD inline __attribute__((always_inline))
#else
#define CRYOET_HD inline
#endif

// NVRTC has no system headers (cuda/source.py leaves their includes out): what the voxel headers take from them.
#ifdef __CUDACC_RTC__
namespace std {
using ::exp;
using ::floor;
using ::sqrt;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
}  // namespace std
#else
#include <cmath>
#include <cstdint>
#endif

// Dynamic shared memory; the emulation of the tests has its own.
#ifndef CRYOET_DYNAMIC_SHARED
#define CRYOET_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif
