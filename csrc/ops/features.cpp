// SPDX-License-Identifier: MIT
#include "ops/features.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "core/simd.h"
#include "voxel/gaussian_taps.h"
#include "voxel/stage_taps.h"
#include "voxel/sym_eigen2.h"
#include "voxel/sym_eigen3.h"

namespace cryoet {
namespace {

constexpr double kSmoothingWindow = 3.5;
constexpr long kMargin = 3;  // of stage two: integration radius 2, derivative radius 1

struct StageJob {
  const float* p;  // smoothed volume at voxel (0, 0, 0) of the tile; three more voxels can be read on each side
  long stride_z, stride_y;
  long nz, ny, nx;   // of the tile
  long width, wide;  // nx in whole vectors; the same with margins
  StageTaps taps;
  float offset;
  const float *sign_z, *sign_y, *sign_x;  // -1 at positions beyond the volume's border, where derivatives are reversed
  int channel[kFilters];
  ChannelSink sink;
};

struct FeatureKernels {
  void (*stage_two)(const StageJob& job, float* scratch);
  void (*eigen_row)(const float* tensors, long stride, long width, float* eigenvalues);
};

constexpr long kSweepRows = 6 * (FeatureBlock::kTile[1] + 4) + 16;  // scratch rows of the widest step of a sweep
constexpr long kWide = FeatureBlock::kTile[2] + 16;
constexpr long kScratch = (kSweepRows + 5 * 3 * (FeatureBlock::kTile[1] + 4) + 1) * kWide;

}  // namespace
}  // namespace cryoet

#define CRYOET_KERNELS "ops/features_kernels.h"
#include "core/for_each_isa.h"

namespace cryoet {

namespace {

double smoothing_sigma(double s) { return s > 1.0 ? std::sqrt(s * s - 1.0) : s; }

Box grown_all(Box box, long radius, const long block[3]) {
  for (int axis = 0; axis < 3; ++axis) box = grown(box, axis, radius, block);
  return box;
}

}  // namespace

long FeaturePlan::halo() const {
  long halo = 0;
  for (const Scale& scale : scales) {
    const double s = scale.sigma;
    if (two_stage) {
      halo = std::max(halo, gaussian_radius(smoothing_sigma(s), kSmoothingWindow) + kMargin);
    } else {
      const long own = gaussian_radius(s, kSmoothingWindow);
      const long derivative = scale.wants(kStructure) ? gaussian_radius(kDerivative * s, kSmoothingWindow) : 0;
      halo = std::max(halo, own + derivative);
    }
  }
  return halo;
}

struct FeatureBlock::Impl {
  const FeaturePlan& plan;
  Box core;
  std::vector<Field> smoothed;  // of scales with a sweep: the core and kMargin
  std::vector<float> signs[3];  // from core.start - kMargin on
  Buffer channels;              // of the other scales: [slot of the channel][z][y][row]
  std::vector<int> slot;
  long row = 0;

  bool sweeps(const Scale& scale) const { return plan.two_stage && !scale.planar; }

  Impl(const View3<const float>& block, const Box& core, const FeaturePlan& plan, int threads)
      : plan(plan), core(core) {
    Field volume;
    load(block, plan.offset, threads, volume);
    prepare_sweeps(volume, block.shape, threads);
    int slots = 0;
    slot.resize(plan.n_channels, -1);
    for (const Scale& scale : plan.scales)
      if (!sweeps(scale))
        for (int f = 0; f < kFilters; ++f)
          for (int k = 0; scale.wants(Filter(f)) && k < scale.width(Filter(f)); ++k)
            slot[scale.channel[f] + k] = slots++;
    row = round_up(core.shape[2], Field::kRow);
    channels.reserve(slots * core.shape[0] * core.shape[1] * row);
    for (const Scale& scale : plan.scales) {
      if (sweeps(scale)) continue;
      if (scale.planar) {
        in_planes(volume, scale, block.shape, threads);
      } else {
        derivatives(volume, scale, block.shape, threads);
        if (scale.wants(kStructure)) structure(volume, scale, block.shape, threads);
      }
    }
  }

  void prepare_sweeps(const Field& volume, const long block[3], int threads) {
    for (int axis = 0; axis < 3; ++axis)
      for (long i = -kMargin; i < core.shape[axis] + kMargin + Field::kSlack; ++i)
        signs[axis].push_back(mirror_sign(core.start[axis] + i, block[axis]));
    // Stage two finds the mirror image in the margin beyond the volume's border.
    Box wanted = core;
    for (int axis = 0; axis < 3; ++axis) wanted.start[axis] -= kMargin, wanted.shape[axis] += 2 * kMargin;
    Field along_z;
    smoothed.resize(plan.scales.size());
    for (std::size_t i = smoothed.size(); i-- > 0;)  // the largest first: its scratch does for the others
      if (sweeps(plan.scales[i]))
        smooth(volume, gaussian(smoothing_sigma(plan.scales[i].sigma), 0, kSmoothingWindow), block, wanted, threads,
               along_z, smoothed[i]);
  }

  float* channel_row(int c, long z, long y) const {
    return channels.data() + ((slot[c] * core.shape[0] + z) * core.shape[1] + y) * row;
  }

  const float* core_row(const Field& field, long z, long y) const {
    return field.row(core.start[0] + z, core.start[1] + y);
  }

  // Slice by slice: two passes for each of Gauss, two first and three second derivatives, two eigenvalues a tensor.
  void in_planes(const Field& volume, const Scale& scale, const long block[3], int threads) {
    const double s = scale.sigma, own = plan.two_stage && s > 1.0 ? 1.0 : s;
    const double window = plan.two_stage ? kFilterWindow : kSmoothingWindow;
    const auto in_plane = [&](Box box, long radius) { return grown(grown(box, 1, radius, block), 2, radius, block); };
    Field along_y;
    const auto both = [&](const Field& source, const Taps& y, bool dy, const Taps& x, bool dx, const Box& box,
                          Field& out) {
      convolve(source, 1, y, dy, block, grown(box, 2, x.radius, block), threads, along_y);
      convolve(along_y, 2, x, dx, block, box, threads, out);
    };
    Field smooth_volume;
    if (plan.two_stage) {
      const Taps taps = gaussian(smoothing_sigma(s), 0, kSmoothingWindow);
      both(volume, taps, false, taps, false, in_plane(core, kMargin), smooth_volume);
    }
    const Field& source = plan.two_stage ? smooth_volume : volume;
    if (scale.wants(kGaussian) || scale.wants(kDifference)) {
      const Taps taps = gaussian(own, 0, window);
      Field gauss, narrow;
      both(source, taps, false, taps, false, core, gauss);
      if (scale.wants(kDifference)) {
        const Taps inner = gaussian(kInner * own, 0, window);
        both(source, inner, false, inner, false, core, narrow);
        for_rows(threads, [&](long z, long y) {
          const float *wide = core_row(gauss, z, y), *fine = core_row(narrow, z, y);
          float* out = channel_row(scale.channel[kDifference], z, y);
          for (long x = 0; x < row; ++x) out[x] = wide[x] - fine[x];
        });
      }
      if (scale.wants(kGaussian))
        for_rows(threads, [&](long z, long y) {
          const float* from = core_row(gauss, z, y);
          float* out = channel_row(scale.channel[kGaussian], z, y);
          for (long x = 0; x < row; ++x) out[x] = from[x] + plan.offset;
        });
    }
    if (scale.wants(kGradient)) {
      const Taps taps = gaussian(own, 0, window), slope = gaussian(own, 1, window);
      Field dy, dx;
      both(source, slope, true, taps, false, core, dy);
      both(source, taps, false, slope, true, core, dx);
      for_rows(threads, [&](long z, long y) {
        const float *a = core_row(dy, z, y), *b = core_row(dx, z, y);
        float* out = channel_row(scale.channel[kGradient], z, y);
        for (long x = 0; x < row; ++x) out[x] = std::sqrt(a[x] * a[x] + b[x] * b[x]);
      });
    }
    if (scale.wants(kLaplacian) || scale.wants(kHessian)) {
      const Taps taps = gaussian(own, 0, window), slope = gaussian(own, 1, window), bend = gaussian(own, 2, window);
      Field yy, yx, xx;
      both(source, bend, true, taps, false, core, yy);
      both(source, slope, true, slope, true, core, yx);
      both(source, taps, false, bend, true, core, xx);
      if (scale.wants(kLaplacian))
        for_rows(threads, [&](long z, long y) {
          const float *a = core_row(yy, z, y), *b = core_row(xx, z, y);
          float* out = channel_row(scale.channel[kLaplacian], z, y);
          for (long x = 0; x < row; ++x) out[x] = a[x] + b[x];
        });
      if (scale.wants(kHessian)) eigenvalues2(yy, yx, xx, scale.channel[kHessian], threads);
    }
    if (scale.wants(kStructure)) {
      const Taps taps = gaussian(kDerivative * own, 0, window), slope = gaussian(kDerivative * own, 1, window);
      const Taps integration = gaussian(own, 0, window);
      const Box wide = in_plane(core, integration.radius);
      Field gradient[2], product, tensor[3];
      both(source, slope, true, taps, false, wide, gradient[0]);
      both(source, taps, false, slope, true, wide, gradient[1]);
      for (int a = 0, c = 0; a < 2; ++a)
        for (int b = a; b < 2; ++b, ++c) {
          multiply(gradient[a], gradient[b], threads, product);
          both(product, integration, false, integration, false, core, tensor[c]);
        }
      eigenvalues2(tensor[0], tensor[1], tensor[2], scale.channel[kStructure], threads);
    }
  }

  void eigenvalues2(const Field& yy, const Field& yx, const Field& xx, int first, int threads) {
    for_rows(threads, [&](long z, long y) {
      const float *a = core_row(yy, z, y), *b = core_row(yx, z, y), *c = core_row(xx, z, y);
      float *e0 = channel_row(first, z, y), *e1 = channel_row(first + 1, z, y);
      for (long x = 0; x < row; ++x) sym_eigen2(a[x], b[x], c[x], e0[x], e1[x]);
    });
  }

  // Two fields over the same box, voxel by voxel.
  static void multiply(const Field& a, const Field& b, int threads, Field& out) {
    const Box& box = a.box();
    out.reset(box);
    parallel_for(
        box.shape[0], threads,
        [&](long z) {
          const float *first = a.row(box.start[0] + z, box.start[1]), *second = b.row(box.start[0] + z, box.start[1]);
          float* to = out.row(box.start[0] + z, box.start[1]);
          for (long i = 0; i < box.shape[1] * out.pitch(); ++i) to[i] = first[i] * second[i];
        },
        box.shape[0] * out.plane());
  }

  // fill(z, y) for every row of the core, shared out by planes.
  template <class Fill>
  void for_rows(int threads, const Fill& fill) const {
    parallel_for(
        core.shape[0], threads,
        [&](long z) {
          for (long y = 0; y < core.shape[1]; ++y) fill(z, y);
        },
        core.shape[0] * core.shape[1] * row);
  }

  void eigenvalues(const Field* const tensor[6], int first, int threads) {
    const auto eigen_row = CRYOET_DISPATCH(feature_kernels).eigen_row;
    parallel_for(core.shape[0], threads, [&](long z) {
      Buffer work;
      float* t = work.reserve(9 * row);
      for (long y = 0; y < core.shape[1]; ++y) {
        for (int c = 0; c < 6; ++c)
          std::memcpy(t + c * row, tensor[c]->row(core.start[0] + z, core.start[1] + y), row * sizeof(float));
        eigen_row(t, row, row, t + 6 * row);
        for (int k = 0; k < 3; ++k) std::memcpy(channel_row(first + k, z, y), t + (6 + k) * row, row * sizeof(float));
      }
    });
  }

  // Everything that is a sum of Gaussian derivatives, from shared passes: three along z, six along y, ten along x.
  void derivatives(const Field& volume, const Scale& scale, const long block[3], int threads) {
    const bool wanted[3] = {scale.wants(kGaussian) || scale.wants(kDifference), scale.wants(kGradient),
                            scale.wants(kLaplacian) || scale.wants(kHessian)};
    if (!wanted[0] && !wanted[1] && !wanted[2]) return;
    Taps taps[3];
    for (int order = 0; order < 3; ++order) taps[order] = gaussian(scale.sigma, order, kSmoothingWindow);
    const long r = taps[0].radius;
    const Box x_box = grown(core, 2, r, block), yx_box = grown(x_box, 1, r, block);
    Field along_z, along_y, done[3][3];  // by orders along z and y; the order along x is what is left
    Field gauss, gradient[3], second[6];
    for (int oz = 0; oz < 3; ++oz) {
      convolve(volume, 0, taps[oz], oz > 0, block, yx_box, threads, along_z);
      for (int oy = 0; oy + oz < 3; ++oy) {
        convolve(along_z, 1, taps[oy], oy > 0, block, x_box, threads, along_y);
        for (int total = oz + oy; total < 3; ++total) {
          const int ox = total - oz - oy;
          if (!wanted[total]) continue;
          Field& out = total == 0   ? gauss
                       : total == 1 ? gradient[oz   ? 0
                                               : oy ? 1
                                                    : 2]
                                    : second[oz == 2   ? 0
                                             : oz == 1 ? (oy ? 1 : 2)
                                             : oy == 2 ? 3
                                             : oy == 1 ? 4
                                                       : 5];
          convolve(along_y, 2, taps[ox], ox > 0, block, core, threads, out);
        }
      }
    }
    if (scale.wants(kDifference)) {
      const Taps inner = gaussian(kInner * scale.sigma, 0, kSmoothingWindow);
      Field narrow;
      convolve(volume, 0, inner, false, block, yx_box, threads, along_z);
      convolve(along_z, 1, inner, false, block, x_box, threads, along_y);
      convolve(along_y, 2, inner, false, block, core, threads, narrow);
      for_rows(threads, [&](long z, long y) {
        const float *wide = core_row(gauss, z, y), *fine = core_row(narrow, z, y);
        float* out = channel_row(scale.channel[kDifference], z, y);
        for (long x = 0; x < row; ++x) out[x] = wide[x] - fine[x];
      });
    }
    for_rows(threads, [&](long z, long y) {
      if (scale.wants(kGaussian)) {
        const float* from = core_row(gauss, z, y);
        float* out = channel_row(scale.channel[kGaussian], z, y);
        for (long x = 0; x < row; ++x) out[x] = from[x] + plan.offset;
      }
      if (scale.wants(kGradient)) {
        const float *a = core_row(gradient[0], z, y), *b = core_row(gradient[1], z, y),
                    *c = core_row(gradient[2], z, y);
        float* out = channel_row(scale.channel[kGradient], z, y);
        for (long x = 0; x < row; ++x) out[x] = std::sqrt(a[x] * a[x] + b[x] * b[x] + c[x] * c[x]);
      }
      if (scale.wants(kLaplacian)) {
        const float *a = core_row(second[0], z, y), *b = core_row(second[3], z, y), *c = core_row(second[5], z, y);
        float* out = channel_row(scale.channel[kLaplacian], z, y);
        for (long x = 0; x < row; ++x) out[x] = a[x] + b[x] + c[x];
      }
    });
    if (scale.wants(kHessian)) {
      const Field* tensor[6];
      for (int c = 0; c < 6; ++c) tensor[c] = &second[c];
      eigenvalues(tensor, scale.channel[kHessian], threads);
    }
  }

  void structure(const Field& volume, const Scale& scale, const long block[3], int threads) {
    const Taps smooth = gaussian(kDerivative * scale.sigma, 0, kSmoothingWindow);
    const Taps slope = gaussian(kDerivative * scale.sigma, 1, kSmoothingWindow);
    const Taps integration = gaussian(scale.sigma, 0, kSmoothingWindow);
    const Box wide = grown_all(core, integration.radius, block);
    const Box x_box = grown(wide, 2, smooth.radius, block), yx_box = grown(x_box, 1, smooth.radius, block);
    Field along_z, along_y, gradient[3], product, tensor[6];
    for (int axis = 0; axis < 3; ++axis) {
      convolve(volume, 0, axis == 0 ? slope : smooth, axis == 0, block, yx_box, threads, along_z);
      convolve(along_z, 1, axis == 1 ? slope : smooth, axis == 1, block, x_box, threads, along_y);
      convolve(along_y, 2, axis == 2 ? slope : smooth, axis == 2, block, wide, threads, gradient[axis]);
    }
    const Box y_box = grown(grown(core, 1, integration.radius, block), 2, integration.radius, block);
    const Box last = grown(core, 2, integration.radius, block);
    const Field* all[6];
    for (int a = 0, c = 0; a < 3; ++a) {
      for (int b = a; b < 3; ++b, ++c) {
        multiply(gradient[a], gradient[b], threads, product);
        convolve(product, 0, integration, false, block, y_box, threads, along_z);
        convolve(along_z, 1, integration, false, block, last, threads, along_y);
        convolve(along_y, 2, integration, false, block, core, threads, tensor[c]);
        all[c] = &tensor[c];
      }
    }
    eigenvalues(all, scale.channel[kStructure], threads);
  }
};

FeatureBlock::FeatureBlock(const View3<const float>& block, const Box& core, const FeaturePlan& plan, int threads)
    : impl_(new Impl(block, core, plan, threads)) {}
FeatureBlock::~FeatureBlock() = default;

void FeatureBlock::tile(const Box& box, const ChannelSink& sink) const {
  const Impl& shared = *impl_;
  const long z0 = box.start[0] - shared.core.start[0], y0 = box.start[1] - shared.core.start[1],
             x0 = box.start[2] - shared.core.start[2];
  for (int c = 0; c < shared.plan.n_channels; ++c) {
    if (shared.slot[c] < 0) continue;
    for (long z = 0; z < box.shape[0]; ++z)
      for (long y = 0; y < box.shape[1]; ++y)
        std::memcpy(sink.data + c * sink.stride_c + z * sink.stride_z + y * sink.stride_y,
                    shared.channel_row(c, z0 + z, y0 + y) + x0, box.shape[2] * sizeof(float));
  }
  thread_local Buffer scratch;
  float* work = scratch.reserve(kScratch);
  const auto stage_two = CRYOET_DISPATCH(feature_kernels).stage_two;
  for (std::size_t i = 0; i < shared.plan.scales.size(); ++i) {
    const Scale& scale = shared.plan.scales[i];
    if (!shared.sweeps(scale)) continue;
    const Field& field = shared.smoothed[i];
    StageJob job;
    job.p = field.row(box.start[0], box.start[1]) + x0 + kMargin;
    job.stride_z = field.plane(), job.stride_y = field.pitch();
    job.nz = box.shape[0], job.ny = box.shape[1], job.nx = box.shape[2];
    job.width = round_up(job.nx, 16), job.wide = job.width + 16;
    job.taps = stage_taps(scale.sigma);
    job.offset = shared.plan.offset;
    job.sign_z = shared.signs[0].data() + z0 + kMargin;
    job.sign_y = shared.signs[1].data() + y0 + kMargin;
    job.sign_x = shared.signs[2].data() + x0 + kMargin;
    std::copy(scale.channel, scale.channel + kFilters, job.channel);
    job.sink = sink;
    stage_two(job, work);
  }
}

std::vector<Box> tiles(const Box& core) {
  // Equal parts rather than full ones and a rest; whole vectors along x, whole bricks along z and y.
  static constexpr long whole[3] = {4, 4, 16};
  long size[3];
  for (int axis = 0; axis < 3; ++axis) {
    const long parts = (core.shape[axis] + FeatureBlock::kTile[axis] - 1) / FeatureBlock::kTile[axis];
    size[axis] = std::min(round_up((core.shape[axis] + parts - 1) / parts, whole[axis]), FeatureBlock::kTile[axis]);
  }
  std::vector<Box> out;
  for (long z = 0; z < core.shape[0]; z += size[0])
    for (long y = 0; y < core.shape[1]; y += size[1])
      for (long x = 0; x < core.shape[2]; x += size[2])
        out.push_back({{core.start[0] + z, core.start[1] + y, core.start[2] + x},
                       {std::min(size[0], core.shape[0] - z), std::min(size[1], core.shape[1] - y),
                        std::min(size[2], core.shape[2] - x)}});
  return out;
}

void compute_features(const View3<const float>& block, const Box& core, const FeaturePlan& plan, int threads,
                      const ChannelSink& sink) {
  const FeatureBlock features(block, core, plan, threads);
  const std::vector<Box> boxes = tiles(core);
  parallel_for(static_cast<long>(boxes.size()), threads, [&](long i) {
    ChannelSink here = sink;
    here.data += (boxes[i].start[0] - core.start[0]) * sink.stride_z +
                 (boxes[i].start[1] - core.start[1]) * sink.stride_y + (boxes[i].start[2] - core.start[2]);
    features.tile(boxes[i], here);
  });
}

}  // namespace cryoet
