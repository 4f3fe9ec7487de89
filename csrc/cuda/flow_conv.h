#pragma once

#include <ATen/core/Tensor.h>

#include "tensors/tensors.h"

namespace trajgru_ext::cuda {

// The operator, for those that have it for a part.
at::Tensor flow_conv(const at::Tensor& input, const at::Tensor& flows,
                     const at::Tensor& weight, const OptionalTensor& bias,
                     double flow_scale);

}  // namespace trajgru_ext::cuda
