// SPDX-License-Identifier: MIT
// One-dimensional convolution along one axis of a block, the building brick of every filter.
//
// Coordinates are those of the block that was read (0 = its first voxel). A `Field` covers a box of them, possibly
// reaching beyond the block, where it holds the mirror image. Boundary: mirror without repeating the edge sample,
// applied at each pass. Every output is the sum of its taps in one fixed order by one fixed vector instruction,
// whatever the box, the position in it or the number of threads: that is what makes tiles equal the whole bit for bit.
// Cost: 2r + 1 fused multiply-adds an output voxel.
#pragma once

#include <vector>

#include "core/buffer.h"
#include "core/view3.h"

namespace cryoet {

// Taps of a correlation, radius r: taps[0..2r].
struct Taps {
  int radius = 0;
  std::vector<float> values;
};

// Sampled Gaussian of order 0, 1 or 2, radius floor(window * sigma + 0.5), rounded to float32.
Taps gaussian(double sigma, int order, double window);

// Rows begin on a cache line and are padded to whole vectors: kernels always work on whole vectors.
class Field {
 public:
  static constexpr long kRow = 32;    // floats; a multiple of every vector length
  static constexpr long kSlack = 64;  // readable floats behind each row's last whole vector

  // Give the field a new box; its memory is kept where it suffices, its values are undefined but readable.
  void reset(const Box& box);
  const Box& box() const { return box_; }
  // Row at block coordinates (z, y); its first element is x = box().start[2].
  float* row(long z, long y) const {
    return buffer_.data() + (z - box_.start[0]) * plane_ + (y - box_.start[1]) * pitch_;
  }
  long pitch() const { return pitch_; }
  long plane() const { return plane_; }

 private:
  Buffer buffer_;
  Box box_{};
  long pitch_ = 0, plane_ = 0;
};

// Copy a block into a field, minus a constant.
void load(const View3<const float>& block, float offset, int threads, Field& out);

// out[box] = taps (*) source along `axis`. `block` is the shape of the block, where the mirrors stand. `source` must
// cover every voxel that the taps reach after mirroring, and `box` on the other axes. On an axis of length one an
// order-0 kernel (`derivative` false) copies and a derivative gives zero. Out must not be the source.
void convolve(const Field& source, int axis, const Taps& taps, bool derivative, const long block[3], const Box& box,
              int threads, Field& out);

// out[box] = the separable smoothing of the source by one kernel along z, y and x; along_z: scratch. The source covers
// what `grown` says, the box may reach beyond the block.
void smooth(const Field& source, const Taps& taps, const long block[3], const Box& box, int threads, Field& along_z,
            Field& out);

// The box an input must have for `box` to be computed from it along `axis` with radius r.
Box grown(Box box, int axis, long radius, const long block[3]);

// Whole-volume correlation with Gaussians of the given orders (z, y, x), one sigma; derivatives first, so that a
// constant offset of the volume is gone before it can cost accuracy. out: C order, the shape of the volume, not
// aliasing it.
void gaussian_filter(const View3<const float>& volume, double sigma, const int order[3], double window, int threads,
                     float* out);

// Eigenvalues, descending, of the symmetric tensors (zz, zy, zx, yy, yx, xx), each n floats; out: 3 x n.
void symmetric_eigenvalues(const float* const tensor[6], long n, int threads, float* out);

}  // namespace cryoet
