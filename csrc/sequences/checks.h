#pragma once

// Argument checks that the sequence operators share; see checks.h.

#include "tensors/checks.h"
#include "sequences/convolution.h"
#include "sequences/calls.h"

namespace trajgru_ext {

// On the device of another tensor, of the sizes wanted (-1: any).
inline void check_like_sizes(const char* op, const char* name, const at::Tensor& tensor,
                             at::IntArrayRef wanted, const at::Tensor& beside) {
  check_tensor(op, name, tensor, beside.device());
  const bool fits =
      tensor.dim() == static_cast<int64_t>(wanted.size()) &&
      std::equal(wanted.begin(), wanted.end(), tensor.sizes().begin(),
                 [](int64_t want, int64_t got) { return want < 0 || want == got; });
  TORCH_CHECK_VALUE(fits, op, ": ", name, " must be ", wanted, " (-1: any), got ",
                    tensor.sizes());
}

// Everything in a sequence is of the dtype and on the device of one tensor.
inline void check_beside(const char* op, const char* name, const at::Tensor& tensor,
                         at::IntArrayRef wanted, const at::Tensor& beside) {
  check_tensor(op, name, tensor, beside.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == beside.scalar_type(), op, ": ", name,
                   " must have the dtype of the other arguments, ",
                   beside.scalar_type(), ", got ", tensor.scalar_type());
  check_like_sizes(op, name, tensor, wanted, beside);
}

// A convolution from some channels to others (-1: any), of an odd kernel.
inline void check_conv(const char* op, const std::string& name, const Conv& conv,
                       int64_t outputs, int64_t inputs, const at::Tensor& beside) {
  const std::string weight = name + "_weight", bias = name + "_bias";
  check_beside(op, weight.c_str(), conv.weight, {outputs, inputs, -1, -1}, beside);
  TORCH_CHECK_VALUE(conv.weight.size(2) % 2 == 1 && conv.weight.size(3) % 2 == 1, op,
                    ": ", weight, " must have an odd kernel, got ",
                    conv.weight.sizes());
  if (conv.bias.has_value()) {
    check_beside(op, bias.c_str(), *conv.bias, {conv.weight.size(0)}, beside);
  }
}

}  // namespace trajgru_ext
