#include "operators/conv/conv2d.h"

#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>

#include <array>

#include "tensors/library.h"

namespace trajgru_ext {

using at::Tensor;

Tensor plain_conv2d(const Tensor& input, const Tensor& weight,
                    const OptionalTensor& bias, at::IntArrayRef padding) {
  const PlainDispatch plain;
  return at::convolution(input, weight, bias, {1, 1}, padding, {1, 1}, false, {0, 0},
                         1);
}

std::tuple<Tensor, Tensor, Tensor> torch_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight,
    at::IntArrayRef padding, const std::array<bool, 3>& wanted) {
  return at::convolution_backward_symint(
      grad, input, weight, at::OptionalSymIntArrayRef({weight.sym_size(0)}), {1, 1},
      c10::fromIntArrayRefSlow(padding), {1, 1}, false, {0, 0}, 1, wanted);
}

std::tuple<Tensor, Tensor, Tensor> plain_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight,
    at::IntArrayRef padding, const std::array<bool, 3>& wanted) {
  const PlainDispatch plain;
  auto [to_input, to_weight, to_bias] =
      torch_conv2d_backward(grad, input, weight, padding, wanted);
  if (!wanted[0]) to_input = empty_result(input);
  if (!wanted[1]) to_weight = empty_result(weight);
  if (!wanted[2]) to_bias = empty_result(weight);
  return {to_input, to_weight, to_bias};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv2d", &plain_conv2d);
  m.impl("conv2d_backward", &plain_conv2d_backward);
}

}  // namespace trajgru_ext
