// SPDX-License-Identifier: MIT
// The inner loops of projection.cpp, compiled once for each instruction set (core/for_each_isa.h).

#include "core/transpose.h"
#include "core/vector.h"

namespace cryoet {
namespace CRYOET_ISA {

// The taps at n positions from `position` on, `step` apart, of samples that lie `pitch` floats apart: where the first
// one lies, and the weight of the second. Beyond [low, high] samples are zeros, two of which are there on both sides.
static void tap_row(std::int64_t position, std::int64_t step, long n, int low, int high, int pitch, int* offset,
                    float* weight) {
  for (long i = 0; i < n; ++i, position += step) {
    const int index = tap_index(position);
    offset[i] = (index < low ? low : index > high ? high : index) * pitch;
    weight[i] = tap_weight(position);
  }
}

// kTerms, or any number with kTerms 0.
template <long kTerms>
static inline void add_to_columns(const TermTable& table, long n_terms, long n_columns, const float* samples,
                                  float* sums) {
  constexpr long kVectors = kRows / kLanes;
  for (long c = 0; c < n_columns; ++c, sums += kRows) {
    vf sum[kVectors];
#pragma GCC unroll 16
    for (long i = 0; i < kVectors; ++i) sum[i] = load(sums + i * kLanes);
    const auto add = [&](long k) __attribute__((always_inline)) {
      const float* first = samples + k * table.term + table.offset[k * n_columns + c];
      const float* second = first + table.second;
      const vf w2 = vf{} + table.weight[k * n_columns + c], w1 = 1.0f - w2;
#pragma GCC unroll 16
      for (long i = 0; i < kVectors; ++i) sum[i] = sum[i] + w1 * load(first + i * kLanes);
#pragma GCC unroll 16
      for (long i = 0; i < kVectors; ++i) sum[i] = sum[i] + w2 * load(second + i * kLanes);
    };
    if constexpr (kTerms > 0) {
#pragma GCC unroll 16
      for (long k = 0; k < kTerms; ++k) add(k);
    } else {
      for (long k = 0; k < n_terms; ++k) add(k);
    }
#pragma GCC unroll 16
    for (long i = 0; i < kVectors; ++i) store(sums + i * kLanes, sum[i]);
  }
}

// sums[column] += its terms, one after the other, kRows rows of y at once.
static void add_terms(const TermTable& table, long n_terms, long n_columns, const float* samples, float* sums) {
  if (n_terms == kUsualTerms)
    add_to_columns<kUsualTerms>(table, n_terms, n_columns, samples, sums);
  else
    add_to_columns<0>(table, n_terms, n_columns, samples, sums);
}

static const ProjectionKernels projection_kernels{tap_row, add_terms, transpose<16>, transpose<4>};

}  // namespace CRYOET_ISA
}  // namespace cryoet
