// SPDX-License-Identifier: MIT
#include <array>

#include "bindings/arrays.h"
#include "ops/separable.h"

namespace cryoet {

static Array<float> py_gaussian(const Array<float>& volume, double sigma, std::array<int, 3> order, double window,
                                int threads) {
  const auto view = volume_view(volume);
  require(sigma > 0 && window > 0 && sigma * window < 1e6, "sigma and window must be positive and small enough");
  for (int o : order) require(o >= 0 && o <= 2, "orders are 0, 1 or 2");
  Array<float> out({volume.shape(0), volume.shape(1), volume.shape(2)});
  float* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    gaussian_filter(view, sigma, order.data(), window, threads, data);
  }
  return out;
}

static Array<float> py_eigenvalues(const std::array<Array<float>, 6>& tensor, int threads) {
  const float* parts[6];
  for (int i = 0; i < 6; ++i) {
    volume_view(tensor[i]);
    for (int axis = 0; axis < 3; ++axis)
      require(tensor[i].shape(axis) == tensor[0].shape(axis), "six arrays of one shape are needed");
    parts[i] = tensor[i].data();
  }
  Array<float> out({py::ssize_t(3), tensor[0].shape(0), tensor[0].shape(1), tensor[0].shape(2)});
  float* data = out.mutable_data();
  const long n = tensor[0].size();
  {
    py::gil_scoped_release release;
    symmetric_eigenvalues(parts, n, threads, data);
  }
  return out;
}

static Array<float> py_gaussian_taps(double sigma, int order, double window) {
  require(sigma > 0 && window > 0 && sigma * window < 1e6, "sigma and window must be positive and small enough");
  require(order >= 0 && order <= 2, "orders are 0, 1 or 2");
  const Taps taps = gaussian(sigma, order, window);
  return Array<float>(static_cast<py::ssize_t>(taps.values.size()), taps.values.data());
}

void bind_filters(py::module_& m) {
  m.def("gaussian", &py_gaussian, py::arg("volume").noconvert(), py::arg("sigma"), py::arg("order"), py::arg("window"),
        py::arg("threads"));
  m.def("gaussian_taps", &py_gaussian_taps, py::arg("sigma"), py::arg("order"), py::arg("window"));
  m.def("symmetric_eigenvalues", &py_eigenvalues, py::arg("tensor"), py::arg("threads"));
}

}  // namespace cryoet
