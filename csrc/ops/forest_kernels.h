// SPDX-License-Identifier: MIT
// The walk of a packet through one tree, compiled once for each instruction set (core/for_each_isa.h).

namespace cryoet {
namespace CRYOET_ISA {

// The lanes of 64 values that are <= t.
static inline __attribute__((always_inline)) std::uint64_t lanes_at_most(const float* values, float t) {
#if !defined(CRYOET_X86_DISPATCH)
  std::uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) mask |= static_cast<std::uint64_t>(values[i] <= t) << i;
  return mask;
#elif CRYOET_LANES == 16
  const __m512 limit = _mm512_set1_ps(t);
  std::uint64_t mask = 0;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    mask |= static_cast<std::uint64_t>(_mm512_cmp_ps_mask(_mm512_loadu_ps(values + 16 * i), limit, _CMP_LE_OQ))
            << 16 * i;
  return mask;
#elif CRYOET_LANES == 8
  const __m256 limit = _mm256_set1_ps(t);
  std::uint64_t mask = 0;
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(values + 8 * i), limit, _CMP_LE_OQ);
    mask |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_ps(low))) << 8 * i;
  }
  return mask;
#else
  const __m128 limit = _mm_set1_ps(t);
  std::uint64_t mask = 0;
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const __m128 low = _mm_cmple_ps(_mm_loadu_ps(values + 4 * i), limit);
    mask |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm_movemask_ps(low))) << 4 * i;
  }
  return mask;
#endif
}

// counts[lane] += 1 where the mask has a bit.
static inline __attribute__((always_inline)) void count_votes(std::uint8_t* counts, std::uint64_t mask) {
#if defined(CRYOET_X86_DISPATCH) && CRYOET_LANES == 16
  const __m512i old = _mm512_loadu_si512(counts);
  _mm512_storeu_si512(counts, _mm512_mask_add_epi8(old, mask, old, _mm512_set1_epi8(1)));
#elif defined(CRYOET_X86_DISPATCH) && CRYOET_LANES == 8
  const __m256i byte =
      _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(mask >> 32 * half)), byte);
    const __m256i chosen = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    __m256i* at = reinterpret_cast<__m256i*>(counts + 32 * half);
    _mm256_storeu_si256(at, _mm256_sub_epi8(_mm256_loadu_si256(at), chosen));
  }
#else
  for (; mask; mask &= mask - 1) ++counts[__builtin_ctzll(mask)];
#endif
}

// Send the lanes of `mask` down one tree and call leaf(row, lanes) for each leaf that any of them reaches. `stack`
// holds the depth of the tree and two more. Both children are written and only those with lanes are kept: the branch
// that would decide is what the processor cannot predict. A few lanes that have parted from the rest walk on alone.
template <class Leaf>
static inline __attribute__((always_inline)) void walk_packet(const TreeNode* tree, const float* features,
                                                              std::uint64_t mask, Pending* stack, const Leaf& leaf) {
  stack[0] = {mask, 0};
  long top = 1;
  while (top > 0) {
    const Pending here = stack[--top];
    const TreeNode node = tree[here.node];
    if (node.feature() == TreeNode::kLeaf) {
      leaf(node.child(), here.mask);
      continue;
    }
    if ((here.mask & (here.mask - 1)) == 0) {
      leaf(walk(tree, here.node, features + __builtin_ctzll(here.mask), Forest::kPacket), here.mask);
      continue;
    }
    const std::uint64_t low = lanes_at_most(features + node.feature() * Forest::kPacket, node.threshold);
    const std::uint64_t left = here.mask & low, right = here.mask & ~low;
    stack[top] = {right, node.child() + 1};
    top += right != 0;
    stack[top] = {left, node.child()};
    top += left != 0;
  }
}

// counts[class][64] of a run of trees whose leaves are pure; at most 255 trees.
static void vote(const TreeNode* nodes, const std::int64_t* tree_start, long n_trees, const std::int16_t* vote_of,
                 const float* features, std::uint64_t mask, Pending* stack, std::uint8_t* counts) {
  for (long t = 0; t < n_trees; ++t)
    walk_packet(nodes + tree_start[t], features, mask, stack, [&](std::uint32_t row, std::uint64_t lanes) {
      count_votes(counts + vote_of[row] * Forest::kPacket, lanes);
    });
}

// sums[class][64] += the leaf's frequencies, tree by tree in order.
static void add(const TreeNode* nodes, const std::int64_t* tree_start, long n_trees, const double* leaves,
                long n_classes, const float* features, std::uint64_t mask, Pending* stack, double* sums) {
  for (long t = 0; t < n_trees; ++t)
    walk_packet(nodes + tree_start[t], features, mask, stack, [&](std::uint32_t row, std::uint64_t lanes) {
      const double* frequency = leaves + row * n_classes;
      for (; lanes; lanes &= lanes - 1) {
        double* sum = sums + __builtin_ctzll(lanes);
        for (long k = 0; k < n_classes; ++k) sum[k * Forest::kPacket] += frequency[k];
      }
    });
}

static const ForestKernels forest_kernels{vote, add};

}  // namespace CRYOET_ISA
}  // namespace cryoet
