// SPDX-License-Identifier: MIT
#include "ops/forest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"

namespace cryoet {
namespace {

struct ForestKernels {
  // Lane that bit 4i of a mask stands for is 4*quads[i]; the three after it follow.
  const std::uint8_t* quads;
  // counts[class][64] += 1 where a lane's leaf votes for the class; lanes in the order of the mask's bits.
  void (*vote)(const Branch*, const std::int32_t* roots, long n_trees, const float* features, Forest::Scratch&);
  // sums[64][stride] += the frequencies in the leaves that the lanes reach, tree by tree in order.
  void (*add)(const Branch*, const std::int32_t* roots, long n_trees, const double* leaves, long stride,
              const float* features, Forest::Scratch&);
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

// Every walk in a tree ends in a leaf that exists: children lie behind their parent.
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
               const std::vector<double>& leaves, int n_classes, int n_features)
    : n_classes_(n_classes), n_features_(n_features), leaf_stride_(round_up(n_classes, 4)) {
  check(n_classes >= 1 && n_classes <= kMaxClasses, "1 to 255 classes are possible");
  check(n_features >= 1 && n_features <= kMaxFeatures, "1 to 255 features are possible");
  check(tree_start.size() >= 2, "it has no trees");
  check(tree_start.front() == 0 && tree_start.back() == static_cast<std::int64_t>(nodes.size()),
        "its trees do not cover its nodes");
  check(nodes.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()), "it has too many nodes");
  check(!leaves.empty() && leaves.size() % n_classes == 0, "its leaves do not fit its classes");
  const std::int64_t n_leaves = leaves.size() / n_classes;
  for (double v : leaves) check(std::isfinite(v) && v >= 0.0 && v <= 1.0, "a leaf has a frequency outside 0..1");

  std::vector<std::int32_t> leaf_of_row(n_leaves);  // the class while all leaves are pure
  bool pure = true;
  for (std::int64_t row = 0; row < n_leaves && pure; ++row) {
    const double* leaf = leaves.data() + row * n_classes;
    leaf_of_row[row] = static_cast<std::int32_t>(std::max_element(leaf, leaf + n_classes) - leaf);
    pure = leaf[leaf_of_row[row]] == 1.0 && std::count(leaf, leaf + n_classes, 0.0) == n_classes - 1;
  }
  const double n_trees = static_cast<double>(tree_start.size() - 1);
  if (pure) {
    for (double votes = 0; votes <= n_trees; ++votes) share_.push_back(static_cast<float>(votes / n_trees));
  } else {
    std::iota(leaf_of_row.begin(), leaf_of_row.end(), 0);
    leaves_.resize(n_leaves * leaf_stride_);
    for (std::int64_t row = 0; row < n_leaves; ++row)
      std::copy_n(leaves.data() + row * n_classes, n_classes, leaves_.data() + row * leaf_stride_);
  }

  std::vector<std::int32_t> place;  // of a tree's nodes, as Branch::child
  for (std::size_t t = 0; t + 1 < tree_start.size(); ++t) {
    const std::string name = "tree " + std::to_string(t);
    const std::int64_t first = tree_start[t], n = tree_start[t + 1] - first;
    check(n >= 1 && n <= (1 << 24) && first >= 0 && first + n <= static_cast<std::int64_t>(nodes.size()),
          name + " has no nodes or too many");
    const TreeNode* tree = nodes.data() + first;
    check_tree(tree, n, n_leaves, n_features, name);
    place.resize(n);
    std::int32_t next = static_cast<std::int32_t>(branches_.size());
    for (std::int64_t i = 0; i < n; ++i)
      place[i] = tree[i].feature() == TreeNode::kLeaf ? ~leaf_of_row[tree[i].child()] : next++;
    for (std::int64_t i = 0; i < n; ++i)
      if (place[i] >= 0)
        branches_.push_back({tree[i].threshold,
                             tree[i].feature() * static_cast<std::uint32_t>(kPacket),
                             {place[tree[i].child()], place[tree[i].child() + 1]}});
    roots_.push_back(place[0]);
  }
}

Forest::Scratch::Scratch(const Forest& forest)
    : here(kPacket * kTogether + 2), next(here.size()), leaves(here.size()) {  // two more: written before they count
  if (forest.leaves_.empty()) {
    counts.resize(forest.n_classes_ * kPacket);
    totals.resize(counts.size());
  } else {
    reached.resize(kPacket * kTogether);
    sums.resize(kPacket * forest.leaf_stride_);
  }
}

void Forest::predict_packet(const float* features, float* out, Scratch& scratch) const {
  if (leaves_.empty())
    vote(features, out, scratch);
  else
    average(features, out, scratch);
}

void Forest::vote(const float* features, float* out, Scratch& scratch) const {
  const ForestKernels& kernels = CRYOET_DISPATCH(forest_kernels);
  const long n_trees = static_cast<long>(roots_.size());
  std::fill(scratch.totals.begin(), scratch.totals.end(), 0u);
  constexpr long kRun = 255 / kTogether * kTogether;  // a byte counts no further
  for (long run = 0; run < n_trees; run += kRun) {
    std::fill(scratch.counts.begin(), scratch.counts.end(), std::uint8_t{0});
    const long end = std::min(n_trees, run + kRun);
    for (long first = run; first < end; first += kTogether)
      kernels.vote(branches_.data(), roots_.data() + first, std::min(kTogether, end - first), features, scratch);
    for (std::size_t i = 0; i < scratch.totals.size(); ++i) scratch.totals[i] += scratch.counts[i];
  }
  for (long k = 0; k < n_classes_; ++k)
    for (long quad = 0; quad < kPacket / 4; ++quad)
      for (long i = 0; i < 4; ++i)
        out[k * kPacket + kernels.quads[quad] * 4 + i] = share_[scratch.totals[k * kPacket + quad * 4 + i]];
}

void Forest::average(const float* features, float* out, Scratch& scratch) const {
  const ForestKernels& kernels = CRYOET_DISPATCH(forest_kernels);
  const long n_trees = static_cast<long>(roots_.size());
  std::fill(scratch.sums.begin(), scratch.sums.end(), 0.0);
  for (long first = 0; first < n_trees; first += kTogether)
    kernels.add(branches_.data(), roots_.data() + first, std::min(kTogether, n_trees - first), leaves_.data(),
                leaf_stride_, features, scratch);
  for (long k = 0; k < n_classes_; ++k)
    for (long i = 0; i < kPacket; ++i)
      out[k * kPacket + i] = static_cast<float>(scratch.sums[i * leaf_stride_ + k] / static_cast<double>(n_trees));
}

void predict_rows(const Forest& forest, const float* rows, long n, int threads, float* out) {
  constexpr long kPacket = Forest::kPacket, kRun = 16 * kPacket;
  const long n_features = forest.n_features(), n_classes = forest.n_classes();
  parallel_for((n + kRun - 1) / kRun, threads, [&](long run) {
    std::vector<float> packet(n_features * kPacket), proba(n_classes * kPacket);
    Forest::Scratch scratch(forest);
    for (long first = run * kRun; first < std::min(n, (run + 1) * kRun); first += kPacket) {
      const long valid = std::min(kPacket, n - first);
      for (long i = 0; i < kPacket; ++i)  // lanes past the end repeat the last row
        for (long f = 0; f < n_features; ++f)
          packet[f * kPacket + i] = rows[(first + std::min(i, valid - 1)) * n_features + f];
      forest.predict_packet(packet.data(), proba.data(), scratch);
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

// One channel of the brick at `from`, whose last voxel inside the box is at `last` (z, y, x). Voxels beyond it repeat
// those before: lanes that agree cost next to nothing, and nobody reads their answer.
void gather(const float* from, long stride_z, long stride_y, const long last[3], float* to) {
  const bool whole_rows = last[2] == 3;
  for (long z = 0; z < 4; ++z)
    for (long y = 0; y < 4; ++y, to += 4) {
      const float* row = from + std::min(z, last[0]) * stride_z + std::min(y, last[1]) * stride_y;
      if (whole_rows)
        std::memcpy(to, row, 4 * sizeof(float));
      else
        for (long x = 0; x < 4; ++x) to[x] = row[std::min(x, last[2])];
    }
}

// Features of one box in, probabilities out, brick by brick. `own` holds the first n_own channels, `extra` the others.
template <class T>
void predict_tile(const Forest& forest, const Channels<const float>& own, long n_own,
                  const Channels<const float>& extra, const long shape[3], const Channels<T>& out) {
  constexpr long kPacket = Forest::kPacket;
  const long n_features = forest.n_features(), n_classes = forest.n_classes();
  std::vector<float> packet(n_features * kPacket), proba(n_classes * kPacket);
  Forest::Scratch scratch(forest);
  for (long z = 0; z < shape[0]; z += 4)
    for (long y = 0; y < shape[1]; y += 4)
      for (long x = 0; x < shape[2]; x += 4) {
        const long last[3] = {std::min(4L, shape[0] - z) - 1, std::min(4L, shape[1] - y) - 1,
                              std::min(4L, shape[2] - x) - 1};
        for (long f = 0; f < n_features; ++f) {
          const Channels<const float>& from = f < n_own ? own : extra;
          gather(from.row(f < n_own ? f : f - n_own, z, y) + x, from.stride_z, from.stride_y, last,
                 packet.data() + f * kPacket);
        }
        forest.predict_packet(packet.data(), proba.data(), scratch);
        for (long k = 0; k < n_classes; ++k)
          for (long dz = 0; dz <= last[0]; ++dz)
            for (long dy = 0; dy <= last[1]; ++dy)
              for (long dx = 0; dx <= last[2]; ++dx)
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
