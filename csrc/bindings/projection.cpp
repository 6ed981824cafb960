// SPDX-License-Identifier: MIT
#include "ops/projection.h"

#include <array>
#include <cmath>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/features.h"
#include "voxel/projection.h"

namespace cryoet {

using Triple = std::array<long, 3>;
using Angles = Array<double>;

static void check_geometry(const Angles& angles_deg, long nz, long nx, long width) {
  require(angles_deg.ndim() == 1 && angles_deg.size() > 0, "angles (view,) are needed");
  for (long v = 0; v < angles_deg.size(); ++v) require(std::abs(angles_deg.data()[v]) <= 90, "|angle| is at most 90");
  for (long n : {nz, nx, width}) require(n >= 1 && n <= kLongestAxis, "an axis has 1 to 1048576 samples");
}

static Array<float> py_project(const Array<float>& volume, const Angles& angles_deg, long width, int threads) {
  const auto view = volume_view(volume);
  check_geometry(angles_deg, view.shape[0], view.shape[2], width);
  const long n = angles_deg.size();
  Array<float> out({n, view.shape[1], width});
  const double* angles = angles_deg.data();
  float* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    project(view, angles, n, width, threads, data);
  }
  return out;
}

static Array<float> py_back_project(const Array<float>& views, const Angles& angles_deg, Triple whole, Triple start,
                                    Triple shape, int threads) {
  const auto view = volume_view(views);
  check_geometry(angles_deg, whole[0], whole[2], view.shape[2]);
  require(angles_deg.size() == view.shape[0], "an angle a view is needed");
  require(whole[1] == view.shape[1], "views must be as long along y as the volume");
  const Box box = core_box({nullptr, {whole[0], whole[1], whole[2]}, 0, 0}, start, shape);
  Array<float> out({shape[0], shape[1], shape[2]});
  const double* angles = angles_deg.data();
  float* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    back_project(view, angles, whole.data(), box, threads, data);
  }
  return out;
}

// As the kernels of projection.cu take them.
static py::bytes py_detector_lines(const Angles& angles_deg, long nz, long nx, long width) {
  check_geometry(angles_deg, nz, nx, width);
  std::vector<GridLine> lines;
  for (long v = 0; v < angles_deg.size(); ++v) lines.push_back(detector_line(angles_deg.data()[v], nz, nx, width));
  return {reinterpret_cast<const char*>(lines.data()), lines.size() * sizeof(GridLine)};
}

static py::bytes py_tilted_rays(const Angles& angles_deg, long nz, long nx, long width) {
  check_geometry(angles_deg, nz, nx, width);
  std::vector<TiltedRays> rays;
  for (long v = 0; v < angles_deg.size(); ++v) rays.push_back(tilted_rays(angles_deg.data()[v], nz, nx, width));
  return {reinterpret_cast<const char*>(rays.data()), rays.size() * sizeof(TiltedRays)};
}

void bind_projection(py::module_& m) {
  m.def("project", &py_project, py::arg("volume").noconvert(), py::arg("angles_deg").noconvert(), py::arg("width"),
        py::arg("threads"));
  m.def("back_project", &py_back_project, py::arg("views").noconvert(), py::arg("angles_deg").noconvert(),
        py::arg("whole"), py::arg("start"), py::arg("shape"), py::arg("threads"));
  m.def("detector_lines", &py_detector_lines, py::arg("angles_deg").noconvert(), py::arg("nz"), py::arg("nx"),
        py::arg("width"));
  m.def("tilted_rays", &py_tilted_rays, py::arg("angles_deg").noconvert(), py::arg("nz"), py::arg("nx"),
        py::arg("width"));
}

}  // namespace cryoet
