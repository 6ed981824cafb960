// SPDX-License-Identifier: MIT
// The walk of a packet through a few trees, compiled once for each instruction set (core/for_each_isa.h).

namespace cryoet {
namespace CRYOET_ISA {

// The lanes of 64 values that are <= t, one bit each; which lane a bit stands for is up to the instruction set.
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
  const auto low = [&](int i) __attribute__((always_inline)) {
    return _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(values + 8 * i), limit, _CMP_LE_OQ));
  };
  // Four comparisons become 32 bytes: fewer instructions than eight masks put together.
  const auto bytes = [&](int i) __attribute__((always_inline)) {
    return _mm256_packs_epi16(_mm256_packs_epi32(low(i), low(i + 1)), _mm256_packs_epi32(low(i + 2), low(i + 3)));
  };
  const std::uint32_t first = static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes(0)));
  const std::uint32_t second = static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes(4)));
  return first | static_cast<std::uint64_t>(second) << 32;
#else
  const __m128 limit = _mm_set1_ps(t);
  const auto low = [&](int i) __attribute__((always_inline)) {
    return _mm_castps_si128(_mm_cmple_ps(_mm_loadu_ps(values + 4 * i), limit));
  };
  std::uint64_t mask = 0;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m128i bytes =
        _mm_packs_epi16(_mm_packs_epi32(low(4 * i), low(4 * i + 1)), _mm_packs_epi32(low(4 * i + 2), low(4 * i + 3)));
    mask |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm_movemask_epi8(bytes))) << 16 * i;
  }
  return mask;
#endif
}

// AVX2 packs the halves of its registers apart: within 32 bits, quads of lanes stand in the order 0 2 4 6 1 3 5 7.
static inline int lane_of_bit(int bit) {
#if defined(CRYOET_X86_DISPATCH) && CRYOET_LANES == 8
  const int quad = bit >> 2 & 7;
  return (bit & ~28) | ((quad & 3) << 1 | quad >> 2) << 2;
#else
  return bit;
#endif
}

// counts[bit] += 1 where the mask has a bit.
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

// Send all lanes down `n_trees` trees, level by level; leaf(lanes, child, tree) hears of every child: it counts
// if it is a leaf and there are lanes. No branch depends on data: both children are written, and the list grows by one,
// two or none. (Walking few lanes alone would visit fewer nodes, and costs twice as much in branches mispredicted.)
template <class Leaf>
static inline __attribute__((always_inline)) void descend(const WalkNode* nodes, const std::int32_t* roots,
                                                          long n_trees, const float* features, Visit* now, Visit* next,
                                                          const Leaf& leaf) {
  long n = 0;
  for (long t = 0; t < n_trees; ++t) {
    const std::int32_t root = roots[t];
    now[n] = {~0ULL, root, static_cast<std::int32_t>(t)};
    leaf(~0ULL, root, static_cast<std::int32_t>(t));
    n += root >= 0;
  }
  while (n > 0) {
    Visit* to = next;
    for (long i = 0; i < n; ++i) {
      const Visit here = now[i];
      const WalkNode node = nodes[here.node];
      const std::uint64_t low = lanes_at_most(features + node.feature, node.threshold);
      const auto send = [&](std::uint64_t lanes, std::int32_t child) __attribute__((always_inline)) {
        // Written twice, not copied: a copy would wait for the first to arrive in the cache.
        to->mask = lanes, to->node = child, to->tree = here.tree;
        leaf(lanes, child, here.tree);
        to += (lanes != 0) & (child >= 0);
      };
      send(here.mask & low, node.left);
      send(here.mask & ~low, node.right);
    }
    n = to - next;
    std::swap(now, next);
  }
}

// counts[class][lane] += the votes of trees whose leaves are pure (~child is the class).
static void vote(const WalkNode* nodes, const std::int32_t* roots, long n_trees, const float* features, long n_classes,
                 WalkScratch& scratch, std::uint32_t* counts) {
  std::uint8_t* bytes = scratch.votes;
  for (long first = 0; first < n_trees; first += 250) {  // a byte counts to 255
    std::memset(bytes, 0, n_classes * Forest::kPacket);
    for (long t = first; t < std::min(first + 250, n_trees); t += kTreesAtOnce) {
      Visit* end = scratch.leaves;
      descend(nodes, roots + t, std::min(kTreesAtOnce, n_trees - t), features, scratch.now, scratch.next,
              [&](std::uint64_t lanes, std::int32_t child, std::int32_t) __attribute__((always_inline)) {
                end->mask = lanes, end->node = child;
                end += (lanes != 0) & (child < 0);
              });
      for (const Visit* at = scratch.leaves; at < end; ++at) count_votes(bytes + ~at->node * Forest::kPacket, at->mask);
    }
    for (long k = 0; k < n_classes; ++k)
      for (int bit = 0; bit < 64; ++bit)
        counts[k * Forest::kPacket + lane_of_bit(bit)] += bytes[k * Forest::kPacket + bit];
  }
}

// sums[lane][class] += the frequencies of each tree's leaf, tree by tree in order.
static void add(const WalkNode* nodes, const std::int32_t* roots, long n_trees, const float* features,
                const double* leaves, long n_classes, WalkScratch& scratch, double* sums) {
  for (long t = 0; t < n_trees; t += kTreesAtOnce) {
    const long here = std::min(kTreesAtOnce, n_trees - t);
    Visit* end[kTreesAtOnce];
    for (long k = 0; k < here; ++k) end[k] = scratch.leaves + k * kLeavesOfTree;
    descend(nodes, roots + t, here, features, scratch.now, scratch.next,
            [&](std::uint64_t lanes, std::int32_t child, std::int32_t tree) __attribute__((always_inline)) {
              end[tree]->mask = lanes, end[tree]->node = child;
              end[tree] += (lanes != 0) & (child < 0);
            });
    for (long k = 0; k < here; ++k)
      for (const Visit* at = scratch.leaves + k * kLeavesOfTree; at < end[k]; ++at) {
        const double* frequency = leaves + ~at->node * n_classes;
        for (std::uint64_t lanes = at->mask; lanes; lanes &= lanes - 1) {
          double* sum = sums + lane_of_bit(__builtin_ctzll(lanes)) * n_classes;
          for (long c = 0; c < n_classes; ++c) sum[c] += frequency[c];
        }
      }
  }
}

static const ForestKernels forest_kernels{vote, add};

}  // namespace CRYOET_ISA
}  // namespace cryoet
