#include "sequences/convolution.h"

#include <ATen/ops/zeros.h>

#include "operators/conv/same_conv.h"

namespace trajgru_ext {
namespace {

const at::Tensor& packed_weight(const Conv& conv, const at::Tensor& image,
                                bool image_grad) {
  at::Tensor& packed = conv.packed[image_grad];
  if (!packed.defined()) {
    packed = call::same_conv_packed(conv.weight, conv.dilation, image.size(2),
                                    image.size(3), image_grad);
  }
  return packed;
}

}  // namespace

Conv Conv::to(at::ScalarType dtype) const {
  Conv cast{weight.to(dtype), bias, dilation};
  if (bias.has_value()) cast.bias = bias->to(dtype);
  return cast;
}

ConvGrad::ConvGrad(const Conv& conv, bool weight_wanted, bool bias_wanted) {
  const auto options = conv.weight.options().dtype(opmath_dtype(conv.weight));
  if (weight_wanted) weight = at::zeros(conv.weight.sizes(), options);
  if (bias_wanted) bias = at::zeros({conv.weight.size(0)}, options);
}

void ConvGrad::add(const at::Tensor& grad, const at::Tensor& image, const Conv& conv) {
  if (!wanted()) return;
  call::same_conv_add_grads(grad, image, conv.weight, conv.dilation, weight, bias);
}

at::Tensor convolve(const at::Tensor& image, const Conv& conv, bool with_bias) {
  const at::Tensor& packed = packed_weight(conv, image, false);
  const OptionalTensor bias = with_bias ? conv.bias : std::nullopt;
  return call::same_conv(image, conv.weight, bias, conv.dilation, packed);
}

at::Tensor conv_of_zero(const Conv& conv) {
  if (conv.bias.has_value()) return conv.bias->view({1, -1, 1, 1});
  return at::zeros({1, 1, 1, 1}, conv.weight.options());
}

at::Tensor convolve_backward(const at::Tensor& grad, const at::Tensor& image,
                             const Conv& conv) {
  const at::Tensor& packed = packed_weight(conv, image, true);
  return call::same_conv_image_grad(grad, image, conv.weight, conv.dilation, packed);
}

}  // namespace trajgru_ext
