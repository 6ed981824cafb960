// SPDX-License-Identifier: MIT
// Includes CRYOET_KERNELS once for each instruction set, with CRYOET_ISA (its namespace) and CRYOET_LANES (floats in
// a vector) defined. Include core/simd.h and every standard header first. No include guard: that is the point.
#ifdef CRYOET_X86_DISPATCH
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")
#define CRYOET_ISA avx512
#define CRYOET_LANES 16
#include CRYOET_KERNELS
#undef CRYOET_LANES
#undef CRYOET_ISA
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,lzcnt,popcnt")
#define CRYOET_ISA avx2
#define CRYOET_LANES 8
#include CRYOET_KERNELS
#undef CRYOET_LANES
#undef CRYOET_ISA
#pragma GCC pop_options
#endif

#define CRYOET_ISA baseline
#define CRYOET_LANES 4
#include CRYOET_KERNELS
#undef CRYOET_LANES
#undef CRYOET_ISA
#undef CRYOET_KERNELS
