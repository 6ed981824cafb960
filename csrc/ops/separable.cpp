// SPDX-License-Identifier: MIT
#include "ops/separable.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "core/simd.h"
#include "voxel/gaussian_taps.h"
#include "voxel/sym_eigen3.h"

namespace cryoet {
namespace {

struct SeparableKernels {
  void (*fir_rows)(const float* const* rows, const float* left, const float* right, long r, float* const* out,
                   long width);
  void (*fir_x)(const float* row, const float* taps, long r, float* out, long width);
  void (*eigen16)(const float* tensors, float* eigenvalues);
};

}  // namespace
}  // namespace cryoet

#define CRYOET_KERNELS "ops/separable_kernels.h"
#include "core/for_each_isa.h"

namespace cryoet {

Taps gaussian(double sigma, int order, double window) {
  Taps taps;
  taps.radius = gaussian_radius(sigma, window);
  std::vector<double> exact(2 * taps.radius + 1);
  gaussian_taps(sigma, taps.radius, order, exact.data());
  taps.values.assign(exact.begin(), exact.end());
  return taps;
}

void Field::reset(const Box& box) {
  box_ = box;
  pitch_ = round_up(box.shape[2], kRow) + kSlack;
  plane_ = pitch_ * box.shape[1];
  // Planes an odd number of cache line pairs apart: a column of them then spreads over all sets of the cache.
  if (plane_ / kRow % 2 == 0) plane_ += kRow;
  buffer_.reserve(plane_ * box.shape[0] + kSlack);
}

Box grown(Box box, int axis, long radius, const long block[3]) {
  const long low = std::max(box.start[axis] - radius, 0L);
  const long high = std::min(box.start[axis] + box.shape[axis] + radius, block[axis]);
  box.start[axis] = low;
  box.shape[axis] = high - low;
  return box;
}

void load(const View3<const float>& block, float offset, int threads, Field& out) {
  out.reset({{0, 0, 0}, {block.shape[0], block.shape[1], block.shape[2]}});
  parallel_for(
      block.shape[0], threads,
      [&](long z) {
        for (long y = 0; y < block.shape[1]; ++y) {
          const float* from = block.row(z, y);
          float* to = out.row(z, y);
          for (long x = 0; x < block.shape[2]; ++x) to[x] = from[x] - offset;
        }
      },
      block.shape[0] * block.shape[1] * block.shape[2]);
}

namespace {

// Positions of the source along an axis for outputs start - r .. start + n - 1 + r, and three more that only zeros
// meet.
std::vector<long> mirrored(long start, long n, long radius, long length) {
  std::vector<long> at(n + 2 * radius + 3);
  for (long i = 0; i < static_cast<long>(at.size()); ++i)
    at[i] = mirror(std::min(start - radius + i, start + n - 1 + radius), length);
  return at;
}

long volume_of(const Box& box) { return box.shape[0] * box.shape[1] * box.shape[2]; }

// An output beyond the block is the image of one inside, so that its taps are mirrored about that one.
long inside(long i, long length) { return mirror(i, length); }

void convolve_rows(const Field& source, int axis, const Taps& taps, const long block[3], const Box& box, int threads,
                   Field& out) {
  const long r = taps.radius, n_taps = 2 * r + 1, n = box.shape[axis], other = 1 - axis;
  std::vector<float> left(n_taps + 6, 0.0f), right(n_taps + 6, 0.0f);
  std::copy(taps.values.begin(), taps.values.begin() + r + 1, left.begin() + 3);
  std::copy(taps.values.begin() + r + 1, taps.values.end(), right.begin() + 3 + r + 1);
  const auto fir_rows = CRYOET_DISPATCH(separable_kernels).fir_rows;
  const long width = round_up(box.shape[2], Field::kRow), shift = box.start[2] - source.box().start[2];
  parallel_for(
      box.shape[other], threads,
      [&](long line) {
        const long across = box.start[other] + line;
        const auto source_row = [&](long i) {
          return (axis == 0 ? source.row(i, across) : source.row(across, i)) + shift;
        };
        const auto out_row = [&](long i) { return axis == 0 ? out.row(i, across) : out.row(across, i); };
        std::vector<const float*> rows(n_taps + 3);
        Buffer spare;
        for (long first = 0; first < n; first += 4) {
          const long valid = std::min(4L, n - first);
          // Runs of four that are wholly inside read neighbouring rows; at the mirrors each output has rows of its own.
          const long begin = box.start[axis] + first;
          const bool plain = begin >= 0 && begin + valid <= block[axis];
          for (long sub = 0; sub < (plain ? 1 : valid); ++sub) {
            const long start = plain ? begin : inside(begin + sub, block[axis]);
            const auto at = mirrored(start, plain ? valid : 1, r, block[axis]);
            for (long i = 0; i < n_taps + 3; ++i)
              rows[i] = source_row(at[std::min<long>(i, static_cast<long>(at.size()) - 4)]);
            float* to[4];
            const long count = plain ? valid : 1;
            for (long q = 0; q < 4; ++q)
              to[q] = q < count ? out_row(box.start[axis] + first + sub + q) : spare.reserve(width);
            fir_rows(rows.data(), left.data() + 3, right.data() + 3, r, to, width);
          }
        }
      },
      volume_of(box) * n_taps);
}

void convolve_x(const Field& source, const Taps& taps, const long block[3], const Box& box, int threads, Field& out) {
  const long r = taps.radius, n = box.shape[2], width = round_up(n, Field::kRow);
  const long first = box.start[2] - r, reach = n + 2 * r;
  std::vector<long> at(reach);  // where each sample of the extended row stands in the source's row
  for (long i = 0; i < reach; ++i) {
    const long x = first + i;
    at[i] = x;
    if (x < 0 || x >= block[2]) at[i] = mirror(x, block[2]);
    at[i] -= source.box().start[2];
  }
  const long plain_begin = std::max(0L, -first), plain_end = std::min(reach, block[2] - first);
  const auto fir_x = CRYOET_DISPATCH(separable_kernels).fir_x;
  parallel_for(
      box.shape[0], threads,
      [&](long line) {
        const long z = box.start[0] + line;
        Buffer extended;
        float* row = extended.reserve(width + 2 * r + Field::kRow);
        for (long y = box.start[1]; y < box.start[1] + box.shape[1]; ++y) {
          const float* from = source.row(z, y);
          for (long i = 0; i < plain_begin; ++i) row[i] = from[at[i]];
          std::memcpy(row + plain_begin, from + at[plain_begin], (plain_end - plain_begin) * sizeof(float));
          for (long i = plain_end; i < reach; ++i) row[i] = from[at[i]];
          fir_x(row, taps.values.data(), r, out.row(z, y), width);
        }
      },
      volume_of(box) * (2 * r + 1));
}

}  // namespace

void convolve(const Field& source, int axis, const Taps& taps, bool derivative, const long block[3], const Box& box,
              int threads, Field& out) {
  out.reset(box);
  if (block[axis] == 1) {  // mirrored onto itself: order 0 is the identity, a derivative zero
    const long shift = box.start[2] - source.box().start[2];
    parallel_for(
        box.shape[0], threads,
        [&](long line) {
          const long z = box.start[0] + line;
          for (long y = box.start[1]; y < box.start[1] + box.shape[1]; ++y) {
            float* to = out.row(z, y);
            const float* from = source.row(axis == 0 ? 0 : z, axis == 1 ? 0 : y);
            for (long x = 0; x < box.shape[2]; ++x) to[x] = derivative ? 0.0f : from[axis == 2 ? 0 : x + shift];
          }
        },
        volume_of(box));
  } else if (axis == 2) {
    convolve_x(source, taps, block, box, threads, out);
  } else {
    convolve_rows(source, axis, taps, block, box, threads, out);
  }
}

void gaussian_filter(const View3<const float>& volume, double sigma, const int order[3], double window, int threads,
                     float* out) {
  Field field, next;
  load(volume, 0.0f, threads, field);
  const Box whole = field.box();
  int axes[3] = {0, 1, 2};
  std::stable_sort(axes, axes + 3, [&](int a, int b) { return order[a] > order[b]; });
  for (int axis : axes) {
    convolve(field, axis, gaussian(sigma, order[axis], window), order[axis] > 0, volume.shape, whole, threads, next);
    std::swap(field, next);
  }
  const long nx = volume.shape[2];
  parallel_for(volume.shape[0], threads, [&](long z) {
    for (long y = 0; y < volume.shape[1]; ++y)
      std::memcpy(out + (z * volume.shape[1] + y) * nx, field.row(z, y), nx * sizeof(float));
  });
}

void symmetric_eigenvalues(const float* const tensor[6], long n, int threads, float* out) {
  constexpr long kChunk = 16, kRun = 4096;
  const auto eigen16 = CRYOET_DISPATCH(separable_kernels).eigen16;
  parallel_for((n + kRun - 1) / kRun, threads, [&](long run) {
    float t[6 * kChunk] = {}, e[3 * kChunk];
    for (long i = run * kRun; i < std::min(n, (run + 1) * kRun); i += kChunk) {
      const long count = std::min(kChunk, n - i);
      for (long c = 0; c < 6; ++c) std::memcpy(t + c * kChunk, tensor[c] + i, count * sizeof(float));
      eigen16(t, e);
      for (long k = 0; k < 3; ++k) std::memcpy(out + k * n + i, e + k * kChunk, count * sizeof(float));
    }
  });
}

}  // namespace cryoet
