// SPDX-License-Identifier: MIT
// The native module: a list of what csrc/ops offers to Python.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_core, m) {
  m.doc() = "CPU kernels of cryoet-engine";
}
