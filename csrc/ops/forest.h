// SPDX-License-Identifier: MIT
// Soft vote of a random forest: the mean over the trees of the class frequencies in the leaf a sample reaches.
//
// Equal to scikit-learn's predict_proba (one job) cast to float32, bit for bit: trees are summed in order in float64,
// divided by their number, then rounded once. (Forests grown to purity count whole votes instead: the same numbers.)
// Samples run in packets of 64, a brick of 4 x 4 x 4 voxels: a node is compared once for all 64 and sends a mask of
// lanes left and right. Neighbouring voxels mostly agree, so a packet visits a few times fewer nodes than its voxels
// would. Some trees go down together, level by level: their visits do not depend on each other, so none waits for the
// one before. Cost, 100 trees, one AVX2 core: 0.5 to 1.5 us a voxel, by the depth of the trees (benchmarks/forest.md).
#pragma once

#include <cstdint>
#include <vector>

#include "core/view3.h"
#include "ops/features.h"
#include "voxel/tree_node.h"

namespace cryoet {

// An inner node with its leaves folded in. child[0] is for values at or below the threshold, child[1] for those above:
// a branch of the forest, or ~leaf, where a leaf is its class if every leaf of the forest is pure, else its row.
struct Branch {
  float threshold;
  std::uint32_t values;  // where its feature begins in a packet
  std::int32_t child[2];
};

// The lanes of a packet that have come to a branch or a leaf of a tree.
struct Arrival {
  std::uint64_t lanes;
  std::int32_t at;     // as Branch::child
  std::uint32_t tree;  // of those that go down together
};

class Forest {
 public:
  static constexpr long kPacket = 64;
  static constexpr int kMaxClasses = 255, kMaxFeatures = 255;
  static constexpr long kTogether = 25;  // trees that go down together

  // What one packet needs on its way; one a thread. The lanes of a tree's arrivals are disjoint: 64 a tree at most.
  struct Scratch {
    explicit Scratch(const Forest& forest);

    std::vector<Arrival> here, next, leaves;
    std::vector<std::uint32_t> reached;  // [tree][64]: leaf rows, when some leaf is not pure
    std::vector<double> sums;            // [64][leaf_stride]
    std::vector<std::uint8_t> counts;    // [n_classes][64]: votes, when every leaf is pure
    std::vector<std::uint32_t> totals;
  };

  // leaves: [n_leaves][n_classes] frequencies. tree_start: first node of each tree, and one past the last. Throws
  // std::invalid_argument with the reason if any walk could leave its tree, not end, or read a missing feature or leaf.
  Forest(const std::vector<TreeNode>& nodes, const std::vector<std::int64_t>& tree_start,
         const std::vector<double>& leaves, int n_classes, int n_features);

  int n_classes() const { return n_classes_; }
  int n_features() const { return n_features_; }

  // One packet: features [n_features][64] -> out [n_classes][64].
  void predict_packet(const float* features, float* out, Scratch& scratch) const;

 private:
  void vote(const float* features, float* out, Scratch& scratch) const;
  void average(const float* features, float* out, Scratch& scratch) const;

  std::vector<Branch> branches_;
  std::vector<std::int32_t> roots_;  // as Branch::child
  std::vector<double> leaves_;       // [n_leaves][leaf_stride_], empty when every leaf is pure
  std::vector<float> share_;         // votes -> probability, when every leaf is pure
  int n_classes_, n_features_;
  long leaf_stride_;  // classes rounded up to whole vectors
};

// Channels of a box of voxels that somebody else owns: channel c of voxel (z, y, x) at data + c*stride_c + z*stride_z +
// y*stride_y + x.
template <class T>
struct Channels {
  T* data;
  long stride_c, stride_z, stride_y;

  T* row(long c, long z, long y) const { return data + c * stride_c + z * stride_z + y * stride_y; }
};

// Probabilities are stored as float, or as std::uint8_t or std::uint16_t: times 255 or 65535, rounded to nearest even.
// `out` has n_classes channels and aliases nothing.

// rows [n][n_features] -> out [n][n_classes].
void predict_rows(const Forest& forest, const float* rows, long n, int threads, float* out);

// channels: n_features channels of a volume of `shape`.
template <class T>
void predict_channels(const Forest& forest, const Channels<const float>& channels, const long shape[3], int threads,
                      const Channels<T>& out);

// The core of a block, features and forest tile by tile: the channels of a tile are all that exist. extra: channels of
// the core that follow the plan's, n_features - plan.n_channels of them.
template <class T>
void predict_block(const Forest& forest, const View3<const float>& block, const Box& core, const FeaturePlan& plan,
                   const Channels<const float>& extra, int threads, const Channels<T>& out);

}  // namespace cryoet
