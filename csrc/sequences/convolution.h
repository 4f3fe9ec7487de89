#pragma once

// The convolutions of the sequence operators (operators/conv/same_conv.h), with their
// parameters together.

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

#include "tensors/tensors.h"

namespace trajgru_ext {

// A convolution's parameters, for images of one size.
struct Conv {
  at::Tensor weight;  // [O, C, k, k']
  OptionalTensor bias;
  std::array<int64_t, 2> dilation = {1, 1};
  // The weight as the device reads it for the convolution and for its gradient to the
  // image, made when first needed.
  mutable std::array<at::Tensor, 2> packed = {};

  Conv to(at::ScalarType dtype) const;
};

// The gradients to them, summed over many calls in the dtype of sums; None where not
// wanted.
struct ConvGrad {
  OptionalTensor weight, bias;

  ConvGrad() = default;
  ConvGrad(const Conv& conv, bool weight_wanted, bool bias_wanted);

  bool wanted() const { return weight.has_value() || bias.has_value(); }

  // Adds what comes from the gradient to the result of one call.
  void add(const at::Tensor& grad, const at::Tensor& image, const Conv& conv);
};

// [B, C, H, W] to [B, O, H, W], channels last. with_bias: else who reads the result
// adds it.
at::Tensor convolve(const at::Tensor& image, const Conv& conv, bool with_bias = true);

// What a convolution of an image of 0 gives at every pixel: the bias, for broadcasting.
at::Tensor conv_of_zero(const Conv& conv);

// The gradient to the image from that to the result.
at::Tensor convolve_backward(const at::Tensor& grad, const at::Tensor& image,
                             const Conv& conv);

}  // namespace trajgru_ext
