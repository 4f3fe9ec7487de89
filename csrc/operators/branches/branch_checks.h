#pragma once

// Argument checks of the operators on branches; see checks.h.

#include <ATen/core/List.h>

#include <string>

#include "tensors/checks.h"
#include "math/branches.h"

namespace trajgru_ext {

inline void check_branches(const char* op, at::TensorList branches, size_t least) {
  TORCH_CHECK_VALUE(branches.size() >= least && branches.size() <= kMostBranches, op,
                    ": there must be ", least, " to ", kMostBranches, " branches, got ",
                    branches.size());
  const at::Tensor& first = branches[0];
  for (size_t m = 0; m < branches.size(); ++m) {
    const std::string name = "branches[" + std::to_string(m) + "]";
    const at::Tensor& branch = branches[m];
    check_image(op, name.c_str(), branch, first.device());
    TORCH_CHECK_VALUE(branch.sizes() == first.sizes(), op, ": ", name,
                      " must have the sizes of branches[0], ", first.sizes(), ", got ",
                      branch.sizes());
    TORCH_CHECK_TYPE(branch.scalar_type() == first.scalar_type(), op, ": ", name,
                     " must have the dtype of branches[0], ", first.scalar_type(),
                     ", got ", branch.scalar_type());
  }
}

// letters: what the sizes are called.
inline void check_of_sizes(const char* op, const char* name, const at::Tensor& tensor,
                           const char* letters, at::IntArrayRef wanted,
                           const at::Tensor& beside) {
  check_tensor(op, name, tensor, beside.device());
  TORCH_CHECK_VALUE(tensor.sizes() == wanted, op, ": ", name, " must be ", letters,
                    " = ", wanted, " for images of ", beside.sizes(), ", got ",
                    tensor.sizes());
}

// A gradient of the images' dtype.
inline void check_grad(const char* op, const at::Tensor& grad, const char* letters,
                       at::IntArrayRef wanted, const at::Tensor& image) {
  check_of_sizes(op, "grad", grad, letters, wanted, image);
  TORCH_CHECK_TYPE(grad.scalar_type() == image.scalar_type(), op,
                   ": grad must have the dtype of the images, ", image.scalar_type(),
                   ", got ", grad.scalar_type());
}

}  // namespace trajgru_ext
