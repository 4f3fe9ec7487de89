#include "sequences/conv_rnn.h"

#include <algorithm>

#include "sequences/calls.h"
#include "sequences/checks.h"

namespace trajgru_ext {

using at::Tensor;

namespace {

std::array<int64_t, 2> pair(const char* op, const char* name,
                            at::IntArrayRef dilation) {
  TORCH_CHECK_VALUE(dilation.size() == 2 && dilation[0] > 0 && dilation[1] > 0, op,
                    ": ", name, " must be two positive numbers, got ", dilation);
  return {dilation[0], dilation[1]};
}

}  // namespace

ConvRnn::ConvRnn(const char* op, const ConvRnnTensors& given, int64_t count,
                 int64_t gates, const Dilations& dilations,
                 const OptionalTensor& masked)
    : Sequence(op, count) {
  const Tensor& like = given.h_weight;
  check_sizes(op, "h_weight", like, {-1, -1, -1, -1}, like);
  TORCH_CHECK_VALUE(like.size(1) > 0 && like.size(0) == gates * like.size(1), op,
                    ": h_weight must be [", gates, "F, F, k, k], F > 0, got ",
                    like.sizes());
  h_conv = {like, given.h_bias, pair(op, "h_dilation", dilations.h)};
  check_conv(op, "h", h_conv, -1, -1, like);
  // As the convolutions would have it at every step.
  h_conv.weight = channels_last(like);
  take_images(op, given.inputs, given.h, masked, like.size(1), like, like);
  h_conv.dilation = within_image(h_conv.dilation);
  steps_add_biases = plan.adds_biases;
  if (steps_add_biases && h_conv.bias.has_value()) {
    h_conv.bias = h_conv.bias->contiguous();
  }
  if (!inputs.defined()) return;
  TORCH_CHECK_VALUE(given.x_weight.has_value(), op,
                    ": x_weight must be given with inputs, got None");
  x_conv = {*given.x_weight, given.x_bias, pair(op, "x_dilation", dilations.x)};
  check_conv(op, "x", x_conv, like.size(0), inputs.size(2), like);
  x_conv.weight = channels_last(x_conv.weight);
  if (steps_add_biases && x_conv.bias.has_value()) {
    x_conv.bias = x_conv.bias->contiguous();
  }
  x_conv.dilation = within_image(x_conv.dilation);
}

std::array<int64_t, 2> ConvRnn::within_image(std::array<int64_t, 2> dilation) const {
  // A tap as far away as the image is long reads nothing but padding.
  return {std::min(dilation[0], std::max<int64_t>(height, 1)),
          std::min(dilation[1], std::max<int64_t>(width, 1))};
}

Tensor ConvRnn::x_gates(int64_t first, int64_t count) const {
  if (!inputs.defined()) return images(count, h_conv.weight.size(0));
  return convolve(inputs_of(first, count), x_conv, !steps_add_biases);
}

Tensor ConvRnn::h_gates(const Tensor& state, const Conv& conv) const {
  if (state.defined()) return convolve(state, conv, !steps_add_biases);
  const Tensor gates = images(1, conv.weight.size(0));
  return steps_add_biases ? gates.zero_() : gates.copy_(conv_of_zero(conv));
}

FusedConv ConvRnn::fuse(const Conv& x, const Conv& h, int64_t gates) const {
  OptionalTensor x_weight;
  if (x.weight.defined()) x_weight = x.weight;
  FusedConv made{call::winograd_step_weights(x_weight, h.weight, x.dilation, h.dilation,
                                             height, width, gates),
                 h.bias, h.weight.size(2)};
  if (!made.exists() || !x.bias.has_value()) return made;
  made.bias = h.bias.has_value() ? x.bias->add(*h.bias) : *x.bias;
  return made;
}

std::vector<Tensor> ConvRnn::fused_images(int64_t t, const Tensor& state) const {
  if (!inputs.defined()) return {or_zero(state)};
  return {inputs_of(t, 1), or_zero(state)};
}

InputsGrad::InputsGrad(const ConvRnn& net, const std::vector<bool>& wanted) {
  if (!net.inputs.defined()) return;
  if (wanted[kToInputs]) inputs = net.inputs_grad();
  conv = ConvGrad(net.x_conv, wanted[kToXWeight], wanted[kToXBias]);
}

void InputsGrad::add(const ConvRnn& net, int64_t first, int64_t count,
                     const Tensor& gates_grad) {
  if (!net.inputs.defined()) return;
  const Tensor from = net.inputs_of(first, count);
  conv.add(gates_grad, from, net.x_conv);
  if (!inputs.defined()) return;
  call::copy_image(net.of_step(inputs, first, count),
                   convolve_backward(gates_grad, from, net.x_conv));
}

}  // namespace trajgru_ext
