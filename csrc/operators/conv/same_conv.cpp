#include "operators/conv/same_conv.h"

#include <ATen/Context.h>
#include <ATen/ops/_convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include "operators/conv/winograd_step.h"
#include "operators/copy_image.h"
#include "tensors/library.h"
#include "tensors/tf32.h"

namespace trajgru_ext {

using at::Tensor;

Tensor same_conv_packed(const Tensor& weight, at::IntArrayRef, int64_t, int64_t, bool) {
  return at::empty({0}, weight.options());
}

Tensor same_conv(const Tensor& image, const Tensor& weight, const OptionalTensor& bias,
                 at::IntArrayRef dilation, const Tensor&) {
  const PlainDispatch plain;
  const at::Context& torch = at::globalContext();
  // As at::convolution has them; but its own guard against TF32, which torch keeps for
  // products of matrices, holds here, too.
  const bool repeatable = torch.deterministicCuDNN() || torch.deterministicAlgorithms();
  const bool tf32 = !at::NoTF32Guard::should_disable_tf32() && convolutions_take_tf32();
  return channels_last(at::_convolution(
      image, weight, bias, {1, 1}, same_padding(weight, dilation), dilation, false,
      {0, 0}, 1, torch.benchmarkCuDNN(), repeatable, torch.userEnabledCuDNN(), tf32));
}

Tensor same_conv_image_grad(const Tensor& grad, const Tensor& image,
                            const Tensor& weight, at::IntArrayRef dilation,
                            const Tensor&) {
  const PlainDispatch plain;
  return channels_last(torch_conv_image_grad(grad, image, weight, dilation));
}

void same_conv_add_grads(const Tensor& grad, const Tensor& image, const Tensor& weight,
                         at::IntArrayRef dilation, const OptionalTensor& weight_sum,
                         const OptionalTensor& bias_sum) {
  const PlainDispatch plain;
  const auto [_, to_weight, to_bias] =
      torch_conv_backward(grad, image, weight, dilation, same_padding(weight, dilation),
                          {false, weight_sum.has_value(), bias_sum.has_value()});
  if (weight_sum.has_value()) weight_sum->add_(to_weight);
  if (bias_sum.has_value()) bias_sum->add_(to_bias);
}

Tensor pixel_sums(const Tensor& images) {
  const PlainDispatch plain;
  return images.sum({2, 3}, /*keepdim=*/true);
}

Tensor winograd_step_weights(const OptionalTensor&, const Tensor& h_weight,
                             at::IntArrayRef, at::IntArrayRef, int64_t, int64_t,
                             int64_t) {
  return at::empty({0}, h_weight.options());
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("copy_image", &copy_plainly);
  m.impl("same_conv_packed", &same_conv_packed);
  m.impl("same_conv", &same_conv);
  m.impl("same_conv_image_grad", &same_conv_image_grad);
  m.impl("same_conv_add_grads", &same_conv_add_grads);
  m.impl("pixel_sums", &pixel_sums);
  m.impl("winograd_step_weights", &winograd_step_weights);
}

}  // namespace trajgru_ext
