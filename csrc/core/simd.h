// SPDX-License-Identifier: MIT
// Run-time choice of instruction set. A file of kernels is compiled once for each set by including
// core/for_each_isa.h, each time in a namespace of its own; `best_isa()` picks the widest one the processor has.
#pragma once

#include <atomic>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CRYOET_X86_DISPATCH 1
#include <immintrin.h>
#endif

namespace cryoet {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

inline Isa detected_isa() {
#ifdef CRYOET_X86_DISPATCH
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("bmi2"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    return Isa::avx2;
#endif
  return Isa::baseline;
}

// The set in use; tests lower it to run the other versions.
inline std::atomic<Isa>& current_isa() {
  static std::atomic<Isa> isa{detected_isa()};
  return isa;
}

}  // namespace cryoet

// The table of one file's kernels for the set in use.
#ifdef CRYOET_X86_DISPATCH
#define CRYOET_DISPATCH(table)                                          \
  (cryoet::current_isa() == cryoet::Isa::avx512 ? cryoet::avx512::table \
   : cryoet::current_isa() == cryoet::Isa::avx2 ? cryoet::avx2::table   \
                                                : cryoet::baseline::table)
#else
#define CRYOET_DISPATCH(table) (cryoet::baseline::table)
#endif
