// SPDX-License-Identifier: MIT
// The walk of a packet through some trees, compiled once for each instruction set (core/for_each_isa.h).

namespace cryoet {
namespace CRYOET_ISA {

// AVX2 packs eight vectors of 32-bit answers into bytes within their 128-bit halves, which leaves the quads of lanes in
// this order; putting them right once a packet is cheaper than at every node.
#if defined(CRYOET_X86_DISPATCH) && CRYOET_LANES == 8
static constexpr std::uint8_t kQuads[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
#else
static constexpr std::uint8_t kQuads[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#endif

// The lanes of 64 values that are <= t, in the order of kQuads.
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
    mask |= static_cast<std::uint64_t>(_mm512_cmp_ps_mask(limit, _mm512_loadu_ps(values + 16 * i), _CMP_GE_OQ))
            << 16 * i;
  return mask;
#elif CRYOET_LANES == 8
  const __m256 limit = _mm256_set1_ps(t);
  const auto low = [&](int i) __attribute__((always_inline)) {
    return _mm256_castps_si256(_mm256_cmp_ps(limit, _mm256_loadu_ps(values + 8 * i), _CMP_GE_OQ));
  };
  std::uint64_t mask = 0;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(low(4 * i), low(4 * i + 1)),
                                             _mm256_packs_epi32(low(4 * i + 2), low(4 * i + 3)));
    mask |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes))) << 32 * i;
  }
  return mask;
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

// All 64 lanes down `n_trees` trees, one level after the other. Returns the end of scratch.leaves, where the lanes of
// each leaf that was reached are listed. Both children are always written and those with no lanes not counted: which
// way lanes go is what a processor cannot predict.
static inline __attribute__((always_inline)) const Arrival* walk_packet(const Branch* branches,
                                                                        const std::int32_t* roots, long n_trees,
                                                                        const float* features,
                                                                        Forest::Scratch& scratch) {
  Arrival *here = scratch.here.data(), *next = scratch.next.data(), *leaf = scratch.leaves.data();
  long n = 0;
  for (long t = 0; t < n_trees; ++t) {
    Arrival*& list = roots[t] < 0 ? leaf : here;
    *list++ = {~0ULL, roots[t], static_cast<std::uint32_t>(t)};
  }
  n = here - scratch.here.data();
  here = scratch.here.data();
  while (n > 0) {
    Arrival* inner = next;
    for (long i = 0; i < n; ++i) {
      const Branch* branch = branches + here[i].at;
      const std::uint64_t low = lanes_at_most(features + branch->values, branch->threshold);
      const std::uint64_t sent[2] = {here[i].lanes & low, here[i].lanes & ~low};
#pragma GCC unroll 2
      for (int side = 0; side < 2; ++side) {
        const std::int32_t at = branch->child[side];
        Arrival* to = at < 0 ? leaf : inner;
        to->lanes = sent[side];
        to->at = at;
        to->tree = here[i].tree;
        const long any = sent[side] != 0, ends = static_cast<std::uint32_t>(at) >> 31;
        leaf += any & ends;
        inner += any & ~ends;
      }
    }
    n = inner - next;
    std::swap(here, next);
  }
  return leaf;
}

static void vote(const Branch* branches, const std::int32_t* roots, long n_trees, const float* features,
                 Forest::Scratch& scratch) {
  const Arrival* end = walk_packet(branches, roots, n_trees, features, scratch);
  for (const Arrival* leaf = scratch.leaves.data(); leaf < end; ++leaf)
    count_votes(scratch.counts.data() + ~leaf->at * Forest::kPacket, leaf->lanes);
}

static void add(const Branch* branches, const std::int32_t* roots, long n_trees, const double* leaves, long stride,
                const float* features, Forest::Scratch& scratch) {
  typedef double Four __attribute__((vector_size(32), aligned(8), may_alias));
  const Arrival* end = walk_packet(branches, roots, n_trees, features, scratch);
  for (const Arrival* leaf = scratch.leaves.data(); leaf < end; ++leaf) {
    std::uint32_t* reached = scratch.reached.data() + leaf->tree * Forest::kPacket;
    for (std::uint64_t lanes = leaf->lanes; lanes; lanes &= lanes - 1) {
      const int bit = __builtin_ctzll(lanes);
      reached[kQuads[bit / 4] * 4 + bit % 4] = static_cast<std::uint32_t>(~leaf->at);
    }
  }
  for (long lane = 0; lane < Forest::kPacket; ++lane)
    for (long k = 0; k < stride; k += 4) {
      Four& sum = *reinterpret_cast<Four*>(scratch.sums.data() + lane * stride + k);
      Four total = sum;
      for (long t = 0; t < n_trees; ++t)
        total += *reinterpret_cast<const Four*>(leaves + scratch.reached[t * Forest::kPacket + lane] * stride + k);
      sum = total;
    }
}

static const ForestKernels forest_kernels{kQuads, vote, add};

}  // namespace CRYOET_ISA
}  // namespace cryoet
