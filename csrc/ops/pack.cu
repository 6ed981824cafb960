// SPDX-License-Identifier: MIT
// What the renderer's textures hold, made where the data lie: render/packing.py does the same on the CPU.
//
// pack_texels interleaves up to four channels, each quantised to 8 or 16 bit as volume.quantise does. The raw volume's
// channel comes low-passed, from spread_raw and the passes of separable.cu: spread_raw repeats the volume's faces as
// far as the taps reach, so that those passes, which mirror at borders, never come to one (transfer.RawRamp filters
// with scipy's mode="nearest").
// Cost: memory. A texel is one read a channel and one write; a raw voxel one read and a write of float32.
#include "core/field.h"
#include "voxel/blend_weight.h"
#include "voxel/float_bits.h"

namespace cryoet {

// Types of raw voxels, as cuda/texels.py counts them.
enum RawType { kUInt8, kInt8, kUInt16, kInt16, kFloat16, kFloat32 };

struct RawSpread {
  const void* voxels;   // slices from `first` on: as many as `out` reaches of the volume
  long long stride[3];  // between voxels, (z, y, x)
  int type;             // RawType
  int first;
  int length[3];    // of the volume
  DeviceField out;  // reaches beyond the volume where it likes
  float zero;       // grey value that becomes 0, as does what is not finite
  int core_start;   // the slices whose voxels that are not finite are counted
  int core_stop;    // the slice behind them
  unsigned* nonfinite;
};

struct TexelPack {
  const float* raw;        // first channel, C order, or null: the first channel is a class as well
  float raw_range;         // value of `raw` that becomes 1; may be negative
  const void* classes[4];  // first probability by channel, or null: the channel is 0
  long long stride[3];     // between probabilities, (z, y, x)
  int bytes;               // of a probability: 1 (one is 255), 2 (one is 65535) or 4 (float32)
  int shape[3];            // texels, (z, y, x)
  int channels;            // 1, 2 or 4
  int bits;                // of a channel, 8 or 16
  void* texels;            // C order, aligned to a texel
  unsigned* nonfinite;     // probabilities that are not finite are counted; they become 0
};

namespace {

constexpr int kColumns = 32;  // of a block, along x
constexpr int kRows = 8;

CRYOET_HD bool is_finite(float v) { return (bits_of_float(v) & 0x7f800000u) != 0x7f800000u; }

CRYOET_HD int within(int i, int length) { return i < 0 ? 0 : i < length ? i : length - 1; }

template <class T>
CRYOET_HD T read(const void* values, long long at) {
  return static_cast<const T*>(values)[at];
}

CRYOET_HD float raw_value(const void* voxels, int type, long long at) {
  switch (type) {
    case kUInt8:
      return read<std::uint8_t>(voxels, at);
    case kInt8:
      return read<signed char>(voxels, at);
    case kUInt16:
      return read<std::uint16_t>(voxels, at);
    case kInt16:
      return read<short>(voxels, at);
    case kFloat16:
      return value_of(read<Float16>(voxels, at));
    default:
      return read<float>(voxels, at);
  }
}

CRYOET_HD int level_of_float(float probability, int bits) {
  return stored_level(probability_of(probability), bits == 8 ? 255.0f : 65535.0f);
}

}  // namespace

// blockDim is 32 x 8; grid: x, y, z of `out`.
extern "C" __global__ void __launch_bounds__(kColumns* kRows) spread_raw(RawSpread job) {
  const int column = blockIdx.x * kColumns + threadIdx.x, row = blockIdx.y * kRows + threadIdx.y;
  if (column >= job.out.shape[2] || row >= job.out.shape[1]) return;
  const int x = column + job.out.start[2], y = row + job.out.start[1], z = blockIdx.z + job.out.start[0];
  const int from_x = within(x, job.length[2]), from_y = within(y, job.length[1]), from_z = within(z, job.length[0]);
  const long long at = (from_z - job.first) * job.stride[0] + from_y * job.stride[1] + from_x * job.stride[2];
  const float value = raw_value(job.voxels, job.type, at);
  const bool finite = is_finite(value), own = x == from_x && y == from_y && z >= job.core_start && z < job.core_stop;
  job.out.data[job.out.at(z, y, x)] = finite ? value - job.zero : 0.0f;
  if (!finite && own) atomicAdd(job.nonfinite, 1u);
}

// blockDim is 32 x 8; grid: x, y, z of the texels.
extern "C" __global__ void __launch_bounds__(kColumns* kRows) pack_texels(TexelPack job) {
  const int x = blockIdx.x * kColumns + threadIdx.x, y = blockIdx.y * kRows + threadIdx.y, z = blockIdx.z;
  if (x >= job.shape[2] || y >= job.shape[1]) return;
  const long long texel = (static_cast<long long>(z) * job.shape[1] + y) * job.shape[2] + x;
  const long long at = z * job.stride[0] + y * job.stride[1] + x * job.stride[2];
  unsigned long long packed = 0;
  unsigned bad = 0;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    int level = 0;
    if (c == 0 && job.raw) {
      level = level_of_float(job.raw[texel] / job.raw_range, job.bits);
    } else if (job.classes[c] && job.bytes == 1) {
      const int stored = read<std::uint8_t>(job.classes[c], at);
      level = job.bits == 8 ? stored : 257 * stored;
    } else if (job.classes[c] && job.bytes == 2) {
      const int stored = read<std::uint16_t>(job.classes[c], at);
      level = job.bits == 8 ? (stored + 128) / 257 : stored;
    } else if (job.classes[c]) {
      const float probability = read<float>(job.classes[c], at);
      const bool finite = is_finite(probability);
      level = finite ? level_of_float(probability, job.bits) : 0;
      bad += !finite;
    }
    packed |= static_cast<unsigned long long>(level) << (c * job.bits);
  }
  if (bad) atomicAdd(job.nonfinite, bad);
  switch (job.channels * job.bits) {
    case 8:
      static_cast<std::uint8_t*>(job.texels)[texel] = static_cast<std::uint8_t>(packed);
      break;
    case 16:
      static_cast<std::uint16_t*>(job.texels)[texel] = static_cast<std::uint16_t>(packed);
      break;
    case 32:
      static_cast<std::uint32_t*>(job.texels)[texel] = static_cast<std::uint32_t>(packed);
      break;
    default:
      static_cast<unsigned long long*>(job.texels)[texel] = packed;
  }
}

}  // namespace cryoet
