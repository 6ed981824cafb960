// SPDX-License-Identifier: MIT
// The inner loops of blend.cpp, compiled once for each instruction set (core/for_each_isa.h).

namespace cryoet {
namespace CRYOET_ISA {

// A loop for rows that are contiguous, which vectorises, and one for those that are not.
template <class T>
static void add_values(const void* from, long stride, float row, const float* weights, long n, float* sums) {
  const T* values = static_cast<const T*>(from);
  if (stride == 1) {
#pragma omp simd
    for (long x = 0; x < n; ++x) sums[x] = blended(sums[x], value_of(values[x]), row, weights[x]);
  } else {
    for (long x = 0; x < n; ++x) sums[x] = blended(sums[x], value_of(values[x * stride]), row, weights[x]);
  }
}

static void rank(const float* sums, long plane, long n_classes, long n, float* largest, std::uint8_t* label) {
  for (long x = 0; x < n; ++x) largest[x] = sums[x];
  for (long x = 0; x < n; ++x) label[x] = 0;
  for (long c = 1; c < n_classes; ++c) {
    const float* row = sums + c * plane;
    for (long x = 0; x < n; ++x) {
      label[x] = row[x] > largest[x] ? static_cast<std::uint8_t>(c) : label[x];
      largest[x] = row[x] > largest[x] ? row[x] : largest[x];
    }
  }
}

static void normalise(float* sums, long plane, long n_classes, long n, const float* largest) {
  float total[kChunk];
  for (long x = 0; x < n; ++x) total[x] = 0.0f;
  for (long c = 0; c < n_classes; ++c) {
    float* row = sums + c * plane;
#pragma omp simd
    for (long x = 0; x < n; ++x) {
      row[x] = softmax_term(row[x], largest[x]);
      total[x] += row[x];
    }
  }
  for (long c = 0; c < n_classes; ++c) {
    float* row = sums + c * plane;
    for (long x = 0; x < n; ++x) row[x] /= total[x];
  }
}

static void keep(const float* sums, long n, float* out) {
#pragma omp simd
  for (long x = 0; x < n; ++x) out[x] = probability_of(sums[x]);
}

template <class T>
static void quantise(const float* sums, long n, float unit, T* out) {
#pragma omp simd
  for (long x = 0; x < n; ++x) out[x] = static_cast<T>(stored_level(probability_of(sums[x]), unit));
}

static void store(const float* sums, long n, StoredType type, void* out, long at) {
  if (type == StoredType::float32)
    keep(sums, n, static_cast<float*>(out) + at);
  else if (type == StoredType::uint8)
    quantise(sums, n, 255.0f, static_cast<std::uint8_t*>(out) + at);
  else
    quantise(sums, n, 65535.0f, static_cast<std::uint16_t*>(out) + at);
}

static const BlendKernels blend_kernels{
    {add_values<float>, add_values<Float16>, add_values<BFloat16>}, rank, normalise, store};

}  // namespace CRYOET_ISA
}  // namespace cryoet
