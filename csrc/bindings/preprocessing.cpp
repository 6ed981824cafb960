// SPDX-License-Identifier: MIT
#include <array>
#include <cmath>

#include "bindings/arrays.h"
#include "bindings/features.h"
#include "ops/bilateral.h"
#include "ops/clahe.h"
#include "ops/histogram.h"
#include "voxel/bilateral_weight.h"

namespace cryoet {

using Triple = std::array<long, 3>;

static Array<float> py_bilateral(const Array<float>& block, double sigma_vox, double sigma_range, double window,
                                 Triple start, Triple shape, int threads) {
  const auto view = volume_view(block);
  require(sigma_vox > 0 && window > 0 && sigma_vox * window < 100,
          "sigma and window must be positive and small enough");
  require(std::isfinite(range_factor(sigma_range)), "sigma_range must be above 0");
  const Box core = core_box(view, start, shape);
  Array<float> out({shape[0], shape[1], shape[2]});
  float* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    bilateral_filter(view, {sigma_vox, sigma_range, window}, core, threads, data);
  }
  return out;
}

static GreyBins checked_bins(std::array<double, 2> value_range, long n_bins) {
  require(value_range[0] < value_range[1] && std::isfinite(value_range[1] - value_range[0]),
          "a grey range with low < high is needed");
  require(n_bins >= 1 && n_bins <= 1 << 24, "1 to 16777216 bins are needed");
  return grey_bins(value_range[0], value_range[1], n_bins);
}

static void py_add_to_histogram(const Array<float>& block, std::array<double, 2> value_range, Array<long>& counts,
                                int threads) {
  const auto view = volume_view(block);
  require(counts.ndim() == 1, "counts (bins,) are needed");
  const GreyBins bins = checked_bins(value_range, counts.shape(0));
  long* data = counts.mutable_data();
  py::gil_scoped_release release;
  add_to_histogram(view, bins, threads, data);
}

static void py_count_upper_keys(const Array<float>& block, Array<long>& counts, int threads) {
  const auto view = volume_view(block);
  require(counts.ndim() == 1 && counts.size() == 1 << 16, "65536 counts are needed");
  long* data = counts.mutable_data();
  py::gil_scoped_release release;
  count_upper_keys(view, threads, data);
}

static void py_count_lower_keys(const Array<float>& block, const Array<int>& row_of, Array<long>& counts, int threads) {
  const auto view = volume_view(block);
  require(row_of.ndim() == 1 && row_of.size() == 1 << 16, "a row for each of 65536 upper halves is needed");
  require(counts.ndim() == 2 && counts.shape(1) == 1 << 16, "counts (row, 65536) are needed");
  for (long i = 0; i < 1 << 16; ++i) require(row_of.data()[i] < counts.shape(0), "a row is out of range");
  long* data = counts.mutable_data();
  py::gil_scoped_release release;
  count_lower_keys(view, row_of.data(), threads, data);
}

// The grid, checked to be that of `tiles`: (tile z, tile y, tile x, bins or edges).
template <class T>
static TileGrid checked_grid(Triple shape, Triple tile, const Array<T>& tiles) {
  TileGrid grid{};
  require(tiles.ndim() == 4, "an array (tile z, tile y, tile x, bin) is needed");
  for (int axis = 0; axis < 3; ++axis) {
    grid.shape[axis] = shape[axis];
    grid.tile[axis] = tile[axis];
    require(tile[axis] >= 1 && tile[axis] <= shape[axis], "a tile must fit into the volume");
    require(tiles.shape(axis) == grid.tiles(axis), "the array must have an entry for each tile");
  }
  require(grid.voxels() < 1L << 31, "a tile must have less than 2^31 voxels");
  return grid;
}

static void py_count_tiles(const Array<float>& planes, long first_z, Triple shape, Triple tile,
                           std::array<double, 2> value_range, Array<int>& counts, int threads) {
  const auto view = volume_view(planes);
  const TileGrid grid = checked_grid(shape, tile, counts);
  require(first_z >= 0 && first_z + view.shape[0] <= shape[0] && view.shape[1] == shape[1] && view.shape[2] == shape[2],
          "whole planes of the volume are needed");
  const GreyBins bins = checked_bins(value_range, counts.shape(3));
  int* data = counts.mutable_data();
  py::gil_scoped_release release;
  count_tiles(view, first_z, grid, bins, threads, data);
}

static Array<float> py_equalise_tiles(Array<int>& counts, Triple shape, Triple tile, double clip_limit, int threads) {
  const TileGrid grid = checked_grid(shape, tile, counts);
  const long n_bins = counts.shape(3);
  require(clip_limit > 0 && clip_limit <= 1, "the clip limit lies in (0, 1]");
  Array<float> maps({counts.shape(0), counts.shape(1), counts.shape(2), n_bins + 1});
  int* from = counts.mutable_data();
  float* to = maps.mutable_data();
  {
    py::gil_scoped_release release;
    equalise_tiles(grid, n_bins, clip_limit, threads, from, to);
  }
  return maps;
}

static Array<float> py_apply_tile_maps(const Array<float>& block, Triple start, Triple shape, Triple tile,
                                       std::array<double, 2> value_range, const Array<float>& maps, int threads) {
  const auto view = volume_view(block);
  const TileGrid grid = checked_grid(shape, tile, maps);
  for (int axis = 0; axis < 3; ++axis)
    require(start[axis] >= 0 && start[axis] + view.shape[axis] <= shape[axis], "the block must lie in the volume");
  const GreyBins bins = checked_bins(value_range, maps.shape(3) - 1);
  Array<float> out({view.shape[0], view.shape[1], view.shape[2]});
  const float* from = maps.data();
  float* to = out.mutable_data();
  {
    py::gil_scoped_release release;
    apply_tile_maps(view, start.data(), grid, bins, from, threads, to);
  }
  return out;
}

void bind_preprocessing(py::module_& m) {
  m.def("bilateral", &py_bilateral, py::arg("block").noconvert(), py::arg("sigma_vox"), py::arg("sigma_range"),
        py::arg("window"), py::arg("start"), py::arg("shape"), py::arg("threads"));
  m.def("add_to_histogram", &py_add_to_histogram, py::arg("block").noconvert(), py::arg("value_range"),
        py::arg("counts").noconvert(), py::arg("threads"));
  m.def("count_upper_keys", &py_count_upper_keys, py::arg("block").noconvert(), py::arg("counts").noconvert(),
        py::arg("threads"));
  m.def("count_lower_keys", &py_count_lower_keys, py::arg("block").noconvert(), py::arg("row_of").noconvert(),
        py::arg("counts").noconvert(), py::arg("threads"));
  m.def("count_tiles", &py_count_tiles, py::arg("planes").noconvert(), py::arg("first_z"), py::arg("shape"),
        py::arg("tile"), py::arg("value_range"), py::arg("counts").noconvert(), py::arg("threads"));
  m.def("equalise_tiles", &py_equalise_tiles, py::arg("counts").noconvert(), py::arg("shape"), py::arg("tile"),
        py::arg("clip_limit"), py::arg("threads"));
  m.def("apply_tile_maps", &py_apply_tile_maps, py::arg("block").noconvert(), py::arg("start"), py::arg("shape"),
        py::arg("tile"), py::arg("value_range"), py::arg("maps").noconvert(), py::arg("threads"));
}

}  // namespace cryoet
