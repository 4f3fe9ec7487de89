#pragma once

// torch's convolutions, the same bit for bit for any number of threads; see
// operators/conv/same_conv.h.

#include <ATen/core/Tensor.h>

#include "tensors/tensors.h"

namespace trajgru_ext {

at::Tensor direct_conv(const at::Tensor& image, const at::Tensor& weight,
                       const OptionalTensor& bias, at::IntArrayRef dilation);

at::Tensor direct_conv_image_grad(const at::Tensor& grad, const at::Tensor& image,
                                  const at::Tensor& weight, at::IntArrayRef dilation);

void direct_conv_add_grads(const at::Tensor& grad, const at::Tensor& image,
                           const at::Tensor& weight, at::IntArrayRef dilation,
                           const OptionalTensor& weight_sum,
                           const OptionalTensor& bias_sum);

}  // namespace trajgru_ext
