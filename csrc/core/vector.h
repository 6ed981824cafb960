// SPDX-License-Identifier: MIT
// A vector of CRYOET_LANES floats for the kernels of one instruction set; included by core/for_each_isa.h's files.
namespace cryoet {
namespace CRYOET_ISA {

typedef float vf __attribute__((vector_size(CRYOET_LANES * 4), aligned(4), may_alias));
static constexpr long kLanes = CRYOET_LANES;

static inline __attribute__((always_inline)) vf load(const float* p) { return *reinterpret_cast<const vf*>(p); }
static inline __attribute__((always_inline)) void store(float* p, vf v) { *reinterpret_cast<vf*>(p) = v; }

}  // namespace CRYOET_ISA
}  // namespace cryoet
