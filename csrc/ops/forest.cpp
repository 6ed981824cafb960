// SPDX-License-Identifier: MIT
#include "ops/forest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"

namespace cryoet {
namespace {

// Trees that a packet walks down at a time: enough entries a level to keep the processor busy, few enough for its first
// cache.
constexpr long kTreesAtOnce = 10;
constexpr long kLeavesOfTree = Forest::kPacket + 1;  // one entry is written that may not count

// Lanes that have come to a node; below zero: ~row of a leaf.
struct Visit {
  std::uint64_t mask;
  std::int32_t node, tree;
};

}  // namespace

struct WalkScratch {
  Visit now[kTreesAtOnce * Forest::kPacket + 2], next[kTreesAtOnce * Forest::kPacket + 2];
  Visit leaves[kTreesAtOnce * kLeavesOfTree + 2];
  std::uint8_t votes[Forest::kMaxClasses * Forest::kPacket];
  std::uint32_t counts[Forest::kMaxClasses * Forest::kPacket];
  double sums[Forest::kMaxClasses * Forest::kPacket];
};

namespace {

struct ForestKernels {
  void (*vote)(const WalkNode*, const std::int32_t* roots, long n_trees, const float* features, long n_classes,
               WalkScratch& scratch, std::uint32_t* counts);
  void (*add)(const WalkNode*, const std::int32_t* roots, long n_trees, const float* features, const double* leaves,
              long n_classes, WalkScratch& scratch, double* sums);
};

}  // namespace
}  // namespace cryoet

#define CRYOET_KERNELS "ops/forest_kernels.h"
#include "core/for_each_isa.h"

namespace cryoet {

namespace {

void check(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

// Every walk in the tree must end in a leaf that exists: children lie behind their parent.
void check_tree(const TreeNode* tree, std::int64_t n, std::int64_t n_leaves, int n_features, const std::string& name) {
  for (std::int64_t i = 0; i < n; ++i) {
    const TreeNode node = tree[i];
    const std::int64_t child = node.child();
    const std::string where = name + ", node " + std::to_string(i);
    if (node.feature() == TreeNode::kLeaf) {
      if (child >= n_leaves) check(false, where + ": its leaf is not in the table");
      continue;
    }
    if (!std::isfinite(node.threshold)) check(false, where + ": its threshold is not finite");
    if (static_cast<int>(node.feature()) >= n_features)
      check(false, where + ": it asks for a feature that is not there");
    if (child <= i || child + 1 >= n) check(false, where + ": its children do not lie behind it in the tree");
  }
}

}  // namespace

Forest::Forest(const std::vector<TreeNode>& nodes, const std::vector<std::int64_t>& tree_start,
               std::vector<double> leaves, int n_classes, int n_features)
    : leaves_(std::move(leaves)), n_classes_(n_classes), n_features_(n_features) {
  check(n_classes >= 1 && n_classes <= kMaxClasses, "1 to 255 classes are possible");
  check(n_features >= 1 && n_features <= kMaxFeatures, "1 to 255 features are possible");
  check(tree_start.size() >= 2, "it has no trees");
  check(tree_start.front() == 0 && tree_start.back() == static_cast<std::int64_t>(nodes.size()),
        "its trees do not cover its nodes");
  check(!leaves_.empty() && leaves_.size() % n_classes == 0, "its leaves do not fit its classes");
  const std::int64_t n_leaves = leaves_.size() / n_classes;
  for (double v : leaves_) check(std::isfinite(v) && v >= 0.0 && v <= 1.0, "a leaf has a frequency outside 0..1");
  for (std::size_t t = 0; t + 1 < tree_start.size(); ++t) {
    const std::string name = "tree " + std::to_string(t);
    const std::int64_t first = tree_start[t], n = tree_start[t + 1] - first;
    check(n >= 1 && n <= (1 << 24) && first >= 0 && first + n <= static_cast<std::int64_t>(nodes.size()),
          name + " has no nodes or too many");
    check_tree(nodes.data() + first, n, n_leaves, n_features, name);
  }
  std::vector<std::int32_t> vote;  // class of a pure leaf
  for (std::int64_t row = 0; row < n_leaves; ++row) {
    const double* leaf = leaves_.data() + row * n_classes;
    const long top = std::max_element(leaf, leaf + n_classes) - leaf;
    vote.push_back(static_cast<std::int32_t>(top));
    pure_ = pure_ && leaf[top] == 1.0 && std::count(leaf, leaf + n_classes, 0.0) == n_classes - 1;
  }
  // Inner nodes alone, with what they send lanes to: a leaf needs no visit.
  std::vector<std::int32_t> target(nodes.size());
  std::int32_t next = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i)
    target[i] = nodes[i].feature() != TreeNode::kLeaf ? next++
                : pure_                               ? ~vote[nodes[i].child()]
                                                      : ~static_cast<std::int32_t>(nodes[i].child());
  nodes_.reserve(next);
  for (std::size_t t = 0; t + 1 < tree_start.size(); ++t) {
    const std::int64_t first = tree_start[t];
    roots_.push_back(target[first]);
    for (std::int64_t i = first; i < tree_start[t + 1]; ++i) {
      if (nodes[i].feature() == TreeNode::kLeaf) continue;
      const std::int64_t child = first + nodes[i].child();
      nodes_.push_back({nodes[i].threshold, static_cast<std::uint32_t>(nodes[i].feature() * kPacket), target[child],
                        target[child + 1]});
    }
  }
  const double n_trees = static_cast<double>(roots_.size());
  for (double votes = 0; votes <= n_trees; ++votes) share_.push_back(static_cast<float>(votes / n_trees));
}

void Forest::predict_packet(const float* features, float* out) const {
  thread_local const std::unique_ptr<WalkScratch> scratch(new WalkScratch);
  const ForestKernels& kernels = CRYOET_DISPATCH(forest_kernels);
  const long n_trees = static_cast<long>(roots_.size()), n = n_classes_ * kPacket;
  if (pure_) {
    std::fill(scratch->counts, scratch->counts + n, 0u);
    kernels.vote(nodes_.data(), roots_.data(), n_trees, features, n_classes_, *scratch, scratch->counts);
    for (long i = 0; i < n; ++i) out[i] = share_[scratch->counts[i]];
    return;
  }
  std::fill(scratch->sums, scratch->sums + n, 0.0);
  kernels.add(nodes_.data(), roots_.data(), n_trees, features, leaves_.data(), n_classes_, *scratch, scratch->sums);
  for (long lane = 0; lane < kPacket; ++lane)
    for (long k = 0; k < n_classes_; ++k)
      out[k * kPacket + lane] = static_cast<float>(scratch->sums[lane * n_classes_ + k] / static_cast<double>(n_trees));
}

void predict_rows(const Forest& forest, const float* rows, long n, int threads, float* out) {
  constexpr long kPacket = Forest::kPacket, kRun = 16 * kPacket;
  const long n_features = forest.n_features(), n_classes = forest.n_classes();
  parallel_for((n + kRun - 1) / kRun, threads, [&](long run) {
    std::vector<float> packet(n_features * kPacket), proba(n_classes * kPacket);
    for (long first = run * kRun; first < std::min(n, (run + 1) * kRun); first += kPacket) {
      const long valid = std::min(kPacket, n - first);
      for (long i = 0; i < valid; ++i)
        for (long f = 0; f < n_features; ++f) packet[f * kPacket + i] = rows[(first + i) * n_features + f];
      forest.predict_packet(packet.data(), proba.data());
      for (long i = 0; i < valid; ++i)
        for (long k = 0; k < n_classes; ++k) out[(first + i) * n_classes + k] = proba[k * kPacket + i];
    }
  });
}

namespace {

template <class T>
T stored(float probability) {
  if constexpr (std::is_same_v<T, float>)
    return probability;
  else
    return static_cast<T>(std::nearbyint(probability * static_cast<float>(std::numeric_limits<T>::max())));
}

// Features of one box in, probabilities out, brick by brick. `own` holds the first n_own channels, `extra` the others.
// Bricks that stick out of the box repeat its last voxels in lanes that nobody reads.
template <class T>
void predict_tile(const Forest& forest, const Channels<const float>& own, long n_own,
                  const Channels<const float>& extra, const long shape[3], const Channels<T>& out) {
  constexpr long kPacket = Forest::kPacket;
  const long n_features = forest.n_features(), n_classes = forest.n_classes();
  std::vector<float> packet(n_features * kPacket), proba(n_classes * kPacket);
  for (long z = 0; z < shape[0]; z += 4)
    for (long y = 0; y < shape[1]; y += 4)
      for (long x = 0; x < shape[2]; x += 4) {
        const long nz = std::min(4L, shape[0] - z), ny = std::min(4L, shape[1] - y), nx = std::min(4L, shape[2] - x);
        const bool whole = nz == 4 && ny == 4 && nx == 4;
        for (long f = 0; f < n_features; ++f) {
          const Channels<const float>& source = f < n_own ? own : extra;
          const float* corner = source.row(f < n_own ? f : f - n_own, z, y) + x;
          float* to = packet.data() + f * kPacket;
          for (long dz = 0; dz < 4; ++dz)
            for (long dy = 0; dy < 4; ++dy, to += 4) {
              if (whole) {
                std::memcpy(to, corner + dz * source.stride_z + dy * source.stride_y, 4 * sizeof(float));
                continue;
              }
              const float* from =
                  corner + std::min(dz, nz - 1) * source.stride_z + std::min(dy, ny - 1) * source.stride_y;
              for (long dx = 0; dx < 4; ++dx) to[dx] = from[std::min(dx, nx - 1)];
            }
        }
        forest.predict_packet(packet.data(), proba.data());
        for (long k = 0; k < n_classes; ++k)
          for (long dz = 0; dz < nz; ++dz)
            for (long dy = 0; dy < ny; ++dy)
              for (long dx = 0; dx < nx; ++dx)
                out.row(k, z + dz, y + dy)[x + dx] = stored<T>(proba[k * kPacket + dz * 16 + dy * 4 + dx]);
      }
}

// The same channels, seen from voxel (z, y, x) on.
template <class T>
Channels<T> from_voxel(const Channels<T>& all, long z, long y, long x) {
  return {all.row(0, z, y) + x, all.stride_c, all.stride_z, all.stride_y};
}

}  // namespace

template <class T>
void predict_channels(const Forest& forest, const Channels<const float>& channels, const long shape[3], int threads,
                      const Channels<T>& out) {
  const std::vector<Box> boxes = tiles({{0, 0, 0}, {shape[0], shape[1], shape[2]}});
  parallel_for(static_cast<long>(boxes.size()), threads, [&](long i) {
    const long* start = boxes[i].start;
    predict_tile(forest, from_voxel(channels, start[0], start[1], start[2]), forest.n_features(), {}, boxes[i].shape,
                 from_voxel(out, start[0], start[1], start[2]));
  });
}

template <class T>
void predict_block(const Forest& forest, const View3<const float>& block, const Box& core, const FeaturePlan& plan,
                   const Channels<const float>& extra, int threads, const Channels<T>& out) {
  const FeatureBlock features(block, core, plan, threads);
  const std::vector<Box> boxes = tiles(core);
  parallel_for(static_cast<long>(boxes.size()), threads, [&](long i) {
    const Box& box = boxes[i];
    const long row = round_up(box.shape[2], 16), plane = row * box.shape[1], channel = plane * box.shape[0];
    thread_local Buffer channels;
    float* here = channels.reserve(channel * plan.n_channels);
    features.tile(box, {here, channel, plane, row});
    const long z = box.start[0] - core.start[0], y = box.start[1] - core.start[1], x = box.start[2] - core.start[2];
    const bool any_extra = forest.n_features() > plan.n_channels;
    predict_tile<T>(forest, {here, channel, plane, row}, plan.n_channels,
                    any_extra ? from_voxel(extra, z, y, x) : extra, box.shape, from_voxel(out, z, y, x));
  });
}

#define CRYOET_FOREST_OUTPUT(T)                                                                                        \
  template void predict_channels(const Forest&, const Channels<const float>&, const long[3], int, const Channels<T>&); \
  template void predict_block(const Forest&, const View3<const float>&, const Box&, const FeaturePlan&,                \
                              const Channels<const float>&, int, const Channels<T>&);
CRYOET_FOREST_OUTPUT(float)
CRYOET_FOREST_OUTPUT(std::uint8_t)
CRYOET_FOREST_OUTPUT(std::uint16_t)
#undef CRYOET_FOREST_OUTPUT

}  // namespace cryoet
