// SPDX-License-Identifier: MIT
// Transposition for the kernels of one instruction set; included by core/for_each_isa.h's files.
namespace cryoet {
namespace CRYOET_ISA {

// The transpose of a block of 4 x 4 floats.
static inline __attribute__((always_inline)) void transpose4(const float* in, long stride, float* out,
                                                             long out_stride) {
  typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
  typedef int i4 __attribute__((vector_size(16)));
  const auto row = [&](long i) { return *reinterpret_cast<const v4*>(in + i * stride); };
  const v4 a = row(0), b = row(1), c = row(2), d = row(3);
  const i4 low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
  const v4 ab0 = __builtin_shuffle(a, b, low), ab1 = __builtin_shuffle(a, b, high);
  const v4 cd0 = __builtin_shuffle(c, d, low), cd1 = __builtin_shuffle(c, d, high);
  const auto put = [&](long i, v4 v) { *reinterpret_cast<v4*>(out + i * out_stride) = v; };
  put(0, __builtin_shuffle(ab0, cd0, first)), put(1, __builtin_shuffle(ab0, cd0, second));
  put(2, __builtin_shuffle(ab1, cd1, first)), put(3, __builtin_shuffle(ab1, cd1, second));
}

// [rows][columns] -> [columns][rows], kTogether columns at a time: 4 writes whole lines of memory, 16 reads them.
template <long kTogether>
static inline void transpose(const float* in, long stride, long rows, long columns, float* out, long out_stride) {
  const long whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (long first = 0; first < whole_columns; first += kTogether)
    for (long y = 0; y < whole_rows; y += 4)
      for (long x = first; x < first + kTogether && x < whole_columns; x += 4)
        transpose4(in + y * stride + x, stride, out + x * out_stride + y, out_stride);
  for (long y = 0; y < rows; ++y)
    for (long x = y < whole_rows ? whole_columns : 0; x < columns; ++x) out[x * out_stride + y] = in[y * stride + x];
}

}  // namespace CRYOET_ISA
}  // namespace cryoet
