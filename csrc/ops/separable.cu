// SPDX-License-Identifier: MIT
// The passes and pointwise steps of ops/separable.h on CUDA. Each kernel takes one structure by value.
//
// A thread makes eight neighbouring outputs along the axis of the pass. Their samples slide through eight registers:
// a tap costs one load for eight multiply-adds. Along z and y neighbouring threads stand along x, so loads from memory
// are whole lines; along x a row's part is staged in shared memory. As on the CPU the taps left of the centre and
// those right of it are summed apart, from the outside in; every output adds the same terms in the same order wherever
// it stands.
// Cost of an output: 2r + 1 multiply-adds, (2r + 16) / 8 loads, 8 bytes of memory traffic where the cache holds what
// neighbours share.
#include "core/field.h"
#include "voxel/mirror.h"
#include "voxel/sym_eigen2.h"
#include "voxel/sym_eigen3.h"

namespace cryoet {

struct Convolution {
  DeviceField source;  // must hold every sample that the taps reach after mirroring
  DeviceField out;     // inside the volume; not the source
  const float* taps;   // 2 * radius + 1, correlated
  int length[3];       // of the volume (or of the part that was read): where the mirrors stand
  int radius;
  int derivative;  // an axis of length one: 0 copies, 1 gives zero
  float subtract;  // from each sample
};

namespace {

constexpr int kRun = 8;        // outputs of a thread
constexpr int kReach = 128;    // largest radius that convolve_x has room for
constexpr int kThreadsX = 32;  // of a block, along x
constexpr int kThreadsAcross = 8;

// read(i): sample i of the run, i = 0 standing at radius voxels before the first output.
template <class Read>
__device__ __forceinline__ void fir(const Read& read, const float* taps, int radius, float (&out)[kRun]) {
  float right[kRun], window[kRun];
#pragma unroll
  for (int q = 0; q < kRun; ++q) out[q] = right[q] = 0.0f;
#pragma unroll
  for (int q = 0; q < kRun; ++q) window[q] = read(q);
  for (int first = 0; first <= radius; first += kRun) {
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      const int t = first + j;
      if (t <= radius) {
        const float tap = taps[t];
#pragma unroll
        for (int q = 0; q < kRun; ++q) out[q] = fmaf(tap, window[(j + q) % kRun], out[q]);
        if (t < radius) window[j] = read(t + kRun);
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kRun; ++q) window[q] = read(2 * radius + q);
  for (int first = 0; first < radius; first += kRun) {
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      const int t = 2 * radius - first - j;
      if (t > radius) {
        const float tap = taps[t];
#pragma unroll
        for (int q = 0; q < kRun; ++q) right[q] = fmaf(tap, window[(q + kRun - j) % kRun], right[q]);
        if (t > radius + 1) window[kRun - 1 - j] = read(t - 1);
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kRun; ++q) out[q] += right[q];
}

__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }

// Straight from memory; along x only for radii beyond kReach. Threads: x, then the axis across (the first of y and z
// that is not the pass's own), then runs along the axis; for x: runs, y, z.
template <int kAxis>
__device__ __forceinline__ void convolve(const Convolution& job) {
  const int row = blockIdx.y * kThreadsAcross + threadIdx.y, column = blockIdx.x * kThreadsX + threadIdx.x;
  int z = kAxis == 1 ? row : blockIdx.z, y = kAxis == 1 ? blockIdx.z : row, x = column;
  (kAxis == 0 ? z : kAxis == 1 ? y : x) *= kRun;
  if (z >= job.out.shape[0] || y >= job.out.shape[1] || x >= job.out.shape[2]) return;
  const int along = kAxis == 0 ? z : kAxis == 1 ? y : x;
  const int valid = smaller(kRun, job.out.shape[kAxis] - along);
  const int length = job.length[kAxis], radius = job.radius, source_start = job.source.start[kAxis];
  z += job.out.start[0], y += job.out.start[1], x += job.out.start[2];
  const int begin = along + job.out.start[kAxis] - radius;  // the first sample that counts
  const int end = begin + valid - 1 + 2 * radius;           // and the last
  const float* line = job.source.data + job.source.at(kAxis == 0 ? source_start : z, kAxis == 1 ? source_start : y,
                                                      kAxis == 2 ? source_start : x);
  const long long step = job.source.step(kAxis);
  const float subtract = job.subtract;
  float sum[kRun];
  if (length == 1) {
#pragma unroll
    for (int q = 0; q < kRun; ++q) sum[q] = job.derivative ? 0.0f : line[0] - subtract;
  } else if (begin >= 0 && end < length && valid == kRun) {
    const float* first = line + (begin - source_start) * step;
    fir([&](int i) { return first[i * step] - subtract; }, job.taps, radius, sum);
  } else {
    fir([&](int i) { return line[(mirror(smaller(begin + i, end), length) - source_start) * step] - subtract; },
        job.taps, radius, sum);
  }
  float* to = job.out.data + job.out.at(z, y, x);
  const long long stride = job.out.step(kAxis);
#pragma unroll
  for (int q = 0; q < kRun; ++q)
    if (q < valid) to[q * stride] = sum[q];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreadsX* kThreadsAcross) convolve_z(Convolution job) {
  convolve<0>(job);
}
extern "C" __global__ void __launch_bounds__(kThreadsX* kThreadsAcross) convolve_y(Convolution job) {
  convolve<1>(job);
}
extern "C" __global__ void __launch_bounds__(kThreadsX* kThreadsAcross) convolve_x_far(Convolution job) {
  convolve<2>(job);
}

// Along x for radii up to kReach: each of a block's eight rows stages its samples in shared memory, with a gap after
// every eighth, so that threads eight samples apart meet different banks.
extern "C" __global__ void __launch_bounds__(kThreadsX* kThreadsAcross) convolve_x(Convolution job) {
  constexpr int kPart = kThreadsX * kRun, kSamples = kPart + 2 * kReach;
  __shared__ float row[kThreadsAcross][kSamples + kSamples / kRun];
  const int z = blockIdx.z + job.out.start[0], y_local = blockIdx.y * kThreadsAcross + threadIdx.y;
  const int y = smaller(y_local, job.out.shape[1] - 1) + job.out.start[1];
  const int first = blockIdx.x * kPart, radius = job.radius, length = job.length[2];
  const int count = smaller(kPart, job.out.shape[2] - first);
  const float* from = job.source.data + job.source.at(z, y, job.source.start[2]);
  const int begin = job.out.start[2] + first - radius;
  for (int i = threadIdx.x; i < count + 2 * radius; i += kThreadsX) {
    int x = begin + i;
    if (x < 0 || x >= length) x = mirror(x, length);
    row[threadIdx.y][i + i / kRun] = from[x - job.source.start[2]] - job.subtract;
  }
  __syncthreads();
  const int along = threadIdx.x * kRun;
  if (y_local >= job.out.shape[1] || along >= count) return;
  const float* samples = row[threadIdx.y];
  float sum[kRun];
  if (length == 1) {
#pragma unroll
    for (int q = 0; q < kRun; ++q) sum[q] = job.derivative ? 0.0f : samples[0];
  } else {
    const int last = count - 1 + 2 * radius;
    fir(
        [&](int i) {
          const int k = smaller(along + i, last);
          return samples[k + k / kRun];
        },
        job.taps, radius, sum);
  }
  float* to = job.out.data + job.out.at(z, y, job.out.start[2] + first + along);
#pragma unroll
  for (int q = 0; q < kRun; ++q)
    if (along + q < count) to[q] = sum[q];
}

struct Eigenvalues {
  const float* tensor[6];  // zz, zy, zx, yy, yx, xx
  float* out[3];           // descending
  long long n;
};

extern "C" __global__ void __launch_bounds__(256) symmetric_eigenvalues(Eigenvalues job) {
  const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= job.n) return;
  sym_eigen3(job.tensor[0][i], job.tensor[1][i], job.tensor[2][i], job.tensor[3][i], job.tensor[4][i], job.tensor[5][i],
             job.out[0][i], job.out[1][i], job.out[2][i]);
}

struct Eigenvalues2 {
  const float* tensor[3];  // yy, yx, xx
  float* out[2];           // descending
  long long n;
};

// Of what is filtered slice by slice.
extern "C" __global__ void __launch_bounds__(256) symmetric_eigenvalues_2(Eigenvalues2 job) {
  const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= job.n) return;
  sym_eigen2(job.tensor[0][i], job.tensor[1][i], job.tensor[2][i], job.out[0][i], job.out[1][i]);
}

struct Product {
  const float *a, *b;
  float* out;
  long long n;
};

extern "C" __global__ void __launch_bounds__(256) multiply(Product job) {
  const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (i < job.n) job.out[i] = job.a[i] * job.b[i];
}

// Channels that are sums of derivatives; an output that is null is not wanted, and nor are its inputs then. What is
// filtered slice by slice has no derivatives along z: gradient[0] and second[0] are null.
struct Combination {
  const float* gauss;        // for smoothed and difference
  const float* narrow;       // Gaussian of the smaller sigma, for difference
  const float* gradient[3];  // along z, y, x, for magnitude
  const float* second[3];    // zz, yy, xx, for laplacian
  float *smoothed, *laplacian, *magnitude, *difference;
  float offset;  // added to smoothed
  long long n;
};

extern "C" __global__ void __launch_bounds__(256) combine(Combination job) {
  const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= job.n) return;
  if (job.smoothed) job.smoothed[i] = job.gauss[i] + job.offset;
  if (job.laplacian) {
    const float yy = job.second[1][i];
    job.laplacian[i] = (job.second[0] ? job.second[0][i] + yy : yy) + job.second[2][i];
  }
  if (job.magnitude) {
    const float y = job.gradient[1][i], x = job.gradient[2][i];
    const float z = job.gradient[0] ? job.gradient[0][i] : 0.0f;
    job.magnitude[i] = sqrtf(z * z + y * y + x * x);
  }
  if (job.difference) job.difference[i] = job.gauss[i] - job.narrow[i];
}

}  // namespace cryoet
