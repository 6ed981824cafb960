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

// Samples behind a strip's last one that a kernel may read.
constexpr long kSpare = 6;

struct SeparableKernels {
  long strip;
  void (*fir_strip)(const float* in, long stride, const float* taps, long r, float* out, long out_stride, long n);
  void (*transpose)(const float* in, long stride, long rows, long columns, float* out, long out_stride);
  void (*eigen_row)(const float* tensors, long stride, long width, float* eigenvalues);
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
  // Four rows more: transposes read rows in fours.
  buffer_.reserve(plane_ * box.shape[0] + 4 * pitch_);
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

long volume_of(const Box& box) { return box.shape[0] * box.shape[1] * box.shape[2]; }

// One axis of a pass over the outputs start .. start + n - 1 of a box. Those inside the block read a run of neighbours,
// mirrored at its ends; each one beyond it is the image of one inside and copies it.
struct Pass {
  const Taps& taps;
  long radius, n;
  long first, inside;  // the outputs inside the block
  long start;          // position of the first of them
  long length;         // of the block's axis

  Pass(const Taps& taps, long box_start, long n, long length) : taps(taps), radius(taps.radius), n(n), length(length) {
    start = std::max(box_start, 0L);
    first = start - box_start;
    inside = std::min(box_start + n, length) - start;
  }
  long samples() const { return inside + 2 * radius; }
  long position(long sample) const { return start - radius + sample; }
  long image(long output) const { return mirror(start + output - first, length) - start + first; }

  template <class Copy>
  void images(const Copy& copy) const {
    for (long i = 0; i < first; ++i) copy(i, image(i));
    for (long i = first + inside; i < n; ++i) copy(i, image(i));
  }
};

// Rows of `width` floats, `stride` apart, filtered across: the samples of a panel are gathered side by side, so that
// the kernel finds them in the first cache and needs to know nothing of mirrors. `ahead` floats behind a sample lies
// the one that the next call will read.
void filter_rows(const Pass& pass, const float* source, long stride, long ahead, long width, float* out,
                 long out_stride) {
  constexpr long kPanel = 4 * Field::kRow, kLine = 16;
  const SeparableKernels& kernels = CRYOET_DISPATCH(separable_kernels);
  const long samples = pass.samples();
  thread_local Buffer buffer;
  float* panel = buffer.reserve((samples + kSpare) * kPanel);
  for (long x = 0; x < width; x += kPanel) {
    const long wide = std::min(kPanel, width - x);
    for (long i = 0; i < samples; ++i) {
      const float* from = source + mirror(pass.position(i), pass.length) * stride + x;
      std::memcpy(panel + i * kPanel, from, wide * sizeof(float));
      if (ahead)
        for (long k = 0; k < wide; k += kLine) __builtin_prefetch(from + ahead + k, 0, 2);
    }
    for (long strip = 0; strip < wide; strip += kernels.strip)
      kernels.fir_strip(panel + strip, kPanel, pass.taps.values.data(), pass.radius,
                        out + pass.first * out_stride + x + strip, out_stride, pass.inside);
  }
  pass.images(
      [&](long to, long from) { std::memcpy(out + to * out_stride, out + from * out_stride, width * sizeof(float)); });
}

// `rows` rows filtered along themselves: transposed, filtered as the other axes are, and transposed back. source: the
// voxel at position `origin` of the axis, the first of `columns`.
void filter_x(const Pass& pass, const float* source, long stride, long rows, long origin, long columns, float* out,
              long out_stride) {
  const SeparableKernels& kernels = CRYOET_DISPATCH(separable_kernels);
  const long strip = kernels.strip, r = pass.radius, filtered = round_up(pass.n, 4);
  thread_local Buffer buffer;
  float* room = buffer.reserve((round_up(columns, 4) + 2 * r + kSpare + filtered) * strip + 4 * filtered);
  float* upright = room + r * strip;  // the mirror images lie before and behind
  float* result = upright + (round_up(columns, 4) + r + kSpare) * strip;
  float* last = result + filtered * strip;  // rows that do not fill a block of four
  const auto at = [&](long position) { return upright + (position - origin) * strip; };
  for (long y = 0; y < rows; y += strip) {
    const long here = std::min(strip, rows - y), whole = here / 4 * 4;
    kernels.transpose(source + y * stride, stride, round_up(here, 4), round_up(columns, 4), upright, strip);
    for (long i = pass.position(0); i < 0; ++i) std::memcpy(at(i), at(mirror(i, pass.length)), strip * sizeof(float));
    for (long i = pass.length; i < pass.position(pass.samples()); ++i)
      std::memcpy(at(i), at(mirror(i, pass.length)), strip * sizeof(float));
    kernels.fir_strip(at(pass.position(0)), strip, pass.taps.values.data(), r, result + pass.first * strip, strip,
                      pass.inside);
    pass.images(
        [&](long to, long from) { std::memcpy(result + to * strip, result + from * strip, strip * sizeof(float)); });
    kernels.transpose(result, strip, filtered, whole, out + y * out_stride, out_stride);
    if (whole == here) continue;
    kernels.transpose(result + whole, strip, filtered, 4, last, filtered);
    for (long k = whole; k < here; ++k)
      std::memcpy(out + (y + k) * out_stride, last + (k - whole) * filtered, pass.n * sizeof(float));
  }
}

void convolve_z(const Field& source, const Taps& taps, const long block[3], const Box& box, int threads, Field& out) {
  const Pass pass(taps, box.start[0], box.shape[0], block[0]);
  const long width = round_up(box.shape[2], Field::kRow), shift = box.start[2] - source.box().start[2];
  const float* origin = source.row(0, box.start[1]) + shift;
  parallel_for(
      box.shape[1], threads,
      [&](long y) {
        filter_rows(pass, origin + y * source.pitch(), source.plane(), y + 1 < box.shape[1] ? source.pitch() : 0, width,
                    out.row(box.start[0], box.start[1] + y), out.plane());
      },
      volume_of(box) * (2 * taps.radius + 1));
}

void convolve_y(const Field& source, const Taps& taps, const long block[3], const Box& box, int threads, Field& out) {
  const Pass pass(taps, box.start[1], box.shape[1], block[1]);
  const long width = round_up(box.shape[2], Field::kRow), shift = box.start[2] - source.box().start[2];
  parallel_for(
      box.shape[0], threads,
      [&](long z) {
        filter_rows(pass, source.row(box.start[0] + z, 0) + shift, source.pitch(), 0, width,
                    out.row(box.start[0] + z, box.start[1]), out.pitch());
      },
      volume_of(box) * (2 * taps.radius + 1));
}

void convolve_x(const Field& source, const Taps& taps, const long block[3], const Box& box, int threads, Field& out) {
  const long origin = source.box().start[2];
  const Pass pass(taps, box.start[2], box.shape[2], block[2]);
  parallel_for(
      box.shape[0], threads,
      [&](long z) {
        filter_x(pass, source.row(box.start[0] + z, box.start[1]), source.pitch(), box.shape[1], origin,
                 source.box().shape[2], out.row(box.start[0] + z, box.start[1]), out.pitch());
      },
      volume_of(box) * (2 * taps.radius + 1));
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
  } else {
    (axis == 0 ? convolve_z : axis == 1 ? convolve_y : convolve_x)(source, taps, block, box, threads, out);
  }
}

void smooth(const Field& source, const Taps& taps, const long block[3], const Box& box, int threads, Field& along_z,
            Field& out) {
  if (block[1] == 1 || block[2] == 1) {
    Field along_y;
    const Box y_box = grown(box, 2, taps.radius, block), z_box = grown(y_box, 1, taps.radius, block);
    convolve(source, 0, taps, false, block, z_box, threads, along_z);
    convolve(along_z, 1, taps, false, block, y_box, threads, along_y);
    convolve(along_y, 2, taps, false, block, box, threads, out);
    return;
  }
  // Along y and x plane by plane: what is between them stays in the second cache.
  const Box across = grown(box, 2, taps.radius, block);
  const Box tall = grown(across, 1, taps.radius, block);
  convolve(source, 0, taps, false, block, tall, threads, along_z);
  out.reset(box);
  const Pass y_pass(taps, box.start[1], box.shape[1], block[1]);
  const Pass x_pass(taps, box.start[2], box.shape[2], block[2]);
  const long width = round_up(across.shape[2], Field::kRow), pitch = width + Field::kSlack;
  parallel_for(
      box.shape[0], threads,
      [&](long i) {
        thread_local Buffer buffer;
        float* plane = buffer.reserve((box.shape[1] + 4) * pitch);
        const long z = box.start[0] + i;
        filter_rows(y_pass, along_z.row(z, 0), along_z.pitch(), 0, width, plane, pitch);
        filter_x(x_pass, plane, pitch, box.shape[1], across.start[2], across.shape[2], out.row(z, box.start[1]),
                 out.pitch());
      },
      volume_of(box) * 2 * (2 * taps.radius + 1));
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
  constexpr long kChunk = 64, kRun = 4096;
  const auto eigen_row = CRYOET_DISPATCH(separable_kernels).eigen_row;
  parallel_for((n + kRun - 1) / kRun, threads, [&](long run) {
    float t[6 * kChunk] = {}, e[3 * kChunk];
    for (long i = run * kRun; i < std::min(n, (run + 1) * kRun); i += kChunk) {
      const long count = std::min(kChunk, n - i);
      for (long c = 0; c < 6; ++c) std::memcpy(t + c * kChunk, tensor[c] + i, count * sizeof(float));
      eigen_row(t, kChunk, kChunk, e);
      for (long k = 0; k < 3; ++k) std::memcpy(out + k * n + i, e + k * kChunk, count * sizeof(float));
    }
  });
}

}  // namespace cryoet
