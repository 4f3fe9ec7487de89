// The Python module trajgru_ext._C: loading it registers the operators; it tells how
// it was built and what it chose to run here.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/capability.h"

namespace trajgru_ext {
namespace {

namespace py = pybind11;

py::dict facts() {
  py::dict facts;
  facts["compiler"] =
#if defined(__clang__)
      "clang " __clang_version__;
#elif defined(__GNUC__)
      "g++ " __VERSION__;
#else
      "unknown";
#endif
  facts["cpu_capabilities"] = built_capabilities();
  facts["cpu_capability"] = capability_name(cpu_capability());
  facts["threads"] = at::get_num_threads();
#if defined(_OPENMP)
  facts["openmp"] = true;
#else
  facts["openmp"] = false;
#endif
  return facts;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Registers torch.ops.trajgru_ext and reports build and runtime facts.";
  m.def("facts", &facts, "How the extension was built and what it runs on.");
}

}  // namespace trajgru_ext
