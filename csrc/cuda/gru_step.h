#pragma once

#include <ATen/core/Tensor.h>

#include "tensors/tensors.h"

namespace trajgru_ext::cuda {

// The operator, for those that have it for a part.
void gru_step(const at::Tensor& gates, const at::Tensor& h_gates, const at::Tensor& h,
              bool has_inputs, at::ArrayRef<double> options, const OptionalTensor& mask,
              const OptionalTensor& candidate, const at::Tensor& output,
              const OptionalTensor& x_bias, const OptionalTensor& h_bias);

}  // namespace trajgru_ext::cuda
