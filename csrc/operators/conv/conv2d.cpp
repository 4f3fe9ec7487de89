#include "operators/conv/conv2d.h"

#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

#include "tensors/library.h"

namespace trajgru_ext {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

namespace {

// The first derivative is ours; that of the derivative is torch's, of any order.
class Conv2d : public torch::autograd::Function<Conv2d> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& input,
                        const Tensor& weight, const OptionalTensor& bias,
                        at::IntArrayRef padding) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    context->save_for_backward({input, weight});
    context->saved_data["padding"] = padding;
    context->saved_data["bias"] = bias.has_value();
    return call::conv2d(input, weight, bias, padding);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    if (!grads[0].defined()) return variable_list(4);
    const variable_list saved = context->get_saved_variables();
    const auto padding = context->saved_data["padding"].toIntVector();
    const std::array<bool, 3> wanted = {
        context->needs_input_grad(0), context->needs_input_grad(1),
        context->saved_data["bias"].toBool() && context->needs_input_grad(2)};
    const auto gradients =
        at::GradMode::is_enabled() ? torch_conv2d_backward : call_backward;
    auto [to_input, to_weight, to_bias] =
        gradients(grads[0], saved[0], saved[1], padding, wanted);
    const auto found = [&](int k, const Tensor& to) {
      return wanted[k] ? to : Tensor();
    };
    return {found(0, to_input), found(1, to_weight), found(2, to_bias), Tensor()};
  }

 private:
  static std::tuple<Tensor, Tensor, Tensor> call_backward(
      const Tensor& grad, const Tensor& input, const Tensor& weight,
      at::IntArrayRef padding, const std::array<bool, 3>& wanted) {
    return call::conv2d_backward(grad, input, weight, padding, wanted);
  }
};

Tensor differentiable_conv2d(const Tensor& input, const Tensor& weight,
                             const OptionalTensor& bias, at::IntArrayRef padding) {
  return Conv2d::apply(input, weight, bias, padding);
}

TRAJGRU_LIBRARY_IMPL(Autograd, m) {
  m.impl("conv2d", &differentiable_conv2d);
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv2d", &plain_conv2d);
  m.impl("conv2d_backward", &plain_conv2d_backward);
}

}  // namespace
}  // namespace trajgru_ext
