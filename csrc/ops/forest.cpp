// SPDX-License-Identifier: MIT
#include "ops/forest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"

namespace cryoet {
namespace {

// Lanes that still have to go on from a node.
struct Pending {
  std::uint64_t mask;
  std::uint32_t node;
};

struct ForestKernels {
  void (*vote)(const TreeNode*, const std::int64_t* tree_start, long n_trees, const std::int16_t* vote_of,
               const float* features, std::uint64_t mask, Pending* stack, std::uint8_t* counts);
  void (*add)(const TreeNode*, const std::int64_t* tree_start, long n_trees, const double* leaves, long n_classes,
              const float* features, std::uint64_t mask, Pending* stack, double* sums);
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

// Depth of a tree, after checking that every walk in it ends in a leaf that exists: children lie behind their parent.
long checked_depth(const TreeNode* tree, std::int64_t n, std::int64_t n_leaves, int n_features,
                   const std::string& name) {
  std::vector<std::int32_t> depth(n, 0);
  std::int32_t deepest = 0;
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
    depth[child] = std::max(depth[child], depth[i] + 1);
    depth[child + 1] = std::max(depth[child + 1], depth[i] + 1);
    deepest = std::max(deepest, depth[i] + 1);
  }
  return deepest;
}

}  // namespace

Forest::Forest(std::vector<TreeNode> nodes, std::vector<std::int64_t> tree_start, std::vector<double> leaves,
               int n_classes, int n_features)
    : nodes_(std::move(nodes)),
      tree_start_(std::move(tree_start)),
      leaves_(std::move(leaves)),
      n_classes_(n_classes),
      n_features_(n_features) {
  check(n_classes >= 1 && n_classes <= kMaxClasses, "1 to 255 classes are possible");
  check(n_features >= 1 && n_features <= kMaxFeatures, "1 to 255 features are possible");
  check(tree_start_.size() >= 2, "it has no trees");
  check(tree_start_.front() == 0 && tree_start_.back() == static_cast<std::int64_t>(nodes_.size()),
        "its trees do not cover its nodes");
  check(!leaves_.empty() && leaves_.size() % n_classes == 0, "its leaves do not fit its classes");
  const std::int64_t n_leaves = leaves_.size() / n_classes;
  for (double v : leaves_) check(std::isfinite(v) && v >= 0.0 && v <= 1.0, "a leaf has a frequency outside 0..1");
  for (std::size_t t = 0; t + 1 < tree_start_.size(); ++t) {
    const std::string name = "tree " + std::to_string(t);
    const std::int64_t first = tree_start_[t], n = tree_start_[t + 1] - first;
    check(n >= 1 && n <= (1 << 24) && first >= 0 && first + n <= static_cast<std::int64_t>(nodes_.size()),
          name + " has no nodes or too many");
    depth_ = std::max(depth_, checked_depth(nodes_.data() + first, n, n_leaves, n_features, name));
  }
  for (std::int64_t row = 0; row < n_leaves; ++row) {
    const double* leaf = leaves_.data() + row * n_classes;
    const long top = std::max_element(leaf, leaf + n_classes) - leaf;
    const bool pure = leaf[top] == 1.0 && std::count(leaf, leaf + n_classes, 0.0) == n_classes - 1;
    vote_.push_back(pure ? static_cast<std::int16_t>(top) : std::int16_t{-1});
    pure_ = pure_ && pure;
  }
  const double n_trees = static_cast<double>(tree_start_.size() - 1);
  for (double votes = 0; votes <= n_trees; ++votes) share_.push_back(static_cast<float>(votes / n_trees));
}

namespace {

std::size_t stack_bytes(long depth) { return (depth + 2) * sizeof(Pending); }

}  // namespace

std::size_t Forest::scratch_bytes() const {
  return stack_bytes(depth_) + n_classes_ * kPacket * (sizeof(double) + sizeof(std::uint8_t));
}

void Forest::predict_packet(const float* features, std::uint64_t mask, float* out, void* scratch) const {
  Pending* stack = static_cast<Pending*>(scratch);
  double* sums = reinterpret_cast<double*>(static_cast<char*>(scratch) + stack_bytes(depth_));
  const long n_trees = static_cast<long>(tree_start_.size()) - 1, n = n_classes_ * kPacket;
  const ForestKernels& kernels = CRYOET_DISPATCH(forest_kernels);
  if (!pure_) {
    std::fill(sums, sums + n, 0.0);
    kernels.add(nodes_.data(), tree_start_.data(), n_trees, leaves_.data(), n_classes_, features, mask, stack, sums);
    for (long i = 0; i < n; ++i) out[i] = static_cast<float>(sums[i] / static_cast<double>(n_trees));
    return;
  }
  std::uint8_t* counts = reinterpret_cast<std::uint8_t*>(sums + n);
  std::uint32_t* total = reinterpret_cast<std::uint32_t*>(sums);
  std::fill(total, total + n, 0u);
  for (long first = 0; first < n_trees; first += 255) {  // a byte counts no further
    std::fill(counts, counts + n, std::uint8_t{0});
    kernels.vote(nodes_.data(), tree_start_.data() + first, std::min(255L, n_trees - first), vote_.data(), features,
                 mask, stack, counts);
    for (long i = 0; i < n; ++i) total[i] += counts[i];
  }
  for (long i = 0; i < n; ++i) out[i] = share_[total[i]];
}

void predict_rows(const Forest& forest, const float* rows, long n, int threads, float* out) {
  constexpr long kPacket = Forest::kPacket, kRun = 16 * kPacket;
  const long n_features = forest.n_features(), n_classes = forest.n_classes();
  parallel_for((n + kRun - 1) / kRun, threads, [&](long run) {
    std::vector<float> packet(n_features * kPacket), proba(n_classes * kPacket);
    std::vector<double> scratch(forest.scratch_bytes() / sizeof(double) + 1);
    for (long first = run * kRun; first < std::min(n, (run + 1) * kRun); first += kPacket) {
      const long valid = std::min(kPacket, n - first);
      for (long i = 0; i < valid; ++i)
        for (long f = 0; f < n_features; ++f) packet[f * kPacket + i] = rows[(first + i) * n_features + f];
      forest.predict_packet(packet.data(), valid == kPacket ? ~0ULL : (1ULL << valid) - 1, proba.data(),
                            scratch.data());
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
// Bricks that stick out of the box repeat its last voxels in lanes that are masked out.
template <class T>
void predict_tile(const Forest& forest, const Channels<const float>& own, long n_own,
                  const Channels<const float>& extra, const long shape[3], const Channels<T>& out) {
  constexpr long kPacket = Forest::kPacket;
  const long n_features = forest.n_features(), n_classes = forest.n_classes();
  std::vector<float> packet(n_features * kPacket), proba(n_classes * kPacket);
  std::vector<double> scratch(forest.scratch_bytes() / sizeof(double) + 1);
  for (long z = 0; z < shape[0]; z += 4)
    for (long y = 0; y < shape[1]; y += 4)
      for (long x = 0; x < shape[2]; x += 4) {
        const long nz = std::min(4L, shape[0] - z), ny = std::min(4L, shape[1] - y), nx = std::min(4L, shape[2] - x);
        std::uint64_t mask = 0;
        for (long dz = 0; dz < nz; ++dz)
          for (long dy = 0; dy < ny; ++dy) mask |= ((1ULL << nx) - 1) << (dz * 16 + dy * 4);
        for (long f = 0; f < n_features; ++f)
          for (long dz = 0; dz < 4; ++dz)
            for (long dy = 0; dy < 4; ++dy) {
              const long from_z = z + std::min(dz, nz - 1), from_y = y + std::min(dy, ny - 1);
              const float* from = (f < n_own ? own.row(f, from_z, from_y) : extra.row(f - n_own, from_z, from_y)) + x;
              float* to = packet.data() + f * kPacket + dz * 16 + dy * 4;
              for (long dx = 0; dx < 4; ++dx) to[dx] = from[std::min(dx, nx - 1)];
            }
        forest.predict_packet(packet.data(), mask, proba.data(), scratch.data());
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
