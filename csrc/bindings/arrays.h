// SPDX-License-Identifier: MIT
// What every binding does with arrays: Python has checked values and made them C-contiguous; here only shapes are
// checked again, so that a wrong call from inside the package cannot read out of bounds.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "core/view3.h"

namespace cryoet {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

inline void require(bool ok, const std::string& message) {
  if (!ok) throw py::value_error("_core: " + message);
}

inline View3<const float> volume_view(const Array<float>& a) {
  require(a.ndim() == 3 && a.size() > 0, "a (z, y, x) array with no empty axis is needed");
  const long z = a.shape(0), y = a.shape(1), x = a.shape(2);
  return {a.data(), {z, y, x}, y * x, x};
}

// (channel, z, y, x), writable, x contiguous, any other strides: a window into a larger array will do.
struct ChannelView {
  float* data;
  long shape[4];
  long stride_c, stride_z, stride_y;
};

inline ChannelView channel_view(py::array_t<float>& a) {
  require(a.ndim() == 4 && a.writeable(), "a writable (channel, z, y, x) array is needed");
  require(a.strides(3) == sizeof(float) || a.shape(3) == 1, "x must be contiguous");
  ChannelView v{a.mutable_data(), {}, 0, 0, 0};
  for (int i = 0; i < 4; ++i) v.shape[i] = a.shape(i);
  v.stride_c = a.strides(0) / static_cast<long>(sizeof(float));
  v.stride_z = a.strides(1) / static_cast<long>(sizeof(float));
  v.stride_y = a.strides(2) / static_cast<long>(sizeof(float));
  return v;
}

}  // namespace cryoet
