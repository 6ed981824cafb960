// SPDX-License-Identifier: MIT
#include "ops/blend.h"

#include <array>
#include <optional>

#include "bindings/arrays.h"

namespace cryoet {

using Triple = std::array<long, 3>;
using Weights = std::array<Array<float>, 3>;

static BlendSlab slab_of(Array<float>& sums) {
  require(sums.ndim() == 4 && sums.size() > 0 && sums.writeable() && sums.shape(0) <= 255,
          "sums must be a writable (class, z, y, x) array of 1 to 255 classes");
  return {sums.mutable_data(), sums.shape(0), sums.shape(1), sums.shape(2), sums.shape(3)};
}

// float32, float16, or the bits of bfloat16 as uint16; any strides.
static BlendTile tile_of(const py::array& tile) {
  require(tile.ndim() == 4 && tile.size() > 0, "tile must be (class, z, y, x) with no empty axis");
  const char kind = tile.dtype().kind();
  const long size = tile.itemsize();
  require((kind == 'f' && (size == 4 || size == 2)) || (kind == 'u' && size == 2), "tile has the wrong type");
  BlendTile out{tile.data(),
                size == 4     ? TileType::float32
                : kind == 'f' ? TileType::float16
                              : TileType::bfloat16,
                {},
                {}};
  for (int i = 0; i < 4; ++i) {
    require(tile.strides(i) % size == 0, "tile must be aligned");
    out.shape[i] = tile.shape(i);
    out.stride[i] = tile.strides(i) / size;
  }
  return out;
}

static void py_blend_tile(const py::array& tile, const Weights& weights, Array<float> sums, Triple at, int threads) {
  const BlendTile from = tile_of(tile);
  const BlendSlab slab = slab_of(sums);
  require(from.shape[0] == slab.n_classes, "tile and sums must have the same classes");
  require(at[0] >= 0 && from.shape[1] <= slab.depth, "tile must have at most the slab's slices");
  require(at[1] >= 0 && at[1] + from.shape[2] <= slab.height && at[2] >= 0 && at[2] + from.shape[3] <= slab.width,
          "tile must lie in the slab");
  for (int i = 0; i < 3; ++i)
    require(weights[i].ndim() == 1 && weights[i].size() == from.shape[i + 1], "weights must be as long as the tile");
  const float* rows[3] = {weights[0].data(), weights[1].data(), weights[2].data()};
  py::gil_scoped_release release;
  blend_tile(from, rows, slab, at.data(), threads);
}

static void py_finish_blend(Array<float> sums, long first, long n, bool softmax, py::array out,
                            std::optional<Array<std::uint8_t>> labels, int threads) {
  const BlendSlab slab = slab_of(sums);
  require(first >= 0 && n >= 1 && n <= slab.depth, "1 to all slices of the slab are finished at a time");
  const char kind = out.dtype().kind();
  const long size = out.itemsize();
  require((kind == 'f' && size == 4) || (kind == 'u' && size <= 2), "out must be float32, uint8 or uint16");
  const StoredType type = kind == 'f' ? StoredType::float32 : size == 1 ? StoredType::uint8 : StoredType::uint16;
  require(out.ndim() == 4 && out.shape(0) == slab.n_classes && out.shape(1) == n && out.shape(2) == slab.height &&
              out.shape(3) == slab.width && out.writeable(),
          "out must be (class, n, y, x), and writable");
  const bool rows = out.strides(3) == size || slab.width == 1;
  const bool slices = rows && (out.strides(2) == size * slab.width || slab.height == 1);
  require(slices && (out.strides(1) == size * slab.width * slab.height || n == 1) && out.strides(0) % size == 0,
          "a class of out must be contiguous");
  const long out_class = out.strides(0) / size;
  void* to = out.mutable_data();
  std::uint8_t* most = nullptr;
  if (labels) {
    require(labels->ndim() == 3 && labels->shape(0) == n && labels->shape(1) == slab.height &&
                labels->shape(2) == slab.width && labels->writeable(),
            "labels must be (n, y, x), and writable");
    most = labels->mutable_data();
  }
  py::gil_scoped_release release;
  finish_blend(slab, first, n, softmax, type, to, out_class, most, threads);
}

void bind_blend(py::module_& m) {
  m.def("blend_tile", &py_blend_tile, py::arg("tile").noconvert(), py::arg("weights"), py::arg("sums").noconvert(),
        py::arg("at"), py::arg("threads"));
  m.def("finish_blend", &py_finish_blend, py::arg("sums").noconvert(), py::arg("first"), py::arg("n"),
        py::arg("softmax"), py::arg("out").noconvert(), py::arg("labels").noconvert(), py::arg("threads"));
}

}  // namespace cryoet
