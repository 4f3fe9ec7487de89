#pragma once

// The first derivatives of small operators without Python, which would take several
// times as long as their kernels. A derivative of the derivative is asked of Python
// (trajgru_ext/ops/_autograd.py), which has the formulas.

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "tensors/tensors.h"

namespace trajgru_ext {

using OptionalTensors = std::vector<OptionalTensor>;

// What was called, with what, which arguments have gradients and those of the results.
struct Again {
  std::string name;
  OptionalTensors tensors;
  std::vector<double> numbers;
  std::vector<bool> needs;
  OptionalTensors grads;
};

// The gradients to the tensors, differentiable.
using AgainFunction = std::function<OptionalTensors(const Again&)>;
void set_differentiate_again(AgainFunction function);

// Whether autograd records what is computed of some of these.
bool recorded(const OptionalTensors& tensors);

// The operator's results. tensors: its arguments, as the class's forward in Python has
// them; numbers: its options, or the one number that it takes.
std::vector<at::Tensor> differentiable(const std::string& name,
                                       const OptionalTensors& tensors,
                                       const std::vector<double>& numbers);

}  // namespace trajgru_ext
