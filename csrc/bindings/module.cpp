// SPDX-License-Identifier: MIT
// The native module: a list of what csrc/ops offers to Python.
#include <pybind11/pybind11.h>

#include <string>

#include "core/buffer.h"
#include "core/simd.h"

namespace cryoet {

void bind_filters(pybind11::module_& m);
void bind_features(pybind11::module_& m);
void bind_forest(pybind11::module_& m);
void bind_preprocessing(pybind11::module_& m);
void bind_projection(pybind11::module_& m);
void bind_blend(pybind11::module_& m);

static constexpr const char* kIsaNames[] = {"baseline", "avx2", "avx512"};

static void use_instruction_set(const std::string& name) {
  if (name == "best") {
    current_isa() = detected_isa();
    return;
  }
  for (int i = 0; i <= static_cast<int>(detected_isa()); ++i)
    if (name == kIsaNames[i]) {
      current_isa() = static_cast<Isa>(i);
      return;
    }
  throw pybind11::value_error("_core: this processor has no instruction set " + name);
}

}  // namespace cryoet

PYBIND11_MODULE(_core, m) {
  m.doc() = "CPU kernels of cryoet-engine";
  m.def("instruction_set", [] { return cryoet::kIsaNames[static_cast<int>(cryoet::current_isa().load())]; });
  m.def("use_instruction_set", &cryoet::use_instruction_set);
  m.def("release_memory", [] { cryoet::PagePool::instance().release(); });
  cryoet::bind_filters(m);
  cryoet::bind_features(m);
  cryoet::bind_forest(m);
  cryoet::bind_preprocessing(m);
  cryoet::bind_projection(m);
  cryoet::bind_blend(m);
}
