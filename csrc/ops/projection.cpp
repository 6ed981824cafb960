// SPDX-License-Identifier: MIT
#include "ops/projection.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "voxel/projection.h"

namespace cryoet {
namespace {

// Rows of y that are worked on together, innermost in memory: taps serve them all, and samples are whole vectors.
constexpr long kRows = 64;
constexpr long kPad = 2;         // zeros on both sides of an axis: what taps beyond its ends find
constexpr long kUsualTerms = 8;  // that are added to a sum at once: it is fetched and put back for eight

// Where the samples of terms k of columns c lie: entry k * n_columns + c.
struct TermTable {
  const int* offset;    // of the first sample, behind samples + k * term
  const float* weight;  // of the second one
  long term;            // floats from one term's samples to the next one's
  long second;          // floats from the first sample to the second
};

struct ProjectionKernels {
  void (*tap_row)(std::int64_t position, std::int64_t step, long n, int low, int high, int pitch, int* offset,
                  float* weight);
  void (*add_terms)(const TermTable& table, long n_terms, long n_columns, const float* samples, float* sums);
  // [rows][columns] -> [columns][rows], from and to rows that lie far apart.
  void (*pack)(const float* in, long stride, long rows, long columns, float* out, long out_stride);
  void (*unpack)(const float* in, long stride, long rows, long columns, float* out, long out_stride);
};

}  // namespace
}  // namespace cryoet

#define CRYOET_KERNELS "ops/projection_kernels.h"
#include "core/for_each_isa.h"

namespace cryoet {
namespace {

// Samples of an axis with its zeros, in a number that keeps lines one below the other at different places of a cache.
long padded(long n) { return round_up(n + 2 * kPad - 4, 32) + 4; }

// One line of an axis for `rows` rows of y, with its zeros. from: the row of the first y, `stride` apart; null: zeros.
void pack_line(const ProjectionKernels& kernels, const float* from, long stride, long rows, long n, float* to) {
  if (!from || rows < kRows) std::memset(to, 0, (n + 2 * kPad) * kRows * sizeof(float));
  if (!from) return;
  std::memset(to, 0, kPad * kRows * sizeof(float));
  kernels.pack(from, stride, rows, n, to + kPad * kRows, kRows);
  std::memset(to + (kPad + n) * kRows, 0, kPad * kRows * sizeof(float));
}

// body(y, rows, from, to) for strips of y and, where threads would stand idle otherwise, parts of another axis of
// length n: each packs its input anew, about a tenth of the whole work.
template <class Body>
void for_each_strip(long ny, long n, int threads, long work, const Body& body) {
  constexpr double kPacking = 0.1;
  const long strips = (ny + kRows - 1) / kRows, hands = thread_count(threads);
  const auto time = [&](long parts) {
    return static_cast<double>((strips * parts + hands - 1) / hands) * (1.0 / static_cast<double>(parts) + kPacking);
  };
  long parts = 1;
  for (long more = 2; more <= std::min(n, 2 * hands); ++more)
    if (time(more) < time(parts)) parts = more;
  parallel_for(
      strips * parts, threads,
      [&](long job) {
        const long y = job / parts * kRows, part = job % parts;
        body(y, std::min(kRows, ny - y), n * part / parts, n * (part + 1) / parts);
      },
      work);
}

// ---- back-projection

// Voxels to whose sums groups of views are added, long along x, since results are written in rows; and how far along z
// tiles follow each other before the next ones along x, while their samples are in L2.
constexpr long kTileZ = 4, kTileX = 64, kNearZ = 32;

class BackProjector {
 public:
  BackProjector(const View3<const float>& views, const double* angles_deg, const long shape[3], const Box& box,
                float* out)
      : views_(views), box_(box), out_(out) {
    long last = -1;
    first_ = width();
    for (long v = 0; v < views.shape[0]; ++v) {
      lines_.push_back(detector_line(angles_deg[v], shape[0], shape[2], width()));
      for (long z : {box.start[0], box.start[0] + box.shape[0] - 1})
        for (long x : {box.start[2], box.start[2] + box.shape[2] - 1}) {
          const long index = tap_index(lines_.back().at(z, x));
          first_ = std::min(first_, index);
          last = std::max(last, index + 1);
        }
    }
    first_ = std::clamp(first_, 0L, width() - 1);
    pixels_ = std::clamp(last, first_, width() - 1) - first_ + 1;
  }

  // Rows [y, y + rows) of the box, planes [from_z, to_z) of it.
  void strip(long y, long rows, long from_z, long to_z) const {
    const long n_views = views_.shape[0], pitch = padded(pixels_) * kRows;
    Buffer packed;
    float* samples = packed.reserve(n_views * pitch);
    for (long v = 0; v < n_views; ++v)
      pack_line(kernels_, views_.row(v, box_.start[1] + y) + first_, views_.stride_y, rows, pixels_,
                samples + v * pitch);
    Buffer tile_sums;
    float* sums = tile_sums.reserve(kTileZ * kTileX * kRows);
    for (long near = from_z; near < to_z; near += kNearZ)
      for (long x = 0; x < box_.shape[2]; x += kTileX)
        for (long z = near; z < std::min(near + kNearZ, to_z); z += kTileZ)
          tile(samples, pitch, z, std::min(kTileZ, to_z - z), x, std::min(kTileX, box_.shape[2] - x), y, rows, sums);
  }

 private:
  long width() const { return views_.shape[2]; }

  void tile(const float* samples, long pitch, long z, long nz, long x, long nx, long y, long rows, float* sums) const {
    alignas(64) int offset[kUsualTerms * kTileZ * kTileX];
    alignas(64) float weight[kUsualTerms * kTileZ * kTileX];
    const long columns = nz * nx, n_views = views_.shape[0];
    std::memset(sums, 0, columns * kRows * sizeof(float));
    for (long v = 0; v < n_views; v += kUsualTerms) {
      const long group = std::min(kUsualTerms, n_views - v);
      for (long row = 0; row < group * nz; ++row) {
        const GridLine& line = lines_[v + row / nz];
        const std::int64_t at = line.at(box_.start[0] + z + row % nz, box_.start[2] + x) - first_ * kPixel;
        kernels_.tap_row(at, line.per_j, nx, -kPad, static_cast<int>(pixels_), kRows, offset + row * nx,
                         weight + row * nx);
      }
      kernels_.add_terms({offset, weight, pitch, kRows}, group, columns, samples + v * pitch + kPad * kRows, sums);
    }
    for (long k = 0; k < nz; ++k)
      kernels_.unpack(sums + k * nx * kRows, kRows, nx, rows, out_ + ((z + k) * box_.shape[1] + y) * box_.shape[2] + x,
                      box_.shape[2]);
  }

  const View3<const float>& views_;
  const Box& box_;
  float* out_;
  const ProjectionKernels& kernels_ = CRYOET_DISPATCH(projection_kernels);
  std::vector<GridLine> lines_;
  long first_, pixels_;  // of the detector, which the box takes from any view
};

// ---- projection

constexpr long kSlab = kUsualTerms;  // planes of z that are packed at a time; taps reach the one behind them, too
constexpr long kBlock = 16;          // voxels along x: rays of all views pass there while the samples are in L1
constexpr long kRun = 64;            // pixels, or planes of x, whose taps are found at a time

class Projector {
 public:
  Projector(const View3<const float>& volume, const double* angles_deg, long n_angles, long width, float* out)
      : volume_(volume), width_(width), out_(out) {
    for (long v = 0; v < n_angles; ++v) {
      const double t = radians(angles_deg[v]);
      views_.push_back({tilted_rays(angles_deg[v], volume.shape[0], volume.shape[2], width), std::cos(t), std::sin(t)});
    }
  }

  // Rows [y, y + rows) of views [from, to).
  void strip(long y, long rows, long from, long to) const {
    const long nz = volume_.shape[0], nx = volume_.shape[2], pitch = padded(nx) * kRows, per_view = width_ * kRows;
    Buffer summed, packed;
    float* sums = summed.reserve((to - from) * per_view);
    std::memset(sums, 0, (to - from) * per_view * sizeof(float));
    float* samples = packed.reserve((kSlab + 1) * pitch);
    std::vector<long> next((to - from) * width_, -1);  // of steep rays: the plane of x with which they go on
    const auto pack = [&](long z, float* to) {
      pack_line(kernels_, z < 0 || z >= nz ? nullptr : volume_.row(z, y), volume_.stride_y, rows, nx, to);
    };
    // From z = -1 on, since taps there reach the first plane.
    pack(-1, samples);
    for (long z = -1; z < nz; z += kSlab) {
      if (z >= 0) std::memcpy(samples, samples + kSlab * pitch, pitch * sizeof(float));
      for (long k = 1; k <= kSlab; ++k) pack(z + k, samples + k * pitch);
      for (long x = 0; x < nx; x += kBlock)
        for (long v = from; v < to; ++v) {
          const long first = first_pixel(views_[v], z, x), last = first_pixel(views_[v], z, std::min(x + kBlock, nx));
          float* view_sums = sums + (v - from) * per_view;
          if (views_[v].rays.steep)
            steep(views_[v].rays.line, z, first, last, samples, pitch, next.data() + (v - from) * width_, view_sums);
          else
            shallow(views_[v].rays.line, z, first, last, samples, pitch, view_sums);
        }
    }
    for (long v = from; v < to; ++v)
      for (long u = 0; u < width_; u += kRun) {
        const long n = std::min(kRun, width_ - u);
        float* some = sums + (v - from) * per_view + u * kRows;
        for (long i = 0; i < n * kRows; ++i) some[i] *= views_[v].rays.step;
        kernels_.unpack(some, kRows, n, rows, out_ + (v * volume_.shape[1] + y) * width_ + u, width_);
      }
  }

 private:
  struct View {
    TiltedRays rays;
    double cosine, sine;
  };

  // The pixel with which a slab's block at x begins; at the end of the volume, the one behind the last. Every ray that
  // meets the slab is in one block, if only roughly in that where it passes: this decides what is near in time, and no
  // result.
  long first_pixel(const View& view, long z, long x) const {
    const long nx = volume_.shape[2];
    const double beyond = view.sine * (0.5 * kSlab + 1), reach = std::abs(beyond) + view.cosine + 1;
    const double u = (x - 0.5 * (nx - 1)) * view.cosine + (z + 0.5 * kSlab - 0.5 * (volume_.shape[0] - 1)) * view.sine +
                     0.5 * (width_ - 1);
    const double moved = x == 0 ? u - reach : x == nx ? u + reach : u;
    return std::clamp(static_cast<long>(std::floor(moved)) + 1, 0L, width_);
  }

  void shallow(const GridLine& line, long z, long first, long last, const float* samples, long pitch,
               float* sums) const {
    alignas(64) int offset[kSlab * kRun];
    alignas(64) float weight[kSlab * kRun];
    const long skip = z < 0 ? 1 : 0, terms = std::min(kSlab, volume_.shape[0] - z) - skip;
    for (long u = first; u < last; u += kRun) {
      const long columns = std::min(kRun, last - u);
      for (long k = 0; k < terms; ++k)
        kernels_.tap_row(line.at(z + skip + k, u), line.per_j, columns, -kPad, static_cast<int>(volume_.shape[2]),
                         kRows, offset + k * columns, weight + k * columns);
      kernels_.add_terms({offset, weight, pitch, kRows}, terms, columns, samples + skip * pitch + kPad * kRows,
                         sums + u * kRows);
    }
  }

  // A ray takes its planes of x in the order of growing z: here those whose first tap lies in this slab.
  void steep(const GridLine& line, long z, long first, long last, const float* samples, long pitch, long* next,
             float* sums) const {
    alignas(64) int offset[kRun];
    alignas(64) float weight[kRun];
    const long nx = volume_.shape[2], way = line.per_i < 0 ? -1 : 1, start = way < 0 ? nx - 1 : 0;
    const std::int64_t step = way * line.per_i;
    for (long u = first; u < last; ++u) {
      const std::int64_t at = line.at(start, u) - z * kPixel;  // in the slab's planes
      long k = next[u] < 0 ? steps_below(at, step, (-1 - z) * kPixel, nx) : next[u];
      next[u] = steps_below(at, step, kSlab * kPixel, nx);
      for (; k < next[u]; k += kRun) {
        const long terms = std::min(kRun, next[u] - k);
        kernels_.tap_row(at + k * step, step, terms, 0, kSlab - 1, static_cast<int>(pitch), offset, weight);
        kernels_.add_terms({offset, weight, way * kRows, pitch}, terms, 1, samples + (kPad + start + way * k) * kRows,
                           sums + u * kRows);
      }
    }
  }

  // How many of the positions start, start + step, ..., n of them, lie below `end`.
  static long steps_below(std::int64_t start, std::int64_t step, std::int64_t end, long n) {
    if (start >= end) return 0;
    return step == 0 ? n : std::min<std::int64_t>((end - start + step - 1) / step, n);
  }

  const View3<const float>& volume_;
  long width_;
  float* out_;
  const ProjectionKernels& kernels_ = CRYOET_DISPATCH(projection_kernels);
  std::vector<View> views_;
};

}  // namespace

void project(const View3<const float>& volume, const double* angles_deg, long n_angles, long width, int threads,
             float* out) {
  const Projector projector(volume, angles_deg, n_angles, width, out);
  const long ny = volume.shape[1], work = volume.shape[0] * ny * volume.shape[2] * n_angles;
  for_each_strip(ny, n_angles, threads, work,
                 [&](long y, long rows, long from, long to) { projector.strip(y, rows, from, to); });
}

void back_project(const View3<const float>& views, const double* angles_deg, const long shape[3], const Box& box,
                  int threads, float* out) {
  const BackProjector projector(views, angles_deg, shape, box, out);
  const long work = box.shape[0] * box.shape[1] * box.shape[2] * views.shape[0];
  for_each_strip(box.shape[1], box.shape[0], threads, work,
                 [&](long y, long rows, long from, long to) { projector.strip(y, rows, from, to); });
}

}  // namespace cryoet
