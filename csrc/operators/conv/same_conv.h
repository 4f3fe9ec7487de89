#pragma once

// The convolutions of the sequence operators: stride 1, any odd kernel and dilation,
// padded so that the result has the size of the image; results channels last. They are
// operators, so that each device has its own; here is what any device can do, by
// torch's convolution. csrc/cpu/conv/same_conv.cpp has the CPU's.

#include <ATen/core/Tensor.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>

#include <array>
#include <tuple>

#include "tensors/calls.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// The weight [O, C, k, k'] as same_conv, or its gradient to the image, reads it in
// images of this size; empty where it reads the weight itself.
at::Tensor same_conv_packed(const at::Tensor& weight, at::IntArrayRef dilation,
                            int64_t height, int64_t width, bool image_grad);

// [B, C, H, W] to [B, O, H, W]; packed: from same_conv_packed.
at::Tensor same_conv(const at::Tensor& image, const at::Tensor& weight,
                     const OptionalTensor& bias, at::IntArrayRef dilation,
                     const at::Tensor& packed);

// The gradient to the image from that to the result.
at::Tensor same_conv_image_grad(const at::Tensor& grad, const at::Tensor& image,
                                const at::Tensor& weight, at::IntArrayRef dilation,
                                const at::Tensor& packed);

// Adds the gradients to weight and bias to their sums, where there are any.
void same_conv_add_grads(const at::Tensor& grad, const at::Tensor& image,
                         const at::Tensor& weight, at::IntArrayRef dilation,
                         const OptionalTensor& weight_sum,
                         const OptionalTensor& bias_sum);

// [N, F, H, W] summed over the pixels, to [N, F, 1, 1].
at::Tensor pixel_sums(const at::Tensor& images);

namespace call {
TRAJGRU_OPERATOR(same_conv_packed, trajgru_ext::same_conv_packed);
TRAJGRU_OPERATOR(same_conv, trajgru_ext::same_conv);
TRAJGRU_OPERATOR(same_conv_image_grad, trajgru_ext::same_conv_image_grad);
TRAJGRU_OPERATOR(same_conv_add_grads, trajgru_ext::same_conv_add_grads);
TRAJGRU_OPERATOR(pixel_sums, trajgru_ext::pixel_sums);
}  // namespace call

inline std::array<int64_t, 2> same_padding(const at::Tensor& weight,
                                           at::IntArrayRef dilation) {
  return {dilation[0] * (weight.size(2) / 2), dilation[1] * (weight.size(3) / 2)};
}

// torch's.
inline at::Tensor torch_conv(const at::Tensor& image, const at::Tensor& weight,
                             const OptionalTensor& bias, at::IntArrayRef dilation) {
  return at::convolution(image, weight, bias, {1, 1}, same_padding(weight, dilation),
                         dilation, false, {0, 0}, 1);
}

// Its gradients to image, weight and bias, as far as they are wanted.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor> torch_conv_backward(
    const at::Tensor& grad, const at::Tensor& image, const at::Tensor& weight,
    at::IntArrayRef dilation, at::IntArrayRef padding, std::array<bool, 3> wanted) {
  return at::convolution_backward(grad, image, weight, {weight.size(0)}, {1, 1},
                                  padding, dilation, false, {0, 0}, 1, wanted);
}

inline at::Tensor torch_conv_image_grad(const at::Tensor& grad, const at::Tensor& image,
                                        const at::Tensor& weight,
                                        at::IntArrayRef dilation) {
  return std::get<0>(torch_conv_backward(grad, image, weight, dilation,
                                         same_padding(weight, dilation),
                                         {true, false, false}));
}

}  // namespace trajgru_ext
