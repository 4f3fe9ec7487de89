// The Python module trajgru_ext._C: loading it registers the operators; it tells how
// it was built and what it chose to run here.

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <vector>

#include "autograd/cells.h"
#include "autograd/derivatives.h"
#include "cpu/conv/conv2d.h"
#include "cpu/conv/conv_algorithm.h"
#include "cpu/conv/packed_weights.h"
#include "cpu/capability.h"
#include "cpu/parallel.h"
#include "operators/gates/gru_options.h"
#include "operators/gates/lstm_options.h"

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

std::map<std::string, std::vector<std::string>> all_option_names() {
  return {{"gru", option_names<GruOptions>()}, {"lstm", option_names<LstmOptions>()}};
}

const std::array<std::string, 3> kConvAlgorithms = {"auto", "direct", "winograd"};

std::string conv_algorithm_name() {
  return kConvAlgorithms[static_cast<size_t>(conv_algorithm())];
}

void set_conv_algorithm_name(const std::string& name) {
  const auto found = std::find(kConvAlgorithms.begin(), kConvAlgorithms.end(), name);
  if (found == kConvAlgorithms.end()) {
    throw py::value_error(
        "conv_algorithm: must be 'auto', 'direct' or 'winograd', got '" + name + "'");
  }
  set_conv_algorithm(static_cast<ConvAlgorithm>(found - kConvAlgorithms.begin()));
}

// The tensor behind an object that is a plain one, or a Parameter; else null.
const at::Tensor* plain_tensor(const py::handle& object) {
  return THPVariable_CheckExact(object.ptr()) ? &THPVariable_Unpack(object.ptr())
                                              : nullptr;
}

// Whether input and states of a cell's step, each of which may be None, are plain
// images of their channels, all of one size, and of one dtype and device with the
// cell's own parameters; and not under autocast, on the meta device, or of no pixels.
bool fits_step(const py::handle& input, const py::tuple& states, int64_t channels,
               int64_t features, const py::list& parameters) {
  const py::handle given = states[0].is_none() ? input : py::handle(states[0]);
  const at::Tensor* first = plain_tensor(given);
  if (first == nullptr || first->dim() != 4 || first->is_meta() ||
      first->size(2) == 0 || first->size(3) == 0 ||
      at::autocast::is_autocast_enabled(first->device().type())) {
    return false;
  }
  const auto alike = [&](const at::Tensor& one) {
    return one.scalar_type() == first->scalar_type() && one.device() == first->device();
  };
  const auto fits = [&](const py::handle& object, int64_t wanted) {
    if (object.is_none()) return true;
    const at::Tensor* one = plain_tensor(object);
    return one != nullptr && alike(*one) && one->dim() == 4 && wanted > 0 &&
           one->size(0) == first->size(0) && one->size(1) == wanted &&
           one->size(2) == first->size(2) && one->size(3) == first->size(3);
  };
  const auto fit = [&](const py::handle& object) {
    const at::Tensor* one = plain_tensor(object);
    return one != nullptr && alike(*one);
  };
  return fits(input, channels) &&
         std::all_of(states.begin(), states.end(),
                     [&](const py::handle& one) { return fits(one, features); }) &&
         std::all_of(parameters.begin(), parameters.end(), fit);
}

// Python's function, called from the threads of the backward pass. Never destroyed:
// the interpreter may be gone before.
void set_again(const py::function& function) {
  auto* kept = new py::function(function);
  set_differentiate_again([kept](const Again& again) {
    const py::gil_scoped_acquire gil;
    const py::object found =
        (*kept)(again.name, again.tensors, again.numbers, again.needs, again.grads);
    return found.cast<OptionalTensors>();
  });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Registers torch.ops.trajgru_ext and reports build and runtime facts.";
  m.def("facts", &facts, "How the extension was built and what it runs on.");
  m.def("option_names", &all_option_names, "The fields of each struct of options.");
  m.def("conv_algorithm", &conv_algorithm_name, "How sequences convolve on the CPU.");
  m.def(
      "conv_algorithm_forced",
      [] { return conv_algorithm() != ConvAlgorithm::automatic; },
      "Whether it is not the automatic one.");
  m.def("set_conv_algorithm", &set_conv_algorithm_name, "Chooses it.");
  m.def("conv2d", &conv2d_or_torch, "torch's conv2d, faster where it can be.",
        py::call_guard<py::gil_scoped_release>());
  m.def("differentiable", &differentiable, "An operator and its first derivative.",
        py::call_guard<py::gil_scoped_release>());
  m.def("fits_step", &fits_step, "Whether a cell's step is one of plain tensors.");
  const py::call_guard<py::gil_scoped_release> unlocked;
  m.def("lstm_cell", &lstm_cell, "A step of a ConvLSTM.", unlocked);
  m.def("gru_cell_after", &gru_cell_after, "A step of a ConvGRU.", unlocked);
  m.def("gru_cell_before", &gru_cell_before, "Its reset before.", unlocked);
  m.def("traj_gru_cell", &traj_gru_cell, "A step of a TrajGRU.", unlocked);
  m.def("set_differentiate_again", &set_again, "Says what the next derivatives are.");
  m.attr("few_products") = kFewProducts;
  m.def("packed_weights_limit", &packed_weights_limit, "The most bytes kept.");
  m.def("set_packed_weights_limit", &set_packed_weights_limit, "Sets it.");
  m.def("packed_weights_bytes", &packed_weights_bytes, "How many are kept.");
}

}  // namespace trajgru_ext
