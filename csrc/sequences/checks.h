#pragma once

// Argument checks that the sequence operators share; see tensors/checks.h.

#include <algorithm>
#include <string>

#include "sequences/convolution.h"
#include "tensors/checks.h"

namespace trajgru_ext {

// The device, that of another tensor, and the sizes (-1: any).
inline void check_sizes(const char* op, const char* name, const at::Tensor& tensor,
                        at::IntArrayRef wanted, const at::Tensor& like) {
  check_tensor(op, name, tensor, like.device());
  const bool fits =
      tensor.dim() == static_cast<int64_t>(wanted.size()) &&
      std::equal(wanted.begin(), wanted.end(), tensor.sizes().begin(),
                 [](int64_t want, int64_t got) { return want < 0 || want == got; });
  TORCH_CHECK_VALUE(fits, op, ": ", name, " must be ", wanted, " (-1: any), got ",
                    tensor.sizes());
}

// Device, dtype and sizes: everything in a sequence has the dtype and the device of one
// tensor.
inline void check_argument(const char* op, const char* name, const at::Tensor& tensor,
                           at::IntArrayRef wanted, const at::Tensor& like) {
  check_tensor(op, name, tensor, like.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), op, ": ", name,
                   " must have the dtype of the other arguments, ", like.scalar_type(),
                   ", got ", tensor.scalar_type());
  check_sizes(op, name, tensor, wanted, like);
}

// A convolution from some channels to others (-1: any), of an odd kernel.
inline void check_conv(const char* op, const std::string& name, const Conv& conv,
                       int64_t outputs, int64_t inputs, const at::Tensor& like) {
  const std::string weight = name + "_weight", bias = name + "_bias";
  check_argument(op, weight.c_str(), conv.weight, {outputs, inputs, -1, -1}, like);
  TORCH_CHECK_VALUE(conv.weight.size(2) % 2 == 1 && conv.weight.size(3) % 2 == 1, op,
                    ": ", weight, " must have an odd kernel, got ",
                    conv.weight.sizes());
  if (conv.bias.has_value()) {
    check_argument(op, bias.c_str(), *conv.bias, {conv.weight.size(0)}, like);
  }
}

}  // namespace trajgru_ext
