// SPDX-License-Identifier: MIT
// ops/forest.h on CUDA: the soft vote of a random forest, bit for bit the CPU's.
//
// A block takes a brick of voxels, one a thread. Their features lie channel-major in shared memory, so that a warp's
// threads meet 32 different banks whatever feature each of them asks for. Warps are 2 x 4 x 4 voxels, since neighbours
// mostly walk the same way. Every thread walks down four trees at a time: a step waits for two loads, and the four do
// not wait for each other. A node is one load of 8 bytes.
// Trees whose leaves are all pure count votes, 16 bits a class packed into registers, and look the share up; others add
// the leaves' float64 frequencies tree by tree in order, divide once and round once.
// Cost of a voxel: 4 bytes read a feature, 1 to 4 bytes written a class, and the node visits (easy 683, hard 1620 for
// 100 trees), each about ten instructions, 8 bytes from L1 or L2 and 4 from shared memory.
#include "core/platform.h"
#include "voxel/tree_node.h"

namespace cryoet {

struct alignas(8) AlignedNode {
  TreeNode node;
};

struct ForestJob {
  const float* features;  // channel f of voxel (z, y, x) at f * channel + (z * shape[1] + y) * shape[2] + x
  long long channel;
  int shape[3];
  int n_features;
  const AlignedNode* nodes;
  const int* tree_start;  // first node of each tree
  int n_trees;
  int n_classes;
  const float* share;    // pure leaves (their `child` is the class): votes -> probability
  const double* leaves;  // others: [row][class]
  void* out;             // [class][z][y][x]
  int out_unit;          // 0: float32; 255, 65535: uint8, uint16 that mean one
  int warps[3];          // of a brick
};

namespace {

constexpr int kTrees = 4;                          // walked at a time
constexpr int kWarpZ = 2, kWarpY = 4, kWarpX = 4;  // voxels

// Sums of a few classes stay in registers, which takes loops of known length.
template <int kClasses>
constexpr int kUnroll = kClasses <= 16 ? kClasses : 1;

// Votes of up to 65535 trees for `kClasses` classes.
template <int kClasses>
struct Votes {
  static constexpr int kWords = (kClasses + 3) / 4;
  unsigned long long words[kWords];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] = 0;
  }
  __device__ __forceinline__ void add(unsigned k) {
    const unsigned long long one = 1ull << (16 * (k & 3u));
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] += kWords == 1 || k / 4 == static_cast<unsigned>(w) ? one : 0ull;
  }
  __device__ __forceinline__ unsigned count(int k) const {
    unsigned long long word = words[0];
#pragma unroll
    for (int w = 1; w < kWords; ++w)
      if (k / 4 == w) word = words[w];
    return static_cast<unsigned>(word >> (16 * (k & 3))) & 0xffffu;
  }
};

// More classes than registers hold: memory of the thread's own.
template <>
struct Votes<255> {
  unsigned short counts[255];

  __device__ __forceinline__ void clear() {
    for (int k = 0; k < 255; ++k) counts[k] = 0;
  }
  __device__ __forceinline__ void add(unsigned k) { ++counts[k]; }
  __device__ __forceinline__ unsigned count(int k) const { return counts[k]; }
};

__device__ __forceinline__ void store(const ForestJob& job, int k, long long voxel, float probability) {
  const long long i = k * (static_cast<long long>(job.shape[0]) * job.shape[1] * job.shape[2]) + voxel;
  if (job.out_unit == 0) {
    static_cast<float*>(job.out)[i] = probability;
    return;
  }
  const float unit = static_cast<float>(job.out_unit), stored = rintf(probability * unit);  // as volume.quantise
  const float most = stored < unit ? stored : unit;
  if (job.out_unit == 255)
    static_cast<unsigned char*>(job.out)[i] = static_cast<unsigned char>(most);
  else
    static_cast<unsigned short*>(job.out)[i] = static_cast<unsigned short>(most);
}

// leaf(child) for each tree in order; `features` are this thread's, `stride` apart.
template <class Leaf>
__device__ __forceinline__ void walk_trees(const ForestJob& job, const float* features, int stride, const Leaf& leaf) {
  for (int first = 0; first < job.n_trees; first += kTrees) {
    const AlignedNode* tree[kTrees];
    TreeNode at[kTrees];
#pragma unroll
    for (int j = 0; j < kTrees; ++j) {
      tree[j] = job.nodes + job.tree_start[first + j < job.n_trees ? first + j : first];
      at[j] = tree[j][0].node;
    }
    for (bool walking = true; walking;) {
      walking = false;
#pragma unroll
      for (int j = 0; j < kTrees; ++j)
        if (at[j].feature() != TreeNode::kLeaf) {
          const bool left = features[at[j].feature() * stride] <= at[j].threshold;
          at[j] = tree[j][at[j].child() + (left ? 0u : 1u)].node;
          walking = true;
        }
    }
#pragma unroll
    for (int j = 0; j < kTrees; ++j)
      if (first + j < job.n_trees) leaf(at[j].child());
  }
}

// Where this thread's voxel lies; false where the brick sticks out of the core. Loads the brick's features.
__device__ __forceinline__ bool load_brick(const ForestJob& job, float* brick, long long& voxel) {
  const int n = blockDim.x, t = threadIdx.x, warp = t / 32, lane = t % 32;
  const int warp_z = warp / (job.warps[1] * job.warps[2]), warp_y = warp / job.warps[2] % job.warps[1],
            warp_x = warp % job.warps[2];
  const int z = (blockIdx.z * job.warps[0] + warp_z) * kWarpZ + lane / (kWarpY * kWarpX);
  const int y = (blockIdx.y * job.warps[1] + warp_y) * kWarpY + lane / kWarpX % kWarpY;
  const int x = (blockIdx.x * job.warps[2] + warp_x) * kWarpX + lane % kWarpX;
  // Beyond the core the last voxel is repeated, and nothing written.
  const int last_z = job.shape[0] - 1, last_y = job.shape[1] - 1, last_x = job.shape[2] - 1;
  const int from_z = z < last_z ? z : last_z, from_y = y < last_y ? y : last_y, from_x = x < last_x ? x : last_x;
  voxel = (static_cast<long long>(from_z) * job.shape[1] + from_y) * job.shape[2] + from_x;
  // Each thread reads its own column only: no barrier is needed.
  for (int f = 0; f < job.n_features; ++f) brick[f * n + t] = job.features[f * job.channel + voxel];
  return z <= last_z && y <= last_y && x <= last_x;
}

template <int kClasses>
__device__ __forceinline__ void vote(const ForestJob& job) {
  CRYOET_DYNAMIC_SHARED(float, brick);
  long long voxel;
  const bool inside = load_brick(job, brick, voxel);
  Votes<kClasses> votes;
  votes.clear();
  walk_trees(job, brick + threadIdx.x, blockDim.x, [&](unsigned k) { votes.add(k); });
  if (!inside) return;
#pragma unroll kUnroll < kClasses>
  for (int k = 0; k < kClasses; ++k)
    if (k < job.n_classes) store(job, k, voxel, job.share[votes.count(k)]);
}

template <int kClasses>
__device__ __forceinline__ void add(const ForestJob& job) {
  CRYOET_DYNAMIC_SHARED(float, brick);
  long long voxel;
  const bool inside = load_brick(job, brick, voxel);
  double sum[kClasses];
#pragma unroll kUnroll < kClasses>
  for (int k = 0; k < kClasses; ++k) sum[k] = 0.0;
  walk_trees(job, brick + threadIdx.x, blockDim.x, [&](unsigned row) {
    const double* frequency = job.leaves + static_cast<long long>(row) * job.n_classes;
#pragma unroll kUnroll < kClasses>
    for (int k = 0; k < kClasses; ++k)
      if (k < job.n_classes) sum[k] += frequency[k];
  });
  if (!inside) return;
#pragma unroll kUnroll < kClasses>
  for (int k = 0; k < kClasses; ++k)
    if (k < job.n_classes) store(job, k, voxel, static_cast<float>(sum[k] / static_cast<double>(job.n_trees)));
}

}  // namespace

// By the most classes there may be; more than 16 are rare and take the thread's own memory.
extern "C" __global__ void __launch_bounds__(256) forest_vote_4(ForestJob job) { vote<4>(job); }
extern "C" __global__ void __launch_bounds__(256) forest_vote_16(ForestJob job) { vote<16>(job); }
extern "C" __global__ void __launch_bounds__(256) forest_vote_255(ForestJob job) { vote<255>(job); }
extern "C" __global__ void __launch_bounds__(256) forest_add_4(ForestJob job) { add<4>(job); }
extern "C" __global__ void __launch_bounds__(256) forest_add_16(ForestJob job) { add<16>(job); }
extern "C" __global__ void __launch_bounds__(256) forest_add_255(ForestJob job) { add<255>(job); }

}  // namespace cryoet
