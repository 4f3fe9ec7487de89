#pragma once

// flow_conv in one kernel, where nothing of all links' warped values goes to memory.

#include <ATen/core/Tensor.h>

#include "tensors/tensors.h"

namespace trajgru_ext::cuda {

// Whether the kernel takes it, and pays. input: in channels last; flows: of the
// coordinates' dtype; weight: [O, L C], contiguous.
bool flow_conv_is_fused(const at::Tensor& input, const at::Tensor& flows,
                        const at::Tensor& weight);

// Writes the output [B, O, H, W], in channels last.
void flow_conv_fused(const at::Tensor& input, const at::Tensor& flows,
                     const at::Tensor& weight, const OptionalTensor& bias,
                     double flow_scale, const at::Tensor& output);

}  // namespace trajgru_ext::cuda
