// SPDX-License-Identifier: MIT
#include "ops/forest.h"

#include <array>
#include <optional>
#include <type_traits>

#include "bindings/arrays.h"
#include "bindings/features.h"

namespace cryoet {

static Forest make_forest(const Array<float>& thresholds, const Array<std::uint32_t>& links,
                          const Array<std::int64_t>& tree_start, const Array<double>& leaves, int n_features) {
  require(thresholds.ndim() == 1 && links.ndim() == 1 && thresholds.size() == links.size(),
          "thresholds and links must have one entry a node");
  require(tree_start.ndim() == 1 && leaves.ndim() == 2, "tree_start must have one axis, leaves two");
  require(leaves.shape(1) >= 1 && leaves.shape(1) <= Forest::kMaxClasses, "1 to 255 classes are possible");
  std::vector<TreeNode> nodes(thresholds.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) nodes[i] = {thresholds.data()[i], links.data()[i]};
  return Forest(nodes, {tree_start.data(), tree_start.data() + tree_start.size()},
                {leaves.data(), leaves.data() + leaves.size()}, static_cast<int>(leaves.shape(1)), n_features);
}

static Array<float> py_predict_rows(const Forest& forest, const Array<float>& rows, int threads) {
  require(rows.ndim() == 2 && rows.shape(1) == forest.n_features(), "rows must have the shape (n, features)");
  Array<float> out({rows.shape(0), py::ssize_t(forest.n_classes())});
  float* data = out.mutable_data();
  py::gil_scoped_release release;
  predict_rows(forest, rows.data(), rows.shape(0), threads, data);
  return out;
}

// A (channel, z, y, x) array with those voxels; x contiguous, any other strides: a window into a larger array will do.
template <class T, class Numpy>
static Channels<T> channels_of(Numpy& array, long n_channels, const std::array<long, 3>& voxels, const char* name) {
  require(array.ndim() == 4 && array.shape(0) == n_channels && array.shape(1) == voxels[0] &&
              array.shape(2) == voxels[1] && array.shape(3) == voxels[2],
          std::string(name) + " has the wrong shape");
  const long size = sizeof(T);
  bool whole = array.strides(3) == size || array.shape(3) == 1;
  for (int axis = 0; axis < 3; ++axis) whole = whole && array.strides(axis) % size == 0;
  require(whole, std::string(name) + " must have a contiguous x axis");
  T* data;
  if constexpr (std::is_const_v<T>) {
    data = array.data();
  } else {
    require(array.writeable(), std::string(name) + " must be writable");
    data = array.mutable_data();
  }
  return {data, array.strides(0) / size, array.strides(1) / size, array.strides(2) / size};
}

template <class T>
static void py_predict_channels(const Forest& forest, const py::array_t<float>& channels, int threads,
                                py::array_t<T> out) {
  require(channels.ndim() == 4 && channels.size() > 0, "channels must be (channel, z, y, x) with no empty axis");
  const std::array<long, 3> shape = {channels.shape(1), channels.shape(2), channels.shape(3)};
  const auto from = channels_of<const float>(channels, forest.n_features(), shape, "channels");
  const auto to = channels_of<T>(out, forest.n_classes(), shape, "out");
  py::gil_scoped_release release;
  predict_channels(forest, from, shape.data(), threads, to);
}

template <class T>
static void py_predict_block(const Forest& forest, const FeaturePlan& plan, const Array<float>& block,
                             std::array<long, 3> start, std::array<long, 3> shape, int threads, py::array_t<T> out,
                             const std::optional<py::array_t<float>>& extra) {
  const auto view = volume_view(block);
  const Box core = core_box(view, start, shape);
  const auto to = channels_of<T>(out, forest.n_classes(), shape, "out");
  const long n_extra = forest.n_features() - plan.n_channels;
  require(n_extra >= 0 && extra.has_value() == (n_extra > 0),
          "the forest was trained on another number of channels than the plan's and the extra ones");
  Channels<const float> more{};
  if (extra) more = channels_of<const float>(*extra, n_extra, shape, "extra");
  py::gil_scoped_release release;
  predict_block(forest, view, core, plan, more, threads, to);
}

template <class T, class Class>
static void bind_output(Class& forest) {
  forest
      .def("predict_channels", &py_predict_channels<T>, py::arg("channels").noconvert(), py::arg("threads"),
           py::arg("out").noconvert())
      .def("predict_block", &py_predict_block<T>, py::arg("plan"), py::arg("block").noconvert(), py::arg("start"),
           py::arg("shape"), py::arg("threads"), py::arg("out").noconvert(), py::arg("extra").noconvert() = py::none());
}

void bind_forest(py::module_& m) {
  py::class_<Forest> forest(m, "Forest");
  forest
      .def(py::init(&make_forest), py::kw_only(), py::arg("thresholds"), py::arg("links"), py::arg("tree_start"),
           py::arg("leaves"), py::arg("n_features"))
      .def("predict_rows", &py_predict_rows, py::arg("rows").noconvert(), py::arg("threads"));
  bind_output<float>(forest);
  bind_output<std::uint8_t>(forest);
  bind_output<std::uint16_t>(forest);
}

}  // namespace cryoet
