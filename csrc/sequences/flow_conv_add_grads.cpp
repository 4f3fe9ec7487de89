// flow_conv_add_grads where a device has no better: the gradients, then their sums.

#include "sequences/calls.h"
#include "tensors/library.h"

namespace trajgru_ext {

void flow_conv_add_grads(const at::Tensor& grad, const at::Tensor& input,
                         const at::Tensor& flows, const at::Tensor& weight,
                         double flow_scale, const OptionalTensor& input_sum,
                         const OptionalTensor& flows_grad,
                         const OptionalTensor& weight_sum,
                         const OptionalTensor& bias_sum) {
  const PlainDispatch plain;
  const auto [to_input, to_flows, to_weight, to_bias] = call::flow_conv_backward(
      grad, input, flows, weight, flow_scale, input_sum.has_value(),
      flows_grad.has_value(), weight_sum.has_value(), bias_sum.has_value());
  if (input_sum.has_value()) input_sum->add_(to_input);
  if (flows_grad.has_value()) flows_grad->copy_(to_flows);
  if (weight_sum.has_value()) weight_sum->add_(to_weight);
  if (bias_sum.has_value()) bias_sum->add_(to_bias);
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("flow_conv_add_grads", &flow_conv_add_grads);
}

}  // namespace trajgru_ext
