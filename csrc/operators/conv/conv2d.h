#pragma once

// torch.nn.functional.conv2d with stride 1, without dilation and groups, by the
// device's own kernel where it has one; here is what any device can do, by torch's
// convolution. csrc/cpu/conv/conv2d.cpp has the CPU's, by Winograd's convolution.

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

#include "tensors/calls.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// [B, C, H, W], padded, to [B, O, H', W']; weight: [O, C, k, k'].
at::Tensor plain_conv2d(const at::Tensor& input, const at::Tensor& weight,
                        const OptionalTensor& bias, at::IntArrayRef padding);

// The gradients to input, weight and bias, as far as they are wanted.
std::tuple<at::Tensor, at::Tensor, at::Tensor> plain_conv2d_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight,
    at::IntArrayRef padding, const std::array<bool, 3>& wanted);

// The same by torch, which can be differentiated again.
std::tuple<at::Tensor, at::Tensor, at::Tensor> torch_conv2d_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight,
    at::IntArrayRef padding, const std::array<bool, 3>& wanted);

namespace call {
TRAJGRU_OPERATOR(conv2d, trajgru_ext::plain_conv2d);
TRAJGRU_OPERATOR(conv2d_backward, trajgru_ext::plain_conv2d_backward);
}  // namespace call

}  // namespace trajgru_ext
