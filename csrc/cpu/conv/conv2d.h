#pragma once

// conv2d as Python calls it: of any arguments.

#include <ATen/core/Tensor.h>

#include "tensors/tensors.h"

namespace trajgru_ext {

// torch's conv2d, by the operator of operators/conv/conv2d.h where that is faster.
at::Tensor conv2d_or_torch(const at::Tensor& input, const at::Tensor& weight,
                           const OptionalTensor& bias, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation,
                           int64_t groups);

}  // namespace trajgru_ext
