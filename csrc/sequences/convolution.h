#pragma once

// The convolutions of the sequence operators, on any device: stride 1, any odd kernel
// and dilation, padded to the size of the image, results channels last. On the CPU they
// are the same bit for bit for any number of threads.

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

namespace trajgru_ext {

// A convolution's parameters.
struct Conv {
  at::Tensor weight;  // [O, C, k, k']
  std::optional<at::Tensor> bias;
  std::array<int64_t, 2> dilation = {1, 1};
  // The weight packed for Winograd's convolution and its gradient to the image, once it
  // is needed.
  mutable std::array<at::Tensor, 2> packed = {};

  const at::Tensor& packed_weight(bool rotated) const;
  Conv to(at::ScalarType dtype) const;
};

// The gradients to them, summed over many calls in the dtype of sums; undefined where
// not wanted.
struct ConvGrad {
  at::Tensor weight, bias;

  ConvGrad() = default;
  ConvGrad(const Conv& conv, bool weight_wanted, bool bias_wanted);
};

at::Tensor channels_last(const at::Tensor& image);

// [B, C, H, W] to [B, O, H, W]
at::Tensor convolve(const at::Tensor& image, const Conv& conv);

// What a convolution of an image of 0 gives at every pixel: the bias, for broadcasting.
at::Tensor conv_of_zero(const Conv& conv);

// The gradient to the image from that to the result.
at::Tensor convolve_backward(const at::Tensor& grad, const at::Tensor& image,
                             const Conv& conv);

// Adds the gradients to the parameters.
void add_conv_grad(const at::Tensor& grad, const at::Tensor& image, const Conv& conv,
                   ConvGrad& sums);

}  // namespace trajgru_ext
