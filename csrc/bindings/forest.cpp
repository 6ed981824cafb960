// SPDX-License-Identifier: MIT
#include "ops/forest.h"

#include <array>

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
  return Forest(std::move(nodes), {tree_start.data(), tree_start.data() + tree_start.size()},
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

static void py_predict_block(const Forest& forest, const FeaturePlan& plan, const Array<float>& block,
                             std::array<long, 3> start, std::array<long, 3> shape, int threads,
                             py::array_t<float> out) {
  const auto view = volume_view(block);
  const Box core = core_box(view, start, shape);
  const ChannelView v = channel_view(out);
  require(plan.n_channels == forest.n_features(), "the forest was trained on another number of channels");
  require(
      v.shape[0] == forest.n_classes() && v.shape[1] == shape[0] && v.shape[2] == shape[1] && v.shape[3] == shape[2],
      "out must have the shape (classes, core)");
  py::gil_scoped_release release;
  predict_block(forest, view, core, plan, threads, {v.data, v.stride_c, v.stride_z, v.stride_y});
}

void bind_forest(py::module_& m) {
  py::class_<Forest>(m, "Forest")
      .def(py::init(&make_forest), py::kw_only(), py::arg("thresholds"), py::arg("links"), py::arg("tree_start"),
           py::arg("leaves"), py::arg("n_features"))
      .def("predict_rows", &py_predict_rows, py::arg("rows").noconvert(), py::arg("threads"))
      .def("predict_block", &py_predict_block, py::arg("plan"), py::arg("block").noconvert(), py::arg("start"),
           py::arg("shape"), py::arg("threads"), py::arg("out").noconvert());
}

}  // namespace cryoet
