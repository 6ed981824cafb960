// SPDX-License-Identifier: MIT
// The feature channels of pixel classification (ilastik's 37 features, 61 channels) for the core of a block.
//
// A block is what was read: the core and a halo, clipped at the volume's border, so that the block's own mirrors stand
// where the volume's do and every other one is out of reach. Channels of a core are the same bits whatever the block
// around it.
//
// Two-stage ("ilastik"): V is smoothed with sqrt(s^2 - 1) (window 3.5), then each filter runs at s' = 1 (window 2); for
// s <= 1 both at s. All filters of a scale share one smoothing and one sweep of 19 one-dimensional stencils.
// One-stage ("scale-true"): every filter at its own scale (window 3.5). These, and scales that are filtered slice by
// slice, go through whole passes over the block instead of a sweep.
// Cost at the seven usual scales, two-stage: about 4 kflop a voxel; 100 to 200 ns on one AVX2 core.
#pragma once

#include <memory>
#include <vector>

#include "core/view3.h"
#include "ops/separable.h"

namespace cryoet {

// In the order of the specification; the last two have a channel an eigenvalue, largest first.
enum Filter { kGaussian, kLaplacian, kGradient, kDifference, kStructure, kHessian, kFilters };

struct Scale {
  double sigma;
  bool planar;            // filtered slice by slice, along y and x alone; two eigenvalues instead of three
  int channel[kFilters];  // first channel of each filter, -1 where it was not asked for

  bool wants(Filter filter) const { return channel[filter] >= 0; }
  int width(Filter filter) const { return filter != kStructure && filter != kHessian ? 1 : planar ? 2 : 3; }
};

struct FeaturePlan {
  bool two_stage;
  float offset;  // subtracted from the volume, added back to the Gaussian channels: keeps float32 well conditioned
  std::vector<Scale> scales;
  int n_channels;

  long halo() const;
};

// Where channels go: channel c, voxel (z, y, x) of the box asked for at data + c*stride_c + z*stride_z + y*stride_y +
// x.
struct ChannelSink {
  float* data;
  long stride_c, stride_z, stride_y;
};

// What the tiles of one block share. Building it does the smoothing (for scales without a sweep everything), in
// parallel.
class FeatureBlock {
 public:
  // Tiles small enough that a sweep's rings stay in the second cache, and wide enough that margins cost little.
  static constexpr long kTile[3] = {32, 16, 128};

  FeatureBlock(const View3<const float>& block, const Box& core, const FeaturePlan& plan, int threads);
  ~FeatureBlock();

  // All channels of a box inside the core (given in the block's coordinates, at most kTile voxels). Any thread.
  void tile(const Box& box, const ChannelSink& sink) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Cut the core into boxes of at most kTile voxels.
std::vector<Box> tiles(const Box& core);

// All channels of the core. sink: room for n_channels times the core, aliasing nothing.
void compute_features(const View3<const float>& block, const Box& core, const FeaturePlan& plan, int threads,
                      const ChannelSink& sink);

}  // namespace cryoet
