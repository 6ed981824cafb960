// SPDX-License-Identifier: MIT
#include "ops/features.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "bindings/arrays.h"
#include "bindings/features.h"
#include "voxel/stage_taps.h"

namespace cryoet {

FeaturePlan feature_plan(bool two_stage, double offset, const std::vector<double>& sigmas,
                         const std::vector<std::array<int, kFilters>>& channels, const std::vector<bool>& planar,
                         int n_channels) {
  require(!sigmas.empty() && sigmas.size() == channels.size() && sigmas.size() == planar.size(),
          "one row of channels a scale is needed");
  FeaturePlan plan{two_stage, static_cast<float>(offset), {}, n_channels};
  for (std::size_t i = 0; i < sigmas.size(); ++i) {
    require(sigmas[i] >= 0.3 && sigmas[i] <= 1000.0, "scales lie between 0.3 and 1000 voxels");
    Scale scale{sigmas[i], planar[i], {}};
    for (int f = 0; f < kFilters; ++f) {
      scale.channel[f] = channels[i][f];
      const int width = scale.width(Filter(f));
      require(channels[i][f] == -1 || (channels[i][f] >= 0 && channels[i][f] + width <= n_channels),
              "a channel number is out of range");
      require(channels[i][f] < 0 || f == kGaussian || sigmas[i] >= 0.5,
              "scales under 0.5 are for GaussianSmoothing only");
    }
    plan.scales.push_back(scale);
  }
  return plan;
}

Box core_box(const View3<const float>& block, std::array<long, 3> start, std::array<long, 3> shape) {
  Box core{};
  for (int axis = 0; axis < 3; ++axis) {
    require(start[axis] >= 0 && shape[axis] >= 1 && start[axis] + shape[axis] <= block.shape[axis],
            "the core must lie in the block");
    core.start[axis] = start[axis];
    core.shape[axis] = shape[axis];
  }
  return core;
}

static void py_features(const FeaturePlan& plan, const Array<float>& block, std::array<long, 3> start,
                        std::array<long, 3> shape, int threads, py::array_t<float> out) {
  const auto view = volume_view(block);
  const Box core = core_box(view, start, shape);
  const ChannelView v = channel_view(out);
  require(v.shape[0] == plan.n_channels && v.shape[1] == shape[0] && v.shape[2] == shape[1] && v.shape[3] == shape[2],
          "out must have the shape (channels, core)");
  py::gil_scoped_release release;
  compute_features(view, core, plan, threads, {v.data, v.stride_c, v.stride_z, v.stride_y});
}

// What the CUDA kernel of stage two takes, in the order of its structure.
static Array<float> py_stage_taps(double sigma) {
  require(sigma >= 0.3 && sigma <= 1000.0, "scales lie between 0.3 and 1000 voxels");
  const StageTaps taps = stage_taps(sigma);
  Array<float> out(sizeof taps / sizeof(float));
  std::memcpy(out.mutable_data(), &taps, sizeof taps);
  return out;
}

void bind_features(py::module_& m) {
  py::class_<FeaturePlan>(m, "FeaturePlan")
      .def(py::init(&feature_plan), py::kw_only(), py::arg("two_stage"), py::arg("offset"), py::arg("sigmas"),
           py::arg("channels"), py::arg("planar"), py::arg("n_channels"))
      .def_property_readonly("halo", &FeaturePlan::halo)
      .def_readonly("two_stage", &FeaturePlan::two_stage)
      .def_readonly("offset", &FeaturePlan::offset)
      .def_readonly("n_channels", &FeaturePlan::n_channels)
      .def_property_readonly("scales", [](const FeaturePlan& plan) {
        std::vector<std::tuple<double, bool, std::array<int, kFilters>>> scales;
        for (const Scale& scale : plan.scales) {
          std::array<int, kFilters> channel{};
          std::copy(scale.channel, scale.channel + kFilters, channel.begin());
          scales.emplace_back(scale.sigma, scale.planar, channel);
        }
        return scales;
      });
  m.def("stage_taps", &py_stage_taps, py::arg("sigma"));
  m.def("features", &py_features, py::arg("plan"), py::arg("block").noconvert(), py::arg("start"), py::arg("shape"),
        py::arg("threads"), py::arg("out").noconvert());
}

}  // namespace cryoet
