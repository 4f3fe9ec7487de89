#pragma once

// How the first derivatives of small operators are computed (autograd/derivatives.h).

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace trajgru_ext {

using Tensors = std::vector<at::Tensor>;  // undefined: not given
using Numbers = std::vector<double>;
using Needs = std::vector<bool>;  // a flag a tensor: whether its gradient is wanted

// An operator of some tensors, which may be a list, and numbers.
struct Rule {
  virtual ~Rule() = default;

  virtual Tensors forward(at::TensorList tensors, const Numbers& numbers) const = 0;

  // Leaves of the tensors what `backward` reads.
  virtual void forget(Tensors& tensors) const = 0;

  // The gradients to all tensors, those that nobody needs being anything.
  virtual Tensors backward(at::TensorList grads, at::TensorList saved,
                           const Numbers& numbers, const Needs& needs) const = 0;

  // Whether `backward` calls torch's operators alone, which are differentiated on.
  virtual bool of_torch() const { return false; }
};

using Rules = std::map<std::string, std::unique_ptr<Rule>>;

// Those of the operators that take a list of branches.
Rules branch_rules();

}  // namespace trajgru_ext
