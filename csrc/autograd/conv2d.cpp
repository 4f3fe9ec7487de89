#include "operators/conv/conv2d.h"

#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <tuple>

#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The first derivative is ours; that of the derivative is torch's, of any order.
class Conv2d : public torch::autograd::Function<Conv2d> {
 public:
  static constexpr bool is_traceable = true;

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

}  // namespace
}  // namespace trajgru_ext
